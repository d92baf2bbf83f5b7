"""What a person sees of runs that train in other processes: a live table on a terminal, plain lines elsewhere."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich import box
from rich.live import Live
from rich.table import Table
from rich.text import Text

from molino.base.console import SECONDS_BETWEEN_LINES, console, say
from molino.configuration.request import Request
from molino.runs.measures import LEARNT, partial_tag, spoken
from molino.runs.status import DONE, FAILED, NOT_BEGUN, PENDING, RUNNING, Status, read_status

# Of ended runs the table shows the last few, and no more rows than a screen has.
ENDED_ROWS, RUNNING_ROWS = 5, 20
WAITING = (NOT_BEGUN, PENDING)
COLUMNS = ("run", "status", "step", "loss", "held-out", "tokens/s", "left")


class Display:
    """Shows the runs of a sweep.

    Args:
        total: number of runs.
        look: tells where the run in a directory stands.
    """

    def __init__(self, total: int, look: Callable[[Path], Status] = read_status):
        self.total, self.look = total, look
        self.running: list[Request] = []
        self.ended: list[tuple[Request, Status]] = []
        self.counts: Counter[str] = Counter()
        self.live: Live | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> "Display":
        if console.is_terminal:
            self.live = Live(console=console, auto_refresh=False, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def start(self, request: Request) -> None:
        """Add a run, which the next `refresh` shows."""
        self.running.append(request)

    def end(self, request: Request) -> None:
        """Tell what became of a run."""
        status = self.look(request.path)
        self.running.remove(request)
        self.ended = [*self.ended, (request, status)][-ENDED_ROWS:]
        self.counts[status.state] += 1
        ended, outcome = sum(self.counts.values()), _outcome(status, request.monitor)
        say(f"[{ended}/{self.total}] {status.state} {request.name}{outcome}")

    def refresh(self) -> None:
        """Show how far the runs are."""
        if self.live is not None:
            self.live.update(self._table(), refresh=True)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            training, waiting = self._training()
            for request, status in training[:RUNNING_ROWS]:
                say(" | ".join(_parts(request, status)))
            say(self._headline(len(training), waiting))

    def _training(self) -> tuple[list[tuple[Request, Status]], list[Status]]:
        """Return the runs that have begun, and where those stand that were handed over and have not."""
        statuses = [(request, self.look(request.path)) for request in self.running]
        waiting = [status for _, status in statuses if status.state in WAITING]
        return [(request, status) for request, status in statuses if status.state not in WAITING], waiting

    def _headline(self, training: int, waiting: list[Status]) -> str:
        counts = ", ".join(f"{number} {state}" for state, number in self.counts.items())
        pending = [status for status in waiting if status.state == PENDING]
        queued = self.total - len(self.running) - sum(self.counts.values()) + len(waiting) - len(pending)
        told = [counts or "0 done", f"{training} running"]
        if pending:
            reasons = Counter(status.reason or "no reason yet" for status in pending).most_common()
            told.append(f"{len(pending)} pending ({', '.join(f'{number} {reason}' for reason, number in reasons)})")
        if queued or not pending:
            told.append(f"{queued} queued")
        return f"{self.total} run{'s' * (self.total != 1)}: {', '.join(told)}"

    def _table(self) -> Table:
        training, waiting = self._training()
        table = Table(
            title=self._headline(len(training), waiting), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for number, column in enumerate(COLUMNS):
            table.add_column(column, justify="right" if number > 1 else "left", overflow="fold")
        for request, status in [*self.ended, *training[:RUNNING_ROWS]]:
            table.add_row(*(Text(cell) for cell in _columns(request, status)))
        if len(training) > RUNNING_ROWS:
            table.add_row(f"... and {len(training) - RUNNING_ROWS} more")
        return table


def _outcome(status: Status, monitor: str) -> str:
    if status.state == FAILED:
        return f": {status.error}"
    if status.state != DONE:
        return f": {said}" if (said := status.error or status.reason) else ""
    pruned = f", pruned at step {status.summary['steps']}" if status.summary.get("pruned") else ""
    value = status.summary.get(monitor)
    return (f": {spoken(monitor)} {value:.4f}" if isinstance(value, int | float) else "") + pruned


def _columns(request: Request, status: Status) -> list[str]:
    """Return the cells of a run, in the order of COLUMNS."""
    progress = status.progress
    known = status.summary or progress
    held_out = known.get(request.monitor, known.get(partial_tag(request.monitor)))
    running = status.state == RUNNING
    return [
        request.name,
        status.state,
        f"{progress['step']}/{progress['max_steps']}" if progress else "",
        f"{progress[LEARNT]:.4f}" if LEARNT in progress else "",
        f"{held_out:.4f}" if held_out is not None else "",
        f"{progress['tokens_per_second']:,}" if "tokens_per_second" in progress else "",
        f"{progress['seconds_left']:.0f} s" if running and "seconds_left" in progress else "",
    ]


def _parts(request: Request, status: Status) -> list[str]:
    """Return the parts of the line of a run."""
    cells = _columns(request, status)
    told = [f"{name} {cell}" for name, cell in zip(COLUMNS[2:], cells[2:], strict=True) if cell]
    return [cells[0], *(told or ["starts"])]
