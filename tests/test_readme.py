"""Every command of the README runs, shortened; what it says of the project is so."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, small_text

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line
    for block in BLOCKS
    for line in block.replace("\\\n", "").splitlines()
    if line.startswith(("molino ", "python scripts/benchmark", "tensorboard"))
]
SMALL = ("data.block_size=8", "data.batch_size=4", "debug=fast")


def test_the_test_command_is_what_ci_runs():
    (command,) = [line for block in BLOCKS for line in block.splitlines() if "pytest" in line]
    assert command in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()


def test_the_main_job_is_the_default_run(molino, tmp_path):
    (command,) = [line for block in BLOCKS for line in block.splitlines() if line.endswith("/molino train")]
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -e . && ")
    less = ("debug=fast", "data.corpus.train_fraction=0.98")
    done = molino("train", *less, f"paths.outputs={tmp_path}", f"paths.cache={tmp_path}")
    assert done.status == 0, done.err
    for name in (
        "held-out loss",
        "perplexity",
        "bits per character",
        "unigram floor",
        "n-gram floor",
        "--- step 20 ---",
    ):
        assert name in done.out


# Those about runs and models that exist, below; and what only a Slurm can run, in sweeps/test_slurm_jobs.py.
ELSEWHERE = ("ddp", "resume", "source=", "slurm", "sweep=first")


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.startswith("molino train") and not any(x in c for x in ELSEWHERE)]
)
def test_training_commands(molino, mirror, tmp_path, monkeypatch, command):
    # Shells take the quotes away and leave the pattern to the program.
    (tmp_path / "my texts").mkdir()
    for number in range(3):
        (tmp_path / "my texts" / f"{number}.txt").write_text(small_text(number, 100), "utf-8")
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(command, comments=True)[2:]
    fewer = ["hydra.sweeper.n_trials=4"] if "optuna" in command else []
    fewer += ["hydra.launcher.workers=1"] if "launcher=local" in command else []
    # All of the held-out text is read at each validation.
    fewer += [] if "data=text" in command else ["data.corpus.train_fraction=0.98"]
    done = molino("train", *arguments, *fewer, *SMALL, f"paths.mirror={mirror}", f"paths.cache={tmp_path / 'cache'}")
    assert done.status == 0, done.err
    runs = 4 if "-m" in arguments else 1
    assert len(list((tmp_path / "outputs").rglob("summary.json"))) == runs


def test_commands_about_a_run(molino, tiny):
    about = [c for c in COMMANDS if c.startswith(("molino evaluate", "molino generate")) and "source=" not in c]
    assert len(about) == 3
    for command in about:
        verb = command.split()[1]
        # Sampling needs no corpus, so it knows no cache.
        settings = [s for s in tiny.settings if verb != "generate" or not s.startswith("paths.cache")]
        done = molino(verb, *shlex.split(command, comments=True)[2:], *settings)
        assert done.status == 0 and done.out.strip(), done.err


def test_commands_about_a_folder(molino, tiny, tmp_path, monkeypatch):
    """Look inside a run, export it, sample from the folder, train on from it: in the order of the README."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny.path, tmp_path / "outputs" / tiny.path.name)
    about = [c for c in COMMANDS if "my-model" in c or "explain" in c]
    assert [c.split()[1] for c in about] == ["explain", "export", "generate", "train"]
    for command in about:
        verb, settings = command.split()[1], []
        if verb == "train":
            settings = ["data=text", f"data.path={tiny.file}", f"paths.cache={tiny.cache}", *SMALL]
        done = molino(verb, *shlex.split(command, comments=True)[2:], *settings)
        assert done.status == 0 and done.out.strip(), done.err


def test_commands_that_compare(molino, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    about = [
        shlex.split(c, comments=True)[2:] for c in COMMANDS if c.startswith("molino results") and " first " not in c
    ]
    assert about == [[], ["to=report"]]
    for arguments in about:
        done = molino("results", *arguments, f"paths.outputs={tiny.outputs}")
        assert done.status == 0 and "val/loss" in done.out, done.err
    assert (tmp_path / "report" / "index.html").is_file()


def test_the_sweep_that_is_shown(molino, mirror, tmp_path, monkeypatch):
    """With one seed, one rate and few steps: 4 of its 24 runs."""
    monkeypatch.chdir(tmp_path)
    train, compare = (shlex.split(c)[2:] for c in COMMANDS if "first" in c)
    assert {"seed=0,1,2", "optimizer.lr=1e-3,1e-2", "model=bigram,gpt", "data=quijote,shakespeare"} <= set(train)
    short = ["trainer.max_steps=4", "trainer.val_every=4", "trainer.checkpoint_every=4", "trainer.log_every=2"]
    fewer = [
        "seed=0",
        "optimizer.lr=1e-3",
        "hydra.launcher.workers=1",
        "data.corpus.train_fraction=0.99",
        "data.block_size=8",
        *short,
    ]
    done = molino("train", *train, *fewer, f"paths.mirror={mirror}", f"paths.cache={tmp_path / 'cache'}")
    assert done.status == 0, done.out + done.err
    assert len(list((tmp_path / "outputs" / "sweeps" / "first").glob("*/summary.json"))) == 4
    done = molino("results", *compare)
    assert done.status == 0 and done.out.count("\n| ") == 4 + 1, done.out + done.err
    assert (tmp_path / "report" / "index.html").is_file()


def test_resume_command(molino, tiny, tmp_path):
    assert any("resume=latest" in command for command in COMMANDS)
    shutil.copytree(tiny.path, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    done = molino("train", "resume=latest", f"paths.outputs={tmp_path}", f"paths.cache={tiny.cache}")
    # The copy stands at its last step: only the summary was missing.
    assert done.status == 0, done.err
    again, summary = (json.loads((run / "summary.json").read_text()) for run in (tmp_path / "run", tiny.path))
    assert again.pop("seconds") > summary.pop("seconds") and again == summary


def test_tensorboard_reads_the_outputs(tiny):
    assert any(command.startswith("tensorboard --logdir outputs") for command in COMMANDS)
    command = [sys.executable, "-m", "tensorboard.main", "--inspect", "--logdir", str(tiny.outputs)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert "val/loss" in shown and f"{tiny.path.name}/floors/bigram" in shown


def test_choices_in_the_table_are_those_there_are():
    rows = dict(re.findall(r"^\| `([a-z/]+)=` \| (.*) \|$", README, re.MULTILINE))
    for group, text in rows.items():
        named = set(re.findall(r"`([a-z0-9_]+)`", text)) - {"basic"}  # Hydra's own
        assert named == {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}, group
    assert len(rows) == 11


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_benchmark_commands(mirror, tmp_path):
    """The shortest of them, whole; the others are run on less in test_benchmark.py."""
    named = {command.split()[2] for command in COMMANDS if "benchmark.py" in command}
    assert named >= {"training", "recipe", "sweep", "preparation", "start", "generation"}
    command = [
        sys.executable,
        str(ROOT / "scripts" / "benchmark.py"),
        "preparation",
        "--megabytes",
        "0.1",
        "--rounds",
        "1",
        "--json",
        "figures.json",
    ]
    environment = os.environ | {"MOLINO_MIRROR": str(mirror)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text("utf-8"))["figures"]
    assert set(figures) == {"char", "word", "whitespace", "bpe"}
    assert all(name in done.stdout for name in figures) and "lists and dictionaries" in done.stdout
