"""XQuAD against its files read here, and questions of one's own: SQuAD's format and tables."""

import copy
import json

import pytest

from molino.base.errors import ConfigError, DataError
from molino.configuration.build import build
from molino.configuration.composer import compose
from molino.data.corpora.answers import OwnAnswers
from molino.data.corpus import Corpus
from molino.data.examples import Answer, Example


def composed(*typed):
    return build(compose("train", list(typed)).settings["data"]["corpus"], "data.corpus", Corpus)


@pytest.fixture(scope="module")
def xquad(mirror, tmp_path_factory):
    """Of each language its corpus and the articles of its file."""
    cache = tmp_path_factory.mktemp("cache")
    files = {name: mirror / f"raw/xquad/xquad.{name}.json" for name in ("en", "es")}
    return {
        name: (
            composed(f"data=xquad_{name}", f"paths.mirror={mirror}", f"paths.cache={cache}"),
            json.loads(file.read_text("utf-8"))["data"],
        )
        for name, file in files.items()
    }


@pytest.mark.parametrize("language", ["en", "es"])
def test_xquad_is_its_file_and_every_answer_stands_at_its_offset(xquad, language):
    corpus, articles = xquad[language]
    splits = corpus.examples()
    assert corpus.language == language and corpus.licence == "CC BY-SA 4.0" and corpus.documents
    assert list(splits) == ["train", "val", "test"] and sum(map(len, splits.values())) == 1190
    assert len({each.pair for part in splits.values() for each in part}) == 240
    asked = [
        (asked["question"].strip(), paragraph["context"].strip(), tuple(answer["text"] for answer in asked["answers"]))
        for article in articles
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]
    found = [(each.text, each.pair, tuple(a.text for a in each.answers)) for part in splits.values() for each in part]
    assert sorted(found) == sorted(asked)
    for part in splits.values():
        for each in part:
            (answer,) = each.answers
            assert each.pair[answer.start : answer.start + len(answer.text)] == answer.text
    assert corpus.read() == {s: [t for each in part for t in (each.text, each.pair)] for s, part in splits.items()}


def test_a_byte_order_mark_inside_a_paragraph_stays_and_counts(xquad):
    first = xquad["es"][0].examples()["train"][0]
    assert first.text == "¿Cuántos puntos dejaron escapar en defensa los Panthers?"
    assert first.pair.startswith("\ufeffLos Panthers, que") and first.answers == (Answer(133, "308"),)


def test_no_article_is_on_two_sides_and_languages_hold_out_the_same(xquad):
    titles = {}
    for language, (corpus, articles) in xquad.items():
        title_of = {p["context"].strip(): article["title"] for article in articles for p in article["paragraphs"]}
        splits = corpus.examples()
        titles[language] = {split: {title_of[each.pair] for each in part} for split, part in splits.items()}
        assert {split: len(each) for split, each in titles[language].items()} == {"train": 32, "val": 8, "test": 8}
        assert len(set.union(*titles[language].values())) == 48
    assert titles["en"] == titles["es"]
    english, spanish = (xquad[language][0].examples() for language in ("en", "es"))
    counts = {split: len(part) for split, part in english.items()}
    assert counts == {split: len(part) for split, part in spanish.items()} == {"train": 816, "val": 176, "test": 198}
    assert xquad["en"][0].fingerprint() != xquad["es"][0].fingerprint()


# One's own

COLUMNS = {"text": "question", "pair": "context", "answer": "answer", "offset": None}


def article(number, titled=True, paragraphs=2):
    """Each paragraph with two questions, the second of which has two right answers."""

    def paragraph(n):
        context = f" In {number} there were {n} of {n}."
        one = {"question": f"when, {n}?", "answers": [{"text": str(number), "answer_start": 4}]}
        twice = [{"text": f"{n}", "answer_start": context.rindex(str(n))}, {"text": "of", "answer_start": 0}]
        twice[1]["answer_start"] = context.index(" of") + 1
        return {"context": context, "qas": [one, {"question": f"how many, {n}?", "answers": twice}]}

    inside = {"paragraphs": [paragraph(n) for n in range(paragraphs)]}
    return {"title": f"article {number}", **inside} if titled else inside


