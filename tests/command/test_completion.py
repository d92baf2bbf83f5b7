"""What a tab completes: verbs, groups, choices, settings, runs; in three shells."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from molino.command.candidates import candidates
from molino.command.completion import SHELLS

CONF = ROOT / "conf"


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("molino tr", ["train"]),
        ("molino nothing ", []),
        ("molino train model=g", ["model=gpt", "model=gpt1", "model=gpt2"]),
        ("molino train +model=b", ["+model=bert", "+model=bigram"]),
        ("molino train data/tok", ["data/tokenizer="]),
        ("molino train -m model=gpt data=sh", ["data=shakespeare"]),
        ("molino train model=bigram model.n_l", []),
        ("molino train model.n_l", ["model.n_layer="]),
        ("molino train model=bigram model.", ["model.block_size="]),
        ("molino train scheduler=step scheduler.g", ["scheduler.gamma="]),
        ("molino train experiment=quijote_bigram trainer.max", ["trainer.max_steps="]),
        ("molino evaluate spl", ["split="]),
        ("molino evaluate mod", []),
        ("molino evaluate floors=", ["floors=true", "floors=false"]),
        ("molino train --he", ["--help"]),
        # What does not compose is no reason to be silent.
        ("molino train model=nothing seed", ["seed="]),
    ],
)
def test_candidates(line, expected):
    assert candidates(line) == expected


def test_all_choices_and_a_level_of_settings_at_a_time():
    assert candidates("molino train data=") == [f"data={name}" for name in choices("data")]
    shown = candidates("molino train ")
    assert {"model=", "model.", "data/tokenizer=", "trainer.", "seed=", "hydra/launcher="} <= set(shown)
    assert not [each for each in shown if each.startswith(("hydra.", "model.n_layer"))]


def test_runs_by_name(tiny):
    line = f"molino generate paths.outputs={tiny.outputs} run="
    assert candidates(line) == ["run=latest", f"run={tiny.path.name}"]


def test_choices_of_ones_own(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: mine.Net\n")
    assert candidates(f"molino train --config-dir {tmp_path} model=m") == ["model=mine"]


def test_hydras_state_is_left_alone():
    from hydra.core.hydra_config import HydraConfig

    before = HydraConfig.instance().cfg
    candidates("molino train model.")
    assert HydraConfig.instance().cfg is before


# What each shell would put in place of the last word, one a line.
ASK = {
    "bash": """
{script}
COMP_LINE="$1"; COMP_POINT=${{#COMP_LINE}}
compopt() {{ :; }}
_molino
printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "zsh": """
compdef() {{ :; }}
compadd() {{ while [[ $1 != -- ]]; do shift; done; shift; print -l -- "$@" }}
{script}
words=(${{(s: :)1}}); [[ $1 == *" " ]] && words+=("")
CURRENT=${{#words}}
_molino
""",
    "fish": """
{script}
complete -C "$argv[1]"
""",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes(shell, tmp_path):
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([sys.executable, "-m", "molino", "completion", shell], capture_output=True, text=True)
    assert done.stdout == SHELLS[shell]
    script = tmp_path / "ask"
    script.write_text(ASK[shell].format(script=done.stdout))
    # Shells find the command by its name.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    for line, expected in (("molino train model=bi", "model=bigram"), ("molino ev", "evaluate")):
        asked = subprocess.run([program, str(script), line], capture_output=True, text=True, env=environment)
        shown = asked.stdout.strip().splitlines()
        assert shown == [expected.removeprefix("model=") if shell == "bash" else expected], asked.stderr


def test_a_shell_that_is_not_known():
    done = subprocess.run([sys.executable, "-m", "molino", "completion", "csh"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "molino: completion takes one of bash, zsh, fish: such as molino completion bash\n"
