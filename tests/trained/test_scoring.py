"""What is typed to ask a language model is spelt as its vocabulary knows it."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

from torch import nn

from molino.data.examples import Example
from molino.data.tokenizers import train_char
from molino.tasks.zero_shot import Probe
from molino.trained import scoring
from molino.trained.loaded import LoadedRun


def test_template_and_words_are_spelt_and_texts_are_not(monkeypatch, capsys):
    monkeypatch.setattr(scoring, "require_next_token", lambda model, who: None)
    monkeypatch.setattr(scoring, "measure_probe", lambda reader, *asked: asked)
    tokenizer = train_char(["Es un an\u0303o {text} {label}"])
    loaded = LoadedRun(Path("run"), {}, None, tokenizer, nn.Module(), 1, 0)
    examples = [Example("año", label="bad")]
    asked = scoring.Asked("own", examples, (), Probe("words", ("bad",), "{text} año {label}"), {"bad": "ño"})
    hardware = SimpleNamespace(autocast=contextlib.nullcontext)
    probe, read, _, words = scoring.score_of(loaded, asked, hardware)
    assert probe.template == "{text} an\u0303o {label}" and words == {"bad": "n\u0303o"} and read is examples
    assert capsys.readouterr().err == "molino: read as the vocabulary knows it: 'ñ' as 'n\\u0303'\n"
