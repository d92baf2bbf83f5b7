"""From corpus to token arrays, through a cache that any number of runs share.

    <cache>/tokenizers/<key>.json     key: sha256 of corpus + how the tokenizer is trained
    <cache>/tokens/<key>/             key: sha256 of corpus + tokenizer.json
        train.npy  val.npy  ...       one flat array of ids a split, memory-mapped when read
        train.documents.npy  ...      where each document's <|endoftext|> marks stand
        train.texts.npy  ...          where each text begins and ends
        line_ends.json                which the training split has
        meta.json                     characters, bytes and unknown tokens of each split; written last

Whatever changes text or tokenizer changes the key, so nothing in the cache is ever stale. Each entry is made under a
lock and takes its name when it is whole: of two runs that prepare the same corpus one works and the other waits. Texts
are read and tokens written as streams: neither has to fit into memory.
"""

import functools
import hashlib
import inspect
import itertools
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from molino.base.console import advancing, working
from molino.base.errors import ConfigError, DataError
from molino.base.files import lock, make_directory, remove_orphans, sha256_file, write_text
from molino.data.arrays import Appender, append_array
from molino.data.corpus import Corpus
from molino.data.line_ends import LineEnds
from molino.data.text import FileText, Metered, Text
from molino.data.tokenizers import SOURCE, Tokenizer

LINE_ENDS = "line_ends.json"
WIDEST = 40  # characters a token, on average: words of no language are longer
HINT = "; set MOLINO_CACHE or paths.cache"


@dataclass(frozen=True)
class Split:
    """The tokens of one split.

    Attributes:
        tokens: ids, shape (N,), memory-mapped.
        marks: positions that bound the documents, shape (documents + 1,). Document i with the marks around it is
            `tokens[marks[i] : marks[i + 1] + 1]`; a continuous text is one document from 0 to N - 1.
        characters, bytes: size of the text (code points; UTF-8 bytes).
        unknown: how many tokens are <unk>.
        bounds: where each text of the corpus begins and ends, shape (texts, 2), without any marks: text i is
            `tokens[bounds[i, 0] : bounds[i, 1]]`.
    """

    name: str
    tokens: np.ndarray
    marks: np.ndarray
    characters: int
    bytes: int
    unknown: int
    bounds: np.ndarray | None = None


@dataclass(frozen=True)
class TokenizedCorpus:
    """A corpus as the tokens of one tokenizer: read, fingerprinted and encoded once, and handed on from then.

    Attributes:
        corpus: for its name, its licence and what else it says of itself.
        sha256: fingerprint of the text and its splits.
        digest: of text and tokenizer at once: names the tokens, and whatever is counted in them.
        splits: by name: train, val and, where the corpus has one, test.
        cache: the folder for what is made of it once for many runs.
        line_ends: what `LineEnds.counts` says of the training split; None of an entry of before it was kept.
    """

    corpus: Corpus
    sha256: str
    digest: str
    tokenizer: Tokenizer
    splits: dict[str, Split]
    cache: Path
    line_ends: dict[str, int] | None = None


def prepare(
    corpus: Corpus, train: functools.partial, cache: Path, added: Sequence[str] = (), joint: bool = True
) -> TokenizedCorpus:
    """Return a corpus as tokens of the tokenizer that `train` makes of its training split.

    Both are made once per corpus and settings, and `corpus.read` is called at most once.

    Args:
        added: special tokens that a task has use for; they come after those of the tokenizer.
        joint: whether one tokenizer is made of sources and targets together, or one of each.

    Raises:
        ConfigError: two are asked for, and the corpus has no sources and targets.
        DataError: the corpus cannot be read, or what the cache holds of it.
        ResourceError: the cache cannot be written.
    """
    read, sha256 = functools.cache(lambda: _checked(corpus.read(), corpus, training=True)), corpus.fingerprint()
    apart = [] if joint else ["apart"]
    path = Path(cache) / "tokenizers" / f"{_digest(sha256, _settings(train), *apart)}.json"
    tokenizer = None

    def made_of(texts: Sequence[Text]) -> Tokenizer:
        with advancing("reading", sum(map(len, texts))) as advance:
            made = train([Metered(text, lambda string: advance(len(string))) for text in texts])
        if not isinstance(made, Tokenizer):
            raise ConfigError(f"data.tokenizer: {train.func.__name__} must return a Tokenizer, not {_shown(made)}")
        return made

    def make() -> None:
        nonlocal tokenizer
        if joint:
            made = made_of(read()["train"])
        else:
            _check_pairs(corpus)
            made = made_of(read()["train"][1::2]).beside(made_of(read()["train"][::2]))
        made.save(path)
        tokenizer = _with_words(made, corpus).extended(added)
        # Still under the tokenizer's lock, or a second process could read the corpus again to encode it.
        _tokenize(corpus, tokenizer, cache, read, sha256)

    make_once(path, path, f"making a tokenizer of {corpus.name}", make)
    return _tokenize(corpus, tokenizer or _load_tokenizer(path, corpus).extended(added), cache, read, sha256)


