"""The corpora as their config files describe them, held against published counts; and text of the user's own."""

import gzip
import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from molino.base.errors import ConfigError, DataError
from molino.configuration.build import build
from molino.data.corpora import imdb
from molino.data.corpora.local import UserText
from molino.data.corpora.pydocs import PyDocs
from molino.data.corpora.remote import RemoteSplits, RemoteText, Text8
from molino.data.corpus import Corpus, split_documents, split_fraction

CONF = Path(__file__).parents[2] / "conf" / "data"


def make(name, cache, mirror, **settings):
    """Make a corpus of its config file."""
    root = OmegaConf.create({"data": OmegaConf.load(CONF / f"{name}.yaml")})
    root.paths = {"cache": str(cache), "mirror": mirror and str(mirror)}
    root.data.corpus.update(settings)
    return build(OmegaConf.to_container(root.data.corpus, resolve=True), "data.corpus", Corpus)


def read(corpus):
    """Read a corpus whose texts are strings or are read a piece at a time, as strings."""
    return {split: ["".join(text) for text in texts] for split, texts in corpus.read().items()}


def check_contract(corpus, splits):
    assert corpus.name and corpus.licence
    assert getattr(corpus, "entropy_per_character", 1) > 0
    assert len(corpus.fingerprint()) == 64 and corpus.fingerprint() == corpus.fingerprint()
    assert set(splits) in ({"train", "val"}, {"train", "val", "test"})
    assert all(texts and all(texts) for texts in splits.values())
    if not corpus.documents:
        assert all(len(texts) == 1 for texts in splits.values())


@pytest.mark.parametrize(
    ("name", "characters", "distinct"), [("quijote", 1_038_397, 89), ("shakespeare", 1_115_394, 65)]
)
def test_character_corpora(mirror, tmp_path, name, characters, distinct):
    corpus = make(name, tmp_path, mirror)
    splits = read(corpus)
    check_contract(corpus, splits)
    text = splits["train"][0] + splits["val"][0]
    assert (len(text), len(set(text))) == (characters, distinct)
    assert len(splits["train"][0]) == int(0.9 * characters)


@pytest.mark.parametrize(
    ("name", "words", "distinct"),
    [("ptb", (929_589, 73_760, 82_430), 10_000), ("wikitext2", (2_088_628, 217_646, 245_569), 33_278)],
)
def test_word_corpora(mirror, tmp_path, name, words, distinct):
    corpus = make(name, tmp_path, mirror)
    splits = read(corpus)
    check_contract(corpus, splits)
    lines = {split: text.splitlines() for split, (text,) in splits.items()}
    counts = tuple(sum(len(line.split()) + 1 for line in lines[split]) for split in ("train", "val", "test"))
    assert counts == words
    # The end of line counts as a type.
    assert len({word for split in lines.values() for line in split for word in line.split()}) + 1 == distinct


def test_text8_prefix(mirror, tmp_path):
    corpus = make("text8", tmp_path, mirror)
    assert corpus.name == "text8 (first 6,000,000 characters)"
    splits = read(corpus)
    check_contract(corpus, splits)
    assert {split: len(text) for split, (text,) in splits.items()} == {
        "train": 5_400_000,
        "val": 300_000,
        "test": 300_000,
    }
    assert set(splits["train"][0]) == set("abcdefghijklmnopqrstuvwxyz ")
    digest = hashlib.sha256("".join(text for (text,) in splits.values()).encode()).hexdigest()
    assert digest == "61e8170187f175a7160f1c8bca6985927ed0e958ee5ff402f807ca334d184c63"


def test_imdb(mirror, tmp_path):
    corpus = make("imdb", tmp_path, mirror)
    splits = read(corpus)
    check_contract(corpus, splits)
    labels = {split: [each.label == "positive" for each in part] for split, part in corpus.examples().items()}
    assert corpus.documents
    for split, reviews in (("train", 22_500), ("val", 2_500), ("test", 25_000)):
        assert len(splits[split]) == len(labels[split]) == reviews
        assert sum(labels[split]) == reviews // 2
    sizes = {split: sum(len(review.encode()) for review in texts) for split, texts in splits.items()}
    assert sizes["train"] + sizes["val"] == 33_132_823 and sizes["test"] == 32_350_685
    assert splits["train"][0].startswith("Bromwell High is a cartoon comedy.")
    assert splits["train"][1].startswith("Story of a man who has unnatural feelings for a pig.")


