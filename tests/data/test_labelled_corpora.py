"""Published corpora of examples against their published counts, and tables of one's own."""

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections import Counter
from functools import partial

import pytest

from molino.base.errors import ConfigError, DataError
from molino.configuration.build import build
from molino.configuration.composer import compose
from molino.data.corpora.labelled import OwnExamples, PublishedExamples
from molino.data.corpus import Corpus
from molino.data.download import RemoteFile, fetch
from molino.data.examples import Example, split_examples

# Of each corpus its rows (where our val split is taken from the published training file: of both together, and of
# test), its first training example, and how many of the training (else val) file each class has.
PUBLISHED = {
    "sst2": (
        {"train": 6920, "val": 872, "test": 1821},
        Example(
            "a stirring , funny and finally transporting re imagining of beauty and the beast and 1930s horror films",
            label="positive",
        ),
        {"positive": 3610, "negative": 3310},
    ),
    "cola": (
        {"train+val": 8551, "test": 527 + 516},
        Example("Our friends won't buy this analysis, let alone the next one we propose.", label="acceptable"),
        {"acceptable": 6023, "unacceptable": 2528},
    ),
    "mrpc": (
        {"train+val": 4076, "test": 1725},
        Example(
            'Amrozi accused his brother, whom he called "the witness", of deliberately distorting his evidence.',
            'Referring to him as only "the witness", Amrozi accused his brother of deliberately distorting his '
            "evidence.",
            label="paraphrase",
        ),
        {"paraphrase": 2753, "different": 1323},
    ),
    "stsb": (
        {"train": 5749, "val": 1500, "test": 1379},
        Example("A plane is taking off.", "An air plane is taking off.", score=5.0),
        {None: 5749},
    ),
    "sick": (
        {"train": 4500, "val": 500, "test": 4927},
        Example(
            "A group of kids is playing in a yard and an old man is standing in the background",
            "A group of boys in a yard is playing and a man is standing in the background",
            label="neutral",
            score=4.5,
        ),
        {"neutral": 2536, "entailment": 1299, "contradiction": 665},
    ),
    "rte": (
        {"train+val": 2490, "test": 277},
        Example(
            "No Weapons of Mass Destruction Found in Iraq Yet.",
            "Weapons of Mass Destruction Found in Iraq.",
            label="not_entailment",
        ),
        {"entailment": 1249, "not_entailment": 1241},
    ),
    "scitail": (
        {"val": 1304, "test": 2126},
        Example(
            "An introduction to atoms and elements, compounds, atomic structure and bonding, the molecule and chemical "
            "reactions.",
            "Replace another in a molecule happens to atoms during a substitution reaction.",
            label="not_entailment",
        ),
        {"entailment": 657, "not_entailment": 647},
    ),
    "qasc": (
        {"val": 926},
        Example(
            "Climate is generally described in terms of what?",
            choices=(
                "sand", "occurs over a wide range", "forests", "Global warming", "rapid changes occur",
                "local weather conditions", "measure of motion", "city life",
            ),
            answer=5,
        ),
        {None: 926},
    ),
    "rt_polarity": (
        # Every tenth of 5,331 lines of each kind.
        {"train+val": 2 * (5331 - 533), "test": 2 * 533},
        Example("simplistic , silly and tedious .", label="negative"),
        {"negative": 4798, "positive": 4798},
    ),
}  # fmt: skip


