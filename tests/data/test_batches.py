"""Batches against a reference generator in plain integers, counts by hand and brute force over positions."""

import itertools
import random

import numpy as np
import pytest
import torch

from molino.base.errors import ConfigError, DataError
from molino.data import batches
from molino.data.batches import (
    Block,
    EvaluationWindows,
    TrainingBlocks,
    documents,
    draw_block,
    evaluation_windows,
    random_integers,
    windows,
)
from molino.data.tokens import Split
from molino.models import IGNORE_INDEX
from molino.models.cache import NOTHING
from molino.models.counting import BEFORE
from molino.tasks.language_model import next_tokens

PAD, END = 1, 2
LENGTHS = (3, 12, 1, 0, 30, 7, 5)


def positions(length: int) -> Split:
    """One continuous text whose tokens are their own positions."""
    return Split("train", np.arange(length, dtype=np.uint16), np.array([0, length - 1]), length, length, 0)


def texts(lengths=LENGTHS) -> Split:
    """Documents between END marks; no other token occurs twice."""
    ids, stream, marks = itertools.count(10), [END], [0]
    for length in lengths:
        stream += [*itertools.islice(ids, length), END]
        marks.append(len(stream) - 1)
    return Split("train", np.array(stream, dtype=np.uint16), np.array(marks), len(stream), len(stream), 0)


def rows(count: int) -> np.ndarray:
    return np.arange(count).reshape(1, 1, -1)


def chi_square(found: np.ndarray, cells: int) -> float:
    """How many standard deviations the chi-square statistic of `found` lies above its mean."""
    counts = np.bincount(found, minlength=cells)
    assert len(counts) == cells
    expected = len(found) / cells
    return (((counts - expected) ** 2).sum() / expected - (cells - 1)) / (2 * (cells - 1)) ** 0.5


# Random integers


def reference(seed: int, stream: int, counter: int) -> int:
    """The 64 bits of splitmix64, in Python's integers."""
    gamma, mask = 0x9E3779B97F4A7C15, 2**64 - 1

    def mix(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    return mix((mix((seed * gamma + stream) & mask) + (counter + 1) * gamma) & mask)


def test_the_published_sequence_of_splitmix64():
    # The first outputs for the state 0, as in the reference implementation (Vigna 2015).
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert random_integers(0, 0, np.arange(4), 2**63).tolist() == [number % 2**63 for number in published]


@pytest.mark.parametrize("high", [1, 2, 7, 1000, 2**40 + 1])
def test_random_integers_are_those_of_the_reference(high):
    for seed, stream in itertools.product((0, 1, 1337, 2**32 - 1), (0, 1, 5)):
        counters = np.array([[0, 1, 2], [10**6, 2**40, 2**62]])
        expected = [[reference(seed, stream, int(counter)) % high for counter in row] for row in counters]
        assert random_integers(seed, stream, counters, high).tolist() == expected


def test_random_integers_depend_on_nothing_else():
    counters = np.arange(100)
    high = 1 + counters % 7
    found = random_integers(3, 0, counters, high)
    np.random.default_rng(1).random(10)
    order = np.random.default_rng(0).permutation(100)
    assert (random_integers(3, 0, counters[order], high[order]) == found[order]).all()
    assert [int(random_integers(3, 0, np.array([c]), 1 + c % 7)[0]) for c in range(100)] == found.tolist()
    assert (found < high).all() and (found >= 0).all()


@pytest.mark.parametrize("cells", [2, 50, 999])
def test_random_integers_are_uniform(cells):
    assert abs(chi_square(random_integers(0, 0, np.arange(200_000), cells), cells)) < 4


@pytest.mark.parametrize(("seed", "stream", "counter"), [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, -1), (0, 1, -1)])
def test_neighbours_are_unrelated(seed, stream, counter):
    counters = np.arange(1, 100_001)
    one = random_integers(42, 0, counters, 10)
    other = random_integers(42 + seed, stream, counters + counter, 10)
    assert abs(chi_square(10 * one + other, 100)) < 4


def test_the_sequences_of_two_seeds_never_meet():
    drawn = [random_integers(seed, 0, np.arange(20_000), 2**62) for seed in range(10)]
    assert len(np.unique(np.concatenate(drawn))) == 200_000


# Windows of a continuous text


def test_each_window_is_equally_likely_and_the_stream_itself():
    draw = windows(positions(30), 8, 5, None)
    tokens, mask = draw(np.arange(44_000).reshape(2, 2, 11_000))
    assert mask is None and tokens.shape == (2, 2, 11_000, 9)
    assert (tokens - tokens[..., :1] == np.arange(9)).all()
    starts = tokens[..., 0].flatten().astype(int)
    assert starts.min() == 0 and starts.max() == 30 - 9
    assert abs(chi_square(starts, 22)) < 4


