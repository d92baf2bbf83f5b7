"""Floors through the cache: counted once, whoever asks, and counted again where what is kept is damaged."""

import functools
import json

import pytest

from molino.data.corpora.local import UserText
from molino.data.tokenizers import train_char
from molino.data.tokens import prepare
from molino.runs.measures import Floor
from molino.tasks.floors import count_floors, known_floors
from molino.tasks.language_model import LanguageModel


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text("en un lugar de la Mancha, " * 60, "utf-8")
    return prepare(UserText(str(tmp_path / "text.txt")), functools.partial(train_char), tmp_path / "cache")


def test_they_are_known_once_they_have_been_counted(text, monkeypatch):
    task = LanguageModel()
    assert known_floors(task, text, "val", 8) is None
    found = count_floors(task, text, "val", 8)
    assert found == task.floors(text, "val", 8) and "floor/kneser_ney" in {floor.tag for floor in found}
    monkeypatch.setattr(LanguageModel, "floors", lambda *_: pytest.fail("counted again"))
    assert known_floors(task, text, "val", 8) == count_floors(LanguageModel(), text, "val", 8) == found
    # Of another split, or another task, nothing is known yet.
    assert known_floors(task, text, "train", 8) is None
    assert known_floors(LanguageModel("val/perplexity"), text, "val", 8) is None


@pytest.mark.parametrize("content", ["", "{", "[]x", "null", '[{"tag": 1}]', '[{"tag": "a", "value": "low"}]', "[1]"])
def test_what_is_damaged_is_counted_again(text, content):
    found = count_floors(LanguageModel(), text, "val", 8)
    (path,) = (text.cache / "counts" / text.digest).glob("floors-*.json")
    path.write_text(content)
    assert known_floors(LanguageModel(), text, "val", 8) is None
    assert (
        count_floors(LanguageModel(), text, "val", 8)
        == found
        == [Floor(**each) for each in json.loads(path.read_text())]
    )
