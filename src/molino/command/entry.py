"""What every script does around its verb: compose the configuration, run, and say what went wrong in one line.

Exit status: 2 configuration, 3 data, 4 checkpoint, 5 resources, 6 non-finite numbers, 128 + n for signal n, 1 for
anything else (a defect: that comes with its traceback). `debug=traceback` shows the traceback of the others too.
"""

import importlib
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from molino.base.errors import ConfigError, Interrupted, NonFiniteError
from molino.base.messages import explain, one_line
from molino.command.help import help_text
from molino.command.light import import_lightning, uncollected
from molino.configuration.overrides import arrange, check_resumed, gather, wants_traceback

# Verbs that take plain words: the setting which lists them, and how --help calls them.
WORDS = {"results": ("runs", "[sweep or folder ...]")}


def command(script: str) -> None:
    """Run the verb that a script is named after, with the configuration `conf/<verb>.yaml`.

    `scripts/train.py` calls `command(__file__)`, which composes conf/train.yaml and calls
    `molino.verbs.train.run(config)`. Nothing heavy is imported before the configuration is composed, so that `--help`
    and mistakes answer at once.
    """
    verb, conf = Path(script).stem, Path(script).resolve().parent.parent / "conf"
    if {"-h", "--help"} & set(sys.argv):
        with until_nobody_reads():
            print(help_text(verb, conf, WORDS.get(verb, ("", ""))[1]))
        return
    share_cores(verb)
    if verb in WORDS:
        sys.argv[1:] = gather(sys.argv[1:], WORDS[verb][0])
    sys.argv[1:] = arrange(sys.argv[1:])
    # Hydra prints errors its own way unless told to raise them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra

    task = Task(verb)
    try:
        typed = check_flags()
        if verb == "train" and not typed.multirun:
            check_resumed(typed.overrides)
        # Around all of it: sweeps say more than their runs do.
        with until_nobody_reads():
            hydra.main(version_base="1.3", config_path=str(conf), config_name=verb)(task)()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        _leave(error)
    if task.failures:
        sys.exit(task.failures[0])


class Task:
    """What Hydra calls with each composed configuration. A launcher may send it to another process.

    Attributes:
        failures: exit statuses of the runs of a multirun that failed, where they ran in this process. Not the errors:
            those would keep all that their runs held in memory.
    """

    def __init__(self, verb: str):
        self.verb = verb
        self.failures: list[int] = []

    def __call__(self, config: Any) -> Any:
        """Run the verb; in a multirun, tell of a failure and let the other runs go on."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra_config = HydraConfig.get()
        try:
            with until_nobody_reads():
                run = import_verb(self.verb).run
                if self.verb == "train":
                    from molino.sweeps.job import in_directory

                    return in_directory(run, config)
                return run(config)
        except Exception as error:
            # A signal is meant for all the runs of a sweep, but of other errors the remaining ones know nothing.
            if hydra_config.mode == RunMode.RUN or isinstance(error, Interrupted):
                _leave(error)
            _say_in_sweep(error, list(hydra_config.overrides.task))
            self.failures.append(getattr(explain(error), "exit_code", 1))
        return None


def import_verb(verb: str) -> ModuleType:
    """Import the module of a verb; the first time in a process it brings torch, which takes most of a start."""
    name = f"molino.verbs.{verb}"
    with nullcontext() if name in sys.modules else uncollected():
        if verb == "train":
            import_lightning()
        return importlib.import_module(name)


@contextmanager
def until_nobody_reads() -> Iterator[None]:
    """Leave quietly, as programs do that SIGPIPE ends, when whoever read the output has seen enough."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Nothing is left to be said, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def check_flags() -> Namespace:
    """Return the command line as Hydra reads it; refuse unknown flags in one line, where its parser prints usage."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists the settings, --hydra-help the flags")

    parser = get_args_parser()
    parser.error = refuse
    return parser.parse_args()


def share_cores(verb: str) -> None:
    """Let idle threads spin for some microseconds, then sleep; has to come before torch is imported.

    Threads that spin until there is work, as is usual, make a step of two threads take many times as long beside one
    busy neighbour, such as another run of a sweep. But to wake a thread takes longer than many products of a small
    model: where threads sleep at once a training step of two threads takes 1.6 times as long on a machine of one's own.
    A sampled token's products are shorter still. OMP_WAIT_POLICY and GOMP_SPINCOUNT in the environment are respected.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "5000" if verb == "generate" else "1000")


def _leave(error: Exception) -> NoReturn:
    """Say what went wrong and exit with its status; a defect is raised again."""
    explained = explain(error)
    if explained is None or wants_traceback():
        raise error
    _say(explained)
    sys.exit(explained.exit_code)


def _say_in_sweep(error: Exception, overrides: list[str]) -> None:
    """Say what went wrong in the run of a sweep with these overrides."""
    from molino.runs.directory import varied

    if wants_traceback() or (explained := explain(error)) is None:
        traceback.print_exception(error)
    else:
        _say(type(explained)(f"{','.join(varied(overrides, sys.argv))}: {explained}"))


def _say(error: Exception) -> None:
    from molino.runs.directory import is_main_process

    # All processes of a distributed job meet these.
    if isinstance(error, Interrupted | NonFiniteError) and not is_main_process():
        return
    print(f"{Path(sys.argv[0]).name}: {one_line(error)}", file=sys.stderr)
