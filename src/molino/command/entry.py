"""What every command does around its verb: answer --help at once, run, and say what went wrong in one line.

Exit status: 2 configuration, 3 data, 4 checkpoint, 5 resources, 6 non-finite numbers, 128 + n for signal n, 1 for
anything else (a defect: that comes with its traceback). `debug=traceback` shows the traceback of the others too.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from molino.base.errors import ConfigError
from molino.base.messages import complain, explain, suggest
from molino.base.processes import HANDED, is_further
from molino.base.streams import open_streams
from molino.command.completion import SHELLS
from molino.command.help import help_text, overview
from molino.command.output import until_nobody_reads
from molino.command.verbs import VERBS, WORDS
from molino.configuration.choices import CONF
from molino.configuration.overrides import arrange, check_config_dir, gather, take_config_dir, wants_traceback

FIRST_SPEAKS = 3.0  # seconds


def main() -> None:
    """`molino <verb> ...`: run a verb, or tell which there are."""
    words = sys.argv[1:]
    if HANDED in os.environ:  # a further process of a run, which is started with what was typed for the first
        command("train")
    elif words and words[0] in VERBS:
        del sys.argv[1]
        command(words[0])
    else:
        _guarded(lambda: _about(words))


def command(verb: str) -> None:
    """Run a verb with the configuration `conf/<verb>.yaml` and what was typed: `molino.verbs.<verb>.run`.

    Nothing heavy is imported before that, so that `--help` and mistakes answer at once.
    """
    _guarded(lambda: _run(verb))


def _guarded(run: Callable[[], int]) -> None:
    """Leave with the status that `run` returns, or with that of what went wrong, which is said in one line."""
    open_streams()
    # Around all of it: sweeps say more than their runs do.
    with until_nobody_reads():
        try:
            prepare_environment()
            status = run()
        except KeyboardInterrupt:
            status = 130
        except Exception as error:
            explained = explain(error)
            if explained is None or wants_traceback():
                raise
            if is_further():
                # The first process meets the same, and has to say so before whoever started them ends all for this one.
                time.sleep(FIRST_SPEAKS)
            else:
                complain(explained)
            status = explained.exit_code
    if status:
        sys.exit(status)


def _run(verb: str) -> int:
    own = take_config_dir(sys.argv[1:])[0]
    if own is not None:
        check_config_dir(Path(own), CONF)
    if {"-h", "--help"} & set(sys.argv):
        print(help_text(verb, CONF, WORDS.get(verb, ("", ""))[1], Path(own) if own else None))
        return 0
    share_cores(verb)
    if verb in WORDS:
        sys.argv[1:] = gather(sys.argv[1:], WORDS[verb][0])
    sys.argv[1:] = arrange(sys.argv[1:], verb)
    # By its name: it brings Hydra.
    return import_module("molino.command.task").run_command(verb)


def _about(words: list[str]) -> int:
    """Do what takes no verb.

    Raises:
        ConfigError: there is no such verb.
    """
    match words:
        case [] | ["-h" | "--help", *_]:
            print(overview(VERBS))
        case ["--version", *_]:
            # By its name: it brings torch, to ask for the device.
            print(import_module("molino.machine.versions").versions())
        case ["completion", shell] if shell in SHELLS:
            print(SHELLS[shell], end="")
        case ["completion", *_]:
            raise ConfigError(f"completion takes one of {', '.join(SHELLS)}: such as molino completion bash")
        case ["complete", line]:
            # By its name: it brings Hydra.
            print("\n".join(import_module("molino.command.candidates").candidates(line)))
        case [word, *_]:
            raise ConfigError(f"there is no verb {word!r}{suggest(word, VERBS)}")
    return 0


def prepare_environment() -> None:
    """Read the command line as UTF-8, and variables that are empty as if they were not set.

    Raises:
        ConfigError: the working directory is gone.
    """
    # In a locale that is not UTF-8 Python keeps foreign bytes as lone surrogates, which no file can hold.
    with suppress(UnicodeError):
        sys.argv[1:] = [os.fsencode(argument).decode("utf-8") for argument in sys.argv[1:]]
    for name in ("HOME", "MOLINO_CACHE", "MOLINO_MIRROR"):
        if not os.environ.get(name):
            os.environ.pop(name, None)
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise ConfigError("the working directory has been deleted: change to one that exists") from error


def share_cores(verb: str) -> None:
    """Let idle threads spin for some microseconds, then sleep; has to come before torch is imported.

    Threads that spin until there is work, as is usual, make a step of two threads take many times as long beside one
    busy neighbour, such as another run of a sweep. But to wake a thread takes longer than many products of a small
    model: where threads sleep at once a training step of two threads takes 1.6 times as long on a machine of one's own.
    A sampled token's products are shorter still. OMP_WAIT_POLICY and GOMP_SPINCOUNT in the environment are respected.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "5000" if verb == "generate" else "1000")
