"""A contender of the preparation benchmark: a file of text to a vocabulary and the ids of both splits, in .npy files.

    python -m benchmarks.preparing WAY KIND FILE FOLDER

Prints the seconds that the vocabulary took, and the rest. Memory is measured from outside.
"""

import functools
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

BPE_SIZE = 2048
SPECIALS = ("<unk>", "<pad>", "<|endoftext|>")
TRAIN_FRACTION = 0.9
BATCH_LINES = 1000
# torchtext's basic_english: torchtext/data/utils.py.
PATTERNS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        *((r"\'", " '  "), (r"\"", ""), (r"\.", " . "), (r"<br \/>", " "), (r",", " , "), (r"\(", " ( ")),
        *((r"\)", " ) "), (r"\!", " ! "), (r"\?", " ? "), (r"\;", " "), (r"\:", " "), (r"\s+", " ")),
    )
]
Times = tuple[float, float]


def ours(kind: str, path: Path, folder: Path) -> Times:
    """As in a run: with checksum, split, cache and the mark of what is whole."""
    from molino.data import tokenizers
    from molino.data.corpora.local import UserText
    from molino.data.tokens import prepare

    train = getattr(tokenizers, f"train_{kind}")
    settings = {"size": BPE_SIZE} if kind == "bpe" else {}
    spent = []

    def timed(texts):
        began = time.perf_counter()
        tokenizer = train(texts, **settings)
        spent.append(time.perf_counter() - began)
        return tokenizer

    began = time.perf_counter()
    prepare(UserText(str(path), TRAIN_FRACTION), functools.partial(timed), folder)
    return spent[0], time.perf_counter() - began - spent[0]


def library(kind: str, path: Path, folder: Path) -> Times:
    """The tokenizers library's own trainers and `encode_batch_fast`, line by line."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    from molino.data.fast_encoders import BASIC_ENGLISH, whitespace_rules

    began = time.perf_counter()
    lines = path.read_text("utf-8").splitlines(keepends=True)
    cut = int(TRAIN_FRACTION * len(lines))
    if kind == "bpe":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=BPE_SIZE, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
        )
    else:
        backend = Tokenizer(models.WordLevel(unk_token=SPECIALS[0]))
        if kind == "char":
            backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        else:
            rules = BASIC_ENGLISH if kind == "word" else whitespace_rules("<eos>")
            backend.normalizer = normalizers.Sequence([rules.normalizer])
            backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(vocab_size=10_000_000, special_tokens=list(SPECIALS), show_progress=False)
    backend.train_from_iterator(lines[:cut], trainer)
    trained = time.perf_counter()
    for name, part in (("train", lines[:cut]), ("val", lines[cut:])):
        batches = (part[start : start + BATCH_LINES] for start in range(0, len(part), BATCH_LINES))
        encodings = (encoding for batch in batches for encoding in backend.encode_batch_fast(batch))
        ids = [id for encoding in encodings for id in encoding.ids]
        save(folder, name, ids, backend.get_vocab_size())
    return trained - began, time.perf_counter() - trained


def tutorial(kind: str, path: Path, folder: Path) -> Times:
    """A dictionary and lists: characters as in nanoGPT's prepare.py, words as in the tutorials of torchtext."""
    return tutorial_characters(path, folder) if kind == "char" else tutorial_words(kind, path, folder)


def tutorial_characters(path: Path, folder: Path) -> Times:
    began = time.perf_counter()
    text = path.read_text("utf-8")
    ids = {character: number for number, character in enumerate(sorted(set(text)))}
    known = time.perf_counter()
    cut = int(TRAIN_FRACTION * len(text))
    for name, part in (("train", text[:cut]), ("val", text[cut:])):
        save(folder, name, [ids[character] for character in part], len(ids))
    return known - began, time.perf_counter() - known


def tutorial_words(kind: str, path: Path, folder: Path) -> Times:
    def words(line: str) -> list[str]:
        if kind == "whitespace":
            return [*line.split(), "<eos>"]
        line = line.lower()
        for pattern, replacement in PATTERNS:
            line = pattern.sub(replacement, line)
        return line.split()

    began = time.perf_counter()
    with path.open(encoding="utf-8") as file:
        lines = list(file)
    cut = int(TRAIN_FRACTION * len(lines))
    counts: Counter[str] = Counter()
    for line in lines[:cut]:
        counts.update(words(line))
    ids = {word: number for number, (word, _) in enumerate(counts.most_common(), start=len(SPECIALS))}
    known = time.perf_counter()
    for name, part in (("train", lines[:cut]), ("val", lines[cut:])):
        arrays = [np.array([ids.get(word, 0) for word in words(line)], dtype=np.int64) for line in part]
        save(folder, name, np.concatenate(arrays), len(ids))
    return known - began, time.perf_counter() - known


def save(folder: Path, name: str, ids: list[int] | np.ndarray, size: int) -> None:
    np.save(folder / f"{name}.npy", np.array(ids, dtype=np.uint16 if size <= 1 << 16 else np.uint32))


WAYS: dict[str, Callable[[str, Path, Path], Times]] = {"ours": ours, "library": library, "tutorial": tutorial}


def write_text(path: Path, size: int, vocabulary: int = 100_000) -> None:
    """Write about `size` bytes of made-up words whose frequencies follow Zipf's law, the same on every machine."""
    random = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkqjxzñáéíóú"))
    chances = 1 / np.arange(1, len(letters) + 1)
    lengths = random.integers(2, 11, 2 * vocabulary)
    drawn = ("".join(random.choice(letters, length, p=chances / chances.sum())) for length in lengths)
    words = np.array(list(dict.fromkeys(drawn))[:vocabulary], dtype=object)
    steps = np.cumsum(1 / np.arange(1, len(words) + 1))
    ends = np.array([" "] * 7 + [", ", ". ", "\n"], dtype=object)
    with path.open("wb") as file:
        while file.tell() < size:
            chosen = words[np.searchsorted(steps, random.random(100_000) * steps[-1])]
            file.write("".join((chosen + ends[random.integers(0, len(ends), len(chosen))]).tolist()).encode())


if __name__ == "__main__":
    way, kind, file, folder = sys.argv[1:]
    print(json.dumps(WAYS[way](kind, Path(file), Path(folder))))
