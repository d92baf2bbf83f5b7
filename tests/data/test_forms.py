"""Text of one's own in every form it comes in: the same texts give the same corpus, and what is no text is one line."""

import bz2
import csv
import functools
import gzip
import hashlib
import io
import itertools
import json
import lzma
import tarfile
import tracemalloc
import zipfile

import pytest

from molino.base.errors import ConfigError, DataError, MolinoError
from molino.data import archives
from molino.data import text as texts_module
from molino.data.corpora.local import UserText
from molino.data.corpus import digest
from molino.data.tokenizers import train_char
from molino.data.tokens import prepare

TEXTS = [
    "En un lugar de la Mancha,\n",
    "de cuyo nombre\r\nno quiero",
    ' "acordarme", ',
    "no ha mucho 😀\u2028tiempo",
    "ñ",
] * 3
PACKED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def plain(folder, texts=TEXTS):
    """A folder of plain texts, which is what other forms are compared with."""
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number:02}.txt").write_bytes(text.encode())
    return folder


def as_csv(texts, separator=","):
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator).writerows([["n", "text"], *([str(n), text] for n, text in enumerate(texts))])
    return file.getvalue().encode()


def as_lines(texts):
    return "".join(
        json.dumps({"text": text, "n": n}, ensure_ascii=False) + "\n" for n, text in enumerate(texts)
    ).encode()


def as_parquet(texts):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    table = pyarrow.Table.from_pylist([{"n": n, "text": text} for n, text in enumerate(texts)])
    parquet.write_table(table, file, row_group_size=4)
    return file.getvalue()


