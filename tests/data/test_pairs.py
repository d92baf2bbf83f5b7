"""Published pairs against their files read here, and pairs of one's own: aligned files and tables."""

import gzip
import hashlib
import json
from collections import Counter

import pytest

from molino.base.errors import ConfigError, DataError
from molino.configuration.build import build
from molino.configuration.composer import compose
from molino.data.corpora.pairs import OwnPairs, PublishedPairs
from molino.data.corpus import Corpus
from molino.data.examples import Example, split_examples


def composed(*typed):
    return build(compose("train", list(typed)).settings["data"]["corpus"], "data.corpus", Corpus)


def published(name, cache, mirror):
    return composed(f"data={name}", f"paths.mirror={mirror}", f"paths.cache={cache}")


@pytest.mark.parametrize(("text", "target"), [("de", "en"), ("en", "de")])
def test_multi30k_is_its_files_line_by_line(mirror, tmp_path, text, target):
    corpus = published(f"multi30k_{text}_{target}", tmp_path, mirror)
    splits = corpus.examples()
    assert {split: len(part) for split, part in splits.items()} == {"train": 29000, "val": 1014, "test": 1000}
    for split, file in {"train": "train", "val": "val", "test": "test_2016_flickr"}.items():
        paths = [mirror / f"raw/multi30k/data/task1/raw/{file}.{language}.gz" for language in (text, target)]
        lines = [gzip.decompress(path.read_bytes()).decode().split("\n")[:-1] for path in paths]
        pairs = [(one.strip(), other.strip()) for one, other in zip(*lines, strict=True)]
        assert [(each.text, *each.targets) for each in splits[split]] == pairs
        assert corpus.read()[split] == [line for pair in pairs for line in pair]
    german = "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche."
    english = "Two young, White males are outside near many bushes."
    assert set(corpus.read()["train"][:2]) == {german, english}
    assert corpus.documents and corpus.licence.startswith("same terms as Flickr30k")
    assert list(tmp_path.iterdir()) == []  # a mirror is used in place


def test_dialogsum_learns_from_one_summary_and_is_tested_on_three(mirror, tmp_path):
    corpus = published("dialogsum", tmp_path, mirror)
    splits = corpus.examples()

    def rows(part):
        return [json.loads(line) for line in (mirror / f"raw/dialogsum/dialogsum.{part}.jsonl").open(encoding="utf-8")]

    dev = [Example(row["dialogue"].strip(), targets=(row["summary"].strip(),)) for row in rows("dev")]
    assert splits["train"] + splits["val"] != dev and Counter(splits["train"] + splits["val"]) == Counter(dev)
    assert len(dev) == 500 and abs(len(splits["val"]) - 100) < 4 * (0.16 * 500) ** 0.5
    three = [tuple(row[f"summary{n}"].strip() for n in (1, 2, 3)) for row in rows("test")]
    assert [each.targets for each in splits["test"]] == three and len(three) == 500
    # Only the first is read: each example is as many texts.
    assert corpus.read()["test"][:2] == [rows("test")[0]["dialogue"].strip(), three[0][0]]
    assert len(corpus.read()["test"]) == 1000


def test_columns_of_a_files_own_change_the_fingerprint(tmp_path):
    settings = compose("train", ["data=dialogsum", f"paths.mirror={tmp_path}"]).settings["data"]["corpus"]
    one = build(settings, "data.corpus", Corpus).fingerprint()
    settings["files"]["test"][0]["columns"] = {"text": "dialogue", "target": "summary1"}
    assert build(settings, "data.corpus", Corpus).fingerprint() != one


# Published ones


def test_published_pairs_are_plain_or_gzipped_and_known_by_their_checksums(tmp_path):
    (tmp_path / "raw").mkdir()

    def entry(name, contents):
        (tmp_path / "raw" / name).write_bytes(contents)
        return {"url": None, "sha256": hashlib.sha256(contents).hexdigest(), "mirror_path": name}

    german, english = b"ein Haus\r\nein Baum\n", gzip.compress(b"a house\na tree", mtime=0)
    files = {"train": {"text": entry("a.de", german), "target": entry("a.en.gz", english)}}
    corpus = PublishedPairs("mine", "free", files, str(tmp_path / "cache"), str(tmp_path))
    pairs = [Example("ein Haus", targets=("a house",)), Example("ein Baum", targets=("a tree",))]
    assert corpus.examples() == {"train": pairs}
    turned = {"train": {"text": files["train"]["target"], "target": files["train"]["text"]}}
    other = PublishedPairs("mine", "free", turned, str(tmp_path / "cache"), str(tmp_path))
    assert other.read() == {"train": ["a house", "ein Haus", "a tree", "ein Baum"]}
    assert other.fingerprint() != corpus.fingerprint()
    with pytest.raises(ConfigError, match=r"data\.corpus\.files\.train has a text and a target, and this is"):
        PublishedPairs("mine", "free", {"train": files["train"]["text"]}, str(tmp_path))


