"""From corpus to token arrays: what is in them, and a cache that is never stale, never half made and never in doubt."""

import functools
import importlib
import json
import random
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from molino.base.errors import DataError, ResourceError
from molino.data import fast_encoders, text, tokens
from molino.data.batches import windows
from molino.data.corpora.grammar import Grammar
from molino.data.corpora.local import UserText
from molino.data.corpus import digest, split_documents, split_fraction
from molino.data.pretrained import load_pretrained
from molino.data.tokenizers import Tokenizer, train_bpe, train_char, train_whitespace, train_word
from molino.data.tokens import Split, advice_on_words, prepare_tokens
from molino.data.tokens import prepare as prepare_corpus

CHAR, WORD = functools.partial(train_char), functools.partial(train_word, min_freq=1)
TRAIN, VAL = "En un lugar de la Mancha de", "un año, ñandú 😀"


class Texts:
    """A corpus in memory that counts how often it is read."""

    name, licence, entropy_per_character = "texts", "public domain", None

    def __init__(self, splits: dict[str, list[str]], documents: bool = False):
        self.splits, self.documents, self.reads, self.fingerprints = splits, documents, 0, 0

    def fingerprint(self) -> str:
        self.fingerprints += 1
        return digest(self.splits, self.documents)

    def read(self) -> dict[str, list[str]]:
        self.reads += 1
        return self.splits


def continuous(train: str = TRAIN, val: str = VAL) -> Texts:
    return Texts({"train": [train], "val": [val]})


def prepare(corpus: Texts, train: functools.partial, cache: Path) -> tuple[Tokenizer, dict[str, Split]]:
    text = prepare_corpus(corpus, train, cache)
    return text.tokenizer, text.splits


def entry(corpus: Texts, tokenizer: Tokenizer, cache: Path) -> Path:
    return cache / "tokens" / prepare_tokens(corpus, tokenizer, cache).digest


