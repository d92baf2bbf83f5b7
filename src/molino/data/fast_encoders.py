"""Encoders that give the very ids of a `tokenizers.Tokenizer`, many times faster where that is possible.

The backend (the Hugging Face object) stays the definition of every tokenizer. `encoder_for` reads its JSON; where that
is one of the pipelines of this file, numpy or plain string methods do the work instead. Everything else goes through
the library. Lone surrogates, which UTF-8 cannot hold and the library refuses, are read as U+FFFD everywhere.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice, repeat
from typing import Protocol

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from molino.base.errors import DataError
from molino.data.cuts import cut
from molino.data.text import Text, strings

UNKNOWN = "<unk>"
REPLACEMENT = "\ufffd"
CODE_POINTS = 0x110000
ASCII = bytes(range(128))
# Characters worked on at a time. What lies between text and ids then stays in the processor's cache: with pieces of
# 2**18 characters, whose words do not, looking words up takes twice the time.
PIECE = 1 << 14
BATCH = 128  # pieces that the library gets at once, to share among threads

# A piece ends where the next one begins with a space or newline and then a word. No token of a word tokenizer spans
# such a place, and it is not inside "<br />".
CUT = re.compile(r"\S[ \n]\w")
CUT_WIDTH = 3
SURROGATE = re.compile("[\ud800-\udfff]")


class Encoder(Protocol):
    """Text to ids, an array after the other, and the characters or words of a text that have no id of their own."""

    def encode(self, text: Text) -> Iterator[np.ndarray]: ...

    def unknown(self, text: str) -> list[str]: ...


def encoder_for(backend: Tokenizer, spec: dict, unknown_id: int | None, dtype: type[np.unsignedinteger]) -> Encoder:
    """Return the fastest encoder that gives the ids of `backend`, whose JSON is `spec`, as arrays of `dtype`."""
    vocabulary = spec["model"].pop("vocab", {})
    if UNKNOWN in vocabulary:
        # Special tokens beside the vocabulary never stand in a text.
        spec = spec | {"added_tokens": [token for token in spec["added_tokens"] if not token["special"]]}
        if spec == _spec(char_backend({})):
            return CharEncoder(vocabulary, dtype)
        for rules in (BASIC_ENGLISH, whitespace_rules(None), whitespace_rules(_last_content(spec))):
            if spec == _spec(word_backend({}, rules)):
                return WordEncoder(vocabulary, rules, dtype)
    return LibraryEncoder(backend, _is_cuttable(spec), unknown_id, dtype)


# --- characters -------------------------------------------------------------------------------------------------------


def char_backend(vocabulary: dict[str, int]) -> Tokenizer:
    """Return a tokenizer whose tokens are code points, newlines included."""
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return backend


def code_points(text: Text) -> Iterator[np.ndarray]:
    """Yield the code points of `text` as uint32 arrays of at most `PIECE`."""
    for string in strings(text):
        for start in range(0, len(string), PIECE):
            yield np.frombuffer(string[start : start + PIECE].encode("utf-32-le", "surrogatepass"), dtype="<u4")


def alphabet(texts: Iterable[Text]) -> list[str]:
    """Return the distinct characters of `texts` by code point."""
    seen = np.zeros(CODE_POINTS, dtype=bool)
    for text in texts:
        for codes in code_points(text):
            seen[codes] = True
    seen[ord(REPLACEMENT)] |= seen[0xD800:0xE000].any()
    seen[0xD800:0xE000] = False
    return [chr(code) for code in np.flatnonzero(seen)]


class CharEncoder:
    """A look-up table over all code points."""

    def __init__(self, vocabulary: dict[str, int], dtype: type[np.unsignedinteger]):
        self.vocabulary = vocabulary
        self.table = np.full(CODE_POINTS, vocabulary[UNKNOWN], dtype=dtype)
        for token, number in vocabulary.items():
            if len(token) == 1:
                self.table[ord(token)] = number
        self.table[0xD800:0xE000] = self.table[ord(REPLACEMENT)]

    def encode(self, text: Text) -> Iterator[np.ndarray]:
        for codes in code_points(text):
            yield self.table[codes]

    def unknown(self, text: str) -> list[str]:
        return [character for character in dict.fromkeys(whole(text)) if character not in self.vocabulary]


# --- words ------------------------------------------------------------------------------------------------------------


class WordRules:
    """Literal replacements, in order, before a text is split at white space; the same in Python and in the library.

    Args:
        replacements: pairs of what to look for and what to put in its place.
        lowercase: whether the text is lower-cased first.
    """

    def __init__(self, replacements: list[tuple[str, str]], lowercase: bool):
        # Python splits at \x1c-\x1f, Rust does not: spaces make the two agree.
        self.replacements = [(chr(code), " ") for code in range(0x1C, 0x20)] + replacements
        self.lowercase = lowercase
        first = [normalizers.Lowercase()] if lowercase else []
        self.normalizer = normalizers.Sequence(first + [normalizers.Replace(*pair) for pair in self.replacements])

    def words(self, text: Text) -> Iterator[list[str]]:
        """Yield the words of `text`, a piece at a time."""
        for piece in pieces(text, PIECE):
            yield self._normalise(whole(piece)).split()

    def _normalise(self, text: str) -> str:
        if self.lowercase:
            if not _lowers_alike(text):
                return self.normalizer.normalize_str(text)
            text = text.replace("Σ", "σ").lower()  # Python alone would make a final sigma of it at a word's end.
        for old, new in self.replacements:
            text = text.replace(old, new)
        return text


# torchtext's `basic_english` normalisation, in its order (torchtext/data/utils.py); the split does the rest.
BASIC_ENGLISH = WordRules(
    [
        *[("'", " '  "), ('"', ""), (".", " . "), ("<br />", " "), (",", " , "), ("(", " ( "), (")", " ) ")],
        *[("!", " ! "), ("?", " ? "), (";", " "), (":", " ")],
    ],
    lowercase=True,
)


def whitespace_rules(end_of_line: str | None) -> WordRules:
    """Return the rules that only split, and make `end_of_line` of each newline."""
    return WordRules([("\n", f" {end_of_line} ")] if end_of_line else [], lowercase=False)


def word_backend(vocabulary: dict[str, int], rules: WordRules) -> Tokenizer:
    """Return a tokenizer whose tokens are the words that `rules` leave; it decodes to words with one space between."""
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.normalizer = rules.normalizer
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


class WordEncoder:
    """String methods and a dictionary."""

    def __init__(self, vocabulary: dict[str, int], rules: WordRules, dtype: type[np.unsignedinteger]):
        self.vocabulary, self.rules, self.dtype = vocabulary, rules, dtype

    def encode(self, text: Text) -> Iterator[np.ndarray]:
        unknown = repeat(self.vocabulary[UNKNOWN])
        for words in self.rules.words(text):
            yield np.fromiter(map(self.vocabulary.get, words, unknown), self.dtype, len(words))

    def unknown(self, text: str) -> list[str]:
        distinct = dict.fromkeys(word for words in self.rules.words(text) for word in words)
        return [word for word in distinct if word not in self.vocabulary]


# --- everything else --------------------------------------------------------------------------------------------------


class LibraryEncoder:
    """The library itself; on several threads where the text can be cut without changing an id."""

    def __init__(self, backend: Tokenizer, cuttable: bool, unknown_id: int | None, dtype: type[np.unsignedinteger]):
        self.backend, self.cuttable, self.unknown_id, self.dtype = backend, cuttable, unknown_id, dtype

    def encode(self, text: Text) -> Iterator[np.ndarray]:
        # The library is faster with shorter pieces: by a fifth.
        parts = (piece for piece, _ in cut(text, PIECE >> 3)) if self.cuttable else iter(["".join(strings(text))])
        while batch := list(islice(parts, BATCH)):
            yield from self._encode_batch(batch)

    def _encode_batch(self, batch: list[str]) -> list[np.ndarray]:
        try:
            encodings = self.backend.encode_batch_fast([whole(piece) for piece in batch], add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception, for a word that has no id and no <unk> to take
            raise DataError(
                f"the tokenizer cannot encode this text ({error}): use one that has an unknown token"
            ) from error
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in encodings]

    def unknown(self, text: str) -> list[str]:
        text = whole(text)
        encoding = self.backend.encode(text, add_special_tokens=False)
        spans = (span for span, id in zip(encoding.offsets, encoding.ids, strict=True) if id == self.unknown_id)
        return list(dict.fromkeys(text[start:end] for start, end in spans))


# --- texts ------------------------------------------------------------------------------------------------------------


def pieces(text: Text, size: int) -> Iterator[str]:
    """Yield `text` in pieces of about `size` characters, longer where it has no place to cut."""
    rest, searched = "", 0
    for string in strings(text):
        rest += string
        start = 0
        while cut := CUT.search(rest, max(start + size, searched)):
            yield rest[start : cut.start() + 1]
            start = cut.start() + 1
        rest = rest[start:]
        searched = max(len(rest) - CUT_WIDTH + 1, 0)
    if rest:
        yield rest


def whole(text: str) -> str:
    """Return `text` with U+FFFD for each lone surrogate."""
    try:
        text.encode("utf-8")  # Five times faster than looking for what is hardly ever there.
    except UnicodeEncodeError:
        return SURROGATE.sub(REPLACEMENT, text)
    return text


def _lowers_alike(text: str) -> bool:
    """Whether Python and Rust, whose Unicode versions may differ, lower-case every character of `text` alike."""
    beyond_ascii = text.encode("utf-8").translate(None, ASCII).decode("utf-8")
    lower = normalizers.Lowercase().normalize_str
    return all(character.lower() == lower(character) for character in set(beyond_ascii))


def _spec(backend: Tokenizer) -> dict:
    spec = json.loads(backend.to_str())
    spec["model"].pop("vocab")
    return spec


def _last_content(spec: dict) -> str | None:
    """Return what the last normalizer puts in, without its spaces: a whitespace tokenizer's end-of-line token."""
    steps = (spec["normalizer"] or {}).get("normalizers") or [{}]
    return steps[-1].get("content", "").strip() or None


def _is_cuttable(spec: dict) -> bool:
    """Whether `spec` is a plain GPT-2 style byte-level BPE, for which pieces give the ids of the whole."""
    splitter = spec["pre_tokenizer"] or {}
    return (
        spec["model"]["type"] == "BPE"
        and spec["normalizer"] is None
        and splitter.get("type") == "ByteLevel"
        and not splitter["add_prefix_space"]
        and splitter["use_regex"]
        and all(token["special"] for token in spec["added_tokens"])
    )
