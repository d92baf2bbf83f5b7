"""Questions and their contexts in windows of tokens, and where in a context each token stands (Devlin et al. 2019).

    <start> question <delimiter> part of the context <extract>

A context that is too long is cut into windows that overlap.

Shapes: N examples, W windows, R windows that are asked for, T time (tokens), P tokens of all contexts.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from molino.base.errors import ConfigError, DataError
from molino.data.batches import EVALUATION_TOKENS
from molino.data.examples import Answer, Example
from molino.data.tokenizers import Tokenizer
from molino.tasks.sequences import filled, marks_of_pairs

MARKS = 3  # tokens of a window beside question and context


class ContextWindows:
    """The windows of some examples.

    Args:
        examples: questions (`text`) with their contexts (`pair`).
        block_size: tokens of a window. A question gets half of the room at most, and is cut to it.
        stride: tokens that two windows of a context share; None for a quarter of the room.

    Attributes:
        numbers_W: which example each window is of.
        lengths_W: tokens of each window.
        answers_W2: places in each window of the first and the last token of the first answer; 0 and 0 where it is not
            in the window as a whole.
        cut_N: whether a question is cut.
        found_N: whether a window of an example holds its first answer as a whole.

    Raises:
        ConfigError: the windows have no room, or share more than they have, or the tokenizer has no marks for them.
        DataError: the tokenizer does not tell where tokens stand.
    """

    def __init__(self, tokenizer: Tokenizer, examples: Sequence[Example], block_size: int, stride: int | None):
        room = block_size - MARKS
        if room < 2:
            raise ConfigError(
                f"data.block_size={block_size} has no room for a question and a context beside {MARKS} marks: raise it"
            )
        least = room - room // 2  # what a question leaves to its context
        stride = least // 2 if stride is None else stride
        if not 0 <= stride < least:
            raise ConfigError(
                f"task.stride={stride} must be from 0 to {least - 1} with data.block_size={block_size}: a question may "
                "take half of a window, and the next window has to go on"
            )
        self.stride, self.marks = stride, marks_of_pairs(tokenizer)
        self.questions, self.question_starts_N, whole_N = _joined([tokenizer.encode(each.text) for each in examples])
        self.question_sizes_N = whole_N.clip(max=room // 2)
        self.cut_N = whole_N > room // 2
        # Many questions are asked about one context.
        numbers = {context: number for number, context in enumerate(dict.fromkeys(each.pair for each in examples))}
        which_N = np.array([numbers[each.pair] for each in examples], dtype=np.int64)
        places = [tokenizer.places(context) for context in numbers]
        self.contexts, starts, sizes = _joined([tokenizer.encode(context) for context in numbers])
        self.places_P2 = np.concatenate([np.zeros((0, 2), np.int64), *places])
        self.context_starts_N, self.context_sizes_N = starts[which_N], sizes[which_N]
        self._cut(room - self.question_sizes_N)
        answers = [answer_tokens(places[numbers[each.pair]], each.answers) for each in examples]
        self._place(np.array(answers, dtype=np.int64).reshape(-1, 2))

    def _cut(self, room_N: np.ndarray) -> None:
        """Cut contexts into windows, of which each goes on where the one before it has `stride` tokens left."""
        step_N = room_N - self.stride
        count_N = 1 + -(-(self.context_sizes_N - room_N).clip(min=0) // step_N)
        self.numbers_W = np.repeat(np.arange(len(room_N)), count_N)
        within_W = np.arange(len(self.numbers_W)) - np.repeat(np.cumsum(count_N) - count_N, count_N)
        self.begins_W = within_W * step_N[self.numbers_W]
        self.sizes_W = np.minimum(room_N[self.numbers_W], self.context_sizes_N[self.numbers_W] - self.begins_W)
        self.lengths_W = self.question_sizes_N[self.numbers_W] + self.sizes_W + MARKS

    def _place(self, answers_N2: np.ndarray) -> None:
        """Find answers, of which the tokens in their contexts are given, in the windows."""
        inside_W2 = answers_N2[self.numbers_W] - self.begins_W[:, None]
        held_W = (inside_W2[:, 0] >= 0) & (inside_W2[:, 1] < self.sizes_W) & (answers_N2[self.numbers_W, 0] >= 0)
        places_W2 = inside_W2 + self.question_sizes_N[self.numbers_W, None] + 2
        self.answers_W2 = np.where(held_W[:, None], places_W2, 0)
        self.found_N = np.bincount(self.numbers_W, held_W, len(answers_N2)) > 0

    def __len__(self) -> int:
        return len(self.numbers_W)

    def take(self, windows_R: np.ndarray) -> dict[str, np.ndarray]:
        """Return tokens_RT, filled up with padding; begins_R and ends_R, the place of the first token of each context
        and that behind its last one; answers_R2; and places_RT2, where each token of a context begins and ends in it,
        in characters."""
        numbers_R = self.numbers_W[windows_R]
        question_R1 = self.question_sizes_N[numbers_R, None]
        begins_R1, ends_R1 = question_R1 + 2, self.lengths_W[windows_R, None] - 1
        places_T = np.arange(int(self.lengths_W[windows_R].max(initial=0)))
        tokens_RT = np.full((len(windows_R), len(places_T)), self.marks.padding, dtype=np.int64)
        ((start,), (delimiter,), (extract,)) = self.marks[:3]
        tokens_RT[:, :1] = start
        np.put_along_axis(tokens_RT, begins_R1 - 1, delimiter, axis=1)
        np.put_along_axis(tokens_RT, ends_R1, extract, axis=1)
        asked_RT = (places_T >= 1) & (places_T < begins_R1 - 1)
        tokens_RT[asked_RT] = self.questions[(self.question_starts_N[numbers_R, None] + places_T - 1)[asked_RT]]
        read_RT = (places_T >= begins_R1) & (places_T < ends_R1)
        first_R1 = (self.context_starts_N[numbers_R] + self.begins_W[windows_R])[:, None]
        within = (first_R1 + places_T - begins_R1)[read_RT]
        tokens_RT[read_RT] = self.contexts[within]
        places_RT2 = np.zeros((*tokens_RT.shape, 2), dtype=np.int64)
        places_RT2[read_RT] = self.places_P2[within]
        answers_R2 = self.answers_W2[windows_R]
        return {
            "tokens": tokens_RT, "begins": begins_R1[:, 0], "ends": ends_R1[:, 0], "answers": answers_R2,
            "places": places_RT2,
        }  # fmt: skip


def answer_tokens(places_P2: np.ndarray, answers: Sequence[Answer]) -> tuple[int, int]:
    """Return the first and the last token that hold something of the first answer; (-1, -1) where none does, as where a
    tokenizer drops all its characters.

    Args:
        places_P2: where the tokens of its context begin and end, in characters.
    """
    if not answers:
        return -1, -1
    start, end = answers[0].start, answers[0].start + len(answers[0].text)
    first = int(np.searchsorted(places_P2[:, 1], start, side="right"))
    last = int(np.searchsorted(places_P2[:, 0], end, side="left")) - 1
    return (first, last) if first <= last else (-1, -1)


def answer_at(context: str, start: int, end: int) -> Answer:
    """Return what stands between two places of a context, without white space around it."""
    text = context[start:end]
    return Answer(start + len(text) - len(text.lstrip()), text.strip())


class WindowBatches:
    """Windows in batches, sorted by length; of several processes each has its share of them.

    Yields what `take` returns, and numbers_B, the examples that the windows are of.
    """

    def __init__(self, windows: ContextWindows, rank: int = 0, world_size: int = 1):
        if len(windows) < world_size:
            raise DataError(f"{len(windows)} windows are too few for {world_size} processes")
        self.windows = windows
        mine = np.argsort(windows.lengths_W, kind="stable")[rank::world_size]
        self.batches = [mine[begin:end] for begin, end in filled(windows.lengths_W[mine], EVALUATION_TOKENS)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for chosen in self.batches:
            found = self.windows.take(chosen) | {"numbers": self.windows.numbers_W[chosen]}
            yield {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in found.items()}

    def describe(self) -> dict[str, str]:
        count, longest = len(self.windows.cut_N), int(self.windows.lengths_W.max(initial=0))
        return {"questions": f"{count:,} in {len(self.windows):,} windows of up to {longest} tokens"}


def _joined(texts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ids of all texts one after the other, where each begins, and how many each has."""
    sizes = np.array([len(ids) for ids in texts], dtype=np.int64)
    return np.concatenate([np.empty(0, np.int64), *texts]).astype(np.int64), np.cumsum(sizes) - sizes, sizes