def as_zip(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, contents in members.items():
            archive.writestr(name, contents)
    return file.getvalue()


TABLES = {
    "a.csv": as_csv,
    "a.tsv": functools.partial(as_csv, separator="\t"),
    "a.jsonl": as_lines,
    "a.NDJSON": as_lines,
    "a.json": lambda texts: json.dumps([{"text": text} for text in texts]).encode(),
    "a.parquet": as_parquet,
}


def read(corpus):
    return {name: ["".join(text) for text in texts] for name, texts in corpus.read().items()}


def tokens_of(corpus, cache):
    """What a model is trained on: the tokens of each split, and where its documents begin and end."""
    text = prepare(corpus, functools.partial(train_char), cache)
    return {name: (split.tokens.tolist(), split.marks.tolist()) for name, split in text.splits.items()}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_a_compressed_text_is_the_text(tmp_path, monkeypatch, kind, chunk):
    monkeypatch.setattr(texts_module, "CHUNK_BYTES", chunk)
    whole = "\ufeff" + "".join(TEXTS)
    (tmp_path / "a.txt").write_bytes(whole.encode())
    (tmp_path / f"a.txt.{kind}").write_bytes(PACKED[kind](whole.encode()))
    one, other = (UserText(str(tmp_path / name), 0.7, test_fraction=0.1) for name in ("a.txt", f"a.txt.{kind}"))
    assert read(one) == read(other) == read(other) and not other.documents
    assert tokens_of(one, tmp_path / "one") == tokens_of(other, tmp_path / "other")


def test_a_text_alone_in_a_zip_is_the_text_whatever_its_name(tmp_path):
    whole = "".join(TEXTS)
    (tmp_path / "a.txt").write_bytes(whole.encode())
    (tmp_path / "a.zip").write_bytes(as_zip({"folder/": "", "folder/corpus": whole, "__MACOSX/folder/._corpus": "\0"}))
    one, other = (UserText(str(tmp_path / name)) for name in ("a.txt", "a.zip"))
    assert tokens_of(one, tmp_path / "one") == tokens_of(other, tmp_path / "other") and not other.documents


@pytest.mark.parametrize("packed", [None, *PACKED])
@pytest.mark.parametrize("name", TABLES)
def test_the_rows_of_a_table_are_documents(tmp_path, name, packed):
    contents = TABLES[name](TEXTS)
    path = tmp_path / (name if packed is None else f"{name}.{packed}")
    path.write_bytes(contents if packed is None else PACKED[packed](contents))
    expected, corpus = UserText(str(plain(tmp_path / "folder"))), UserText(str(path), column="text")
    assert read(corpus) == read(expected)
    assert tokens_of(corpus, tmp_path / "one") == tokens_of(expected, tmp_path / "other")


def test_a_zip_is_the_folder_it_was_made_of(tmp_path):
    folder = plain(tmp_path / "folder")
    (folder / "a").mkdir()
    (folder / "a" / "z.md").write_text("in a folder")
    (folder / "a.csv").write_bytes(as_csv(["row one", "row two"]))
    (folder / "picture.png").write_bytes(b"\x89PNG")
    members = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (tmp_path / "a.zip").write_bytes(as_zip(dict(reversed(members.items()))))
    for column, count in ((None, 16), ("text", 18)):
        one, other = (UserText(str(path), column=column) for path in (folder, tmp_path / "a.zip"))
        assert read(one) == read(other) and sum(map(len, read(one).values())) == count and other.documents


def test_forms_mix_in_the_order_of_their_paths(tmp_path):
    files = {
        "a.txt": b"one",
        "b.csv.gz": gzip.compress(as_csv(["two", "three"])),
        "b.md.xz": lzma.compress(b"four"),
        "c.zip": as_zip({"y.jsonl": as_lines(["six"]), "x.txt": "five"}),
        "d.jsonl": as_lines(["seven", "eight"]),
        "e.py": b"no",
    }
    for name, contents in files.items():
        (tmp_path / name).write_bytes(contents)
    expected = {"train": ["one", "two", "three", "four", "five", "six", "seven"], "val": ["eight"]}
    assert read(UserText(str(tmp_path), column="text")) == expected
    assert read(UserText(f"{tmp_path}/[abcd]*", column="text")) == expected


def test_of_a_folder_without_a_column_it_is_said_what_is_left_out(tmp_path, capsys):
    folder = plain(tmp_path / "x")
    UserText(str(folder)).read()
    assert "left out" not in capsys.readouterr().out
    (folder / "more.csv").write_bytes(as_csv(TEXTS))
    (folder / "more.jsonl.gz").write_bytes(gzip.compress(as_lines(TEXTS)))
    UserText(str(folder)).read()
    assert "x: left out are its tables (2), of which no column is named by data.column" in capsys.readouterr().out


def test_of_a_folder_without_a_column_its_texts_are_read_once(tmp_path):
    folder = plain(tmp_path / "folder")
    before = UserText(str(folder))
    (folder / "notes.jsonl").write_bytes(as_lines(["no"]))
    (folder / "00.txt.gz").write_bytes(gzip.compress(TEXTS[0].encode()))
    # What was downloaded, beside what was unpacked; and what holds no text.
    (folder / "all.zip").write_bytes(as_zip({f"{n:02}.txt": text for n, text in enumerate(TEXTS)}))
    (folder / "pictures.zip").write_bytes(as_zip({"a.png": "", "b.png": ""}))
    after = UserText(str(folder))
    assert read(before) == read(after) and before.fingerprint() == after.fingerprint()


def test_plain_texts_are_the_corpora_they_were(tmp_path):
    """By the rule of before there were other forms."""
    folder = plain(tmp_path / "folder")
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]
    assert UserText(str(folder)).fingerprint() == digest(sums, 0.9, "utf-8")
    assert UserText(f"{folder}/*.txt", 0.8).fingerprint() == digest(sums, 0.8, "utf-8")
    one = UserText(str(folder / "00.txt"), encoding="latin-1", test_fraction=0.2)
    assert one.fingerprint() == digest(sums[:1], 0.9, 0.2, "latin-1")


def test_whatever_changes_what_is_read_changes_the_fingerprint(tmp_path):
    for name, contents in {"a.csv": as_csv(["uno", "dos"]), "b.txt": as_csv(["uno", "dos"]), "c": b"held out"}.items():
        (tmp_path / name).write_bytes(contents)
    settings = [{}, {"limit": 5}, {"limit": 6}, {"newlines": "universal"}, {"column": "n"}]
    settings += [{"val_path": str(tmp_path / "c")}, {"test_path": str(tmp_path / "c")}, {"quotes": False}]
    corpora = [UserText(str(tmp_path / "[ab].*"), **({"column": "text"} | more)) for more in settings]
    before = [each.fingerprint() for each in corpora]
    assert len(set(before)) == len(corpora)
    # The same bytes in the same order, of which another file is the table.
    (tmp_path / "a.csv").rename(tmp_path / "a.txt")
    (tmp_path / "b.txt").rename(tmp_path / "b.csv")
    assert UserText(str(tmp_path / "[ab].*"), column="text").fingerprint() not in before