def composed(name, cache, mirror):
    settings = compose("train", [f"data={name}", f"paths.mirror={mirror}", f"paths.cache={cache}"]).settings
    return build(settings["data"]["corpus"], "data.corpus", Corpus)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_corpora_are_what_was_published(mirror, tmp_path, name):
    rows, first, classes = PUBLISHED[name]
    corpus = composed(name, tmp_path, mirror)
    splits = corpus.examples()
    assert corpus.documents and corpus.licence and len(corpus.fingerprint()) == 64
    counts = {split: len(part) for split, part in splits.items()}
    if "train+val" in rows:
        both = rows["train+val"]
        # Four standard deviations of a tenth by chance; equal texts go together, which widens it a little.
        assert abs(counts["val"] - both / 10) < 4 * (0.09 * both) ** 0.5
        counts["train+val"] = counts.pop("train") + counts.pop("val")
    assert counts == rows
    whole = [each for split in ("train", "val") if split in next(iter(rows)) for each in splits[split]]
    assert first in whole and whole.index(first) == 0
    assert Counter(each.label for each in whole) == classes
    assert corpus.read() == {
        split: [text for each in part for text in (each.text, each.pair, *each.choices) if text is not None]
        for split, part in splits.items()
    }
    assert list(tmp_path.iterdir()) == []  # a mirror is used in place


@pytest.mark.parametrize("name", ["sick", "stsb"])
def test_scores_are_in_their_range(mirror, tmp_path, name):
    least = {"sick": 1, "stsb": 0}[name]
    for part in composed(name, tmp_path, mirror).examples().values():
        assert least <= min(each.score for each in part) and max(each.score for each in part) == 5


# Published ones


CONTENTS = b"text\tlabel\n" + b"".join(b"line %d\t%d\n" % (i, i % 2) for i in range(40))


