"""A prompt as tokens, for every verb alike."""

import io

import pytest

from molino.base.errors import ConfigError
from molino.data.prompt import ask_prompt, encode_prompt, respelt
from molino.data.tokenizers import train_char


@pytest.fixture
def tokenizer():
    return train_char(["en un lugar"])


def test_a_prompt_follows_what_stands_before_every_text(tokenizer):
    ids = tokenizer.encode("un lugar").tolist()
    assert encode_prompt("un lugar", tokenizer, ()) == ids
    assert encode_prompt("un lugar", tokenizer, (2, 1)) == [2, 1, *ids]
    assert encode_prompt("", tokenizer, ()) == []


def test_what_is_unknown_is_told_apart_from_what_was_asked_for(tokenizer, capsys):
    assert tokenizer.unknown_id in encode_prompt("un señor", tokenizer, ())
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.endswith("not in the vocabulary, read as <unk>: 's' 'ñ' 'o'\n")
    encode_prompt("un", tokenizer, ())
    assert capsys.readouterr().err == ""


def test_where_there_is_no_one_to_ask(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(ConfigError, match=r'add prompt="\.\.\."; or so$'):
        ask_prompt("; or so")


def test_what_is_typed_is_spelt_as_the_vocabulary_knows_it_and_that_is_said(capsys):
    tokenizer = train_char(["sen\u0303or\r\n"])
    assert encode_prompt("señor\n", tokenizer, (7,), "\r\n") == [7, *tokenizer.encode("sen\u0303or\r\n").tolist()]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "molino: read as the vocabulary knows it: '\\n' as '\\r\\n', 'ñ' as 'n\\u0303'\n"
    respelt(["ñ ｓ ｅ", "ｏ ｒ", "ｎ"], tokenizer)
    assert capsys.readouterr().err.endswith("'ｒ' as 'r' and 1 more\n")
    assert respelt(["uno", "señal"], tokenizer) == ["uno", "sen\u0303al"]
