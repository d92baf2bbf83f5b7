"""What a run is asked of examples is spelt as its vocabulary knows it, but for what an answer is to be found in."""

from pathlib import Path

import pytest
from torch import nn

from molino.data.examples import Example
from molino.data.tokenizers import train_char
from molino.trained.loaded import LoadedRun
from molino.trained.predicting import answers_of


class Told:
    """A task that tells what it was asked."""

    fields: tuple[str, ...] = ("text",)

    def predict(self, network, tokenizer, examples, block_size):
        return [{"asked": each.texts} for each in examples]


@pytest.mark.parametrize("found", [False, True])
def test_examples_are_spelt_as_the_vocabulary_knows_them(found, capsys):
    task = Told()
    task.fields = ("question", "context") if found else ("text",)
    tokenizer, network = train_char(["sen\u0303or an\u0303o\r\n"]), nn.Module()
    network.block_size = 8
    loaded = LoadedRun(Path("run"), {}, task, tokenizer, network, 1, 0, line_end="\r\n")
    asked = [Example("señor", "año\n", ("ñ", "o")), Example("no"), Example("x", "señ")]
    expected = [("sen\u0303or", "an\u0303o\r\n", "n\u0303", "o"), ("no",), ("x", "sen\u0303")]
    if found:
        expected = [("sen\u0303or", "año\n", "n\u0303", "o"), ("no",), ("x", "señ")]
    assert [each["asked"] for each in answers_of(loaded, asked)] == expected
    first, *rest = capsys.readouterr().err.splitlines()
    assert "'ñ' as 'n\\u0303'" in first
    assert rest == [f"molino: not in the vocabulary, read as <unk>: {chr(39)}ñ{chr(39)} 'x'" if found else
                    "molino: not in the vocabulary, read as <unk>: 'x'"]  # fmt: skip