@pytest.fixture
def own_mirror(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.tsv").write_bytes(CONTENTS)
    return tmp_path


def entry(**settings):
    return {"url": None, "sha256": hashlib.sha256(CONTENTS).hexdigest(), "mirror_path": "a.tsv"} | settings


def published(mirror, **settings):
    columns = {"text": "text", "label": "label"}
    given = {"files": {"train": [entry()]}, "layout": "tsv", "columns": columns, "val_fraction": 0.5} | settings
    return PublishedExamples("mine", "free", cache=str(mirror / "cache"), mirror=str(mirror), **given)


def test_a_setting_that_changes_examples_changes_the_fingerprint(own_mirror):
    settings = [
        {}, {"val_fraction": 0.25}, {"test_every": 7}, {"classes": {"0": "bad"}}, {"columns": {"text": "text"}},
        {"files": {"train": [entry(label="x")]}}, {"files": {"train": [entry()] * 2}}, {"files": {"test": [entry()]}},
    ]  # fmt: skip
    found = {published(own_mirror, **each).fingerprint() for each in settings}
    assert len(found) == len(settings)
    assert published(own_mirror, classes={0: "bad"}).fingerprint() in found  # as YAML may read it
    assert published(own_mirror / "elsewhere").fingerprint() in found  # needs no file


def test_a_file_of_one_class_and_every_so_manieth_line_to_test_on(own_mirror):
    files = {"train": [entry(label="one"), entry(label="other")]}
    splits = published(
        own_mirror, files=files, columns={"text": 0}, layout="tsv_without_header", test_every=10
    ).examples()
    lines = ["text", *(f"line {i}" for i in range(40))]
    assert splits["test"] == [Example(text, label=label) for label in ("one", "other") for text in lines[9::10]]
    others = [Example(text, label=label) for label in ("one", "other") for n, text in enumerate(lines) if n % 10 != 9]
    assert {split: splits[split] for split in ("train", "val")} == split_examples(others, {"val": 0.5})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layout": "xml"}, r"data\.corpus\.layout=xml is unknown: choose one of lines, tsv"),
        ({"val_fraction": 1}, r"data\.val_fraction=1 must be from 0 up to, not including, 1"),
        ({"val_fraction": float("nan")}, r"data\.val_fraction=nan must be from 0"),
        ({"files": {"train": ["a.tsv"]}}, r"a file has url, sha256 and mirror_path, and this is 'a\.tsv'"),
        ({"files": {"train": [entry(labels="x")]}}, "url, sha256, mirror_path"),
        ({"columns": {"text": "text", "lable": "label"}}, r"data\.corpus\.columns\.lable is not a setting"),
    ],
)
def test_what_is_no_description_of_a_corpus_is_one_line(own_mirror, settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        published(own_mirror, **settings).examples()
    assert "\n" not in str(error.value)


# Members of archives


def zipped(members):
    with zipfile.ZipFile(sink := io.BytesIO(), "w") as archive:
        for name, contents in members.items():
            archive.writestr(name, contents)
    return sink.getvalue()


def tarred(members):
    with tarfile.open(fileobj=(sink := io.BytesIO()), mode="w:gz") as archive:
        for name, contents in members.items():
            (header := tarfile.TarInfo(name)).size = len(contents)
            archive.addfile(header, io.BytesIO(contents))
    return sink.getvalue()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder and the address at which it is served."""
    (folder := tmp_path / "served").mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def left(cache):
    return sorted(path.name for path in (cache / "downloads").iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize(("name", "pack"), [("all.zip", zipped), ("all.tar.gz", tarred)])
def test_a_member_is_taken_out_of_its_archive(served, tmp_path, name, pack):
    folder, address = served
    member = "data/a+b.tsv"  # were it a pattern, it would match neither
    (folder / name).write_bytes(pack({"data/README": b"read me", "data/aab.tsv": b"no", member: CONTENTS}))
    remote = entry(url=f"{address}/{name}", member=member, mirror_path="of/a.tsv")
    corpus = published(tmp_path, files={"train": [remote]})
    assert sum(map(len, corpus.examples().values())) == 40
    digest = hashlib.sha256(CONTENTS).hexdigest()
    assert left(tmp_path / "cache") == [f"{digest[:16]}-a.tsv"]  # the archive is gone
    (folder / name).unlink()
    assert (
        fetch(RemoteFile(remote["url"], digest, "of/a.tsv", member), tmp_path / "cache", None).read_bytes() == CONTENTS
    )


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (zipped({"other.tsv": CONTENTS}), r"all\.zip does not hold the expected file"),
        (zipped({"a.tsv": CONTENTS + b"x"}), r"all\.zip does not hold the expected file"),
        (b"PK no archive", r"is damaged or not an archive"),
        (zipped({"../a.tsv": CONTENTS}), r"not to be trusted"),
    ],
    # Named, as an archive holds the second it was packed in: every process would call the test something else.
    ids=["other file", "other contents", "no archive", "outside"],
)
def test_an_archive_without_the_file_leaves_nothing(served, tmp_path, contents, message):
    folder, address = served
    (folder / "all.zip").write_bytes(contents)
    file = RemoteFile(f"{address}/all.zip", hashlib.sha256(CONTENTS).hexdigest(), "a.tsv", "a.tsv")
    with pytest.raises(DataError, match=message):
        fetch(file, tmp_path, None)
    assert left(tmp_path) == []


# One's own


def table(path, count, start=0):
    path.write_text("".join(f'{{"t": "text {i}", "y": {i % 2}}}\n' for i in range(start, start + count)), "utf-8")
    return str(path)


def own(path, **settings):
    return OwnExamples(path, {"text": "t", "label": "y"}, **settings)


def test_a_table_of_ones_own_is_split_by_digests_or_by_tables(tmp_path):
    path, val = table(tmp_path / "a.jsonl", 200), table(tmp_path / "v.jsonl", 3, 500)
    one = own(path, test_fraction=0.3, classes={1: "odd", 0: "even"})
    whole = [Example(f"text {i}", label=("even", "odd")[i % 2]) for i in range(200)]
    assert one.name == "a.jsonl" and one.examples() == split_examples(whole, {"val": 0.1, "test": 0.3})
    assert list(one.examples()) == ["train", "val", "test"]
    assert one.read()["val"] == [each.text for each in one.examples()["val"]]
    # A table of its own takes the place of its fraction; the other fraction is of the first table still.
    two = own(path, val_path=val, test_fraction=0.3).examples()
    assert [each.text for each in two["val"]] == ["text 500", "text 501", "text 502"]
    assert len(two["train"]) + len(two["test"]) == 200 and len(two["test"]) > 30
    three = own(path, val_path=val, test_path=val, val_fraction=0.0).examples()
    assert len(three["train"]) == 200 and three["test"] == three["val"]
    numbered = tmp_path / "n.csv"
    numbered.write_text("".join(f'"a {i}",x\n' for i in range(50)), "utf-8")
    four = OwnExamples(str(numbered), {"text": 0}, header=False, quotes=False, val_fraction=0.5).examples()
    assert four["train"][0].text.startswith('"a ') and sum(map(len, four.values())) == 50


def test_classes_can_be_renamed_where_settings_are_typed(tmp_path):
    path = table(tmp_path / "a.jsonl", 20)
    typed = ["data=labelled", f"data.path={path}", "data.columns.text=t", "data.columns.label=y"]
    for classes, labels in (([], {"0", "1"}), (["data.classes={0: even, 1: not even}"], {"even", "not even"})):
        corpus = build(compose("train", typed + classes).settings["data"]["corpus"], "data.corpus", Corpus)
        assert {each.label for part in corpus.examples().values() for each in part} == labels


def test_a_fingerprint_of_ones_own_follows_files_and_settings(tmp_path):
    path, same = table(tmp_path / "a.jsonl", 20), table(tmp_path / "b.jsonl", 20)
    settings = [
        {}, {"val_fraction": 0.2}, {"test_fraction": 0.2}, {"classes": {"1": "odd"}}, {"encoding": "latin-1"},
        {"val_path": same}, {"test_path": same},
    ]  # fmt: skip
    found = {own(path, **each).fingerprint() for each in settings}
    columns = tmp_path / "a.tsv"
    columns.write_text("t\tl\na\tb\n")
    settings += [{}, {"header": False}, {"quotes": False}]
    found |= {own(columns, **each).fingerprint() for each in settings[-3:]}
    assert len(found) == len(settings) and own(same).fingerprint() in found
    assert OwnExamples(path, {"text": "t"}).fingerprint() not in found
    table(tmp_path / "a.jsonl", 21)
    assert own(path).fingerprint() not in found


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"path": None}, ConfigError, r"data=labelled needs data\.path="),
        ({"path": "none.csv"}, DataError, r"data\.path=.*none\.csv is no file \(now in "),
        ({"test_path": "none.csv"}, DataError, r"data\.test_path=none\.csv is no file"),
        ({"val_fraction": -0.1}, ConfigError, r"data\.val_fraction=-0\.1 must be from 0"),
        ({"test_fraction": 1.0}, ConfigError, r"data\.test_fraction=1\.0 must be from 0"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, ConfigError, "data.val_fraction=0.5 and .*=0.5 leave no rest"),
        ({"val_fraction": 0}, ConfigError, r"data\.val_fraction=0 leaves nothing to validate on: give data\.val_path"),
        ({"val_fraction": 1e-9}, DataError, r"the val split of a\.jsonl has no examples; .* a larger fraction"),
        ({"header": False}, ConfigError, r"header=false is for TSV and CSV, and .*a\.jsonl is none: leave"),
        ({"quotes": False}, ConfigError, r"quotes=false is for TSV and CSV, and .*a\.jsonl is none: leave"),
        (
            {"columns": {"text": "t", "label": "y"}, "classes": {"7": "x"}},
            DataError,
            r"data\.classes: 7 is no label of",
        ),
        ({"columns": {"text": "T"}}, DataError, r"data\.columns\.text=T is no column of a\.jsonl"),
    ],
)
def test_what_is_no_table_of_ones_own_is_one_line(tmp_path, settings, error, message):
    given = {"path": table(tmp_path / "a.jsonl", 20), "columns": {"text": "t"}} | settings
    with pytest.raises(error, match=message) as raised:
        OwnExamples(**given).examples()
    assert "\n" not in str(raised.value)
