"""The LightningDataModule alone: settings in, blocks and evaluation windows out."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule

from molino.base.errors import ConfigError, DataError
from molino.data.batches import documents, draw_block, evaluation_windows, windows
from molino.data.corpus import digest
from molino.data.module import TextDataModule
from molino.data.tokenizers import train_char
from molino.models import IGNORE_INDEX
from molino.tasks.language_model import LanguageModel, next_tokens


class Texts:
    name, licence, entropy_per_character = "texts", "public domain", None

    def __init__(self, splits: dict[str, list[str]], documents: bool):
        self.splits, self.documents, self.reads = splits, documents, 0

    def fingerprint(self) -> str:
        return digest(self.splits)

    def read(self) -> dict[str, list[str]]:
        self.reads += 1
        return self.splits


@pytest.fixture
def module(tmp_path):
    def make(batches: str = "windows", **settings) -> TextDataModule:
        texts = ["the mill grinds slowly, " * 3, "but it grinds", "exceedingly small"]
        splits = {"train": texts if batches == "documents" else ["".join(texts)], "val": ["the small mill"]}
        sizes = {"block_size": 8, "batch_size": 4, "accumulate": 1, "steps_per_block": 4, "seed": 3}
        sizes |= settings
        corpus = Texts(splits, batches == "documents")
        made = functools.partial(train_char)
        return TextDataModule(corpus, made, batches, cache=str(tmp_path), task=LanguageModel(), **sizes)

    return make


def on(data: TextDataModule, step: int = 0, rank: int = 0, world_size: int = 1) -> TextDataModule:
    """As under a trainer that stands at `step`."""
    data.trainer = SimpleNamespace(global_step=step, max_steps=10, global_rank=rank, world_size=world_size)
    data.setup("fit")
    return data


def same(one, other) -> bool:
    a, b = one.fields, other.fields
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_is_a_data_module_that_prepares_once(module):
    data = on(module())
    assert isinstance(data, LightningDataModule)
    assert data.corpus.reads == 1
    splits = data.splits
    data.setup("validate")
    assert data.splits is splits and data.corpus.reads == 1
    assert splits["train"].tokens.tolist() == data.tokenizer.encode(data.corpus.splits["train"][0]).tolist()


@pytest.mark.parametrize(("batches", "draw"), [("windows", windows), ("documents", documents)])
def test_training_blocks_are_those_of_the_pure_function(batches, draw, module):
    data = on(module(batches, accumulate=2), step=3)
    drawn = next_tokens(draw(data.splits["train"], 8, 3, data.tokenizer.padding_id))
    blocks = list(data.train_dataloader())
    for block, steps in zip(blocks, ([3], [4, 5, 6, 7], [8, 9]), strict=True):
        expected = draw_block(drawn, ("loss",), np.array(steps), 2, 4)
        assert same(block, expected) and block.weights == expected.weights


def test_seeds_give_other_batches(module):
    one, same_seed, other = (next(iter(on(module(seed=seed)).train_dataloader())) for seed in (1, 1, 2))
    assert same(one, same_seed) and not same(one, other)


def test_the_ranks_share_each_batch_and_the_evaluation(module):
    alone, shares = on(module()), [on(module(), rank=rank, world_size=2) for rank in range(2)]
    blocks = zip(alone.train_dataloader(), *(data.train_dataloader() for data in shares), strict=True)
    for whole, *parts in blocks:
        assert torch.equal(whole.fields["tokens"], torch.cat([part.fields["tokens"] for part in parts], 2))

    def targets(data: TextDataModule) -> list[int]:
        return [target for batch in data.val_dataloader() for target in batch["targets"].flatten().tolist()]

    assert sorted(targets(alone)) == sorted(targets(shares[0]) + targets(shares[1]))
    with pytest.raises(ConfigError, match=r"data.batch_size=4 cannot be shared by 3 processes"):
        on(module(), world_size=3).train_dataloader()


def test_validation_reads_the_whole_split_without_overlap(module):
    data = on(module())
    ours, expected = list(data.val_dataloader()), list(evaluation_windows(data.splits["val"], 8, 8, 100))
    assert all(torch.equal(one[k], other[k]) for one, other in zip(ours, expected, strict=True) for k in one)
    targets = torch.cat([batch["targets"].flatten() for batch in ours])
    assert data.tokenizer.decode(targets[targets != IGNORE_INDEX]) == "he small mill"


def test_distinct_batches_come_over_and_over(module):
    many, few = on(module(steps_per_block=1)), on(module(steps_per_block=1, distinct_batches=3))
    always_new, repeated = list(many.train_dataloader()), list(few.train_dataloader())
    assert all(same(block, always_new[step % 3]) for step, block in enumerate(repeated))
    assert not same(always_new[0], always_new[3])


def test_tokens_per_step_counts_what_a_step_reads(module):
    data = on(module(accumulate=3))
    block = next(iter(data.train_dataloader()))
    assert data.tokens_per_step == block.fields["tokens"][0].numel() == 3 * 4 * 8


def test_without_a_trainer_there_is_one_process(module):
    data = module()
    data.setup()
    assert len(list(data.val_dataloader())) == len(data.val_dataloader()) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batches": "sentences"}, "data.batches=sentences is unknown: choose windows or documents"),
        ({"block_size": 0}, "data.block_size=0 must be at least 1"),
        ({"batch_size": -1}, "data.batch_size=-1 must be at least 1"),
        ({"distinct_batches": 0}, "data.distinct_batches=0 must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(settings, message, module):
    with pytest.raises(ConfigError, match=message):
        module(**settings)


def test_documents_are_not_drawn_from_one_continuous_text(tmp_path):
    corpus = Texts({"train": ["the mill " * 9], "val": ["the small mill"]}, documents=False)
    data = TextDataModule(
        corpus, functools.partial(train_char), "documents", 8, 4, str(tmp_path), task=LanguageModel(), accumulate=1,
        steps_per_block=1, seed=0,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"texts is one continuous text: add data\.batches=windows"):
        data.setup()


def test_a_text_shorter_than_the_context_is_refused(module):
    with pytest.raises(DataError, match=r"lower data\.block_size"):
        on(module(block_size=1000))
