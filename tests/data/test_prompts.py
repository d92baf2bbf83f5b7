"""Prompts of files, tables and standard input."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molino.base.errors import ConfigError, DataError
from molino.data.prompts import read_prompt, read_prompts

TEXTS = ["En un lugar", ' de la, "Mancha"', "¡señor!"]


def piped(monkeypatch, data):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), "ascii"))


def test_a_prompt_a_line(tmp_path, monkeypatch):
    """Blank lines are none; spaces belong to a prompt, a carriage return and a byte order mark do not."""
    data = '\ufeffEn un lugar\r\n\n de la, "Mancha"\n   \n¡señor!'.encode()
    for name in ("p.txt", "p", "p.prompts"):
        (tmp_path / name).write_bytes(data)
        assert read_prompts(str(tmp_path / name)) == TEXTS
    piped(monkeypatch, data)
    assert read_prompts("-") == TEXTS


def test_tables(tmp_path):
    for name in ("p.jsonl", "p.ndjson"):
        lines = [json.dumps({"prompt": text, "more": {"asked": text + "?"}}) + "\n" for text in TEXTS]
        (tmp_path / name).write_text("".join(lines), "utf-8")
        assert read_prompts(str(tmp_path / name)) == TEXTS
        assert read_prompts(str(tmp_path / name), "more.asked") == [text + "?" for text in TEXTS]
    pq.write_table(pa.table({"prompt": TEXTS}), tmp_path / "p.parquet")
    assert read_prompts(str(tmp_path / "p.parquet")) == TEXTS
    (tmp_path / "p.csv").write_text('n,prompt\n1,"a, b"\n2,c\n', "utf-8")
    assert read_prompts(str(tmp_path / "p.csv")) == ["a, b", "c"]
    assert read_prompts(str(tmp_path / "p.csv"), "n") == ["1", "2"]
    (tmp_path / "p.tsv").write_text("prompt\ta\nb\tc\n", "utf-8")
    assert read_prompts(str(tmp_path / "p.tsv")) == ["b"]


@pytest.mark.parametrize(
    ("name", "content", "field", "kind", "says"),
    [
        ("p.txt", b"\n \n", "prompt", DataError, "holds no prompt: give one a line"),
        ("p.txt", b"a\n", "text", ConfigError, "prompts_field=text is for a table"),
        ("p.txt", b"\xff", "prompt", DataError, "p.txt"),
        ("p.txt", None, "prompt", DataError, "p.txt cannot be read"),
        ("p.jsonl", None, "prompt", DataError, "p.jsonl cannot be read"),
        ("p.jsonl", b'{"prompt": "a"}\n', "promt", DataError, "prompts_field=promt is no column"),
        ("p.jsonl", b'{"prompt": "a"}\n{"text": "a"}\n', "prompt", DataError, "row 2 has no text in prompt"),
        ("p.jsonl", b'{"prompt": ["a"]}\n', "prompt", DataError, "holds \\['a'\\]"),
        ("p.jsonl", b'{"prompt": true}\n', "prompt", DataError, "row 1 has no text in prompt: it holds True"),
    ],
)
def test_mistakes(tmp_path, name, content, field, kind, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=says):
        read_prompts(str(tmp_path / name), field)


def test_all_of_standard_input_is_one_prompt(monkeypatch):
    for data, wanted in ((b"a\nb\n", "a\nb"), (b"a\r\n", "a"), (b"a\n\n", "a\n"), ("ñ".encode(), "ñ"), (b"\n", "")):
        piped(monkeypatch, data)
        assert read_prompt("") == wanted
    piped(monkeypatch, b"")
    with pytest.raises(ConfigError, match=r'there is no prompt: add prompt="\.\.\."; or so'):
        read_prompt("; or so")
    piped(monkeypatch, b"\xff")
    with pytest.raises(DataError, match="standard input"):
        read_prompt("")
