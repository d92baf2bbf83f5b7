"""The entry points: help, texts on the command line, sweeps, defects, output that nobody reads."""

import json
import subprocess
import sys

import pytest
from conftest import CPU, ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from molino.base.errors import ConfigError
from molino.configuration.overrides import arrange, check_resumed, quote


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
    command(f"scripts/{verb}.py")
finally:
    print(json.dumps(sorted({"torch", "lightning", "tokenizers", "numpy"} & sys.modules.keys())))
"""
    for verb in ("train", "generate", "evaluate"):
        done = subprocess.run([sys.executable, "-c", code, verb], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert f"python scripts/{verb}.py" in done.stdout
        assert json.loads(done.stdout.splitlines()[-1]) == []


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
@pytest.mark.parametrize("key", ["prompt", "data.path"])
def test_any_text_passes_unchanged(key, value):
    override = OverridesParser.create().parse_override(quote(f"{key}={value}"))
    assert override.key_or_group == key
    assert OmegaConf.create({"value": override.value(), "other": 1}).value == value


@pytest.mark.parametrize(
    "argument", ["prompt='a, b'", 'prompt="it\'s"', "prompt=", "prompt", "paths.mirror=null", "seed=1,2"]
)
def test_what_is_quoted_already_or_no_text_stays(argument):
    assert quote(argument) == argument


def test_in_a_sweep_lists_are_hydras():
    assert arrange(["seed=0,1", "-m", "data.path=my texts/*.txt"]) == ["-m", "seed=0,1", "data.path='my texts/*.txt'"]
    assert arrange(["-m", "data.path=a,b"]) == ["-m", "data.path=a,b"] and arrange(["run=a,b"]) == ["run='a,b'"]


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