def remote(path, mirror):
    """Describe a file that lies in a mirror."""
    digest = hashlib.sha256((mirror / "raw" / path).read_bytes()).hexdigest()
    return {"url": None, "sha256": digest, "mirror_path": path}


@pytest.fixture
def own_mirror(tmp_path):
    """A mirror with an IMDB of two reviews a folder, numbered so that sorting them as text would be wrong."""
    (tmp_path / "mirror" / "raw").mkdir(parents=True)
    with tarfile.open(tmp_path / "mirror" / "raw" / "imdb.tar.gz", "w:gz") as archive:
        for part in ("train", "test"):
            for folder in ("neg", "pos", "unsup"):
                for number in (10, 9):
                    contents = f"{part} {folder} {number} ñ".encode()
                    header = tarfile.TarInfo(f"aclImdb/{part}/{folder}/{number}_7.txt")
                    header.size = len(contents)
                    archive.addfile(header, io.BytesIO(contents))
    return tmp_path / "mirror"


def test_imdb_is_ordered_by_number_and_alternates(own_mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(imdb, "REVIEWS_PER_FOLDER", 2)
    monkeypatch.setattr(imdb, "VALIDATION_REVIEWS", 2)
    expected = {
        "train": ["train pos 9 ñ", "train neg 9 ñ"],
        "val": ["train pos 10 ñ", "train neg 10 ñ"],
        "test": ["test pos 9 ñ", "test neg 9 ñ", "test pos 10 ñ", "test neg 10 ñ"],
    }
    digest = hashlib.sha256("".join(review + "\0" for split in expected.values() for review in split).encode())
    archive = remote("imdb.tar.gz", own_mirror)
    absent = {"url": None, "sha256": "0" * 64, "mirror_path": "absent.tar.gz"}
    one = imdb.Imdb("none", digest.hexdigest(), archive, absent, str(tmp_path), str(own_mirror))
    other = imdb.Imdb("none", digest.hexdigest(), absent, archive, str(tmp_path), str(own_mirror))
    assert one.read() == expected
    copy = tmp_path / "texts" / one.fingerprint()
    for damage in (copy.unlink, lambda: copy.write_bytes(b"train pos 9")):  # the other archive is read
        damage()
        assert other.read() == expected
    (own_mirror / "raw" / "imdb.tar.gz").rename(own_mirror / "moved")
    assert one.read() == other.read() == expected  # none is
    (own_mirror / "moved").rename(own_mirror / "raw" / "imdb.tar.gz")
    both = ["positive", "negative"]
    labels = {split: [each.label for each in part] for split, part in one.examples().items()}
    assert labels == {"train": both, "val": both, "test": both * 2}
    assert one.fingerprint() == other.fingerprint()
    with pytest.raises(DataError, match="expected reviews"):
        imdb.Imdb("none", "0" * 64, archive, absent, str(tmp_path), str(own_mirror)).read()


def test_text8_says_which_part_it_is(own_mirror, tmp_path):
    with zipfile.ZipFile(own_mirror / "raw" / "text8.zip", "w") as archive:
        archive.writestr("text8", "abcdefghij" * 10)
    (own_mirror / "raw" / "text8_first.gz").write_bytes(gzip.compress(b"abcdefghij" * 2))
    whole, prefix = remote("text8.zip", own_mirror), remote("text8_first.gz", own_mirror)
    corpus = Text8("free", whole, prefix, str(tmp_path), str(own_mirror))
    assert corpus.name == "text8"
    assert {split: len(text) for split, (text,) in corpus.read().items()} == {"train": 90, "val": 5, "test": 5}
    (own_mirror / "raw" / "text8.zip").unlink()
    part = Text8("free", whole, prefix, str(tmp_path), str(own_mirror))
    assert part.name != corpus.name and part.fingerprint() != corpus.fingerprint()
    assert [len(text) for (text,) in part.read().values()] == [18, 1, 1]


def test_fingerprints_need_no_file(tmp_path):
    names = ("quijote", "shakespeare", "text8", "ptb", "wikitext2", "imdb")
    assert len({make(name, tmp_path / "none", None).fingerprint() for name in names}) == len(names)
    assert list(tmp_path.iterdir()) == []


def test_fingerprint_follows_the_split(tmp_path):
    assert (
        make("quijote", tmp_path, None).fingerprint()
        != make("quijote", tmp_path, None, train_fraction=0.8).fingerprint()
    )


def test_remote_text_that_is_not_utf8(own_mirror, tmp_path):
    (own_mirror / "raw" / "latin.txt").write_bytes("el señor".encode("latin-1"))
    corpus = RemoteText("a", "b", cache=str(tmp_path), mirror=str(own_mirror), **remote("latin.txt", own_mirror))
    with pytest.raises(DataError, match=r"latin\.txt is not utf-8: byte 0xf1 at offset 5"):
        corpus.read()


def test_a_remote_file_with_a_wrong_key_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="url, sha256, mirror_path and perhaps member"):
        RemoteSplits("a", "b", {"url": "x", "sha": "y"}, {}, {}, str(tmp_path))


