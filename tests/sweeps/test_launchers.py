"""Launchers that are not molino's: what they are handed."""

from pathlib import Path

from molino.configuration.request import Request
from molino.sweeps import launchers
from molino.sweeps.launchers import Elsewhere


class Remembers:
    def __init__(self):
        self.found = []

    def launch(self, job_overrides: list[list[str]], initial_job_idx: int) -> None:
        self.found.append((initial_job_idx, [overrides[0] for overrides in job_overrides]))


def test_a_launcher_of_hydras_gets_the_runs_in_portions(monkeypatch):
    monkeypatch.setattr(launchers, "PORTION", 3)
    requests = [Request({}, [f"seed={number}"], {}, Path(f"sweep/{number}")) for number in range(7)]
    launcher = Remembers()
    Elsewhere(launcher).train(iter(requests), requests[0], len(requests))
    assert launcher.found == [
        (0, ["seed=0", "seed=1", "seed=2"]),
        (3, ["seed=3", "seed=4", "seed=5"]),
        (6, ["seed=6"]),
    ]
