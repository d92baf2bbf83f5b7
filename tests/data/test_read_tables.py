"""Tables of every kind against the rows they were made of, and what is no table as one line that says what to do."""

import json

import pytest

from molino.base.errors import ConfigError, DataError
from molino.data.tables import column, read_table

ROWS = [{"text": "uno", "label": "1"}, {"text": "dos ñ", "label": "0"}]


def written(tmp_path, name, contents):
    path = tmp_path / name
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode("utf-8"))
    return path


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("a.tsv", "text\tlabel\nuno\t1\ndos ñ\t0\n"),
        ("a.TAB", "text\tlabel\r\nuno\t1\r\ndos ñ\t0\r\n"),
        ("a.txt", "\ufefftext\tlabel\nuno\t1\n\n \t \ndos ñ\t0"),
        ("a.csv", 'text,label\nuno,1\n"dos ñ",0\n'),
        ("a.csv", "\ufeff text , label\r\nuno,1\r\n\r\ndos ñ,0\r\n"),
        ("a.jsonl", '{"text": "uno", "label": "1"}\n\n{"text": "dos ñ", "label": "0"}\n'),
        ("a.ndjson", '\ufeff{"text": "uno", "label": "1"}\r\n{"text": "dos \\u00f1", "label": "0"}'),
        ("a.json", '{"text": "uno", "label": "1"}\n{"text": "dos ñ", "label": "0"}'),
        ("a.json", '\n [{"text": "uno", "label": "1"},\n {"text": "dos ñ", "label": "0"}]'),
    ],
)
def test_a_table_is_its_rows_however_it_is_written(tmp_path, name, contents):
    assert read_table(written(tmp_path, name, contents)) == ROWS