def test_pydocs(tmp_path):
    corpus = make("pydocs", tmp_path, None)
    splits = read(corpus)
    check_contract(corpus, splits)
    text = splits["train"][0] + splits["val"][0]
    assert 300_000 < len(text) < 1_500_000
    if sys.version_info[:3] == (3, 11, 7):
        assert len(text) == 465_048
    assert PyDocs(train_fraction=0.5).fingerprint() != corpus.fingerprint()


def test_splits_are_contiguous():
    assert split_fraction("abcdefghij", 0.9) == {"train": ["abcdefghi"], "val": ["j"]}
    assert split_documents(["a", "b", "c"], 0.9) == {"train": ["a", "b"], "val": ["c"]}
    assert split_documents(["a", "b", "c"], 0.1) == {"train": ["a"], "val": ["b", "c"]}
    assert split_documents(["abcd"], 0.5) == {"train": ["ab"], "val": ["cd"]}


def test_a_test_split_is_the_end_of_a_text():
    """Of what is before it the first part is trained on, as if there were no more."""
    text = "abcdefghijklmnopqrst"
    assert split_fraction(text, 0.9, 0.5) == {"train": ["abcdefghi"], "val": ["j"], "test": ["klmnopqrst"]}
    assert split_fraction(text, 0.5, 0.1) == {"train": ["abcdefghi"], "val": ["jklmnopqr"], "test": ["st"]}
    files = list(text)
    assert split_documents(files, 0.9, 0.5) == {"train": files[:9], "val": files[9:10], "test": files[10:]}
    assert split_documents(files[:3], 0.9, 0.01) == {"train": ["a"], "val": ["b"], "test": ["c"]}
    assert split_documents(["abcd"], 0.5, 0.25) == {"train": ["a"], "val": ["bc"], "test": ["d"]}
    with pytest.raises(DataError, match="2 documents cannot be split into three"):
        split_documents(["a", "b"], 0.9, 0.1)
    with pytest.raises(DataError, match="too short to split"):
        split_fraction("abcd", 0.9, 0.1)
    for fraction in (-0.1, 1, float("nan")):
        with pytest.raises(ConfigError, match=f"test_fraction={fraction} leaves no text to train on"):
            split_fraction(text, 0.9, fraction)


def test_without_a_test_split_a_text_is_the_corpus_it_was(tmp_path):
    (tmp_path / "a.txt").write_text("en un lugar de la Mancha", "utf-8")
    plain, none, some = (UserText(str(tmp_path / "a.txt"), test_fraction=share) for share in (0.0, 0, 0.2))
    assert plain.fingerprint() == none.fingerprint() != some.fingerprint()
    splits = {name: "".join(text[0]) for name, text in some.read().items()}
    assert splits == {"train": "en un lugar de la ", "val": "Ma", "test": "ncha"}


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2, float("nan")])
def test_a_fraction_out_of_range_is_a_config_error(fraction):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split_fraction("abc", fraction)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        PyDocs(train_fraction=fraction)


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_too_short_to_split(text):
    with pytest.raises(DataError, match="too short"):
        split_fraction(text, 0.9)


def test_a_file_is_one_text(tmp_path):
    path = tmp_path / "[mine].txt"
    path.write_bytes("\ufeffuno\r\ndos ñ\n".encode())
    corpus = make("text", tmp_path, None, path=str(path))
    splits = read(corpus)
    check_contract(corpus, splits)
    assert corpus.documents is False
    assert splits["train"][0] + splits["val"][0] == "uno\r\ndos ñ\n"


