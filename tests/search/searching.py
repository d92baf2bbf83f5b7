"""Small searches, and what Optuna itself reads of them."""

import json
from pathlib import Path

import optuna
from conftest import CPU, Outcome, TinyRun
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from molino.runs.directory import read_config, read_summary

# 20 steps of a bigram, a fraction of a second; the space decides how good it gets.
BIGRAM = ("data=text", "data.block_size=16", "data.batch_size=4", "model=bigram", "debug=fast", *CPU)
RATES = "optimizer.lr=tag(log,interval(1e-3,1e-1))"


def command(tiny: TinyRun, home: Path, *settings: str) -> list[str]:
    """The arguments of a search below `home`, called `s`. Settings of the sweeper may go without their prefix."""
    sweeper = set(SWEEPER_SETTINGS)
    typed = [f"hydra.sweeper.{text}" if text.partition("=")[0] in sweeper else text for text in settings]
    places = [f"data.path={tiny.file}", f"paths.outputs={home / 'outputs'}", f"paths.cache={tiny.cache}"]
    return ["-m", "hydra/sweeper=optuna", "sweep=s", *BIGRAM, *places, *typed]


SWEEPER_SETTINGS = (
    "n_trials", "objective", "direction", "sampler", "startup_trials", "pruner", "pruner_startup_trials",
    "pruner_warmup_steps", "attempts", "batch",
)  # fmt: skip


def sweep_of(home: Path) -> Path:
    return home / "outputs" / "sweeps" / "s"


def study_of(home: Path) -> optuna.Study:
    return study_in(sweep_of(home))


def study_in(sweep: Path) -> optuna.Study:
    """The study as the documentation says that others read it."""
    storage = JournalStorage(JournalFileBackend(str(sweep / "study.journal")))
    return optuna.load_study(study_name="s", storage=storage)


def states(home: Path) -> list[str]:
    return [trial.state.name for trial in study_of(home).trials]


def runs(home: Path) -> list[Path]:
    """The run directories of the search."""
    return sorted(path.parent for path in sweep_of(home).glob("*/config.yaml"))


def by_rate(home: Path) -> dict[float, dict]:
    """The summary of each run by the learning rate that its config.yaml holds; they are all different."""
    found = {read_config(run)["optimizer"]["lr"]: read_summary(run) for run in runs(home)}
    assert len(found) == len(runs(home))
    return found


def journal(home: Path) -> list[dict]:
    return [json.loads(line) for line in (sweep_of(home) / "study.journal").read_text().splitlines()]


def assert_refused(outcome: Outcome, status: int, part: str, home: Path) -> None:
    """The command left with one line that holds `part`, and trained nothing."""
    assert outcome.status == status, outcome.err
    assert outcome.err.startswith("molino: ") and outcome.err.count("\n") == 1, outcome.err
    assert part in outcome.err and outcome.out == ""
    assert not list((home / "outputs").rglob("config.yaml"))