def test_empty_cells_are_left_out_and_said(tmp_path, capsys):
    rows = [{"a": {"b": text}} for text in ("one", None, " \n", "two", "")] + [{"a": None}, {}, {"a": {"b": 3}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = UserText(str(tmp_path / "a.jsonl"), 0.5, column="a.b")
    assert read(corpus) == read(corpus) == {"train": ["one"], "val": ["two", "3"]}
    assert capsys.readouterr().out == "a.jsonl: left out are 5 of its rows, whose a.b is empty\n"


def test_a_table_without_a_header_or_with_quotation_marks_of_the_text(tmp_path):
    (tmp_path / "a.tsv").write_text('1\tsaid "no\n2\t"yes\n')
    corpus = UserText(str(tmp_path / "a.tsv"), column="1", header=False, quotes=False)
    assert read(corpus) == {"train": ['said "no'], "val": ['"yes']}


# A part of it


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.zip"])
def test_a_limit_takes_the_first_characters_of_a_text(tmp_path, name):
    whole = "ñandú\r\n" * 1000
    contents = {"a.txt": whole.encode(), "a.txt.gz": gzip.compress(whole.encode()), "a.zip": as_zip({"a.txt": whole})}
    (tmp_path / name).write_bytes(contents[name])
    for limit in (10, 101, 6999, 7000, 9000):
        found = read(UserText(str(tmp_path / name), limit=limit, test_fraction=0.2))
        assert "".join(found["train"] + found["val"] + found["test"]) == whole[:limit]
    translated = UserText(str(tmp_path / name), limit=13, newlines="universal")
    assert [*map("".join, read(translated).values())] == ["ñandú\nñandú", "\nñ"]


@pytest.mark.parametrize(("limit", "count"), [(1, 2), (11, 2), (13, 3), (14, 3), (10**6, 15)])
@pytest.mark.parametrize("name", ["folder", "a.csv", "a.jsonl"])
def test_a_limit_takes_whole_documents(tmp_path, name, limit, count):
    texts = ["abcdef"] * 15
    plain(tmp_path / "folder", texts)
    for table in ("a.csv", "a.jsonl"):
        (tmp_path / table).write_bytes(TABLES[table](texts))
    found = read(UserText(str(tmp_path / name), limit=limit, column=None if name == "folder" else "text"))
    assert sum(map(len, found.values())) == count


@pytest.mark.parametrize("packed", [None, *PACKED])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_no_more_is_read_than_the_limit_asks_for(tmp_path, monkeypatch, name, packed):
    """Behind it the file may be damaged, and the time it takes does not grow with it."""
    monkeypatch.setattr(texts_module, "CHUNK_BYTES", 1 << 12)
    texts = [f"text {n}\n" for n in range(10_000)]
    contents = (TABLES.get(name) or (lambda texts: "".join(texts).encode()))(texts) + b"\xff"
    path = tmp_path / (name if packed is None else f"{name}.{packed}")
    path.write_bytes(contents if packed is None else PACKED[packed](contents))
    column = None if name == "a.txt" else "text"
    found = read(UserText(str(path), limit=100, column=column))
    assert "".join(found["train"] + found["val"]) == ("".join(texts[:14]) if column else "".join(texts)[:100])
    with pytest.raises(DataError, match="is not utf-8: byte 0xff"):
        UserText(str(path), column=column).read()


def test_memory_does_not_grow_with_a_compressed_text(tmp_path, monkeypatch):
    monkeypatch.setattr(texts_module, "CHUNK_BYTES", 1 << 13)
    peaks = []
    for kilobytes in (300, 1200, 2400):  # the first warms up
        (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"uno dos, tres.\n" * (kilobytes * 1000 // 15)))
        tracemalloc.start()
        prepare(UserText(str(tmp_path / "a.txt.gz")), functools.partial(train_char), tmp_path / f"cache{len(peaks)}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.05 * peaks[1]


def test_a_limit_makes_the_same_corpus_whatever_comes_behind(tmp_path):
    (tmp_path / "a.txt").write_text("one two three")
    before = UserText(str(tmp_path / "a.txt"), limit=10).fingerprint()
    (tmp_path / "a.txt").write_text("one two thirteen")
    assert UserText(str(tmp_path / "a.txt"), limit=10).fingerprint() == before
    (tmp_path / "a.txt").write_text("one too three")
    assert UserText(str(tmp_path / "a.txt"), limit=10).fingerprint() != before


# Splits of their own


def test_a_split_may_have_a_path_of_its_own(tmp_path):
    train, val, test = (tmp_path / f"{name}.txt" for name in ("train", "val", "test"))
    for path in (train, val, test):
        path.write_text(f"this is {path.stem}")
    paths = {"val_path": str(val), "test_path": str(test)}
    assert read(UserText(str(train), **paths)) == {
        "train": ["this is train"], "val": ["this is val"], "test": ["this is test"],
    }  # fmt: skip
    assert read(UserText(str(train), val_path=str(val), test_fraction=0.5)) == {
        "train": ["this i"], "val": ["this is val"], "test": ["s train"],
    }  # fmt: skip
    assert read(UserText(str(train), 0.5, test_path=str(test))) == {
        "train": ["this i"], "val": ["s train"], "test": ["this is test"],
    }  # fmt: skip
    assert read(UserText(str(train), limit=6, **paths))["val"] == ["this i"]
    corpus = UserText(str(train), val_path=str(val))
    assert list(read(corpus)) == ["train", "val"] and not corpus.documents


def test_splits_may_have_forms_of_their_own(tmp_path):
    folder = plain(tmp_path / "folder", ["one", "two", "three"])
    (tmp_path / "val.csv.gz").write_bytes(gzip.compress(as_csv(["four"])))
    (tmp_path / "test.zip").write_bytes(as_zip({"a.txt": "five", "b.txt": "six"}))
    corpus = UserText(
        str(folder), column="text", val_path=str(tmp_path / "val.csv.gz"), test_path=str(tmp_path / "test.zip")
    )
    assert read(corpus) == {"train": ["one", "two", "three"], "val": ["four"], "test": ["five", "six"]}
    assert corpus.documents


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_path": "b.txt", "train_fraction": 0.8}, r"train_fraction=0\.8 has no effect: with data\.val_path all"),
        ({"test_path": "b.txt", "test_fraction": 0.1}, r"test_fraction=0\.1 and data\.test_path=b\.txt name two"),
        ({"val_path": "*.txt"}, r"a\.txt is in data\.val_path and in data\.path"),
        ({"val_path": "b.txt", "test_path": "b.*"}, r"b\.txt is in data\.test_path and in data\.val_path"),
        ({"val_path": "c.txt"}, r"data\.val_path=c\.txt does not exist"),
        ({"limit": 0}, r"data\.limit=0 must be at least 1"),
        ({"newlines": "unix"}, r"data\.newlines=unix is unknown: choose universal"),
        ({"column": "text"}, r"data\.column=text has no effect: data\.path=a\.txt is no table"),
        ({"header": False}, r"data\.header=False has no effect"),
        ({"test_path": "c.csv"}, r"c\.csv is a table: say which column .* data\.column=<name>; it has n, text"),
    ],
)
def test_settings_that_mean_nothing_are_one_line(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("a text of a few words")
    if "csv" in str(settings):
        (tmp_path / "c.csv").write_bytes(as_csv(["one", "two"]))
    with pytest.raises(MolinoError, match=message) as error:
        UserText("a.txt", **settings)
    assert "\n" not in str(error.value)


# What is no text


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "contents", "column", "message"),
    [
        ("a.csv", as_csv(["one", "two"]), None, r"a\.csv is a table: say which column holds the texts .* n, text$"),
        ("a.jsonl.gz", gzip.compress(as_lines(["one"])), None, r"a\.jsonl\.gz is a table: .* text, n$"),
        ("a.zip", as_zip({"b/a.csv": as_csv(["one"])}), None, r"a\.zip/b/a\.csv is a table"),
        ("folder/a.csv", as_csv(["one"]), None, r"a\.csv is a table"),
        ("a.csv", as_csv(["one", "two"]), "txt", r"data\.column=txt is no column of .*a\.csv; did you mean text"),
        ("a.csv", b"", None, r"a\.csv is empty"),
        ("a.csv", b"text,n\n", "text", r"a\.csv is empty"),
        ("a.jsonl", b'{"text": [1]}', "text", r"a\.jsonl, row 1: data\.column=text holds a list and no text"),
        ("a.jsonl", b'{"a": {"text": 1}}', "a", r"a dict .* what lies in it, such as data\.column=a\.text"),
        ("a.jsonl", b'{"text": true}', "text", r"holds a bool"),
        ("a.gz", b"hola", None, r"a\.gz is damaged or not what its name says \(Not a gzipped file"),
        ("a.txt.gz", gzip.compress(b"hola " * 999)[:-9], None, r"a\.txt\.gz is damaged .*end-of-stream"),
        ("a.txt.bz2", bz2.compress(b"hola")[:-5] + b"12345", None, r"a\.txt\.bz2 is damaged"),
        ("a.txt.xz", b"\xfd7zXZ\x00hola", None, r"a\.txt\.xz is damaged"),
        ("a.csv.xz", b"hola", "text", r"a\.csv\.xz is damaged"),
        ("a.zip", b"hola", None, r"a\.zip is damaged .*not a zip file"),
        ("a.zip", as_zip({}), None, r"a\.zip has no \.txt or \.md file in it"),
        ("a.zip", as_zip({"a.png": "", "b.png": ""}), None, r"a\.zip has no \.txt or \.md file in it, and no table"),
        ("a.zip", as_zip({"../a.txt": "no", "b.txt": "no"}), None, "not to be trusted"),
        ("a.txt", tar(), None, r"a\.txt is a tar file, not plain text; unpack it, or convert"),
        ("a.tar.gz", gzip.compress(tar()), None, r"a\.tar\.gz is a tar file"),
        ("a.txt", PACKED["xz"](b"hola"), None, r"is a xz file, not plain text; .* let its name end in \.xz"),
        ("a.txt.gz", gzip.compress(gzip.compress(b"hola")), None, r"a\.txt\.gz is a gzip file, not plain text"),
        ("a.txt", b"PAR1\0\0", None, r"is a Parquet file"),
        ("a.txt.gz", gzip.compress("señor".encode("latin-1")), None, r"a\.txt\.gz is not utf-8: byte 0xf1 at offset 2"),
        ("a.zip", as_zip({"a.txt": "señor".encode("latin-1")}), None, r"a\.zip/a\.txt is not utf-8: byte 0xf1 at"),
        ("a.txt.gz", gzip.compress(b" \n"), None, r"a\.txt\.gz is empty"),
    ],
    # Names of tests must not hold the contents: what is packed bears the time.
    ids=itertools.count(),
)  # fmt: skip
def test_what_cannot_be_read_is_one_line(tmp_path, name, contents, column, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(contents)
    with pytest.raises((ConfigError, DataError), match=message) as error:
        UserText(str(path if path.parent == tmp_path else path.parent), column=column).read()
    assert "\n" not in str(error.value)


def test_links_in_a_zip_and_what_is_encrypted_are_refused(tmp_path):
    link = zipfile.ZipInfo("a.txt")
    link.external_attr = 0o120777 << 16
    (tmp_path / "a.zip").write_bytes(as_zip({link: "/etc/passwd"}))
    with pytest.raises(DataError, match="not to be trusted"):
        UserText(str(tmp_path / "a.zip"))
    contents = as_zip({"a.txt": "hola"})
    # The flag of encryption, in the member and in the list of members.
    locked = bytearray(contents)
    locked[6] |= 1
    locked[contents.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(locked)
    with pytest.raises(DataError, match=r"a\.zip/a\.txt is damaged or not what its name says \(.*encrypted"):
        UserText(str(tmp_path / "a.zip")).read()


@pytest.mark.parametrize("name", ["a.txt.gz", "a.csv.bz2", "a.zip"])
def test_what_unpacks_to_more_than_text_can_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(archives, "LIMIT_BYTES", 1000)
    monkeypatch.setattr(archives, "MOST_TIMES", 2)
    whole = "text\n" + "a\n" * 100_000
    packed = {"a.txt.gz": gzip.compress, "a.csv.bz2": bz2.compress, "a.zip": lambda data: as_zip({"a.txt": data})}
    (tmp_path / name).write_bytes(packed[name](whole.encode()))
    with pytest.raises(DataError, match=r"holds (more than )?[0-9,]+ bytes of data; is it the right file\?"):
        UserText(str(tmp_path / name), column="text" if "csv" in name else None).read()


def test_a_table_or_a_zip_that_changes_is_not_read(tmp_path):
    for name, made in (
        ("a.csv", as_csv),
        ("a.zip", lambda texts: as_zip({f"{n}.txt": t for n, t in enumerate(texts)})),
    ):
        (tmp_path / name).write_bytes(made(["one", "two"]))
        corpus = UserText(str(tmp_path / name), column="text" if name == "a.csv" else None)
        corpus.fingerprint()
        (tmp_path / name).write_bytes(made(["one", "two", "three"]))
        with pytest.raises(DataError, match="was changed while it was read"):
            corpus.read()