def squad(path, articles):
    path.write_text(json.dumps({"version": "1.1", "data": articles}), "utf-8")
    return str(path)


def sides(corpus):
    """Of each split the articles that its questions are about."""
    return {split: {each.pair.split()[1] for each in part} for split, part in corpus.examples().items()}


def test_a_file_of_ones_own_is_split_by_articles_and_growth_moves_none(tmp_path):
    few, more = [article(1000 + n) for n in range(60)], [article(2000 + n) for n in range(60)]
    typed = ["data=answers", f"data.path={squad(tmp_path / 'a.json', few)}", "data.val_fraction=0.2"]
    corpus = composed(*typed, "data.test_fraction=0.2")
    before = sides(corpus)
    assert list(before) == ["train", "val", "test"] and sum(map(len, before.values())) == 60
    assert all(len(part) == 4 * len(before[split]) for split, part in corpus.examples().items())
    first = corpus.examples()["train"][1]
    assert first.text == "how many, 0?" and first.answers[1] == Answer(first.pair.index("of"), "of")
    # A paragraph more and other articles between them: every article stays where it was.
    grown = [
        each for two in zip(more, [article(1000 + n, paragraphs=3) for n in range(60)], strict=True) for each in two
    ]
    squad(tmp_path / "a.json", grown)
    after = sides(composed(*typed, "data.test_fraction=0.2"))
    assert all(before[split] == {each for each in after[split] if each.startswith("1")} for split in before)


def test_an_article_without_a_title_is_its_first_paragraph(tmp_path):
    path = squad(tmp_path / "a.json", [article(1000 + n, titled=False) for n in range(40)])
    found = sides(OwnAnswers(path, COLUMNS, val_fraction=0.3))
    assert sum(map(len, found.values())) == 40 and len(found["val"]) > 3


def test_a_question_without_an_answer_has_none(tmp_path):
    (one := copy.deepcopy(article(1)))["paragraphs"][0]["qas"][0]["answers"] = []  # as in SQuAD 2.0
    path, val = squad(tmp_path / "a.json", [one]), squad(tmp_path / "v.json", [article(2)])
    assert OwnAnswers(path, COLUMNS, val_path=val).examples()["train"][0].answers == ()


def test_tables_say_an_offset_or_an_answer_is_looked_for(tmp_path):
    rows = [("who?", "“Me and me”, he said", "me", 8), ("when?", "in 1605", "1605", 3)]
    path = tmp_path / "a.csv"
    path.write_text("q,c,a,o\n" + "".join(f'{q},"{c}",{a},{o}\n' for q, c, a, o in rows), "utf-8")
    typed = ["data=answers", f"data.path={path}", f"data.val_path={path}", "data.columns.text=q"]
    typed += ["data.columns.pair=c", "data.columns.answer=a"]
    at = [composed(*typed, *more).examples()["train"] for more in ([], ["data.columns.offset=o"])]
    assert at[0] == at[1] == [Example(q, c, answers=(Answer(o, a),)) for q, c, a, o in rows]
    # As on the hub: lists within a column.
    nested = [{"q": q, "c": c, "a": {"text": [a, c], "answer_start": [o, 0]}} for q, c, a, o in rows]
    (lines := tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in nested), "utf-8")
    columns = {"text": "q", "pair": "c", "answer": "a.text", "offset": "a.answer_start"}
    found = OwnAnswers(str(lines), columns, val_path=str(lines)).examples()["val"]
    assert [each.answers for each in found] == [(Answer(o, a), Answer(0, c)) for _, c, a, o in rows]


