"""molino generate on a terminal: it asks again and again."""

import re
import shlex
import sys

import pytest
import torch
from chatting import CHATML, write_folder
from conftest import CPU
from terminals import QUESTION, type_at

from molino.trained.conversation import Conversation, read_chat
from molino.trained.load import load_run, load_source
from molino.trained.writing import Sampling, Writer

GENERATE = (sys.executable, "-m", "molino", "generate", *CPU)


@pytest.fixture
def command(tiny):
    return [*GENERATE, f"run={tiny.path}"]


@pytest.fixture
def talk(tiny):
    return Conversation(Writer(load_run(tiny.path, "best", torch.device("cpu")), Sampling(max_new_tokens=10, seed=2)))


def turns_of(shown):
    """What was shown after each question, the line that was typed left out."""
    return [part.partition("\n")[2] for part in shown.split(QUESTION)[1:]]


def test_each_turn_goes_on_with_the_text_so_far(command, talk):
    typed = ("en un", " lugar", "de")
    status, shown = type_at(
        [*command, "max_new_tokens=10", "seed=2"], [(QUESTION, f"{each}\n") for each in (*typed, "")]
    )
    turns = turns_of(shown)
    assert status == 0 and re.fullmatch(r"molino: 30 new tokens in .* a second\n", turns[-1])
    wanted = [each + "".join(talk.turn(each)) + "\n" for each in typed]
    told = "molino: the text has outgrown the context of 16 tokens: the model no longer sees its beginning\n"
    assert turns[:3] == [wanted[0], told + wanted[1], wanted[2]]


def test_new_text_alone_until_control_d(command, talk):
    settings = ["max_new_tokens=10", "seed=2", "new_text_only=true"]
    status, shown = type_at([*command, *settings], [(QUESTION, "en un\n"), (QUESTION, "\x04")])
    assert status == 0 and turns_of(shown)[0] == "".join(talk.turn("en un")) + "\n"


def test_control_c_ends_it_while_it_draws(command, talk):
    begun = "en un\nen un" + "".join(talk.turn("en un"))[:5]
    asked = [(QUESTION, "en un\n"), (begun.replace("\n", "\r\n"), "\x03")]
    status, shown = type_at([*command, "max_new_tokens=1000000", "seed=2"], asked)
    assert status == 0 and "Traceback" not in shown and re.search(r"\nmolino: [\d,]+ new tokens in ", shown)


def test_several_samples_and_a_file_are_asked_for_once(command, tmp_path):
    settings = ["max_new_tokens=10", "samples=2", f"to={tmp_path / 'o.jsonl'}"]
    status, shown = type_at([*command, *settings], [(QUESTION, "en un\n")])
    assert status == 0 and shown.count(QUESTION) == 1 and "o.jsonl: 2 texts" in shown
    assert (tmp_path / "o.jsonl").read_text("utf-8").count('"prompt": "en un"') == 2


def test_who_types_nothing_where_it_is_asked_once(command):
    status, shown = type_at([*command, "samples=2"], [(QUESTION, "\x04")])
    assert status == 2 and "molino: no prompt was typed: type one, or add prompt=" in shown


def test_what_goes_into_a_file_is_the_text_alone(command, talk, tmp_path):
    words = shlex.join([*command, "max_new_tokens=10", "seed=2"])
    typed = [(QUESTION, "en un\n"), (QUESTION, "\n")]
    status, shown = type_at(["bash", "-c", f"{words} > {shlex.quote(str(tmp_path / 'out.txt'))}"], typed)
    assert status == 0 and shown.startswith(f"{QUESTION}en un\n{QUESTION}\n")
    assert (tmp_path / "out.txt").read_text("utf-8") == "en un" + "".join(talk.turn("en un")) + "\n"


def test_a_chat_in_turns(tmp_path):
    write_folder(tmp_path, CHATML, ends=[2, 4])
    settings = [f"source={tmp_path}", "max_new_tokens=8", "chat=true", "system=Sé breve."]
    status, shown = type_at([*GENERATE, *settings], [(QUESTION, f"{each}\n") for each in ("¿Qué?", "sí", "")])
    loaded = load_source(str(tmp_path), torch.device("cpu"))
    talk = Conversation(Writer(loaded, Sampling(max_new_tokens=8)), read_chat(str(tmp_path), "Sé breve."))
    answers = ["".join(talk.turn(each)) for each in ("¿Qué?", "sí")]
    assert status == 0 and all(letter.isprintable() or letter == "\n" for letter in shown)
    if all(answer.isprintable() for answer in answers):
        assert turns_of(shown)[:2] == [f"{answer}\n" for answer in answers]