# One's own


def aligned(folder, name="a", count=200, start=0):
    texts, targets = folder / f"{name}.de", folder / f"{name}.en"
    texts.write_text("".join(f"Satz {i}\n" for i in range(start, start + count)), "utf-8")
    targets.write_text("".join(f"sentence {i}\n" for i in range(start, start + count)), "utf-8")
    return str(texts), str(targets)


def pair(number):
    return Example(f"Satz {number}", targets=(f"sentence {number}",))


COLUMNS = {"text": "text", "target": "target"}


def test_aligned_files_are_split_by_digests_or_by_files(tmp_path):
    (texts, targets), (more, of_more) = aligned(tmp_path), aligned(tmp_path, "v", 3, 500)
    whole = [pair(i) for i in range(200)]
    one = OwnPairs(texts, COLUMNS, targets, test_fraction=0.3)
    assert one.name == "a.de" and one.examples() == split_examples(whole, {"val": 0.1, "test": 0.3})
    assert list(one.examples()) == ["train", "val", "test"]
    assert one.read()["val"] == [text for each in one.examples()["val"] for text in (each.text, *each.targets)]
    typed = [f"data.path={texts}", f"data.target_path={targets}", f"data.val_path={more}"]
    two = composed("data=pairs", *typed, f"data.val_target_path={of_more}").examples()
    assert two == {"train": whole, "val": [pair(500), pair(501), pair(502)]}
    typed += [f"data.val_target_path={of_more}", f"data.test_path={more}", f"data.test_target_path={of_more}"]
    assert composed("data=pairs", *typed).examples()["test"] == two["val"]


def test_a_path_may_hold_what_hydra_would_read_otherwise(tmp_path):
    (folder := tmp_path / "one, two (x=1)").mkdir()
    texts, targets = aligned(folder)
    assert composed("data=pairs", f"data.path={texts}", f"data.target_path={targets}").examples()["train"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False], ids=["last line ends", "last line does not end"])
def test_a_line_ends_where_a_line_ends_and_nowhere_else(tmp_path, end, last):
    lines = ["a\u2028b", "c\x0bd\x85e", " f\u2029g ", "\ufeffh", 'i "j']
    text = end.join(lines) + (end if last else "")
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "b.gz").write_bytes(gzip.compress(text.encode()))
    corpus = OwnPairs(str(tmp_path / "a"), COLUMNS, str(tmp_path / "b.gz"), val_fraction=0.5)
    found = {each for part in corpus.examples().values() for each in part}
    assert found == {Example(line.strip(), targets=(line.strip(),)) for line in lines}


