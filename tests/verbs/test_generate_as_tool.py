"""molino generate among other programs: files of prompts, pipes, stop texts, what it writes and refuses."""

import functools
import json
import subprocess
import sys
from unittest import mock

import pytest
import torch
from chatting import CHATML, write_folder
from conftest import CPU, ROOT

from molino.trained.load import load_run

PROMPTS = ["en un lugar", "de la", "¡señor!"]


@pytest.fixture(scope="module")
def places(tiny):
    return [f"run={tiny.path}", f"paths.outputs={tiny.outputs}", *CPU, "max_new_tokens=30"]


@pytest.fixture(scope="module")
def alone(molino, places):
    """What comes out for a prompt of its own. (The seed decides it, so it is asked for once.)"""

    @functools.cache
    def alone(prompt, *settings):
        done = molino("generate", *places, f"prompt={prompt}", *settings)
        assert done.status == 0, done.err
        return done.out

    return alone


@pytest.fixture
def piped(places):
    """Run the command with something on its standard input."""

    def piped(data, *settings):
        command = [sys.executable, "-m", "molino", "generate", *places, *settings]
        done = subprocess.run(command, input=data.encode(), capture_output=True, cwd=ROOT, timeout=120)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return piped


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"{each}\n" for each in PROMPTS), "utf-8")
    return path


def test_several_prompts_are_each_as_it_is_alone(molino, places, alone, file, tmp_path):
    wanted = "".join(f"--- prompt {n} ---\n{alone(each)}" for n, each in enumerate(PROMPTS, start=1))
    table = tmp_path / "p.jsonl"
    table.write_text("".join(json.dumps({"q": {"text": each}}) + "\n" for each in PROMPTS), "utf-8")
    for asked in (
        ["prompt=[en un lugar, de la, ¡señor!]"],
        ["prompt=['en un lugar', \"de la\" , ¡señor!]"],
        [f"prompts={file}"],
        [f"prompts={table}", "prompts_field=q.text"],
    ):
        done = molino("generate", *places, *asked)
        assert (done.status, done.out) == (0, wanted), done.err
    done = molino("generate", *places, f"prompts={file}", "samples=2")
    both = [alone(each, "samples=2").split(" ---\n") for each in PROMPTS]
    titled = done.out.split(" ---\n")
    assert titled[0] == "--- prompt 1, sample 1" and titled[-1] == both[2][2]
    assert titled[1] == both[0][1].replace("--- sample 2", "--- prompt 1, sample 2")


def test_a_list_that_is_meant_as_text(alone):
    assert alone("[en un,]").startswith("en un")  # a list of one
    for quoted in ('"[en, un]"', "'[en, un]'"):
        assert alone(quoted).startswith("[en, un]")
    assert alone("[en").startswith("[en") and alone("en, un]").startswith("en, un]")


def test_what_is_piped(piped, alone):
    """As a whole it is one prompt, with `-` one a line."""
    assert piped("en un\nlugar\n")[:2] == (0, alone("en un\nlugar"))
    wanted = "".join(f"--- prompt {n} ---\n{alone(each)}" for n, each in enumerate(PROMPTS, start=1))
    assert piped("\n".join(PROMPTS), "prompts=-")[:2] == (0, wanted)
    assert piped("read by nobody", "prompt=de la")[:2] == (0, alone("de la"))
    status, out, err = piped("")
    assert (status, out) == (2, "") and err.startswith('molino: there is no prompt: add prompt="..."; an empty one')


def test_new_text_alone(alone):
    for settings in ([], ["samples=3"]):
        whole, new = alone("en un lugar", *settings), alone("en un lugar", *settings, "new_text_only=true")
        assert new == whole.replace("en un lugar", "") and new != whole


@pytest.mark.parametrize("stop", ["a", "[a]", "[zzz, a]", '"a"', "['a', b]"])
def test_stop_texts(alone, stop):
    free = alone("en un lugar")
    ended = alone("en un lugar", f"stop={stop}")
    ends = [free.find(each, len("en un lugar")) for each in ("a", *("b" * ("b" in stop)))]
    assert ended == free[: min(end for end in ends if end >= 0)] + "\n"
    assert ended != free