def prepare_tokens(corpus: Corpus, tokenizer: Tokenizer, cache: Path) -> TokenizedCorpus:
    """Return a corpus as tokens of a tokenizer that exists; as `prepare`."""
    return _tokenize(corpus, tokenizer, cache, lambda: _checked(corpus.read(), corpus), corpus.fingerprint())


def _check_pairs(corpus: Corpus) -> None:
    first = next(iter(corpus.examples()["train"])) if hasattr(corpus, "examples") else None
    if first is None or not first.targets or len(first.texts) != 2:
        raise ConfigError(
            f"data.joint_vocabulary=false: {corpus.name} has no sources and targets to be read apart; leave it out"
        )


def _checked(splits: Any, corpus: Corpus, training: bool = False) -> dict[str, list[Text]]:
    """Return what a corpus has read; of one of people's own it may be anything.

    Raises:
        DataError: it is not what `Corpus.read` says, or has nothing to train on where that is asked for.
    """
    name = f"data.corpus: {type(corpus).__name__}.read()"
    evaluated = hasattr(corpus, "examples") and isinstance(splits, dict) and "train" not in splits
    if evaluated and training:
        raise DataError(
            f"{corpus.name} has no train split, it is there to evaluate on: train on another corpus, and evaluate that "
            "run with this one"
        )
    least = set() if evaluated else {"train", "val"}
    if not isinstance(splits, dict) or not least <= splits.keys() <= {"train", "val", "test"}:
        raise DataError(f"{name} must be a dict of train, val and perhaps test, but it is {_shown(splits)}")
    for split, texts in splits.items():
        if not isinstance(texts, list) or not all(isinstance(text, str | FileText) for text in texts):
            raise DataError(f"{name} must have a list of texts as {split}, but it is {_shown(texts)}")
    return splits


def _shown(value: Any) -> str:
    return f"a dict of {', '.join(map(str, value))}" if isinstance(value, dict) else f"a {type(value).__name__}"


def _tokenize(
    corpus: Corpus, tokenizer: Tokenizer, cache: Path, read: Callable[[], dict[str, list[Text]]], sha256: str
) -> TokenizedCorpus:
    digest = _digest(sha256, tokenizer.json(), *([] if tokenizer.is_joint else [tokenizer.source.json()]))
    directory = Path(cache) / "tokens" / digest
    make_once(
        directory,
        directory / "meta.json",
        f"turning {corpus.name} into tokens",
        lambda: _encode(corpus, read(), tokenizer, directory),
    )
    try:
        meta = json.loads((directory / "meta.json").read_text("utf-8"))
        splits = {name: _load(directory, name, counts) for name, counts in meta.items()}
        ends = directory / LINE_ENDS
        line_ends = dict(json.loads(ends.read_text("utf-8"))) if ends.is_file() else None
    except (OSError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"the cache entry {directory} is damaged ({error}): delete that folder") from error
    return TokenizedCorpus(corpus, sha256, digest, tokenizer, splits, Path(cache), line_ends)


def _load_tokenizer(path: Path, corpus: Corpus) -> Tokenizer:
    try:
        tokenizer = Tokenizer.load(path)
    except DataError as error:
        raise DataError(f"{error}: delete that file") from error
    return _with_words(tokenizer, corpus)


def _with_words(tokenizer: Tokenizer, corpus: Corpus) -> Tokenizer:
    specials = {tokenizer.unknown_id, tokenizer.padding_id, tokenizer.end_of_text_id} - {None}
    if tokenizer.size <= len(specials):
        raise DataError(
            f"no word of {corpus.name} got into the vocabulary: lower data.tokenizer.min_freq, or where no spaces part "
            "words add data/tokenizer=char"
        )
    return tokenizer


def advice_on_words(characters: int, tokens: int, before: str = "") -> str:
    """Return, with `before` before it, what to do about a text of far too few tokens for its length; mostly nothing."""
    if characters <= WIDEST * max(tokens, 1):
        return ""
    return (
        f"{before}the tokenizer has found hardly any word boundaries in {characters:,} characters: add "
        "data/tokenizer=char or data/tokenizer=bpe"
    )