def test_questions_about_one_text_of_a_table_are_on_one_side(tmp_path):
    lines = [{"question": f"{k}?", "context": f"text {n}", "answer": str(n)} for k in range(3) for n in range(80)]
    (path := tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    found = sides(OwnAnswers(str(path), COLUMNS, val_fraction=0.2, test_fraction=0.2))
    assert sum(map(len, found.values())) == 80 and min(map(len, found.values())) > 5


def test_a_fingerprint_follows_files_and_settings(tmp_path):
    path, same = (squad(tmp_path / name, [article(n) for n in range(20)]) for name in ("a.json", "b.json"))
    settings = [
        {}, {"val_fraction": 0.2}, {"test_fraction": 0.2}, {"encoding": "latin-1"}, {"val_path": same},
        {"test_path": same}, {"header": False}, {"quotes": False}, {"columns": {**COLUMNS, "offset": "o"}},
    ]  # fmt: skip
    found = {OwnAnswers(**{"path": path, "columns": COLUMNS} | each).fingerprint() for each in settings}
    assert len(found) == len(settings) and OwnAnswers(same, COLUMNS).fingerprint() in found
    squad(tmp_path / "a.json", [article(n) for n in range(21)])
    assert OwnAnswers(path, COLUMNS).fingerprint() not in found


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"path": None}, ConfigError, r"data=answers needs data\.path=<JSON in SQuAD's format"),
        ({"path": "none.json"}, DataError, r"data\.path=none\.json is no file"),
        ({"val_path": "none.json"}, DataError, r"data\.val_path=none\.json is no file"),
        ({"val_fraction": 0.0}, ConfigError, r"data\.val_fraction=0 leaves nothing to validate on"),
        ({"test_fraction": 1.0}, ConfigError, r"data\.test_fraction=1\.0 must be from 0"),
        ({"val_fraction": 1e-9}, DataError, r"the val split of a\.json has no examples"),
        ({"columns": {"text": "q", "pair": None, "answer": "a"}}, ConfigError, r"data\.columns\.pair is null: name"),
        ({"columns": {"text": "q", "pair": "c"}}, ConfigError, r"data\.columns\.answer is null: name the column"),
    ],
)
def test_what_are_no_questions_of_ones_own_is_one_line(tmp_path, monkeypatch, settings, error, message):
    monkeypatch.chdir(tmp_path)
    given = {"path": squad(tmp_path / "a.json", [article(n) for n in range(20)]), "columns": COLUMNS}
    with pytest.raises(error, match=message) as raised:
        OwnAnswers(**given | settings).examples()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("{", r"a\.json is no JSON in SQuAD's format \(JSONDecodeError: .*\), which has data, in it paragraphs"),
        ("[]", r"a\.json is no JSON in SQuAD's format \(TypeError"),
        ('{"rows": []}', r"a\.json is no JSON in SQuAD's format \(KeyError: 'data'\)"),
        ('{"data": [1]}', r"a\.json is no JSON in SQuAD's format"),
        ('{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b"}]}]}]}', r"\(KeyError: 'answers'\)"),
        ('{"data": []}', r"a\.json is empty; give a file with questions in it"),
    ],
)
def test_what_is_not_squads_format_is_one_line(tmp_path, contents, message):
    (tmp_path / "a.json").write_text(contents)
    with pytest.raises(DataError, match=message) as error:
        OwnAnswers(str(tmp_path / "a.json"), COLUMNS).examples()
    assert "\n" not in str(error.value)


def test_an_answer_that_is_not_there_names_the_question(tmp_path):
    (wrong := article(1605))["paragraphs"][1]["qas"][0]["answers"][0]["answer_start"] = 0
    with pytest.raises(
        DataError, match=r"a\.json, example 3: the answer '1605' is not at its offset 0, where ' In ' st"
    ):
        OwnAnswers(squad(tmp_path / "a.json", [wrong]), COLUMNS).examples()
    (tmp_path / "a.csv").write_text("question,context,answer\nwhen?,in 1605,1605\nwhen?,in 1605,1615\n")
    with pytest.raises(DataError, match=r"a\.csv, example 2: the answer '1615' does not stand in its text"):
        OwnAnswers(str(tmp_path / "a.csv"), COLUMNS).examples()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"q": " ", "c": "one", "a": "one"}, r"a\.jsonl, example 2: its question is empty: fill it, or leave it out"),
        ({"q": "who", "c": " ", "a": "one"}, r"example 2: the text that the answer 'one' stands in is empty"),
    ],
)
def test_an_empty_question_or_context_names_its_row(tmp_path, row, message):
    rows = [{"q": "who", "c": "one and two", "a": "two"}, row]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    columns = COLUMNS | {"text": "q", "pair": "c", "answer": "a"}
    with pytest.raises(DataError, match=message):
        OwnAnswers(str(tmp_path / "a.jsonl"), columns).examples()
