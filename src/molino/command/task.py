"""From a command line to its verb: Hydra composes the settings, plain Python gets them."""

import os
import sys
from argparse import Namespace
from contextlib import nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from molino.base.errors import ConfigError, Interrupted
from molino.base.messages import complain
from molino.base.processes import HANDED, is_main_process, started
from molino.command.light import import_lightning, uncollected
from molino.command.output import until_nobody_reads
from molino.configuration.choices import CONF
from molino.configuration.composer import check_typed, refuse_resume, request_of
from molino.configuration.internals import arguments_parser, composed_once
from molino.configuration.origins import force
from molino.configuration.overrides import check_alone, describe_overruled
from molino.configuration.request import Request
from molino.configuration.started import check_started
from molino.sweeps.attempt import PARENT, attempt, leave_with
from molino.sweeps.foreign import directory_of


def run_command(verb: str) -> int:
    """Run a verb with what was typed, or as another process of molino's has it; return the exit status."""
    task = Task(verb)
    # Not for whatever this process starts in turn.
    if verb == "train" and (handed := os.environ.pop(HANDED, None)):
        train_handed(task, handed)
        return 0
    typed = check_flags()
    if typed.multirun and (place := started()) is not None and place.size > 1:
        raise ConfigError(f"-m trains many runs from one process, and {place.by} has started {place.size}: start one")
    check_typed(verb, typed.overrides, typed.multirun)
    if not (typed.multirun or typed.cfg or typed.info):
        check_alone(typed.overrides)
    sys.argv[1:] = force(sys.argv[1:])
    # Hydra prints errors its own way unless told to raise them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with composed_once():
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=verb)(task)()
    if task.error is not None:
        raise task.error
    # A single training says so among what it is made of.
    said = describe_overruled(typed.overrides) if typed.multirun or verb != "train" else ""
    if said and typed.cfg is None:
        print(f"molino: typed twice: {said}", file=sys.stderr)
    return task.status


def train_handed(task: "Task", handed: str) -> None:
    """Train the run that another process has composed: a further process of it, or one whose sweep has started it."""
    if PARENT in os.environ and is_main_process():
        leave_with(int(os.environ[PARENT]))
    task.run(Request.from_text(handed))


class Task:
    """What Hydra calls with each composed configuration. It may be sent to other processes.

    Attributes:
        error: what went wrong in a single run. Hydra would say more of it than one wants to know.
        status: exit status of the first run that failed where Hydra's own sweeper or launcher has several.
    """

    def __init__(self, verb: str):
        self.verb, self.status = verb, 0
        self.error: Exception | None = None

    def __call__(self, config: Any) -> Any:
        settings = HydraConfig.get()
        if settings.mode == RunMode.MULTIRUN:
            self._run_one_of_many(config, settings)
            return None
        try:
            if config.get("sweep") is not None:
                raise ConfigError(f"sweep={config.sweep} names a sweep, and this is a single run: add -m")
            return self.run(request_of(config, settings))
        except Exception as error:
            self.error = error
        return None

    def run(self, request: Request) -> Any:
        """Do what is asked; of a training return the figure that decides, such as the held-out loss."""
        if self.verb == "train":
            check_started(request)
        with until_nobody_reads():
            return import_verb(self.verb).run(request)

    def prepare(self, requests: list[Request]) -> None:
        """Check what other machines are to train, and prepare here what they read; see molino.verbs.train.prepare."""
        import_verb(self.verb).prepare(requests)

    def _run_one_of_many(self, config: Any, settings: Any) -> None:
        def run(request: Request) -> None:
            if self.verb == "train":
                refuse_resume(request.settings["resume"])
                request = request.at(directory_of(settings))
            self.run(request)

        varied = [override for override in settings.overrides.task if override not in sys.argv]
        try:
            status = attempt(run, request_of(config, settings), ",".join(varied))
        except Interrupted as stop:
            complain(stop)
            sys.exit(stop.exit_code)
        self.status = self.status or status


def import_verb(verb: str) -> ModuleType:
    """Import the module of a verb; the first time in a process it brings torch, which takes most of a start."""
    name = f"molino.verbs.{verb}"
    with nullcontext() if name in sys.modules else uncollected():
        if verb in ("data", "train"):
            import_lightning()
        return import_module(name)


def check_flags() -> Namespace:
    """Return the command line as Hydra reads it; refuse unknown flags in one line, where its parser prints usage."""

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists the settings, --hydra-help the flags")

    parser = arguments_parser()
    parser.error = refuse
    return parser.parse_args()
