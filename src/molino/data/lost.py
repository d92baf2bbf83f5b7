"""What a tokenizer loses of a text: what a model of its tokens need not predict."""

import re
from collections import Counter

import numpy as np

from molino.data.counts import kept
from molino.data.text import strings
from molino.data.tokenizers import UNKNOWN, Tokenizer
from molino.data.tokens import TokenizedCorpus

# Of a longer split the first so many characters tell.
SAMPLE = 1_000_000


def lost_of(text: TokenizedCorpus, split: str) -> dict[str, float]:
    """Return which kinds of things the tokens of a split have lost: `unknown`, a share of the tokens, `case` and
    `white_space`, shares of the characters; nothing of a tokenizer that gives the text back. Kept in the cache."""
    return kept(text, f"lost-{split}.json", "looking what the tokens have lost", lambda: _measure(text, split))


def _measure(text: TokenizedCorpus, split: str) -> dict[str, float]:
    part, tokenizer = text.splits[split], text.tokenizer
    found = {"unknown": part.unknown / len(part.tokens)}
    if _gives_back(tokenizer):
        return {name: share for name, share in found.items() if share}
    pieces, room = [], SAMPLE
    for each in text.corpus.read()[split]:
        pieces.append("".join(strings(each[:room])))
        room -= len(pieces[-1])
        if room <= 0:
            break
    sample = "".join(pieces)
    if not sample:
        return {}
    if tokenizer.encode(UNKNOWN[0]).tolist() == [tokenizer.unknown_id]:
        # In some texts words are unknown already; these have lost nothing more.
        ids = tokenizer.encode(sample)
        lost = np.count_nonzero(ids == tokenizer.unknown_id) - len(re.findall(rf"(?<!\S){UNKNOWN[0]}(?!\S)", sample))
        found["unknown"] = lost / len(ids)
    found["case"] = _folded(tokenizer, sample) / len(sample)
    found["white_space"] = _white_space(tokenizer, sample) / len(sample)
    return {name: share for name, share in found.items() if share}


def _gives_back(tokenizer: Tokenizer) -> bool:
    """Tell whether case and white space, where they are known at all, come back."""
    probe = "A a\n b\tB  "
    known = "".join(c for c in probe if c not in tokenizer.unknown(probe)) or "A a"
    return tokenizer.decode(tokenizer.encode(known)) == known


def _folded(tokenizer: Tokenizer, sample: str) -> int:
    """Return how many characters are capitals of known words that are read as if they were in lower case."""
    words = Counter(word for word in re.findall(r"\w+", sample) if word != word.lower())
    return sum(
        count * sum(c != c.lower() for c in word)
        for word, count in words.items()
        if _same(tokenizer, word, word.lower()) and not tokenizer.unknown(word)
    )


def _white_space(tokenizer: Tokenizer, sample: str) -> int:
    """Return how many characters of white space are read as if there were a single space, or none."""
    counts = Counter(c for c in sample if c.isspace() and c != " ")
    lost = sum(count for c, count in counts.items() if _same(tokenizer, f"a{c}b", "a b"))
    return lost + (len(re.findall("(?<= ) ", sample)) if _same(tokenizer, "a  b", "a b") else 0)


def _same(tokenizer: Tokenizer, one: str, other: str) -> bool:
    return tokenizer.encode(one).tolist() == tokenizer.encode(other).tolist()
