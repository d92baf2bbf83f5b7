"""Runs are handed over as there is room, and shown as they end."""

from pathlib import Path

from molino.configuration.request import Request
from molino.runs.status import DONE, PENDING, Status
from molino.sweeps.display import Display
from molino.sweeps.scheduler import drive


def run_named(name: str) -> Request:
    return Request({"task": {"monitor": "val/loss"}}, [], {}, Path(name))


class Places:
    """A scheduler with so many places, each run in which ends when it has been asked about twice."""

    def __init__(self, places: int, most: int):
        self.places, self.most, self.asked = places, most, {}
        self.log: list[str] = []

    def room(self, held):
        return self.most - held

    def submit(self, requests):
        taken = requests[: self.places - len(self.asked)]
        self.asked |= {request.path: 0 for request in taken}
        self.log += [f"+{request.name}" for request in taken]
        return requests[len(taken) :]

    def ask(self, held, display):
        for request in held:
            self.asked[request.path] += 1
        ended = [request for request in held if self.asked[request.path] == 2]
        for request in ended:
            del self.asked[request.path]
            self.log.append(f"-{request.name}")
        return ended


def drained(places: int, most: int, number: int) -> tuple[Places, Display]:
    scheduler, held = Places(places, most), []
    display = Display(number, look=lambda run: Status(DONE, summary={}))
    for _ in drive(scheduler, (run_named(f"r{n}") for n in range(number)), display, held):
        assert len(held) <= min(places, most) and display.running == held
    return scheduler, display


def test_all_runs_are_handed_over_and_end():
    scheduler, display = drained(places=2, most=2, number=5)
    assert scheduler.log == ["+r0", "+r1", "-r0", "-r1", "+r2", "+r3", "-r2", "-r3", "+r4", "-r4"]
    assert display.counts == {DONE: 5} and not display.running


def test_what_is_refused_follows_when_others_have_ended():
    scheduler, display = drained(places=1, most=2, number=3)
    assert scheduler.log == ["+r0", "-r0", "+r1", "-r1", "+r2", "-r2"] and display.counts == {DONE: 3}


def test_what_waits_is_counted_by_what_it_waits_for():
    reasons = {"a": "Priority", "b": "Resources", "c": "Priority"}
    display = Display(4, look=lambda run: Status(PENDING, reason=reasons[run.name]))
    for name in reasons:
        display.start(run_named(name))
    training, waiting = display._training()
    headline = display._headline(len(training), waiting)
    assert headline == "4 runs: 0 done, 0 running, 3 pending (2 Priority, 1 Resources), 1 queued"
