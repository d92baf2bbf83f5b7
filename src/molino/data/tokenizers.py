"""Tokenizers: text to ids and back. Inside is always a Hugging Face `tokenizers.Tokenizer`, saved as tokenizer.json.

The functions `train_*` all have the form `train(texts) -> Tokenizer` once their settings are bound; the texts are those
of the training split only. They are read once; only what is counted in them is kept. `molino.data.pretrained` has one
more that reads what exists.
"""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from molino.base.errors import ConfigError, DataError
from molino.base.files import write_text
from molino.data import fast_encoders as fast
from molino.data.cuts import cut
from molino.data.text import Text

# The names under which the special tokens are looked for in any vocabulary, the likeliest first.
UNKNOWN = ("<unk>", "[UNK]", "<|unk|>")
PADDING = ("<pad>", "[PAD]", "<|pad|>")
END_OF_TEXT = ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "[EOS]")
MASKS = ("<mask>", "[MASK]")
SOURCE = "source_"  # before the name of the file that holds a tokenizer of sources
SPECIALS = (UNKNOWN[0], PADDING[0], END_OF_TEXT[0])  # ids 0, 1, 2 in all kinds that are trained here
BYTES = 256
MOST_UNSPACED = 1 << 20


class Tokenizer:
    """Text to ids and back.

    A text is only ever text: no beginning or end marks are added, nothing is cut off or padded, and the name of a
    special token in a text is encoded like any other characters. (Where the tokens are words, a word of the corpus
    that reads `<unk>` is the word `<unk>`.) A lone surrogate is read as U+FFFD.

    Args:
        backend: is taken over and set up; do not use it elsewhere.

    Attributes:
        backend: the library's tokenizer.
        size: number of rows an embedding needs: the largest id + 1.
        dtype: of the ids: uint16 if all fit in it, else uint32.
        unknown_id, padding_id, end_of_text_id, mask_id: None where the vocabulary has no such token.
        source: the tokenizer of the sources that targets are written about: the same one, unless they have their own.
    """

    def __init__(self, backend: tokenizers.Tokenizer, source: "Tokenizer | None" = None):
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.backend, self.source = backend, self if source is None else source
        self.size = max(vocabulary.values(), default=-1) + 1
        self.unknown_id = _first(UNKNOWN, vocabulary)
        self.padding_id = _first(PADDING, vocabulary)
        self.end_of_text_id = _first(END_OF_TEXT, vocabulary)
        self.mask_id = _first(MASKS, vocabulary)
        self.dtype = np.uint16 if self.size <= 1 << 16 else np.uint32
        self._json = backend.to_str()
        self._encoder = fast.encoder_for(backend, json.loads(self._json), self.unknown_id, self.dtype)

    def encode(self, text: Text) -> np.ndarray:
        """Return the ids of `text`, shape (N,), of type `dtype`."""
        return np.concatenate([np.empty(0, self.dtype), *self.stream(text)])

    def encode_marked(self, text: str) -> list[int]:
        """Return the ids of a text in which the names of special tokens stand for these; in `encode` they are text."""
        self.backend.encode_special_tokens = False
        try:
            return self.backend.encode(text, add_special_tokens=False).ids
        finally:
            self.backend.encode_special_tokens = True

    @functools.cached_property
    def marks(self) -> tuple[str, ...]:
        """The names of special tokens, the longest first."""
        added = self.backend.get_added_tokens_decoder().values()
        return tuple(sorted((token.content for token in added if token.special), key=len, reverse=True))

    def stream(self, text: Text) -> Iterator[np.ndarray]:
        """Yield the ids of `text` in one array after the other, for texts larger than memory.

        A tokenizer from elsewhere whose words may not be told apart by a glance at the text gets it as a whole.
        """
        return self._encoder.encode(text)

    def decode(self, ids: Any) -> str:
        """Return the text of `ids`, a sequence or array of integers. Special tokens appear by name."""
        return self.backend.decode(np.asarray(ids).tolist(), skip_special_tokens=False)

    def places(self, text: str) -> np.ndarray:
        """Return where each token of `encode(text)` begins and ends in the text, in characters, (N, 2).

        A token may begin with the white space before its word; a character of several tokens belongs to each of them.

        Raises:
            DataError: the library cannot tell it.
        """
        encoding = self.backend.encode(fast.whole(text), add_special_tokens=False)
        if encoding.ids != self.encode(text).tolist():
            raise DataError("this tokenizer does not tell where its tokens stand in a text: add data/tokenizer=bpe")
        return np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)

    def unknown(self, text: str) -> list[str]:
        """Return the distinct characters or words of `text` that are not in the vocabulary, in order of appearance."""
        return self._encoder.unknown(text)

    def token(self, id: int) -> str:
        """Return the token with this id, as it stands in the vocabulary.

        Raises:
            DataError: there is none.
        """
        token = self.backend.id_to_token(int(id)) if id >= 0 else None
        if token is None:
            raise DataError(f"the tokenizer has no token {id}: its ids go from 0 to {self.size - 1}")
        return token

    def frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids that the tokenizer's own template puts before and behind a text, such as BERT's [CLS] and
        [SEP]; mostly none.

        `encode` leaves them out: a corpus is one long text.
        """
        plain, marked = (self.backend.encode("a", add_special_tokens=marks).ids for marks in (False, True))
        for first in range(len(marked) - len(plain) + 1):
            if marked[first : first + len(plain)] == plain:
                return tuple(marked[:first]), tuple(marked[first + len(plain) :])
        return (), ()

    def frame_of_pairs(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return the ids that the tokenizer's own template puts before, between and behind two texts; mostly none."""
        encoding = self.backend.encode("a", "a", add_special_tokens=True)
        ids, texts = encoding.ids, encoding.sequence_ids
        # Where a template puts nothing around a text the library may take both for one.
        if 0 not in texts or 1 not in texts:
            return (), (), ()
        first, second = texts.index(0), texts.index(1)
        first_end, second_end = (len(texts) - texts[::-1].index(text) for text in (0, 1))
        return tuple(ids[:first]), tuple(ids[first_end:second]), tuple(ids[second_end:])

    def prefix(self) -> tuple[int, ...]:
        """Return the ids that stand before every text that is to be gone on with, such as Llama's <s>: those of the
        `frame`, unless that has some behind the text too."""
        before, behind = self.frame()
        return () if behind else before

    def extended(self, names: Sequence[str]) -> "Tokenizer":
        """Return the tokenizer with these special tokens, behind its own where it does not have them yet.

        One that has a mask by any of its names needs no other.

        Raises:
            DataError: the library would give one an id among its own.
        """
        known = set(MASKS) if self.mask_id is not None else set()
        missing = [name for name in names if name not in known and self.backend.token_to_id(name) is None]
        if not missing:
            return self
        backend = tokenizers.Tokenizer.from_str(self._json)
        backend.add_special_tokens(missing)
        if [backend.token_to_id(name) for name in missing] != list(range(self.size, self.size + len(missing))):
            raise DataError(f"the tokenizer has gaps among its ids, and no room for {', '.join(missing)} behind them")
        return Tokenizer(backend, None if self.is_joint else self.source)

    @property
    def is_joint(self) -> bool:
        """Whether sources and targets are read by one tokenizer."""
        return self.source is self

    def beside(self, source: "Tokenizer") -> "Tokenizer":
        """Return the tokenizer of the targets of such sources."""
        return Tokenizer(tokenizers.Tokenizer.from_str(self._json), source)

    def of(self, field: str) -> "Tokenizer":
        """Return what reads the tokens in a field of a batch."""
        return self.source if field == "source" else self

    def json(self) -> str:
        """Return the whole tokenizer as JSON; equal tokenizers give equal text."""
        return self._json

    @property
    def digest(self) -> str:
        """The `digest_of` the file that `save` writes; of two files, of both."""
        return digest_of(self._json) if self.is_joint else digest_of(json.dumps([self._json, self.source.json()]))

    def save(self, path: Path) -> None:
        """Write the file that `load` and any tool of the Hugging Face ecosystem reads, atomically; beside it that of
        sources, where they have their own.

        Raises:
            ResourceError: the place cannot be written.
        """
        path = Path(path)
        if not self.is_joint:
            self.source.save(path.with_name(SOURCE + path.name))
        write_text(path, self.backend.to_str(pretty=True))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a tokenizer.json, or the one in the folder `path`, with that of its sources where one stands beside it.

        Raises:
            DataError: it is missing or damaged.
        """
        path = Path(path).expanduser()
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            text = file.read_text("utf-8")
        except OSError as error:
            raise DataError(f"the tokenizer {file} cannot be read ({error.strerror}); check the path") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is no tokenizer.json: it is not text") from error
        beside = file.with_name(SOURCE + file.name)
        return cls._from_json(text, file, cls.load(beside) if beside.is_file() else None)

    @classmethod
    def _from_json(cls, text: str, origin: object, source: "Tokenizer | None" = None) -> "Tokenizer":
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # The library raises bare Exception for whatever it cannot read.
            raise DataError(
                f"{origin} is no tokenizer.json, or a damaged one ({' '.join(str(error).split())})"
            ) from error
        return cls(backend, source)

    def __reduce__(self):
        # The library's own copies forget `encode_special_tokens`, which would change ids without a word.
        source = None if self.is_joint else self.source
        return Tokenizer._from_json, (self.json(), "a copied tokenizer", source)


def digest_of(text: str) -> str:
    """Return a sha256 in hex that tells what a tokenizer.json says from what others say, however they are laid out."""
    return hashlib.sha256(json.dumps(json.loads(text), sort_keys=True).encode()).hexdigest()


class MakesTokenizer(Protocol):
    """A function that makes a tokenizer of the texts of a training split. Its further parameters are settings."""

    def __call__(self, texts: Iterable[Text]) -> Tokenizer: ...


def train_char(texts: Iterable[Text]) -> Tokenizer:
    """One token a code point, by code point. Decoding gives back the exact text, but for unknown characters."""
    return Tokenizer(fast.char_backend(_numbered([*SPECIALS, *fast.alphabet(texts)])))


def train_word(texts: Iterable[Text], min_freq: int = 1, max_size: int | None = None) -> Tokenizer:
    """Words by torchtext's `basic_english` rules: lower-cased, punctuation split off or dropped.

    Args:
        texts: the training split.
        min_freq: rarer words are unknown.
        max_size: largest vocabulary, special tokens included; the most frequent words stay, ties alphabetically.

    Raises:
        ConfigError: `min_freq` is below 1 or `max_size` below 4.
    """
    return _train_words(texts, fast.BASIC_ENGLISH, min_freq, max_size)


def train_whitespace(
    texts: Iterable[Text], end_of_line: str | None = "<eos>", min_freq: int = 1, max_size: int | None = None
) -> Tokenizer:
    """Words split at white space and otherwise left alone, as for Penn Treebank and WikiText.

    Args:
        texts: the training split.
        end_of_line: the token that stands for each newline; None where newlines are mere white space.
        min_freq: rarer words are unknown.
        max_size: largest vocabulary, special tokens included; the most frequent words stay, ties alphabetically.

    Raises:
        ConfigError: `end_of_line` is empty or holds white space, `min_freq` is below 1 or `max_size` below 4.
    """
    if end_of_line is not None and end_of_line.split() != [end_of_line]:
        raise ConfigError(f"end_of_line={end_of_line!r} is not one word: use a name like <eos>, or null for none")
    return _train_words(texts, fast.whitespace_rules(end_of_line), min_freq, max_size)


def train_bpe(texts: Iterable[Text], size: int) -> Tokenizer:
    """Byte-level BPE as in GPT-2: any text is encoded without loss, nothing is unknown.

    Of stretches without white space (`molino.data.cuts`), in which hardly any word comes twice, all of which would have
    to be kept, the first `MOST_UNSPACED` characters are learnt from.

    Args:
        texts: the training split.
        size: vocabulary size: 3 special tokens, 256 bytes, the rest merges. It comes out smaller where the texts have
            no more to merge.

    Raises:
        ConfigError: `size` leaves no room for the bytes.
    """
    least = BYTES + len(SPECIALS)
    if size < least:
        raise ConfigError(f"size={size} is too small: {BYTES} bytes and {len(SPECIALS)} special tokens need {least}")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(map(fast.whole, _learnt(texts)), trainer)
    return Tokenizer(backend)


def _learnt(texts: Iterable[Text]) -> Iterator[str]:
    """Yield the pieces of texts that a byte-level tokenizer is made of."""
    unspaced = 0
    for text in texts:
        for piece, within in cut(text, 1 << 15):
            unspaced += within * len(piece)
            if not within or unspaced <= MOST_UNSPACED:
                yield piece


def _train_words(texts: Iterable[Text], rules: fast.WordRules, min_freq: int, max_size: int | None) -> Tokenizer:
    if min_freq < 1:
        raise ConfigError(f"min_freq={min_freq} must be at least 1")
    if max_size is not None and max_size <= len(SPECIALS):
        raise ConfigError(f"max_size={max_size} leaves no room for words: use at least {len(SPECIALS) + 1}, or null")
    counts: Counter[str] = Counter()
    for text in texts:
        for words in rules.words(text):
            counts.update(words)
    ranked = sorted(word for word, count in counts.items() if count >= min_freq and word not in SPECIALS)
    ranked.sort(key=counts.__getitem__, reverse=True)  # ties stay in the order of the alphabet
    return Tokenizer(fast.word_backend(_numbered([*SPECIALS, *ranked][:max_size]), rules))


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _first(names: tuple[str, ...], vocabulary: dict[str, int]) -> int | None:
    return next((vocabulary[name] for name in names if name in vocabulary), None)
