"""Texts read a piece at a time against the same bytes decoded at once."""

import random
import sys

import pytest

from molino.base.errors import ConfigError, DataError
from molino.data import text as module
from molino.data.corpus import decode, split_fraction
from molino.data.text import FileText, Metered, decoded, strings

ENCODINGS = (
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-be",
    "utf-32",
    "latin-1",
    "cp1252",
    "shift_jis",
    "gb18030",
    "utf-7",
)
ALPHABET = "ab \r\n\r\n\tñéß文字あア😀\U0010ffff\ufeff\x85\u2028'\".,"
CHUNKS = [1, 2, 3, 5, 64, 1 << 20]


def make_text(seed: int, encoding: str, length: int = 60) -> str:
    source = random.Random(seed)
    text = "".join(source.choices(ALPHABET, k=length))
    return text.encode(encoding, "ignore").decode(encoding)


def write(path, data: bytes):
    path.write_bytes(data)
    return path


@pytest.fixture(params=CHUNKS)
def chunk(request, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", request.param)
    return request.param


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_file_is_what_decoding_it_at_once_gives(encoding, chunk, tmp_path):
    for seed in range(10):
        data = make_text(seed, encoding).encode(encoding)
        expected = decode(data, "it", encoding)
        text = FileText(write(tmp_path / "text", data), encoding)
        assert len(text) == len(expected)
        assert "".join(text) == "".join(text) == expected
        assert all(text)


@pytest.mark.parametrize("start", ["\ufeff", "\ufeff\ufeff", "\ufeffa\ufeff", ""])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_one_byte_order_mark_is_dropped(encoding, start, chunk, tmp_path):
    for data in ((start + "uno\r\ndos").encode(encoding), start.encode(encoding)):
        assert "".join(FileText(write(tmp_path / "text", data), encoding)) == decode(data, "it", encoding)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_an_encoding_of_two_byte_orders_needs_no_mark(encoding, chunk, tmp_path):
    data = "señor".encode(f"{encoding}-{sys.byteorder[0]}e")
    assert "".join(FileText(write(tmp_path / "text", data), encoding)) == data.decode(encoding) == "señor"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "shift_jis"])
def test_a_stretch_is_that_of_the_string(encoding, chunk, tmp_path):
    source = random.Random(chunk)
    data = ("\ufeff" if encoding == "utf-8" else "") + make_text(1, encoding, 200)
    text = FileText(write(tmp_path / "text", data.encode(encoding)), encoding)
    whole = "".join(text)
    places = [(0, 0), (0, 1), (3, 2), (0, len(whole)), (len(whole), None), (-5, None)]
    places += [tuple(source.choices(range(len(whole)), k=2)) for _ in range(50)]
    for start, stop in places:
        stretch = text[start:stop]
        assert "".join(stretch) == whole[start:stop] and len(stretch) == len(whole[start:stop])
        assert "".join(stretch[1:4]) == whole[start:stop][1:4]
    for fraction in (0.1, 0.5, 0.9):
        split = {name: ["".join(text) for text in texts] for name, texts in split_fraction(text, fraction).items()}
        assert split == split_fraction(whole, fraction)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "shift_jis"])
def test_line_ends_can_be_read_as_one_and_a_limit_be_set(encoding, chunk, tmp_path):
    for seed in range(5):
        source = random.Random(seed)
        data = "".join(source.choices("añ\r\n\r\n", k=80)).encode(encoding, "ignore")
        path, whole = write(tmp_path / "text", data), decode(data, "it", encoding)
        plain = whole.replace("\r\n", "\n").replace("\r", "\n")
        for universal, expected in ((False, whole), (True, plain)):
            text = FileText(path, encoding, universal=universal)
            assert len(text) == len(expected) and "".join(text) == expected
            for start, stop in (source.choices(range(81), k=2) for _ in range(20)):
                assert "".join(text[start:stop]) == expected[start:stop]
            for limit in (1, 2, 40, 80, 100):
                part = FileText(path, encoding, universal=universal, limit=limit)
                assert len(part) == len(expected[:limit]) and "".join(part) == expected[:limit]
                assert "".join(part[limit // 2 :]) == expected[:limit][limit // 2 :]
        assert "".join(decoded(path, encoding)) == whole


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32", "shift_jis", "gb18030", "ascii", "cp1252"])
def test_the_first_bad_byte_is_named_as_when_decoding_at_once(encoding, chunk, tmp_path):
    found = 0
    for seed in range(60):
        source = random.Random(seed)
        data = bytearray(make_text(seed, encoding, 30).encode(encoding))
        for _ in range(3):
            data.insert(source.randrange(4, len(data) + 1), source.randrange(0x80, 0x100))
        data = bytes(data[: source.randrange(len(data))])  # it may end within a character
        path = write(tmp_path / "text", data)
        try:
            expected = decode(data, path, encoding)
        except DataError as error:
            found += 1
            with pytest.raises(DataError) as raised:
                FileText(path, encoding)
            assert str(raised.value) == str(error)
        else:
            assert "".join(FileText(path, encoding)) == expected
    assert found > 1


@pytest.mark.parametrize("encoding", ["klingon", "rot13", "base64"])
def test_an_unknown_encoding(encoding, tmp_path):
    with pytest.raises(ConfigError, match=f"encoding={encoding} is unknown"):
        FileText(write(tmp_path / "text", b"hola"), encoding)


def test_a_file_that_changes_or_goes_while_it_is_read(tmp_path):
    text = FileText(write(tmp_path / "text", b"hola"))
    write(tmp_path / "text", b"hola y")
    with pytest.raises(DataError, match="was changed while it was read; run again"):
        list(text)
    (tmp_path / "text").unlink()
    with pytest.raises(DataError, match=r"text cannot be read \(No such file"):
        list(text)


def test_strings_of_a_text(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 3)
    assert list(strings("abcdefgh")) == ["abc", "def", "gh"] and list(strings("")) == []
    assert list(strings(["ab", "c"])) == ["ab", "c"]
    seen = []
    text = Metered("abcd", seen.append)
    assert len(text) == 4 and list(text) == ["abc", "d"] == seen