@pytest.mark.parametrize("name", ["p.tsv", "p.csv", "p.jsonl", "p.parquet"])
def test_a_table_of_pairs(tmp_path, name):
    rows = [{"de": f"Satz {i}", "en": f"sentence {i}", "us": f"phrase {i}"} for i in range(40)]
    path = tmp_path / name
    if name.endswith("parquet"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif name.endswith("jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        separator = "\t" if name.endswith("tsv") else ","
        path.write_text("".join(separator.join(row) + "\n" for row in [rows[0], *(r.values() for r in rows)]), "utf-8")
    typed = ["data=pairs", f"data.path={path}", "data.columns.text=de"]
    one = composed(*typed, "data.columns.target=en").examples()
    assert one == split_examples([pair(i) for i in range(40)], {"val": 0.1})
    two = composed(*typed, "data.columns.target=[en,us]").examples()
    # The second reference moves no example.
    assert [each.text for each in two["val"]] == [each.text for each in one["val"]]
    assert {each.targets for each in two["train"]} < {(f"sentence {i}", f"phrase {i}") for i in range(40)}


def test_labelled_tables_may_have_targets(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "t {i}", "label": "x", "t": "u {i}"}}\n' for i in range(40)), "utf-8")
    found = composed("data=labelled", f"data.path={path}", "+data.columns.target=t").examples()
    assert found["train"][0] in [Example(f"t {i}", label="x", targets=(f"u {i}",)) for i in range(40)]


def test_a_fingerprint_follows_both_files_and_the_settings(tmp_path):
    texts, targets = aligned(tmp_path)
    more, of_more = aligned(tmp_path, "v", 3, 500)
    settings = [
        {}, {"val_fraction": 0.2}, {"test_fraction": 0.2}, {"encoding": "latin-1"}, {"header": False},
        {"quotes": False}, {"columns": {"text": 0}}, {"target_path": None}, {"target_path": texts},
        {"val_path": more, "val_target_path": of_more}, {"val_path": more, "val_target_path": more},
        {"test_path": more, "test_target_path": of_more},
    ]  # fmt: skip
    (tmp_path / "a.tsv").write_text((tmp_path / "a.de").read_text())
    given = {"path": str(tmp_path / "a.tsv"), "columns": COLUMNS, "target_path": targets}
    found = {OwnPairs(**given | each).fingerprint() for each in settings}
    assert len(found) == len(settings)
    aligned(tmp_path, count=201)  # one more in both; the first one's copy stays what it was
    assert OwnPairs(**given).fingerprint() not in found


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"path": None}, ConfigError, r"data=pairs needs data\.path=<texts> with data\.target_path=<.*or a table"),
        ({"path": "none.de"}, DataError, r"data\.path=none\.de is no file \(now in "),
        ({"target_path": "none.en"}, DataError, r"data\.target_path=none\.en is no file"),
        ({"target_path": None}, ConfigError, r"data\.path=.*a\.de is no table \(\.tsv.*: add data\.target_path="),
        ({"val_path": "a.de"}, ConfigError, r"data\.val_path=a\.de needs data\.val_target_path="),
        ({"test_target_path": "a.en"}, ConfigError, r"data\.test_target_path=a\.en needs data\.test_path="),
        (
            {"val_path": "a.de", "val_target_path": "none.en"},
            DataError,
            r"data\.val_target_path=none\.en is no file",
        ),
        ({"val_fraction": 1.0}, ConfigError, r"data\.val_fraction=1\.0 must be from 0"),
        ({"val_fraction": 0.0}, ConfigError, r"data\.val_fraction=0 leaves nothing to validate on"),
        ({"val_fraction": 1e-9}, DataError, r"the val split of a\.de has no examples"),
        ({"encoding": "utf-7000"}, ConfigError, r"encoding=utf-7000 is unknown"),
    ],
)
def test_what_are_no_pairs_of_ones_own_is_one_line(tmp_path, monkeypatch, settings, error, message):
    monkeypatch.chdir(tmp_path)
    texts, targets = aligned(tmp_path)
    with pytest.raises(error, match=message) as raised:
        OwnPairs(**{"path": texts, "columns": COLUMNS, "target_path": targets} | settings).examples()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("texts", "targets", "message"),
    [
        (
            b"a\nb\nc\n",
            b"d\ne\n",
            r"a\.de has 3 lines and .*a\.en 2: line 3 of a\.de has no counterpart; each text needs its target",
        ),
        (b"a", b"d\ne\nf\ng", r"a\.de has 1 lines and .*a\.en 4: line 2 of a\.en has no counterpart"),
        (b"a\n\nc\n", b"d\ne\nf\n", r"a\.de, line 2 is empty: fill it, or leave this line out of both files"),
        (b"a\nb\nc\n", b"d\ne\n \t\r\n", r"a\.en, line 3 is empty"),
        (b"a\nb\n\n", b"d\ne\n", r"a\.de has 3 lines and .*a\.en 2"),
        (b"", b"d\n", r"a\.de is empty; give a file with a text in each line"),
        (b"a\n", b"\xe9\n", r"a\.en is not utf-8: byte 0xe9 at offset 0"),
    ],
)
def test_files_that_are_not_aligned_are_one_line(tmp_path, texts, targets, message):
    for name, contents in (("a.de", texts), ("a.en", targets)):
        (tmp_path / name).write_bytes(contents)
    with pytest.raises(DataError, match=message) as error:
        OwnPairs(str(tmp_path / "a.de"), COLUMNS, str(tmp_path / "a.en"), val_fraction=0.5).examples()
    assert "\n" not in str(error.value)


def test_a_damaged_archive_is_one_line(tmp_path):
    texts, _ = aligned(tmp_path)
    (tmp_path / "a.en.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"a\.en\.gz is damaged or not an archive"):
        OwnPairs(texts, COLUMNS, str(tmp_path / "a.en.gz")).examples()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("\tx", r"p\.tsv, example 2: its text is empty; fill it"),
        ("x\t", r"p\.tsv, example 2: its target is empty; fill it, .*data\.columns\.target"),
    ],
)
def test_a_row_without_text_or_target_is_one_line(tmp_path, row, message):
    (tmp_path / "p.tsv").write_text(f"text\ttarget\na\tb\n{row}\nc\td\n")
    with pytest.raises(DataError, match=message) as error:
        OwnPairs(str(tmp_path / "p.tsv"), COLUMNS).examples()
    assert "\n" not in str(error.value)


def test_a_table_without_the_columns_is_one_line(tmp_path):
    (tmp_path / "p.tsv").write_text("de\ten\na\tb\n")
    with pytest.raises(DataError, match=r"data\.columns\.text=text is no column of p\.tsv"):
        OwnPairs(str(tmp_path / "p.tsv"), COLUMNS).examples()
    with pytest.raises(DataError, match=r"p\.tsv, example 1: its target is empty"):
        OwnPairs(str(tmp_path / "p.tsv"), {"text": "de", "target": None}).examples()