def pretrained(path: Path, words: str) -> Path:
    backend = tokenizers.Tokenizer(WordLevel({word: id for id, word in enumerate(words.split())}, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.save(str(path))
    return path


# What is in the arrays


def test_a_continuous_text_is_one_document(tmp_path):
    tokenizer, splits = prepare(continuous(), CHAR, tmp_path)
    assert list(splits) == ["train", "val"]
    train = splits["train"]
    assert train.name == "train" and train.tokens.tolist() == tokenizer.encode(TRAIN).tolist()
    assert tokenizer.decode(train.tokens) == TRAIN
    assert train.marks.tolist() == [0, len(TRAIN) - 1]
    assert train.tokens.dtype == np.uint16 and isinstance(train.tokens, np.memmap)


def test_sizes_and_unknown_tokens_are_counted(tmp_path):
    _, splits = prepare(continuous(), CHAR, tmp_path)
    assert (splits["train"].characters, splits["train"].bytes, splits["train"].unknown) == (27, 27, 0)
    # ñ twice and ú are two bytes each, the face four; of the characters o , ñ ñ ú 😀 none is in the training text.
    assert (splits["val"].characters, splits["val"].bytes, splits["val"].unknown) == (15, 21, 6)


def test_documents_stand_between_marks(tmp_path):
    texts = ["ab", "c", "", "abc"]
    tokenizer, splits = prepare(Texts({"train": texts, "val": ["b", "zz"]}, documents=True), CHAR, tmp_path)
    end, train = tokenizer.end_of_text_id, splits["train"]
    ids = {text: tokenizer.encode(text).tolist() for text in texts}
    assert train.tokens.tolist() == [end, *ids["ab"], end, *ids["c"], end, end, *ids["abc"], end]
    assert train.marks.tolist() == [0, 3, 5, 6, 10]
    found = [train.tokens[start : stop + 1].tolist() for start, stop in pairwise(train.marks)]
    assert found == [[end, *ids[text], end] for text in texts]
    # The marks are no text of the corpus.
    assert (train.characters, train.bytes, splits["val"].unknown) == (6, 6, 2)


def test_documents_of_a_tokenizer_without_an_end_are_one_text(tmp_path):
    path = pretrained(tmp_path / "tokenizer.json", "a b [UNK]")
    train = functools.partial(load_pretrained, path=str(path))
    tokenizer, splits = prepare(Texts({"train": ["a b", "b"], "val": ["a c"]}, documents=True), train, tmp_path)
    assert tokenizer.end_of_text_id is None
    assert splits["train"].tokens.tolist() == [0, 1, 1] and splits["train"].marks.tolist() == [0, 2]
    assert splits["val"].tokens.tolist() == [0, 2] and splits["val"].unknown == 1


def test_nothing_is_unknown_where_there_is_no_such_token(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizers.Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="[UNK]")).save(str(path))
    _, splits = prepare(
        Texts({"train": ["a", "b"], "val": ["b", "a"]}), functools.partial(load_pretrained, path=str(path)), tmp_path
    )
    assert splits["val"].tokens.tolist() == [1, 0] and splits["val"].unknown == 0


@pytest.mark.parametrize(("distinct", "dtype"), [(0x10000 - 3, np.uint16), (0x10000 - 2, np.uint32)])
def test_the_smallest_type_that_holds_every_id(distinct, dtype, tmp_path):
    text = "".join(chr(0xE000 + number) for number in range(distinct))  # above the surrogates
    tokenizer, splits = prepare(continuous(text, text[-2:]), CHAR, tmp_path)
    assert tokenizer.size == distinct + 3
    assert splits["train"].tokens.dtype == splits["val"].tokens.dtype == dtype
    assert splits["train"].tokens.tolist() == list(range(3, distinct + 3))


@pytest.mark.parametrize("documents", [True, False])
def test_a_split_with_nothing_to_predict_is_refused(documents, tmp_path):
    corpus = Texts({"train": ["abc"], "val": ["" if documents else "a"]}, documents)
    if documents:  # The mark before a document and the one behind it are something to predict.
        assert prepare(corpus, CHAR, tmp_path)[1]["val"].marks.tolist() == [0, 1]
    else:
        with pytest.raises(DataError, match="val split of texts has 1 tokens: there is nothing to predict"):
            prepare(corpus, CHAR, tmp_path)
        assert not [file for file in (tmp_path / "tokens").rglob("*") if file.suffix == ".npy"]


@pytest.mark.parametrize("made", [WORD, functools.partial(train_whitespace)])
def test_a_text_in_which_no_words_are_found_says_so(made, tmp_path):
    """Words of Chinese are not parted; neither are those of a text whose spaces have been lost."""
    splits = {"train": ["那是最美好的时代" * 100], "val": ["那是最糟糕的时代" * 20]}
    with pytest.raises(
        DataError, match=r"nothing to predict; .* any word boundaries in 800 .*=char or data/tokenizer=bpe"
    ) as error:
        prepare(Texts(splits, False), made, tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"or where no spaces part words add data/tokenizer=char"):
        prepare(Texts(splits, False), functools.partial(made.func, min_freq=2), tmp_path)
    lines = Texts({name: ["\n".join([text] * 20)] for name, (text,) in splits.items()}, False)
    with pytest.raises(DataError, match=r"one window needs .* any word boundaries in 16,019"):
        windows(prepare(lines, made, tmp_path)[1]["train"], 64, 0, None)
    assert advice_on_words(4000, 100) == advice_on_words(12, 0) == ""


def test_line_ends_of_the_training_split_are_kept(tmp_path):
    corpus = Texts({"train": ["a\r\nb\n", "\n", "c\r", "\r\n"], "val": ["\n"]}, True)
    for _ in range(2):
        assert prepare_corpus(corpus, CHAR, tmp_path).line_ends == {"\n": 1, "\r\n": 2, "\r": 1}
    (path,) = tmp_path.rglob("line_ends.json")
    path.unlink()
    assert prepare_corpus(corpus, CHAR, tmp_path).line_ends is None  # as in what was made before they were counted


KINDS = {
    "char": CHAR,
    "word": WORD,
    "whitespace": functools.partial(train_whitespace),
    "bpe": functools.partial(train_bpe, size=300),
}


def library_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    backend = tokenizers.Tokenizer.from_str(tokenizer.json())
    backend.encode_special_tokens = True
    return backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_read_in_pieces_gives_the_ids_of_the_whole(kind, files, tmp_path, monkeypatch):
    """Against the library on whole strings, with chunks that end in characters, line ends and words."""
    monkeypatch.setattr(text, "CHUNK_BYTES", 7)
    monkeypatch.setattr(fast_encoders, "PIECE", 11)
    source = random.Random(files)
    words = [
        "El",
        "molino",
        "ñandú",
        "muele,",
        "<br />",
        "😀",
        "\r\n",
        "\n\n",
        "'it's'",
        "ΑΣ",
        "<unk>",
        "\u2003",
        "文字",
    ]
    texts = [" ".join(source.choices(words, k=200)) for _ in range(files)]
    for number, content in enumerate(texts):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{number}.txt").write_bytes(content.encode())
    path = tmp_path / "texts" / "0.txt" if files == 1 else tmp_path / "texts"
    tokenizer, splits = prepare(UserText(str(path), 0.7), KINDS[kind], tmp_path / "cache")
    expected = (split_fraction(texts[0], 0.7) if files == 1 else split_documents(texts, 0.7)).items()
    assert tokenizer.json() == KINDS[kind](dict(expected)["train"]).json()
    for name, whole in expected:
        split, ids = splits[name], [library_ids(tokenizer, text) for text in whole]
        mark = [tokenizer.end_of_text_id]
        marked = ids[0] if files == 1 else [*mark, *(id for text in ids for id in [*text, *mark])]
        assert split.tokens.tolist() == marked
        lengths = np.cumsum([0, *(len(text) + 1 for text in ids)]).tolist()
        assert split.marks.tolist() == ([0, len(marked) - 1] if files == 1 else lengths)
        assert split.characters == sum(map(len, whole)) and split.bytes == sum(len(text.encode()) for text in whole)
        assert split.unknown == sum(text.count(tokenizer.unknown_id) for text in ids)


@pytest.mark.parametrize("kind", ["char", "word"])
def test_memory_does_not_grow_with_the_text(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "CHUNK_BYTES", 1 << 13)
    peaks = []
    for kilobytes in (300, 1200, 2400):  # the first warms up
        (tmp_path / "text").write_text("uno dos, tres.\n" * (kilobytes * 1000 // 15))
        tracemalloc.start()
        prepare(UserText(str(tmp_path / "text")), KINDS[kind], tmp_path / f"cache{len(peaks)}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.05 * peaks[1]


def test_a_lone_surrogate_counts_as_the_three_bytes_it_is_read_as(tmp_path):
    _, splits = prepare(continuous("a\ud800b"), CHAR, tmp_path)
    assert (splits["train"].characters, splits["train"].bytes, splits["train"].unknown) == (3, 5, 0)


# The cache


def test_the_corpus_is_read_once_and_never_again(tmp_path):
    corpus = continuous()
    text = prepare_corpus(corpus, CHAR, tmp_path)
    first = text.splits
    assert corpus.reads == corpus.fingerprints == 1 and text.sha256 == corpus.fingerprint()
    tokenizer, again = prepare(corpus, CHAR, tmp_path)
    assert corpus.reads == 1
    assert prepare_tokens(corpus, tokenizer, tmp_path).splits.keys() == again.keys() and corpus.reads == 1
    for name in first:
        assert first[name].tokens.tolist() == again[name].tokens.tolist()
        assert first[name].marks.tolist() == again[name].marks.tolist()
        assert vars(first[name]).keys() == vars(again[name]).keys()
        assert first[name].bytes == again[name].bytes and first[name].unknown == again[name].unknown


def test_a_warm_cache_is_not_written_to(tmp_path):
    prepare(continuous(), CHAR, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    prepare(continuous(), CHAR, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_no_temporary_file_stays_behind(tmp_path):
    corpus = continuous()
    tokenizer, _ = prepare(corpus, CHAR, tmp_path)
    names = sorted(path.name for path in entry(corpus, tokenizer, tmp_path).iterdir())
    arrays = (f"{split}{kind}.npy" for split in ("train", "val") for kind in (".documents", "", ".texts"))
    assert names == ["line_ends.json", "meta.json", *arrays]


@pytest.mark.parametrize(
    ("corpus", "train"),
    [
        (continuous(train=TRAIN + "!"), WORD),
        (continuous(val=VAL + "!"), WORD),
        (continuous(TRAIN + VAL[:1], VAL[1:]), WORD),
        (Texts({"train": [TRAIN], "val": [VAL]}, documents=True), WORD),
        (continuous(), CHAR),
        (continuous(), functools.partial(train_word, min_freq=2)),
        (continuous(), functools.partial(train_word, min_freq=1, max_size=5)),
        (continuous(), functools.partial(train_bpe, size=260)),
    ],
    ids=["train", "val", "split", "documents", "kind", "min_freq", "max_size", "bpe"],
)
def test_whatever_changes_the_tokens_changes_the_key(corpus, train, tmp_path):
    prepare(continuous(), WORD, tmp_path)
    prepare(corpus, train, tmp_path)
    assert corpus.reads == 1
    for folder in ("tokenizers/*.json", "tokens/*/meta.json"):
        assert len(list(tmp_path.glob(folder))) == 2


@pytest.mark.parametrize("named", ["file", "folder", "home"])
def test_a_pretrained_tokenizer_is_known_by_its_content(named, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    path = tmp_path / "mine" / "tokenizer.json"
    train = functools.partial(
        load_pretrained, path={"file": str(path), "folder": str(path.parent), "home": "~/mine"}[named]
    )
    corpus = Texts({"train": ["a b"], "val": ["b a"]})
    pretrained(path, "a b [UNK]")
    assert prepare(corpus, train, tmp_path / "cache")[1]["train"].tokens.tolist() == [0, 1]
    pretrained(path, "b a [UNK]")
    assert prepare(corpus, train, tmp_path / "cache")[1]["train"].tokens.tolist() == [1, 0]
    assert corpus.reads == 2
    path.rename(path.with_name("other.json"))
    with pytest.raises(DataError, match=r"cannot be read|there is neither .*tokenizer\.json nor vocab\.json"):
        prepare(corpus, train, tmp_path / "cache")


@pytest.mark.parametrize("named", ["tokenizer.json", ""])
def test_a_pretrained_tokenizer_is_known_by_that_of_its_sources_too(named, tmp_path):
    (tmp_path / "mine").mkdir()
    train = functools.partial(load_pretrained, path=str(tmp_path / "mine" / named))
    pretrained(tmp_path / "mine" / "tokenizer.json", "a b [UNK]")
    corpus = Texts({"train": ["a b"], "val": ["b a"]})
    assert prepare(corpus, train, tmp_path / "cache")[0].is_joint
    pretrained(tmp_path / "mine" / "source_tokenizer.json", "b a c [UNK]")
    assert prepare(corpus, train, tmp_path / "cache")[0].source.size == 4


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xff", None])
@pytest.mark.parametrize("name", ["meta.json", "train.npy", "val.documents.npy"])
def test_a_damaged_entry_says_what_to_delete(name, content, tmp_path):
    corpus = continuous()
    tokenizer, _ = prepare(corpus, CHAR, tmp_path)
    damaged = entry(corpus, tokenizer, tmp_path) / name
    damaged.write_bytes(damaged.read_bytes()[:-9] if content is None else content)
    with pytest.raises(DataError) as error:
        prepare(corpus, CHAR, tmp_path)
    assert str(damaged.parent) in str(error.value) and "delete that folder" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_array_says_what_to_delete(tmp_path):
    corpus = continuous()
    tokenizer, _ = prepare(corpus, CHAR, tmp_path)
    (entry(corpus, tokenizer, tmp_path) / "val.npy").unlink()
    with pytest.raises(DataError, match=r"damaged .*delete that folder"):
        prepare(corpus, CHAR, tmp_path)


def test_a_damaged_tokenizer_says_what_to_delete(tmp_path):
    prepare(continuous(), CHAR, tmp_path)
    (path,) = (tmp_path / "tokenizers").glob("*.json")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError) as error:
        prepare(continuous(), CHAR, tmp_path)
    assert str(path) in str(error.value) and "delete that file" in str(error.value)


def test_an_entry_that_was_cut_off_is_made_again(tmp_path):
    corpus = continuous()
    tokenizer, splits = prepare(corpus, CHAR, tmp_path)
    whole = splits["val"].tokens.tolist()
    directory = entry(corpus, tokenizer, tmp_path)
    (directory / "meta.json").unlink()
    (directory / "train.npy").unlink()
    (directory / "val.npy").write_bytes(b"half")
    (directory / ".train.npy.killed.tmp").write_bytes(b"half")
    assert prepare(corpus, CHAR, tmp_path)[1]["val"].tokens.tolist() == whole
    assert not list(directory.glob(".*"))
    assert corpus.reads == 2 and json.loads((directory / "meta.json").read_text()).keys() == {"train", "val"}


def test_an_encoding_that_fails_leaves_no_entry(tmp_path, monkeypatch):
    corpus = continuous()
    with monkeypatch.context() as patch:
        patch.setattr(tokens, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(corpus, CHAR, tmp_path)
    assert not [path for path in tmp_path.glob("tokens/*/*") if path.is_file()]
    assert prepare(corpus, CHAR, tmp_path)[1]["train"].characters == len(TRAIN)


PROCESS = """
import functools, sys, time
from pathlib import Path
from molino.data import tokens, tokenizers

class Slow:
    name, licence, documents, entropy_per_character = "slow", "none", False, None
    def fingerprint(self):
        return "0"
    def read(self):
        print("read", flush=True)
        time.sleep(0.5)
        return {"train": ["abcabc"], "val": ["cab"]}

cache = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
text = tokens.prepare(Slow(), functools.partial(tokenizers.train_char), cache)
print(text.splits["train"].tokens.tolist())
"""


def test_of_two_processes_at_once_one_works_and_both_succeed(tmp_path):
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [output.count("read") for output in sorted(outputs)] in ([0, 1], [1, 0])
    assert all(output.endswith("[3, 4, 5, 3, 4, 5]\n") for output in outputs)


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ResourceError, match=r"cannot be written.*set MOLINO_CACHE or paths\.cache"):
        prepare(continuous(), CHAR, tmp_path / "file")

    def read_only(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(ResourceError, match=r"Read-only file system.*set MOLINO_CACHE or paths\.cache"):
        prepare(continuous(), CHAR, tmp_path / "cache")


def test_a_tokenizer_of_ones_own_is_made_anew_when_its_file_changes(tmp_path, monkeypatch):
    """What it makes may have changed, although its name and its settings have not."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "cutting.py").write_text(CUTTING)
    monkeypatch.syspath_prepend(str(tmp_path))
    import cutting

    corpus = Grammar(characters=5000)
    made = [prepare_corpus(corpus, functools.partial(cutting.train), tmp_path) for _ in range(2)]
    assert made[0].digest == made[1].digest and cutting.calls == ["made"]
    (tmp_path / "cutting.py").write_text(CUTTING.replace("a b c d", "d c b a"))
    again = prepare_corpus(corpus, functools.partial(importlib.reload(cutting).train), tmp_path)
    assert cutting.calls == ["made"] and again.digest != made[0].digest
    # Of molino's own the name tells, so that what is cached stays so.
    assert json.loads(tokens._settings(functools.partial(train_word, min_freq=2))) == ["train_word", {"min_freq": 2}]


CUTTING = """
import tokenizers
from molino.data.tokenizers import Tokenizer

calls = []

def train(texts):
    calls.append("made")
    vocabulary = {word: number for number, word in enumerate(["<unk>", *"a b c d".split()])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    return Tokenizer(backend)
"""
