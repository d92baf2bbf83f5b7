"""What a model reads before each new token: the text so far, through a KV cache or whole.

While a text fits the model's context, the model reads all of it. When it has outgrown the context, the window moves on
by a quarter of the context at once, and what is left of it is read anew, from position 0: so at least three quarters of
the context are always read. The rule is the same with and without a cache, and for every kind of positions: learned
and sinusoidal ones have no places beyond the context, and what rotary models keep of a token in their deeper layers
depends on tokens that have left the window. A prompt longer than the context is cut to its last tokens.

Shape suffixes: B rows (texts), T time (tokens), V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from molino.models.cache import NOTHING, KVCache
from molino.models.capabilities import capabilities_of, device_of, dtype_of
from molino.models.counting import BEFORE


def window_start(end: int, block_size: int) -> int:
    """Return the first token that is read before token `end` of a text that began within the context."""
    stride = max(1, block_size // 4)
    return 0 if end <= block_size else -(-(end - block_size) // stride) * stride


class Context:
    """Texts that grow by a token each a step, and the model's opinion of how they go on.

    Every row goes on as if it were alone: the lengths of its neighbours change nothing.

    Args:
        model: see `molino.models`.
        prompts: a LongTensor (T,) of one token or more for each text.
        samples: rows a prompt; they share its first reading.
        max_new_tokens: how far the texts may grow.
        cached: whether to keep keys and values, where the model can, or to read the window anew for every token.
    """

    def __init__(self, model: nn.Module, prompts: Sequence[Tensor], samples: int, max_new_tokens: int, cached: bool):
        device = device_of(model)
        earlier = [prompt_T[: -model.block_size][-BEFORE:] for prompt_T in prompts]
        prompts = [prompt_T[-model.block_size :] for prompt_T in prompts]
        self.model, self.samples = model, samples
        # Everything about places is known beforehand, so no step has to ask the device.
        self.ends = [len(prompt_T) for prompt_T in prompts for _ in range(samples)]
        self.starts = [0] * len(self.ends)
        self.tokens_BT = torch.zeros(len(self.ends), max(self.ends) + max_new_tokens, dtype=torch.long, device=device)
        for row, prompt_T in enumerate(prompts):
            self.tokens_BT[row * samples : (row + 1) * samples, : len(prompt_T)] = prompt_T
        self.looks_before = capabilities_of(model).counts
        # What stands before the first window, which only such a model sees.
        self.past_BR = torch.full((len(self.ends), BEFORE), NOTHING, device=device)
        for row, past_T in enumerate(earlier):
            self.past_BR[row * samples : (row + 1) * samples, BEFORE - len(past_T) :] = past_T
        self.cache = None
        if cached and (shape := capabilities_of(model).cache) is not None:
            capacity = min(model.block_size, self.tokens_BT.shape[1])
            dtype = dtype_of(model)
            if torch.is_autocast_enabled(device.type):
                dtype = torch.get_autocast_dtype(device.type)
            self.cache = KVCache(shape, len(self.ends), capacity, device, dtype)
            self.cache.before_BR = self._before(slice(None))
            self._read_prompts()

    def logits(self) -> Tensor:
        """Return the logits_BV of the next token."""
        starts = [window_start(end, self.model.block_size) for end in self.ends]
        moved = [row for row, start in enumerate(starts) if start != self.starts[row]]
        self.starts = starts
        if self.cache is None:
            return self._read_whole()
        if moved:
            self._read_again(moved)
        return self.model(self._last_tokens(), self.cache)[:, -1]

    def append(self, next_B: Tensor) -> None:
        """Let each text grow by a token."""
        if self._aligned():
            self.tokens_BT[:, self.ends[0]] = next_B
        else:
            self.tokens_BT.scatter_(1, self._column(self.ends), next_B[:, None])
        self.ends = [end + 1 for end in self.ends]

    def follow(self, text_T: Tensor, more: int) -> None:
        """Go on with another text in place of the only one there is: what both begin with is not read again.

        What the new one holds beyond counts as if it had been drawn: the window moves as it would have.

        Args:
            text_T: one token or more, those of before the first window left out.
            more: how far it may grow.
        """
        end, before = len(text_T), self.tokens_BT[0, : self.ends[0]]
        text_T = text_T.to(self.tokens_BT.device)
        shared = min(end, len(before))
        same = (text_T[:shared] == before[:shared]).long().cumprod(0).sum().item()
        self.tokens_BT = torch.cat([text_T, text_T.new_zeros(more)])[None]
        start, self.ends = window_start(end, self.model.block_size), [end]
        if self.cache is None:
            return
        self.cache.grow(min(self.model.block_size, end + more))
        if start != self.starts[0]:
            return  # the window is read anew, as when it moves by itself
        # The last token is read when its logits are asked for.
        self.cache.fill([max(min(self.cache.length, same - start, end - 1 - start), 0)])
        if (unread := start + self.cache.length) < end - 1:
            self.model(self.tokens_BT[:, unread : end - 1], self.cache)

    def seen(self, vocab_size: int) -> Tensor:
        """Return which tokens each text holds so far, bool (B, V)."""
        seen_BV = torch.zeros(len(self.ends), vocab_size, dtype=torch.bool, device=self.tokens_BT.device)
        places_T = torch.arange(self.tokens_BT.shape[1], device=self.tokens_BT.device)
        # Beyond its end a row is made to repeat its first token.
        held_BT = torch.where(places_T < self._column(self.ends), self.tokens_BT, self.tokens_BT[:, :1])
        return seen_BV.scatter_(1, held_BT, True)

    def _read_prompts(self) -> None:
        """Take up all prompts but their last tokens, each once, and share them among their samples."""
        first_rows, longest = slice(None, None, self.samples), max(self.ends) - 1
        if longest:
            self.model(self.tokens_BT[first_rows, :longest], self.cache.rows(first_rows))
            self.cache.share(self.samples)
        self._fill()

    def _read_again(self, moved: list[int]) -> None:
        """Take up the windows of rows that have moved, but for their last tokens."""
        if self._aligned():
            self.cache.clear()
            self.cache.before_BR = self._before(slice(None))
            self.model(self.tokens_BT[:, self.starts[0] : self.ends[0] - 1], self.cache)
            return
        # Their neighbours have no need to be read again. A window that has moved is as long as any other that has.
        rows_M = torch.tensor(moved, device=self.tokens_BT.device)
        length = self.ends[moved[0]] - 1 - self.starts[moved[0]]
        places_MT = self._column(self.starts)[rows_M] + torch.arange(length, device=rows_M.device)
        read, before_BR = self.cache.empty(len(moved)), self._before(slice(None))
        read.before_BR = before_BR[rows_M]
        self.model(self.tokens_BT[rows_M].gather(1, places_MT), read)
        self.cache.replace(rows_M, read)
        self.cache.before_BR = before_BR
        self._fill()

    def _fill(self) -> None:
        """Tell the cache how much of each row has been read: all but the last token."""
        self.cache.fill([end - 1 - start for start, end in zip(self.starts, self.ends, strict=True)])

    def _last_tokens(self) -> Tensor:
        if self._aligned():
            return self.tokens_BT[:, self.ends[0] - 1 : self.ends[0]]
        return self.tokens_BT.gather(1, self._column(self.ends) - 1)

    def _read_whole(self) -> Tensor:
        before = {"before_BR": self._before(slice(None))} if self.looks_before else {}
        if self._aligned():
            return self.model(self.tokens_BT[:, self.starts[0] : self.ends[0]], **before)[:, -1]
        lengths = [end - start for start, end in zip(self.starts, self.ends, strict=True)]
        places_BT = self._column(self.starts) + torch.arange(max(lengths), device=self.tokens_BT.device)
        # What a short row reads beyond its end comes after its last token, which does not look ahead.
        window_BT = self.tokens_BT.gather(1, places_BT.clamp(max=self.tokens_BT.shape[1] - 1))
        rows_B = torch.arange(len(lengths), device=self.tokens_BT.device)
        return self.model(window_BT, **before)[rows_B, self._column(lengths)[:, 0] - 1]

    def _before(self, rows: slice) -> Tensor:
        """Return what stands before the windows of some rows, for a model that looks there."""
        if not self.looks_before:
            return self.tokens_BT[rows, :0]
        places_BR = self._column(self.starts[rows]) + torch.arange(BEFORE, device=self.tokens_BT.device)
        return torch.cat([self.past_BR[rows], self.tokens_BT[rows]], dim=1).gather(1, places_BR)

    def _aligned(self) -> bool:
        """Whether all rows hold equally many tokens, so that they can be addressed as one."""
        return self.ends[0] == self.ends[-1] and len(set(self.ends)) == 1

    def _column(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, device=self.tokens_BT.device)[:, None]