def make_once(entry: Path, witness: Path, what: str, make: Callable[[], None]) -> None:
    """Call `make` unless the file `witness` is there; of processes that come at once one makes and the others wait."""
    if witness.is_file():
        return
    with working(what), lock(entry.with_suffix(".lock"), hint=HINT):
        if not witness.is_file():
            make()


def _encode(corpus: Corpus, splits: dict[str, list[Text]], tokenizer: Tokenizer, directory: Path) -> None:
    make_directory(directory, HINT)
    remove_orphans(directory)
    meta, ends = {}, LineEnds()
    total = sum(len(text) for texts in splits.values() for text in texts)
    # No array takes its name before all are whole.
    with ExitStack() as files, advancing("writing tokens", total) as advance:
        for name, texts in splits.items():
            dtype = max(tokenizer.dtype, tokenizer.source.dtype, key=lambda dtype: np.dtype(dtype).itemsize)
            arrays = {name: dtype, f"{name}.documents": np.int64, f"{name}.texts": np.int64}
            opened = (append_array(directory / f"{file}.npy", dtype, HINT) for file, dtype in arrays.items())
            tokens, marks, bounds = map(files.enter_context, opened)
            end = tokenizer.end_of_text_id if corpus.documents else None
            texts = [Metered(text, ends.add) for text in texts] if name == "train" else texts
            meta[name] = _write(texts, tokenizer, end, tokens, marks, bounds, advance)
            if tokens.length < 2:
                raise DataError(
                    f"the {name} split of {corpus.name} has {tokens.length} tokens: there is nothing to predict"
                    + advice_on_words(meta[name]["characters"], tokens.length, "; ")
                )
    write_text(directory / LINE_ENDS, json.dumps(ends.counts()))
    write_text(directory / "meta.json", json.dumps(meta))


def _write(
    texts: list[Text],
    tokenizer: Tokenizer,
    end: int | None,
    tokens: Appender,
    marks: Appender,
    bounds: Appender,
    advance: Callable[[int], None],
) -> dict[str, int]:
    """Encode texts into one stream and return their sizes. Documents stand between <|endoftext|> marks, also before
    the first, so that a model learns how a document begins and every token of it is predicted."""
    sizes = {"characters": 0, "bytes": 0, "unknown": 0}

    def report(string: str) -> None:
        sizes["characters"] += len(string)
        sizes["bytes"] += len(string.encode("utf-8", "surrogatepass"))
        advance(len(string))

    marks.append([0])
    if end is not None:
        tokens.append([end])
    # Where they are read apart, texts are a source and a target by turns.
    for text, reads in zip(texts, itertools.cycle((tokenizer.source, tokenizer)), strict=False):
        begin = tokens.length
        for ids in reads.stream(Metered(text, report)):
            tokens.append(ids)
            if reads.unknown_id is not None:
                sizes["unknown"] += int(np.count_nonzero(ids == reads.unknown_id))
        bounds.append([begin, tokens.length])
        if end is not None:
            marks.append([tokens.length])
            tokens.append([end])
    if end is None:
        marks.append([max(tokens.length - 1, 0)])
    return sizes


def _load(directory: Path, name: str, counts: dict[str, int]) -> Split:
    tokens = np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    marks = np.load(directory / f"{name}.documents.npy", allow_pickle=False)
    if (path := directory / f"{name}.texts.npy").is_file():
        bounds = np.load(path, allow_pickle=False).reshape(-1, 2)
    else:  # entries of before have marks alone, of which those of documents tell as much
        bounds = np.stack([marks[:-1] + 1, marks[1:]], axis=1)
    return Split(name, tokens, marks, bounds=bounds, **counts)


def _settings(train: functools.partial) -> str:
    """Describe how a tokenizer is trained. An existing one, or the folder that holds it, stands for its content."""
    settings: dict[str, Any] = dict(train.keywords)
    if "path" in settings:
        path = Path(settings["path"]).expanduser()
        others = ("vocab.json", "merges.txt") if path.is_dir() else ()
        file = path / "tokenizer.json" if path.is_dir() else path
        # With that of sources, where they have their own.
        names = (file.name, *others, SOURCE + file.name)
        if files := [file.with_name(name) for name in names if file.with_name(name).is_file()]:
            settings["path"] = [sha256_file(each) for each in files]
    return json.dumps([_name(train.func), settings], sort_keys=True)


def _name(make: Callable) -> str | list[str]:
    """Return what tells a function that makes tokenizers from others: its name, or for one of people's own also the
    content of its file, which may change."""
    if make.__module__.startswith("molino."):
        return make.__name__
    return [make.__module__, make.__name__, sha256_file(Path(inspect.getfile(make)))]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8")).hexdigest()[:32]