def test_a_text_of_one_window_is_enough():
    tokens, _ = windows(positions(9), 8, 0, None)(rows(5))
    assert (tokens == np.arange(9)).all()
    with pytest.raises(DataError, match=r"train split has 9 tokens.*data.block_size \+ 1 = 10.*lower data.block_size"):
        windows(positions(9), 9, 0, None)


# Documents


def test_each_document_comes_once_an_epoch_in_a_new_order():
    lengths = (4, 5, 6, 7, 8, 9, 10, 11)
    split, block_size = texts(lengths), 20
    tokens, _ = documents(split, block_size, 0, PAD)(rows(5 * len(lengths)))
    first = {int(split.tokens[mark + 1]): number for number, mark in enumerate(split.marks[:-1])}
    order = [first[int(row[1])] for row in tokens[0, 0]]
    epochs = [tuple(order[start : start + len(lengths)]) for start in range(0, len(order), len(lengths))]
    assert all(sorted(epoch) == list(range(len(lengths))) for epoch in epochs)
    assert len(set(epochs)) == 5
    # The same rows again, one by one and backwards.
    draw = documents(split, block_size, 0, PAD)
    assert all((draw(np.array([row]))[0] == tokens[0, 0, row]).all() for row in reversed(range(len(order))))
    assert (documents(split, block_size, 1, PAD)(rows(5 * len(lengths)))[0] != tokens).any()


def test_a_document_that_fits_is_taken_whole_closed_and_padded():
    split = texts((3,))
    tokens, inside = documents(split, 6, 0, PAD)(np.array([0]))
    assert tokens.tolist() == [[END, 10, 11, 12, END, PAD, PAD]]
    assert inside.tolist() == [[True, True, True, True, False, False]]
    block = block_of(next_tokens(documents(split, 6, 0, PAD)), np.array([0]), 1, 1)
    assert block.fields["tokens"].tolist() == [[[[END, 10, 11, 12, END, PAD]]]]
    assert block.fields["targets"].tolist() == [[[[10, 11, 12, END, IGNORE_INDEX, IGNORE_INDEX]]]]


def test_windows_of_long_documents_stay_inside_and_are_equally_likely():
    split, block_size = texts((30, 25)), 8
    tokens, inside = documents(split, block_size, 3, PAD)(np.arange(12_000))
    assert inside.all()
    # 32 tokens with both marks, hence 24 windows of 9; 27 tokens, hence 19.
    for start, count in ((0, 24), (31, 19)):
        possible = {tuple(split.tokens[at : at + 9].tolist()): at - start for at in range(start, start + count)}
        drawn = [possible[tuple(row)] for row in tokens.tolist() if tuple(row) in possible]
        assert len(drawn) == 6_000
        assert abs(chi_square(np.array(drawn), count)) < 4


@pytest.mark.parametrize("block_size", [1, 4, 13, 40])
def test_padding_is_never_a_target_and_every_window_lies_in_one_document(block_size):
    split = texts()
    document = {tuple(split.tokens[a : b + 1].tolist()) for a, b in itertools.pairwise(split.marks)}
    tokens, inside = documents(split, block_size, 0, PAD)(np.arange(70))
    for row, mask in zip(tokens.tolist(), inside.tolist(), strict=True):
        length = 1 + sum(mask)
        assert mask == sorted(mask, reverse=True) and length >= 2
        assert row[length:] == [PAD] * (block_size + 1 - length) and PAD not in row[:length]
        assert any(
            tuple(row[:length]) == whole[at : at + length]
            for whole in document
            for at in range(len(whole) - length + 1)
        )


def test_documents_need_a_padding_token():
    with pytest.raises(ConfigError, match="no padding token"):
        documents(texts(), 8, 0, None)


# Blocks of steps


def block_of(draw, *arguments, **more) -> Block:
    """As a task draws it whose loss is of one part."""
    return draw_block(draw, ("loss",), *arguments, **more)


DRAWS = {
    "windows": next_tokens(windows(positions(200), 8, 7, PAD)),
    "documents": next_tokens(documents(texts(), 8, 7, PAD)),
}


def concatenate(blocks: list[Block], axis: int) -> dict[str, torch.Tensor]:
    return {name: torch.cat([block.fields[name] for block in blocks], axis) for name in ("tokens", "targets")}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 10), (3, 4), (99_998, 5)])
