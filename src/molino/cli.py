"""What every script does around its verb: compose the configuration, run, and say what went wrong in one line.

Exit status: 2 configuration, 3 data, 4 checkpoint, 5 resources, 6 non-finite numbers, 128 + n for signal n, 1 for
anything else (a defect: that comes with its traceback). `debug=traceback` shows the traceback of the others too.
"""

import importlib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from molino.config import suggest
from molino.errors import ConfigError, Interrupted, MolinoError, NonFiniteError, ResourceError
from molino.files import NO_SPACE, UNWRITABLE
from molino.help import help_text

# Settings whose value is text or a path, in any characters.
TEXTS = {
    "prompt", "run", "source", "to", "resume", "weights", "model.source", "data.path", "data.corpus.path",
    "data.tokenizer.path", "paths.outputs", "paths.cache", "paths.mirror",
}  # fmt: skip
MULTIRUN = ("-m", "--multirun")


def command(script: str) -> None:
    """Run the verb that a script is named after, with the configuration `conf/<verb>.yaml`.

    `scripts/train.py` calls `command(__file__)`, which composes conf/train.yaml and calls `molino.train.run(config)`.
    Nothing heavy is imported before the configuration is composed, so that `--help` and mistakes answer at once.
    """
    verb, conf = Path(script).stem, Path(script).resolve().parent.parent / "conf"
    if {"-h", "--help"} & set(sys.argv):
        with until_nobody_reads():
            print(help_text(verb, conf))
        return
    share_cores(verb)
    sys.argv[1:] = arrange(sys.argv[1:])
    # Hydra prints errors its own way unless told to raise them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    failures: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(conf), config_name=verb)
    def task(config: Any) -> Any:
        try:
            with until_nobody_reads():
                return importlib.import_module(f"molino.{verb}").run(config)
        except Exception as error:
            # A signal is meant for all the runs of a sweep, but of other errors the remaining ones know nothing.
            if HydraConfig.get().mode == RunMode.RUN or isinstance(error, Interrupted):
                _leave(error)
            _say_in_sweep(error, list(HydraConfig.get().overrides.task))
            failures.append(error)

    try:
        check_flags()
        task()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        _leave(error)
    if failures:
        sys.exit(getattr(_explain(failures[0]), "exit_code", 1))


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


def arrange(arguments: list[str]) -> list[str]:
    """Return a command line as Hydra takes it: -m before the settings, which must stand in one piece, and texts quoted.

    In a sweep a text with a comma or a bracket is left to Hydra: it lists values.
    """
    flags = [argument for argument in arguments if argument in MULTIRUN]
    rest = [argument for argument in arguments if argument not in MULTIRUN]
    return flags + [argument if flags and re.search("[,(]", argument) else quote(argument) for argument in rest]


def check_flags() -> None:
    """Refuse unknown flags in one line, where Hydra's parser would print its usage."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists the settings, --hydra-help the flags")

    parser = get_args_parser()
    parser.error = refuse
    parser.parse_args()


def share_cores(verb: str) -> None:
    """Let idle threads sleep instead of spin; has to come before torch is imported.

    Spinning threads win some percent on a machine of one's own, but beside one busy neighbour (another run of a sweep)
    a step of two threads takes several times as long. A sampled token is different: its products are so short that to
    wake a thread takes longer than its work, so threads wait for some microseconds before they sleep (five times faster
    attention to a short context). OMP_WAIT_POLICY and GOMP_SPINCOUNT in the environment are respected.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if verb == "generate":
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def quote(argument: str) -> str:
    """Quote the value of `prompt=...` and the like for Hydra, whose grammar has its own uses for commas and brackets.

    A value that already stands in quotes is left as it is, and so is null, which means none; a prompt may say "null".
    """
    key, _, value = argument.partition("=")
    none = value == "" or (value == "null" and key != "prompt")
    if none or key not in TEXTS or re.fullmatch(r"""(['"])(\\.|(?!\1)[^\\])*\1""", value, re.DOTALL):
        return argument
    escaped = re.sub(r"(\\*)('|\$\{|$)", lambda found: found[1] * 2 + (found[2] and "\\" + found[2]), value)
    return f"{key}='{escaped}'"


def _leave(error: Exception) -> NoReturn:
    """Say what went wrong and exit with its status; a defect is raised again."""
    explained = _explain(error)
    if explained is None or "debug=traceback" in sys.argv:
        raise error
    _say(explained)
    sys.exit(explained.exit_code)


def _say_in_sweep(error: Exception, overrides: list[str]) -> None:
    """Say what went wrong in the run of a sweep with these overrides."""
    from molino.runs.directory import varied

    if "debug=traceback" in sys.argv or (explained := _explain(error)) is None:
        traceback.print_exception(error)
    else:
        _say(type(explained)(f"{','.join(varied(overrides, sys.argv))}: {explained}"))


def _say(error: Exception) -> None:
    from molino.runs.directory import is_main_process

    # All processes of a distributed job meet these.
    if isinstance(error, Interrupted | NonFiniteError) and not is_main_process():
        return
    print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).splitlines())}", file=sys.stderr)


def _explain(error: Exception) -> MolinoError | None:
    """Return the error as one of ours, or None for a defect."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if isinstance(error, MolinoError):
        return error
    if isinstance(error, HydraException | OmegaConfBaseException):
        return ConfigError(_explain_hydra(error))
    if isinstance(error, YAMLError):
        return ConfigError(f"a configuration file is no YAML: {' '.join(str(error).split())}")
    if isinstance(error, ValueError) and "Config group override" in str(error):
        return ConfigError("a group takes the name of one of its choices, such as model=gpt, not null or a number")
    if type(error).__name__ == "MisconfigurationException":
        return ConfigError(str(error))
    if isinstance(error, OSError) and error.errno in (*NO_SPACE, *UNWRITABLE):
        place = f" ({error.filename})" if error.filename else ""
        return ResourceError(f"{error.strerror}{place}: choose another place with paths.outputs or paths.cache")
    too_large = re.search("can't allocate memory|calculation overflowed", str(error))
    no_memory = isinstance(error, RuntimeError) and too_large
    if no_memory or type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return ResourceError(
            "out of memory: lower data.batch_size (and raise trainer.accumulate), samples or the model"
        )
    return None


def _explain_hydra(error: Exception) -> str:
    """Put Hydra's message on one line, with the nearest key in place of its advice to add the misspelt one."""
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.parent_node is not None:
        key, full = str(cause.key), cause.full_key or str(cause.key)
        return f"{full} is not a setting{suggest(key, map(str, cause.parent_node), full.removesuffix(key))}"
    if missing := re.search(r"Missing mandatory value: (\S+)", str(error)):
        return f"{missing[1]} has no value yet: add {missing[1]}=<value>"
    # Where Hydra looked for its files is more than one wants to know.
    lines = [line.strip() for line in str(error).partition("Config search path:")[0].splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(("Set the environment", "full_key: ")))