def test_a_parquet_is_its_rows(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"text": "uno", "stars": 4, "of": {"tags": ["a", "b"]}}, {"text": None, "stars": None, "of": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    read = read_table(tmp_path / "a.parquet")
    assert read == rows
    assert [column("of.tags", read, "a", "s")(row) for row in read] == [["a", "b"], None]


def test_quotation_marks_hold_a_field_together_or_are_text(tmp_path):
    quoted = written(tmp_path, "a.csv", 'text,label\n"one, ""two""\r\n\nthree",1\n')
    assert read_table(quoted) == [{"text": 'one, "two"\r\n\nthree', "label": "1"}]
    plain = written(tmp_path, "a.tsv", 'text\tlabel\n"one\t1\ntw"o\t0\n')
    assert [row["text"] for row in read_table(plain, quotes=False)] == ['"one', 'tw"o']
    with pytest.raises(
        DataError,
        match=r"a\.tsv is no table with quotation marks \(.*\): where they are part of the text, set quotes=false",
    ):
        read_table(plain)


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
@pytest.mark.parametrize("quotes", [True, False])
def test_only_line_ends_end_a_row(tmp_path, mark, quotes):
    """Python calls many other characters line ends, and they occur in texts from the web."""
    path = written(tmp_path, "a.csv", f"text,label\none{mark}two,1\n")
    assert read_table(path, quotes=quotes) == [{"text": f"one{mark}two", "label": "1"}]
    (row,) = read_table(written(tmp_path, "a.jsonl", json.dumps({"text": f"a{mark}b"}, ensure_ascii=False)))
    assert row == {"text": f"a{mark}b"}


def test_a_field_may_be_as_long_as_a_book(tmp_path):
    text = "palabra " * 50_000  # beyond the limit that Python's csv begins with
    assert read_table(written(tmp_path, "a.csv", f'text,label\n"{text}",1\n'))[0]["text"] == text


def test_without_a_header_columns_are_numbers(tmp_path):
    path = written(tmp_path, "a.tsv", "uno\t1\ndos\t0\tmás\n")
    rows = read_table(path, header=False)
    assert rows == [{"0": "uno", "1": "1"}, {"0": "dos", "1": "0", "2": "más"}]
    assert [column(2, rows, path, "columns.pair")(row) for row in rows] == [None, "más"]


@pytest.mark.parametrize(("row", "count"), [("3", 1), ("a good, lovely film,5", 3)])
def test_rows_have_as_many_fields_as_the_header(tmp_path, row, count):
    """A comma in a text without quotation marks would make a label of its second half."""
    with pytest.raises(DataError, match=rf"line 3 has {count} fields, but its header names 2: .*quotation marks"):
        read_table(written(tmp_path, "a.csv", f"a,b\n1,2\n{row}\n"))


def test_a_name_stands_once_in_a_header(tmp_path):
    with pytest.raises(DataError, match="its header names 'a' twice"):
        read_table(written(tmp_path, "a.csv", "a,b,a\n1,2,3\n"))


def test_another_layout_than_that_of_the_name_can_be_asked_for(tmp_path):
    assert read_table(written(tmp_path, "a.data", "a,b\n1,2\n"), suffix=".csv") == [{"a": "1", "b": "2"}]


def test_other_encodings_are_read(tmp_path):
    path = written(tmp_path, "a.csv", "text\nseñor\n".encode("latin-1"))
    assert read_table(path, encoding="latin-1") == [{"text": "señor"}]
    with pytest.raises(ConfigError, match="klingon"):
        read_table(path, encoding="klingon")


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("a.tsv", None, r"a\.tsv cannot be read \(No such file"),
        ("a.parquet", None, r"a\.parquet does not exist"),
        ("a.parquet", "text\tlabel", r"a\.parquet is damaged or no Parquet"),
        ("a.xlsx", "PK", r"a\.xlsx is no table: its name must end in \.tsv, .*\.csv, \.jsonl, .*\.parquet"),
        ("a.jsonl", '{"a": 1}\n\n{"a": \n', r"a\.jsonl, line 3 is no JSON \("),
        ("a.jsonl", '{"a": 1}\n[1]\n', r"a\.jsonl, line 2 is no object of names and values, but list"),
        ("a.json", '[{"a": 1}, 7]', r"a\.json, .* 2 is no object of names and values, but int"),
        ("a.json", '[{"a": 1},', r"a\.json is no JSON \("),
        ("a.tsv", "", r"a\.tsv is empty"),
        ("a.csv", "text,label\n \n", r"a\.csv is empty"),
        ("a.jsonl", " \n", r"a\.jsonl is empty"),
        ("a.json", "[]", r"a\.json is empty"),
        ("a.csv", "text\nseñor".encode("latin-1"), r"a\.csv is not utf-8: byte 0xf1 at offset 7"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path, name, contents, message):
    if contents is not None:
        written(tmp_path, name, contents)
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=message) as error:
        read_table(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("question.stem", ["why", None]),
        ("question.choices.text", [["a", "b"], None]),
        ("deep.a.b", [None, [1, [2, 3]]]),
        ("dotted.name", [7, None]),
    ],
)
def test_dots_go_into_nested_values_and_lists(name, values):
    rows = [
        {"question": {"stem": "why", "choices": [{"text": "a"}, {"text": "b"}]}, "dotted.name": 7},
        {"question": "none", "deep": {"a": [{"b": 1}, {"b": [2, 3]}]}},
    ]
    assert [column(name, rows, "a", "s")(row) for row in rows] == values


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lable",
            r"data\.columns\.label=lable is no column of a\.csv; did you mean label\? Known here: label, note, text",
        ),
        ("zzz", r"=zzz is no column of a\.csv\. Known here"),
        ("note", r"=note is empty in every row of a\.csv"),
        ("text.inner", r"=text\.inner is empty in every row of a\.csv"),
    ],
)
def test_a_column_that_is_not_there_is_one_line_that_names_the_nearest(name, message):
    rows = [{"text": "a", "label": "1", "note": None}] * 3
    with pytest.raises(DataError, match=message):
        column(name, rows, "a.csv", "data.columns.label")
