"""An error of any kind as one line for a person, and as the exit status that says its kind."""

import difflib
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from molino.base.errors import ConfigError, Followed, Interrupted, MolinoError, NonFiniteError, ResourceError
from molino.base.files import NO_SPACE, UNWRITABLE
from molino.base.processes import is_main_process
from molino.base.streams import printable


def explain(error: BaseException) -> MolinoError | None:
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
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return ConfigError("a path that begins with ~ names a home that is not there: write it out")
    if isinstance(error, ValueError) and "Only one of --" in str(error):
        return ConfigError("-m, --cfg and --info each do something else: give one of them")
    if isinstance(error, ValueError) and "null byte" in str(error):
        return ConfigError("a path or a name holds a null byte: leave it out")
    if isinstance(error, UnicodeEncodeError):
        what = error.object[error.start : error.end]
        # In UTF-8 it is no locale's fault, but a name whose bytes are no text.
        advice = "rename it" if error.encoding.startswith("utf") else "set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
        return ConfigError(f"{what!r} cannot be a part of a path in this locale ({error.encoding}): {advice}")
    if type(error).__name__ in ("DistStoreError", "DistNetworkError"):
        return ResourceError(f"the processes of the run did not find each other: {' '.join(str(error).split())[:200]}")
    too_large = re.search("can't allocate memory|calculation overflowed", str(error))
    no_memory = isinstance(error, RuntimeError) and too_large
    if no_memory or type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return ResourceError(
            "out of memory: lower data.batch_size (and raise trainer.accumulate), samples or the model"
        )
    return None


def one_line(error: BaseException) -> str:
    """Return what a person is told of the error, on one line; a defect by its type and first line."""
    explained = explain(error)
    text = str(explained) if explained is not None else f"{type(error).__name__}: {error}"
    return " ".join(text.splitlines())


def complain(error: BaseException) -> None:
    """Say on standard error what went wrong."""
    # All processes of a distributed run meet these.
    if isinstance(error, Followed) or (isinstance(error, Interrupted | NonFiniteError) and not is_main_process()):
        return
    print(printable(f"molino: {one_line(error)}"), file=sys.stderr)


def typed(verb: str, *words: str) -> str:
    """Return a command of molino's as one types it: by its name, or by its path where the shell does not find it."""
    own, found = Path(sys.executable).with_name("molino"), shutil.which("molino")
    if found and (not own.exists() or own.samefile(found)):
        name = "molino"
    elif own.exists():
        name = _from_here(own)
    else:
        name = "python -m molino"
    return " ".join([name, verb, *map(shlex.quote, words)])


def _from_here(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, FileNotFoundError):  # it lies elsewhere; or the working directory was deleted meanwhile
        return str(path)


def suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return '; did you mean ...? It takes: ...' for a name that is not among `known`."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if name.partition("/")[0] in known:
        near = [name.replace("/", ".")]  # a setting that is written as groups are
    hint = f"; did you mean {prefix}{near[0]}?" if near else "."
    return f"{hint} Known here: {', '.join(known) or 'nothing yet'}"


def few(names: Iterable[str], most: int = 10) -> str:
    """Return names as a list; where there are more than `most`, the first of them, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _explain_hydra(error: BaseException) -> str:
    """Put Hydra's message on one line, with the nearest key in place of its advice to add the misspelt one."""
    from hydra.errors import OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.parent_node is not None:
        key, full = str(cause.key), cause.full_key or str(cause.key)
        known = [name for name in map(str, cause.parent_node) if not name.startswith("_")]
        # A part's YAML need not list all that its constructor takes.
        more = f"; what the file of this choice leaves out is added by +{full}=..." * ("_target_" in cause.parent_node)
        return f"{full} is not a setting{suggest(key, known, full.removesuffix(key))}{more}"
    if missing := re.search(r"Missing mandatory value: (\S+)", str(error)):
        return f"{missing[1]} has no value yet: add {missing[1]}=<value>"
    if group := re.search(r"Could not override '([^']+)'", str(error)):
        return f"{group[1]} is not chosen here: --help lists what is"
    if isinstance(error, OverrideParseException):
        return _explain_grammar(error.override, str(error))
    if listed := re.search(r"^Ambiguous value for argument '([^=]+)=(.*)'$", str(error), re.MULTILINE):
        key, value = listed.groups()
        return (
            f"Ambiguous value for argument '{key}={value}': add -m for a run of each of them, write {key}=[{value}] "
            f"for a list, or {key}='\"{value}\"' for text"
        )
    # Where Hydra looked for its files is more than one wants to know.
    lines = [line.strip() for line in str(error).partition("Config search path:")[0].splitlines() if line.strip()]
    text = " ".join(line for line in lines if not line.startswith(("Set the environment", "full_key: ", "See https:")))
    choice = re.search(r"Could not find '(.+)/([^/]+)' Available options in '\S+': (.+)", text)
    near = difflib.get_close_matches(choice[2], choice[3].split(), n=1, cutoff=0.5) if choice else []
    return f"{text}: did you mean {choice[1]}={near[0]}?" if near else text


def _explain_grammar(override: str, message: str) -> str:
    """Return what is wrong with what Hydra's grammar does not take.

    Args:
        message: Hydra's.
    """
    key, assigned, value = override.partition("=")
    name = re.sub(r"[/\\\\]+", ".", key)
    if name != key and not assigned and "." not in key:
        return f"{key} is no setting: write <setting>=<value>; did you mean {'='.join(key.rsplit('/', 1))}?"
    if name != key:
        meant = f"{name}={value if assigned else '<value>'}"
        return f"{key} is no group: the names of settings have dots; did you mean {meant}?"
    if found := re.fullmatch(r"([+~]*[\w.]+)(?::|==)([^=]+)", override):
        return f"{override} is no setting: write <setting>=<value>; did you mean {found[1]}={found[2]}?"
    if re.search(r"\s+missing EQUAL", message):
        return f"{override} is no setting: write <setting>=<value>, in quotes where there are blanks in it"
    if assigned and not re.fullmatch(r"[+~]*[\w$@:-]+(\.[\w$@:-]+)*", key):
        return f"{key} is no name of a setting: write <setting>=<value>"
    why, quoted = message.splitlines()[0].strip(), value.replace('"', '\\"').replace("'", "'\\''")
    plain = why.startswith(("LexerNoViableAltException", "Error parsing override"))
    reason = "" if plain else f" ({why})"
    return f"{override} is nothing that Hydra reads{reason}: if it is text, quote it, {key}='\"{quoted}\"'"