def test_a_folder_or_a_pattern_is_documents(tmp_path):
    for name, text in {"b.txt": "b", "a/z.md": "az", "c.TXT": "c", "empty.txt": " \n", "no.py": "no"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    folder = UserText(str(tmp_path))
    assert folder.documents
    assert read(folder) == {"train": ["az", "b"], "val": ["c"]}
    assert read(UserText(f"{tmp_path}/**/*.md", 0.5)) == {"train": ["a"], "val": ["z"]}
    assert UserText(f"{tmp_path}/**/*.md", 0.5).documents is False
    before = folder.fingerprint()
    (tmp_path / "b.txt").write_text("B", encoding="utf-8")
    assert UserText(str(tmp_path)).fingerprint() != before


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        ("señor".encode("latin-1"), r"mine\.txt is not utf-8: byte 0xf1 at offset 2; .*data\.corpus\.encoding"),
        ("hola".encode("utf-16"), r"encoding=utf-16$"),
        ("hola".encode("utf-32"), r"encoding=utf-32$"),
        (gzip.compress(b"hola", mtime=0), "is a gzip file"),
        (b"PK\x03\x04...", "is a zip file"),
    ],
)
def test_what_is_no_text_is_one_line(tmp_path, contents, message):
    (tmp_path / "mine.txt").write_bytes(contents)
    with pytest.raises(DataError, match=message) as error:
        UserText(str(tmp_path / "mine.txt")).read()
    assert "\n" not in str(error.value)


def test_a_text_is_that_of_its_fingerprint(tmp_path):
    path = tmp_path / "growing.txt"
    path.write_text("one line\n")
    corpus = UserText(str(path))
    corpus.fingerprint()
    path.write_text("one line\nand another\n")
    with pytest.raises(DataError, match=r"growing\.txt was changed while it was read; run again"):
        corpus.read()


def test_other_encodings_can_be_named(tmp_path):
    for encoding in ("utf-16", "latin-1"):
        (tmp_path / encoding).write_bytes("señor".encode(encoding))
        assert read(UserText(str(tmp_path / encoding), 0.5, encoding)) == {"train": ["se"], "val": ["ñor"]}
    with pytest.raises(ConfigError, match="encoding=klingon"):
        UserText(str(tmp_path / "latin-1"), 0.5, "klingon").read()


def test_what_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"data=text needs data\.path=<file, folder or glob>"):
        make("text", tmp_path, None)
    with pytest.raises(DataError, match="does not exist"):
        UserText(str(tmp_path / "missing.txt"))
    with pytest.raises(DataError, match=r"has no \.txt or \.md file"):
        UserText(str(tmp_path))


def test_the_fingerprint_of_an_own_text_follows_what_it_is_read_as(tmp_path):
    """The same bytes are another text in another encoding, and other splits by another fraction."""
    file = tmp_path / "text.txt"
    file.write_bytes("señor ".encode() * 10)
    texts = [UserText(str(file)), UserText(str(file), encoding="latin-1"), UserText(str(file), train_fraction=0.8)]
    found = [text.fingerprint() for text in texts]
    assert len(set(found)) == 3 and UserText(str(file)).fingerprint() == found[0]
    file.write_bytes("señal ".encode() * 10)
    assert UserText(str(file)).fingerprint() != found[0]


def test_of_imdbs_two_files_the_first_that_is_there_is_read(own_mirror, tmp_path):
    there = remote("imdb.tar.gz", own_mirror)
    absent = [{"url": f"https://localhost/{n}", "sha256": str(n) * 64, "mirror_path": f"{n}.tar"} for n in (1, 2)]
    also = own_mirror / "raw" / "also.tar.gz"
    also.write_bytes(b"another")
    other = remote("also.tar.gz", own_mirror)

    def chosen(whole, labelled):
        return imdb.Imdb("none", "0" * 64, whole, labelled, str(tmp_path), str(own_mirror)).file.sha256

    assert chosen(there, other) == there["sha256"] and chosen(other, there) == other["sha256"]
    assert chosen(absent[0], there) == chosen(there, absent[0]) == there["sha256"]
    # The whole archive is what is downloaded.
    assert chosen(*absent) == absent[0]["sha256"] and chosen(*reversed(absent)) == absent[1]["sha256"]