def test_a_stop_text_of_line_ends_and_commas(alone):
    for stop, text in (("\n", "\n"), ("[\n,¡]", "\n"), ("', '", ", "), (", ", ", "), ('[", "]', ", ")):
        for seed in range(2):
            free = alone("en un lugar", f"seed={seed}", "max_new_tokens=60")[:-1].removeprefix("en un lugar")
            ended = alone("en un lugar", f"seed={seed}", "max_new_tokens=60", f"stop={stop}", "new_text_only=true")
            cut = free.partition(text)[0]
            assert ended == (cut.partition("¡")[0] if "¡" in stop else cut) + "\n"


def test_a_file_of_what_was_drawn(molino, places, tiny, file, tmp_path, alone):
    target = tmp_path / "deep" / "out.jsonl"
    asked = [*places, f"prompts={file}", "samples=2", "max_new_tokens=10", "seed=4"]
    done = molino("generate", *asked, f"to={target}", "stop=u")
    assert (done.status, done.out) == (0, f"{target}: 6 texts\n"), done.err
    rows = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    assert [(row["prompt"], row["sample"]) for row in rows] == [(each, n) for each in PROMPTS for n in (1, 2)]
    assert all(list(row) == ["prompt", "sample", "text", "ended", "tokens", "logprobs", "seconds"] for row in rows)
    loaded = load_run(tiny.path, "best", torch.device("cpu"))
    for row in rows:
        text = loaded.tokenizer.decode(row["tokens"])
        assert row["text"] == text.partition("u")[0] and row["ended"] == ("stop" if "u" in text else "length")
        ids = [*loaded.tokenizer.encode(row["prompt"]).tolist(), *row["tokens"]][-16:]
        with torch.no_grad():
            logp_V = loaded.model(torch.tensor([ids[:-1]]))[0, -1].double().log_softmax(-1)
        if len(row["prompt"]) + len(row["tokens"]) <= 16:
            assert row["logprobs"][-1] == pytest.approx(logp_V[ids[-1]].item(), abs=1e-5)
        assert len(row["logprobs"]) == len(row["tokens"]) and row["seconds"] > 0
    assert {row["ended"] for row in rows} == {"stop", "length"}
    drawn = sum(len(row["tokens"]) for row in rows)
    assert f"molino: {drawn} new tokens in " in done.err
    again = molino("generate", *asked, f"to={target}")
    assert again.status == 2 and again.err == f"molino: {target} exists: choose another name, nothing is overwritten\n"


def test_the_end_of_a_text_is_told(molino, tiny_documents, tmp_path):
    places = [f"run={tiny_documents.path}", f"paths.outputs={tiny_documents.outputs}", *CPU]
    asked = (*places, "prompt=", "samples=8", "max_new_tokens=300")
    assert molino("generate", *asked, f"to={tmp_path / 'o.jsonl'}").status == 0
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text("utf-8").splitlines()]
    ended = [row for row in rows if row["ended"] == "end"]
    assert ended and all(row["tokens"][-1] == 2 and 2 not in row["tokens"][:-1] for row in ended)
    texts = [text.partition(" ---\n")[2][:-1] for text in molino("generate", *asked).out.split("--- sample ")[1:]]
    assert [row["text"] for row in rows] == texts