def test_a_block_is_its_single_steps(draw, first, count):
    steps = np.arange(first, first + count)
    block = block_of(draw, steps, 2, 4)
    assert block.fields["tokens"].shape == block.fields["targets"].shape == (count, 2, 4, 8)
    assert block.fields["tokens"].dtype == block.fields["targets"].dtype == torch.int64
    singles = [block_of(draw, steps[at : at + 1], 2, 4) for at in range(count)]
    assert same(block.fields, concatenate(singles, 0))
    assert block.weights["loss"] == [weights for single in singles for weights in single.weights["loss"]]


def test_no_two_steps_are_alike():
    inputs = block_of(DRAWS["windows"], np.arange(50), 1, 4).fields["tokens"]
    assert len({step.numpy().tobytes() for step in inputs}) == 50


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_the_ranks_together_have_the_batch_of_one_process(draw, world_size):
    steps = np.arange(5, 9)
    alone = block_of(draw, steps, 2, 6)
    shares = [block_of(draw, steps, 2, 6, rank, world_size) for rank in range(world_size)]
    assert same(alone.fields, concatenate(shares, 2))
    assert shares[0].fields["tokens"].shape == (4, 2, 6 // world_size, 8)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_accumulation_cuts_the_same_batch_in_pieces(draw):
    steps = np.arange(3)
    whole, cut = block_of(draw, steps, 1, 12), block_of(draw, steps, 3, 4)
    assert same({name: part.reshape(3, 3, 4, 8) for name, part in whole.fields.items()}, cut.fields)


def test_inputs_and_targets_are_one_token_apart():
    block = block_of(DRAWS["windows"], np.arange(4), 2, 3)
    assert torch.equal(block.fields["tokens"] + 1, block.fields["targets"])


def test_the_weights_of_padded_documents_by_hand():
    # One document has 4 targets ("abc" and the mark that closes it), the other 2 of its own.
    block = block_of(next_tokens(documents(texts((3, 1)), 5, 0, PAD)), np.array([0]), accumulate=2, batch_size=1)
    counts = [(targets != IGNORE_INDEX).sum().item() for targets in block.fields["targets"][0]]
    assert sorted(counts) == [2, 4]
    assert block.weights["loss"][0] == pytest.approx([count / 6 for count in counts])
    assert block_of(DRAWS["windows"], np.arange(2), 4, 2).weights["loss"] == [[0.25] * 4] * 2


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize(("accumulate", "world_size"), [(1, 1), (3, 1), (1, 2), (2, 3)])
def test_weights_make_the_mean_over_every_predicted_token(draw, accumulate, world_size):
    steps = np.arange(4)
    loss_of_token = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def losses(targets: torch.Tensor) -> torch.Tensor:
        return loss_of_token[targets[targets != IGNORE_INDEX]]

    shares = [block_of(draw, steps, accumulate, 6, rank, world_size) for rank in range(world_size)]
    whole = block_of(draw, steps, accumulate, 6)
    for step in range(4):
        per_rank = [
            sum(w * losses(t).mean() for w, t in zip(weights[step], targets[step], strict=True))
            for weights, targets in ((share.weights["loss"], share.fields["targets"]) for share in shares)
        ]
        mean = sum(per_rank) / world_size
        assert mean.item() == pytest.approx(losses(whole.fields["targets"][step]).mean().item(), rel=1e-12)


# Training blocks


@pytest.mark.parametrize(("max_steps", "size"), [(1, 1), (10, 1), (10, 5), (23, 5), (4, 10), (12, 12)])
def test_blocks_end_at_multiples_wherever_training_resumes(max_steps, size):
    for first in range(max_steps + 1):
        loader = TrainingBlocks(lambda step, count: range(step, step + count), lambda at=first: at, max_steps, size)
        blocks = list(loader)
        assert [step for block in blocks for step in block] == list(range(first, max_steps))
        assert all(block.stop % size == 0 or block.stop == max_steps for block in blocks)
        assert all(len(block) <= size for block in blocks)
        assert len(loader) == len(range(0, max_steps, size)) >= len(blocks)


def test_the_first_step_is_asked_for_when_iteration_begins():
    state = {"step": 0}
    loader = TrainingBlocks(lambda step, count: (step, count), lambda: state["step"], 20, 5)
    iterator = iter(loader)
    state["step"] = 7
    assert list(iterator) == [(7, 3), (10, 5), (15, 5)]


# Evaluation windows


def fields_of(cut, name: str) -> list[torch.Tensor]:
    return [batch[name] for batch in cut]


def targets_of(cut: EvaluationWindows) -> list[int]:
    return [token for targets in fields_of(cut, "targets") for token in targets[targets != IGNORE_INDEX].tolist()]


COMBINATIONS = [
    *itertools.product((2, 3, 8, 9, 10, 17, 64), (1, 4, 8), (1, 3, 4, 8)),
    *((random.Random(n).randrange(2, 300), random.Random(-n).randrange(1, 50), 1 + n % 13) for n in range(1, 60)),
]


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_every_token_but_the_first_counts_once_with_the_context_that_was_promised(batch_size):
    for length, block_size, stride in COMBINATIONS:
        if stride > block_size:
            continue
        split = positions(length)
        cut = EvaluationWindows(split, block_size, stride, batch_size)
        batches = list(cut)
        assert len(batches) == len(cut) and all(1 <= len(batch["tokens"]) <= batch_size for batch in batches)
        assert targets_of(cut) == list(range(1, length))
        rows = (torch.cat(fields_of(batches, name)) for name in ("tokens", "targets"))
        for inputs, targets in zip(*rows, strict=True):
            counted = (targets != IGNORE_INDEX).nonzero().flatten()
            seen = inputs[: counted[-1] + 1]
            assert torch.equal(seen, torch.arange(int(seen[0]), int(seen[0]) + len(seen)))
            assert torch.equal(targets[counted], inputs[counted] + 1)
            context = counted + 1
            assert (context >= torch.minimum(targets[counted], torch.tensor(block_size - stride + 1))).all()


@pytest.mark.parametrize("lengths", [LENGTHS, (0, 0, 1), (40,), (9, 8, 7, 6)])
@pytest.mark.parametrize(("block_size", "stride"), [(1, 1), (8, 8), (8, 3), (8, 1), (50, 50), (50, 20)])
def test_documents_are_read_apart(lengths, block_size, stride):
    split = texts(lengths)
    where = Split("val", np.arange(len(split.tokens)), split.marks, 0, 0, 0)
    # The mark between two documents is the last target of one and the first input of the next.
    assert targets_of(EvaluationWindows(where, block_size, stride, 3)) == list(range(1, len(split.tokens)))
    for batch in EvaluationWindows(where, block_size, stride, 1):
        inputs, targets, before = batch.values()
        counted = (targets[0] != IGNORE_INDEX).nonzero().flatten()
        first, last = int(inputs[0, 0]), int(targets[0, counted[-1]])
        assert any(start <= first and last <= end for start, end in itertools.pairwise(split.marks))
        # The first window of a document begins with it; a later one has as much context as any.
        assert int(counted[0]) == (0 if first in split.marks[:-1] else block_size - stride)
        # What is before it in its document, and nothing of another.
        begin = max(start for start in split.marks[:-1] if start <= first)
        wanted = [place if place >= begin else NOTHING for place in range(first - BEFORE, first)]
        assert before[0].tolist() == wanted


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("split", [positions(100), texts()], ids=["continuous", "documents"])
def test_the_shares_of_the_ranks_are_a_partition(split, world_size):
    def windows_of(rank: int, world_size: int) -> list[bytes]:
        cut = EvaluationWindows(split, 8, 4, 2, rank, world_size)
        rows = [pair for batch in cut for pair in zip(*batch.values(), strict=True)]
        return [b"".join(field.numpy().tobytes() for field in row) for row in rows]

    alone = windows_of(0, 1)
    assert [windows_of(rank, world_size) for rank in range(world_size)] == [
        alone[rank::world_size] for rank in range(world_size)
    ]


@pytest.mark.parametrize("stride", [-1, 0, 9])
def test_a_stride_that_would_skip_tokens_is_refused(stride):
    with pytest.raises(ConfigError, match=f"stride={stride} must be between 1 and the context of 8 tokens"):
        EvaluationWindows(positions(20), 8, stride, 1)


def test_a_long_split_needs_no_table_of_its_windows():
    """A table of them would take gigabytes."""
    length = 10**12
    tokens = np.broadcast_to(np.uint16(7), length)
    cut = EvaluationWindows(Split("val", tokens, np.array([0, length - 1]), 0, 0, 0), 1, 1, 1000)
    assert len(cut) == -(-(length - 1) // 1000)
    inputs, targets, _ = next(iter(cut)).values()
    assert inputs.shape == targets.shape == (1000, 1) and (targets == 7).all()


@pytest.mark.parametrize("vocab_size", [2, 100, 50_257, 2**26])
def test_the_logits_of_an_evaluation_batch_fit_into_memory(vocab_size):
    cut = evaluation_windows(positions(60_000), 16, 16, vocab_size)
    inputs = next(iter(cut))["tokens"]
    assert inputs.numel() <= batches.EVALUATION_TOKENS
    assert inputs.numel() * vocab_size <= batches.EVALUATION_LOGITS or len(inputs) == 1
