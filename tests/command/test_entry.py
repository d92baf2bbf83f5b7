"""The entry points: help, texts on the command line, sweeps, defects, output that nobody reads."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import CPU, ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from molino.base.errors import ConfigError
from molino.base.messages import one_line, typed
from molino.command.entry import prepare_environment
from molino.command.help import help_text
from molino.command.verbs import VERBS
from molino.configuration.choices import CONF
from molino.configuration.overrides import arrange, check_resumed, describe_overruled, quote
from molino.runs import directory


def test_a_traceback_on_demand(molino):
    # What is raised, Python itself shows with its traceback.
    with pytest.raises(ConfigError, match="seed=-1"):
        molino("train", "debug=traceback", "seed=-1")


def test_defects_keep_their_traceback(molino, monkeypatch):
    monkeypatch.setattr("molino.verbs.train.open_run", lambda request: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        molino("train")


def test_help_is_quick_and_says_how():
    code = """
import json, sys
from molino.command.entry import command
verb = sys.argv[1]
sys.argv = [verb, "--help"]
try:
    command(verb)
finally:
    heavy = {"torch", "lightning", "tokenizers", "numpy", "hydra", "omegaconf", "yaml"}
    print(json.dumps(sorted(heavy & sys.modules.keys())))
"""
    for verb in ("train", "generate", "evaluate"):
        done = subprocess.run([sys.executable, "-c", code, verb], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert f"Usage: molino {verb} " in done.stdout
        assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize("verb", VERBS)
def test_help_cuts_no_sentence_and_promises_what_there_is(verb):
    shown = help_text(verb, CONF)
    root = (CONF / f"{verb}.yaml").read_text("utf-8")
    assert ("-m seed=" in shown) == (verb == "train") and ("-m run=" in shown) == (verb != "train" and "\nrun:" in root)
    assert ("--config-dir" in shown) == ("Groups:" in shown)
    groups = re.findall(r"^  (\S+)=\n((?:    .*\n)+)", shown, re.MULTILINE)
    assert bool(groups) == ("Groups:" in shown)
    for group, listed in groups:
        for name, said in re.findall(r"^    (\S+) +(.+)$", listed, re.MULTILINE):
            lines = (CONF / group / f"{name}.yaml").read_text("utf-8").splitlines()
            whole = " ".join(line[2:] for line in lines if re.match("# (?!@package|COMMAND: )", line))
            assert whole.startswith(said) and (said == whole or said.endswith(".")), (group, name)


AWKWARD = [
    "En un lugar",
    "a, b, c",
    "it's",
    'she said "no"',
    '"No," he said, "never"',
    "'a' and 'b'",
    "[1, 2",
    "{a: b}",
    "a=b=c",
    "price: ${5}",
    "\\${a}",
    "ends in \\",
    "\\'",
    "x'\\",
    "¡señor! 字 🙂",
    "two\nlines\tand a tab",
    "  spaces  ",
    "$(1+1) `x` #y",
    "1605",
    "'",
    '"',
]


@pytest.mark.parametrize("value", AWKWARD)
@pytest.mark.parametrize("key", ["prompt", "data.path", "context", "data.columns.target"])
def test_any_text_passes_unchanged(key, value):
    override = OverridesParser.create().parse_override(quote(f"{key}={value}"))
    assert override.key_or_group == key
    assert OmegaConf.create({"value": override.value(), "other": 1}).value == value


@pytest.mark.parametrize(
    "argument",
    [
        "prompt='a, b'",
        'prompt="it\'s"',
        "prompt=",
        "prompt",
        "paths.mirror=null",
        "seed=1,2",
        "data.columns.target=[one,other]",
    ],
)
def test_what_is_quoted_already_or_no_text_stays(argument):
    assert quote(argument) == argument


def test_in_a_sweep_lists_are_hydras():
    assert arrange(["seed=0,1", "-m", "data.path=my texts/*.txt"]) == ["-m", "seed=0,1", "data.path='my texts/*.txt'"]
    assert arrange(["-m", "data.path=a,b"]) == ["-m", "data.path=a,b"] and arrange(["run=a,b"]) == ["run='a,b'"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["seed=1", "model=gpt", "seed=2"], "seed=1: seed=2 counts"),
        (["seed=1", "+seed=2", "seed=3"], "seed=1: seed=3 counts; +seed=2: seed=3 counts"),
        (["model=gpt", "model.n_layer=2", "model=gpt"], ""),
        (["~callbacks.x", "+callbacks.x=3"], ""),
        (["run='mine'", "run='my run'"], "run=mine: run=my run counts"),
    ],
)
def test_of_what_is_typed_twice_the_last_counts(overrides, says):
    assert describe_overruled(overrides) == says


def test_what_is_typed_twice_is_said(molino, tiny, tmp_path):
    places = [f"data.path={tiny.file}", *CPU, f"paths.cache={tiny.cache}", f"paths.outputs={tmp_path}"]
    done = molino("train", "data=text", "model=bigram", "debug=fast", "seed=1", "seed=2", *places)
    line = next(line for line in done.out.splitlines() if "typed twice" in line)
    assert done.err == "" and line.split("typed twice")[1].strip().endswith("seed=1: seed=2 counts")
    done = molino("evaluate", "run=nothing", f"run={tiny.path}", "floors=false", *tiny.settings)
    assert done.status == 0 and done.err == f"molino: typed twice: run=nothing: run={tiny.path} counts\n"


@pytest.mark.parametrize("arguments", [["--help"], [*CPU, "model=bigram", "debug=fast"]])
def test_output_that_nobody_reads_to_its_end(tmp_path, tiny, arguments):
    settings = ["data=text", f"data.path={tiny.file}", f"paths.outputs={tmp_path}", f"paths.cache={tiny.cache}"]
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *arguments, *settings]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 141


@pytest.mark.parametrize(
    "override",
    ["seed=4", "model.n_layer=2", "+model.x=2", "~model.x", "data=text", "debug=fast", "trainer.max_steps=9"],
)
def test_a_resumed_run_takes_nothing_else(override):
    with pytest.raises(ConfigError) as raised:
        check_resumed(["++resume=x", "paths.cache=/new", override])
    assert str(raised.value).startswith(f"{override} cannot be changed in a run that is resumed")


def test_a_resumed_run_may_be_told_of_this_machine():
    check_resumed(["resume=x", "paths.cache=/c", "hardware=cpu", "+hardware.threads=1", "hydra.verbose=true"])
    check_resumed(["resume=x", "debug=traceback"])
    check_resumed(["resume=null", "seed=4"])
    check_resumed(["resume=", "seed=4"])
    check_resumed(["seed=4"])


# The surroundings of a command


def test_a_run_needs_no_standard_streams(tmp_path, tiny):
    def close():
        for number in (0, 1, 2):
            os.close(number)

    places = [f"data.path={tiny.file}", f"paths.outputs={tmp_path}", f"paths.cache={tiny.cache}"]
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *CPU, "model=bigram", "debug=fast", "data=text"]
    assert subprocess.run([*command, *places], preexec_fn=close, timeout=60).returncode == 0
    (run,) = directory.list_runs(tmp_path)
    assert directory.is_done(run) and "perplexity" in (run / "metrics.csv").read_text()


def test_in_a_locale_that_is_not_utf_8_text_is_escaped_and_the_prompt_is_read(tiny):
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, str(ROOT / "scripts" / "generate.py"), f"run={tiny.path}", *CPU, "max_new_tokens=3"]
    done = subprocess.run([*command, "prompt=¡señor! €"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("\\xa1se\\xf1or! \\u20ac"), done.stderr
    # Of the prompt's characters the text of the run lacks this one alone.
    unknown, pace = done.stderr.splitlines()
    assert unknown == "molino: not in the vocabulary, read as <unk>: '\\u20ac'" and "new tokens in" in pace


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("[a,b]", ["a", "b"]),
        ("[en un lugar,  de la ]", ["en un lugar", "de la"]),
        ("['a, b', \"it's\" , ¡señor!, ${x}, 1605, null]", ["a, b", "it's", "¡señor!", "${x}", "1605", "null"]),
        ("[\n,a\n]", ["\n", "a\n"]),
        ("[a,]", ["a"]),
        ("[a,,b]", ["a", "", "b"]),
        ("[]", []),
        ("[it's, so]", ["it's", "so"]),
    ],
)
def test_a_list_of_texts(value, texts):
    for key in ("prompt", "stop"):
        override = OverridesParser.create().parse_override(quote(f"{key}={value}", "generate"))
        found = OmegaConf.to_container(OmegaConf.create({"x": override.value()}), resolve=True)["x"]
        assert list(map(str, found)) == texts
    # Elsewhere a prompt is one text, and so it is in quotes of its own.
    assert quote(f"prompt={value}", "explain") == quote(f"prompt={value}") != quote(f"prompt={value}", "generate")
    assert quote("prompt='[a,b]'", "generate") == "prompt='[a,b]'"


def test_arguments_are_read_as_utf_8(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "prompt=se\udcc3\udcb1or", "name=señor", "name=\udcff"])
    prepare_environment()
    # As a whole, or not at all.
    assert sys.argv[1:] == ["prompt=se\udcc3\udcb1or", "name=señor", "name=\udcff"]
    monkeypatch.setattr(sys, "argv", ["train.py", "prompt=se\udcc3\udcb1or", "name=señor"])
    prepare_environment()
    assert sys.argv[1:] == ["prompt=señor", "name=señor"]


def test_a_path_that_a_locale_cannot_write_is_one_line():
    with pytest.raises(UnicodeEncodeError) as raised:
        "outputs/ñu".encode("ascii")
    assert one_line(raised.value) == (
        "'ñ' cannot be a part of a path in this locale (ascii): set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
    )


def test_a_name_whose_bytes_are_no_text_is_to_be_renamed():
    with pytest.raises(UnicodeEncodeError) as raised:
        "outputs/\udcff".encode()
    assert one_line(raised.value).endswith("cannot be a part of a path in this locale (utf-8): rename it")


def test_an_empty_variable_is_as_if_it_were_not_set(molino, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("MOLINO_CACHE", "")
    monkeypatch.setenv("MOLINO_MIRROR", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    done = molino("train", "data=text", f"data.path={tiny.file}", *CPU, "model=bigram", "debug=fast")
    assert done.status == 0, done.err
    assert {path.name for path in (tmp_path / "home" / ".cache" / "molino").iterdir()} >= {"tokens", "tokenizers"}
    assert {path.name for path in tmp_path.iterdir()} == {"home", "outputs"}
    for name in ("cache", "outputs"):
        done = molino("train", f"paths.{name}=")
        assert done.status == 2 and done.err == f"molino: paths.{name} is empty: name a folder\n"


@pytest.mark.parametrize(
    ("verb", "arguments", "says"),
    [
        ("train", [], "paths.cache=~/.cache/molino needs a home, and there is none: set MOLINO_CACHE or paths.cache"),
        ("evaluate", ["run=latest"], "set MOLINO_CACHE or paths.cache"),
        ("train", ["paths.cache=x", "paths.outputs=~/x"], "needs a home, and there is none: set paths.outputs"),
        ("train", ["paths.cache=x", "data=text", "data.path=~/x"], "begins with ~ names a home that is not there"),
    ],
)
def test_a_user_without_a_home_is_told_what_to_set(molino, tmp_path, monkeypatch, verb, arguments, says):
    def getpwuid(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("MOLINO_CACHE", raising=False)
    monkeypatch.setattr("pwd.getpwuid", getpwuid)
    monkeypatch.chdir(tmp_path)
    done = molino(verb, *arguments)
    assert done.status == 2 and says in done.err and done.err.count("\n") == 1


def test_a_working_directory_that_goes_meanwhile_ends_nothing(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    (tmp_path / "molino").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.chdir(tmp_path)
    assert typed("train") == "molino train"
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert typed("train", "run=a b") == f"{tmp_path / 'molino'} train 'run=a b'"


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_a_working_directory_that_is_gone_is_one_line(molino, tmp_path, monkeypatch, arguments):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    done = molino("train", *arguments)
    assert done.status == 2
    assert done.err == "molino: the working directory has been deleted: change to one that exists\n"