@pytest.mark.parametrize(
    ("settings", "status", "says"),
    [
        (["prompt=a", "prompts={file}"], 2, "prompt= and prompts={file} are two ways to ask: give one"),
        (["prompt=[]"], 2, "prompt=[] holds no prompt"),
        (["prompt=a", "stop="], 2, 'stop="" would end every text before it begins'),
        (["prompt=a", "stop=[a, ,b]"], 2, 'stop="" would end every text before it begins'),
        (["prompt=a", "prompts_field=text"], 2, "prompts_field=text is for a table: add prompts=<file>"),
        (["prompts={file}", "prompts_field=text"], 2, "prompts={file} has a prompt a line: leave it out"),
        (["prompts=nowhere.txt"], 3, "prompts=nowhere.txt cannot be read"),
        (["prompts="], 2, 'prompts="" names no file'),
        (["prompt=a", "to={folder}/a.txt"], 2, "a.txt must end with .jsonl"),
        (["prompt=a", "to={folder}/a.jsonl", "new_text_only=true"], 2, "leave new_text_only out"),
        (["prompt=a", "system=b"], 2, "system= is a message of a chat: add chat=true"),
        (["prompt=a", "chat=true"], 2, "chat=true needs source="),
        (["prompt=a", "chat=true", "new_text_only=true"], 2, "chat=true shows the answer alone"),
        (["prompt=a", "chat=maybe"], 2, "chat must be bool"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(molino, places, file, tmp_path, settings, status, says):
    settings = [each.format(file=file, folder=tmp_path) for each in settings]
    with mock.patch("molino.verbs.generate.load", side_effect=AssertionError("loaded")):
        done = molino("generate", *places, *settings)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith("molino: ") and done.err.count("\n") == 1 and says.format(file=file) in done.err


def test_remarks_on_many_prompts_are_few(molino, places, tmp_path):
    long = [f"€{'a' * (20 + n)}" for n in range(9)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": each}) + "\n" for each in [*long, "\ud800"]))
    done = molino("generate", *places, f"prompts={tmp_path / 'p.jsonl'}", f"to={tmp_path / 'o.jsonl'}")
    lines = done.err.splitlines()
    assert done.status == 0 and lines[0] == "molino: not in the vocabulary, read as <unk>: '€'"
    assert lines[1] == "molino: the prompt has 21 tokens; the model sees the last 16, its context"
    assert len(lines) == 7 and lines[5] == "molino: and 6 more such remarks" and "new tokens in" in lines[6]
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text("utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == [*long, "\ud800"]


def test_what_fails_leaves_no_file(molino, places, tmp_path):
    with mock.patch("molino.verbs.generate.as_record", side_effect=KeyboardInterrupt):
        assert molino("generate", *places, "prompt=a", f"to={tmp_path / 'o.jsonl'}").status == 130
    assert not list(tmp_path.iterdir())


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "model", CHATML, ends=[2, 4])
    return tmp_path / "model"


def test_a_chat(molino, folder, tmp_path):
    """The answer alone; the template's words are what the model reads."""
    asked = (f"source={folder}", *CPU, "max_new_tokens=20")
    form = "<|im_start|>{}\n{}<|im_end|>\n"
    done = molino("generate", *asked, "prompt=¿Qué?", "chat=true", "system=Sé breve.", f"to={tmp_path / 'o.jsonl'}")
    assert done.status == 0, done.err
    row = json.loads((tmp_path / "o.jsonl").read_text("utf-8"))
    assert row["prompt"] == "¿Qué?"
    told = molino("generate", *asked, "prompt=¿Qué?", "chat=true", "system=Sé breve.")
    assert told.out == row["text"] + "\n"
    other = molino("generate", *asked, "prompt=¿Qué?", "chat=true")
    assert other.status == 0 and other.out != told.out
    written = form.format("system", "Sé breve.") + form.format("user", "¿Qué?") + "<|im_start|>assistant\n"
    # As plain text the names of tokens are letters.
    plain = molino("generate", *asked, f"prompt={written}", "new_text_only=true")
    assert plain.status == 0 and plain.out != told.out


def test_a_template_that_refuses_is_one_line(molino, folder):
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no\nsystem') }}", "utf-8")
    done = molino("generate", f"source={folder}", *CPU, "prompt=a", "chat=true")
    assert done.status == 3
    assert done.err == f"molino: the chat template of {folder} cannot be used here: no system\n"


def test_a_place_that_cannot_be_written(molino, places, file):
    done = molino("generate", *places, "prompt=a", f"to={file}/o.jsonl")
    assert done.status == 5 and done.err.startswith(f"molino: {file}") and done.err.count("\n") == 1


def test_progress_is_told_of_long_work(molino, places, tmp_path, monkeypatch):
    monkeypatch.setattr("molino.base.console.SECONDS_BETWEEN_LINES", 0.0)
    done = molino("generate", *places, "prompt=[a,b]", "stop=e", f"to={tmp_path / 'o.jsonl'}")
    lines = done.out.splitlines()
    assert lines[0].startswith("writing: ") and lines[-2] == "writing: 100%" and lines[-1].endswith("2 texts")
