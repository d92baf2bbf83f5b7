"""The run that is being trained: new, to go on with, or done; whoever writes its directory has claimed it."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from molino.base.errors import CheckpointError
from molino.base.processes import HANDED, environment, is_main_process
from molino.configuration.identity import LENGTHS, complete, refuse_other
from molino.configuration.overrides import check_length
from molino.configuration.request import Request
from molino.configuration.settings import begin_from, check_sections, restore, resume
from molino.machine.hardware import Hardware
from molino.runs import directory
from molino.runs.measures import Measures, write_measures
from molino.runs.record import record
from molino.runs.status import claim
from molino.training.continuing import check_parent, take_over
from molino.training.jobs import recall, remember
from molino.training.meeting import Meeting
from molino.training.plan import Plan


class Run:
    """A run and its directory, as its training sees them.

    Attributes:
        request: what was asked for.
        settings: what it is trained with; of a run that exists, its own with today's paths and hardware.
        path: its directory. A new run of its own has none before `begin`.
        exists: whether it has begun before.
        parent: the finished run that it is to continue; None once it has begun.
        checkpoint: what it goes on from; None at step 0.
        summary: of a run that another process has ended.
    """

    def __init__(self, request: Request, path: Path | None, claimed: ExitStack):
        self.request, self.path, self._claimed = request, path, claimed
        self.exists = path is not None and (path / directory.CONFIG).is_file()
        self.settings = self._read_settings()
        continued = self.settings["continue"]
        self.parent = Path(continued) if continued and not self.exists else None
        if self.parent:
            check_parent(self.parent)
        source = self.parent or (path if self.exists else None)
        self.checkpoint = source / directory.LAST if source and (source / directory.LAST).is_file() else None
        self.summary = directory.read_summary(path) if self.exists and directory.is_done(path) else None

    @property
    def tokenizer(self) -> Path:
        """Where its tokenizer is kept."""
        return self.path / directory.TOKENIZER

    @property
    def counts(self) -> Path:
        """Where counts are kept that its network stands on."""
        return self.path / directory.COUNTS

    @property
    def has_history(self) -> bool:
        """Whether it has metrics of earlier steps."""
        return self.exists or self.parent is not None

    def tell(self, measures: Measures) -> None:
        """Record what it will come to."""
        write_measures(self.path, measures)

    def begin(
        self,
        plan: Plan,
        steps_per_block: int,
        hardware: Hardware,
        measures: Measures,
        task: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a new run, in a directory of its own if it has none; nothing is written before.

        Args:
            plan, hardware: as they were settled. A run that goes on elsewhere computes as it did here.
            steps_per_block: optimizer steps that are taken in one go.
            measures: what it will come to.
            task: settings of the task that follow from the text.
        """
        settled = {"hardware": hardware.settled, "trainer": plan.settled, "task": dict(task or {})}
        self.settings = self.settings | {name: self.settings[name] | values for name, values in settled.items()}
        if self.path is None:
            name = f"{self.settings['name']}_{datetime.now():%Y%m%d-%H%M%S}"
            self.path = directory.create(self.settings["paths"]["outputs"], name)
            self._claimed.enter_context(claim(self.path))
            remember(self.path, self.request)
        if is_main_process() and not self.exists:
            self.tell(measures)
            if self.parent:
                take_over(self.parent, self.path, steps_per_block)
            whole = complete(self.settings)
            record(self.path, whole, self.request.overrides, self.request.choices)
        if self.parent:
            self.checkpoint = self.path / directory.LAST

    def end(self, summary: dict[str, Any]) -> None:
        """Write the summary: from then on the run is done."""
        directory.write_summary(self.path, summary)

    @contextmanager
    def handed_over(self, processes: int, threads: int | None = None, meeting: Meeting | None = None) -> Iterator[None]:
        """Have the further ones of so many processes train this run as it was settled.

        Args:
            threads: of each process, whatever cores it sees.
            meeting: where somebody has started them. Else they are started meanwhile.
        """
        if processes == 1:
            yield
            return
        hardware = self.settings["hardware"] | ({"threads": threads} if threads else {})
        settings = self.settings | {"hardware": hardware}
        told = Request(settings, self.request.overrides, self.request.choices, self.path, settled=True)
        if meeting is not None:
            with meeting.handed_over(told):
                yield
            return
        with environment({HANDED: told.to_text()}):
            yield

    def _read_settings(self) -> dict[str, Any]:
        asked = self.request
        if asked.settled:
            return asked.settings
        if not self.exists:
            check_sections(asked.settings)
            check_length(asked.overrides, {name: asked.settings["trainer"].get(name) for name in LENGTHS})
            return begin_from(asked.settings)
        if asked.path is None and asked.settings.get("resume"):
            return resume(self.path, asked.settings, asked.overrides)
        if asked.path is not None:
            # Whatever asks for it there, and however: a sweep of molino's has done so, another's has not.
            refuse_other(self.path, asked.settings)
        return restore(self.path, asked.settings["paths"])


@contextmanager
def open_run(request: Request) -> Iterator[Run]:
    """Find and claim the run that is asked for.

    Of a distributed run the first process claims it; the others train by what they are handed. A job that was queued
    again finds what it has begun.

    Raises:
        CheckpointError: it is finished, damaged or nowhere to be found.
        ConfigError: its settings make no run.
        Busy: another process trains it.
    """
    with ExitStack() as claimed:
        path = request.path or recall(request) or _resumed(request)
        if path is not None and is_main_process():
            claimed.enter_context(claim(path))
            remember(path, request)
        yield Run(request, path, claimed)


def _resumed(request: Request) -> Path | None:
    """Return the run that `resume=` names, if it does."""
    name = request.settings.get("resume")
    if not name:
        return None
    path = directory.find(name, request.settings["paths"]["outputs"])
    if directory.is_done(path):
        raise CheckpointError(
            f"{path.name} is finished, there is nothing to resume: start a new run, or train it for longer by continue="
        )
    return path
