"""Targets about sources: greedily, by beam search or by sampling, many at once.

What is written is what `generate` of transformers writes with the same weights and settings, token by token.

Shape suffixes: N sources, B rows (sources times samples), S and T time (tokens), V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from molino.base.errors import DataError
from molino.generation import filters
from molino.generation.beams import search
from molino.generation.decode import draw, eval_mode
from molino.generation.sources import Place, read_sources
from molino.generation.targets import Vocabulary, Writing, Written, log_probabilities, restrict, without_end
from molino.models.capabilities import device_of

ROOM = 2**14  # numbers of tokens, of sources and of the rows of their targets, that are read and written at once
MOST_ROWS = 512
# Rows that have ended are dropped when they are so large a share: to drop some means to copy what is kept of all.
DROPPED = 0.1


@torch.inference_mode()
def write(
    network: nn.Module,
    sources: Sequence[np.ndarray],
    writing: Writing,
    vocabulary: Vocabulary,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
) -> list[list[Written]]:
    """Return the best targets of each source, in their order; sources are read in batches of near-equal lengths.

    Args:
        network: has an encoder, or is a `SourceFirst`; its block_size is the longest source and the longest target.
        sources: ids, one or more each.
        seed: of what is drawn, with the number of each source, so that its neighbours change nothing.
        numbers: of the sources; None for 0, 1, ...

    Raises:
        DataError: a source is empty.
        NonFiniteError: the logits hold nan or inf.
    """
    if any(len(source) == 0 for source in sources):
        raise DataError("a source is empty: there is nothing to write about")
    room = min(network.block_size, writing.max_new_tokens or network.block_size)
    numbers = range(len(sources)) if numbers is None else numbers
    samples = writing.n_best if writing.temperature > 0 else 1
    # Each sample is a row of its own.
    rows = [(number, sample) for number in range(len(sources)) for sample in range(samples)]
    rows.sort(key=lambda row: -len(sources[row[0]]))
    found: list[list[Written]] = [[] for _ in sources]
    with eval_mode(network):
        while rows:
            count = max(min(ROOM // (len(sources[rows[0][0]]) + room), MOST_ROWS) // writing.beams, 1)
            batch, rows = rows[:count], rows[count:]
            read = padded([sources[number] for number, _ in batch], vocabulary.padding, device_of(network))
            place = read_sources(network, *read, room)
            if writing.beams > 1:
                written = search(place, len(batch), room, writing, vocabulary, read[0].device)
            else:
                streams = [(seed, numbers[number], sample) for number, sample in batch]
                written = _one_by_one(place, streams, room, writing, vocabulary, read[0].device)
            for (number, _), each in zip(batch, written, strict=True):
                found[number] += each
    return [sorted(each, key=lambda one: -one.score) for each in found]


def padded(sources: Sequence[np.ndarray], padding: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return sources of unequal lengths side by side, and where there are tokens."""
    lengths = torch.tensor([len(source) for source in sources])
    found = torch.full((len(sources), int(lengths.max())), padding)
    for row, source in zip(found, sources, strict=True):
        row[: len(source)] = torch.from_numpy(np.asarray(source, dtype=np.int64))
    return found.to(device), (torch.arange(found.shape[1]) < lengths[:, None]).to(device)


def _one_by_one(
    place: Place,
    streams: list[tuple[int, ...]],
    room: int,
    writing: Writing,
    vocabulary: Vocabulary,
    device: torch.device,
) -> list[list[Written]]:
    """Write targets token by token: the likeliest, or a drawn one, by a random stream of each row."""
    uniforms_BT = _uniforms(streams, room).to(device) if writing.temperature > 0 else None
    tokens_BT = torch.full((len(streams), room + 1), vocabulary.end, device=device)
    tokens_BT[:, 0] = vocabulary.start
    score_B = torch.zeros(len(streams), device=device)
    alive_B = torch.arange(len(streams), device=device)  # which rows the network goes on with
    ended_B = torch.zeros(len(streams), dtype=torch.bool, device=device)
    for step in range(room):
        logp_BV = log_probabilities(place.logits(tokens_BT[alive_B, step]))
        kept_BV = restrict(logp_BV, tokens_BT[alive_B, : step + 1], writing, vocabulary)
        if uniforms_BT is None:
            next_B = kept_BV.argmax(-1)
        else:
            next_B = draw(_filtered(kept_BV.to(uniforms_BT.dtype), writing), uniforms_BT[alive_B, step])
        score_B[alive_B] += logp_BV.gather(1, next_B[:, None])[:, 0].masked_fill(ended_B, 0)
        tokens_BT[alive_B, step + 1] = next_B.masked_fill(ended_B, vocabulary.end)
        ended_B |= next_B == vocabulary.end
        share = ended_B.float().mean().item()
        if share == 1:
            break
        if share > DROPPED:
            going = (~ended_B).nonzero()[:, 0]
            place.select(going, going)
            alive_B, ended_B = alive_B[going], ended_B[going]
    lengths_B = 1 + (tokens_BT[:, 1:-1] != vocabulary.end).cumprod(1).sum(1)
    score_B = score_B / lengths_B**writing.length_penalty
    rows = zip(tokens_BT[:, 1:].tolist(), lengths_B.tolist(), score_B.tolist(), strict=True)
    return [[Written(without_end(row[:length], vocabulary.end), score)] for row, length, score in rows]


def _filtered(logits_BV: Tensor, writing: Writing) -> Tensor:
    logits_BV = filters.temperature(logits_BV, writing.temperature)
    for keep, value in (
        (filters.top_k, writing.top_k),
        (filters.top_p, writing.top_p),
        (filters.min_p, writing.min_p),
    ):
        if value is not None:
            logits_BV = keep(logits_BV, value)
    return logits_BV


def _uniforms(streams: list[tuple[int, ...]], count: int) -> Tensor:
    """Return numbers in [0, 1), (B, count), of a stream for each row."""
    rows = [np.random.Generator(np.random.Philox(np.random.SeedSequence(each))).random(count) for each in streams]
    return torch.from_numpy(np.stack(rows))
