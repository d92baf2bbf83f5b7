"""What is typed on a command line, as Hydra's grammar takes it."""

import re
import sys
from codecs import BOM_UTF8
from collections.abc import Mapping
from pathlib import Path

from molino.base.errors import ConfigError

# Settings whose value is text or a path, in any characters.
TEXTS = {
    "name", "prompt", "run", "source", "to", "resume", "continue", "weights", "model.source", "data.path",
    "data.corpus.path", "data.tokenizer.path", "paths.outputs", "paths.cache", "paths.mirror", "sweep", "text", "pair",
    "file", "template", "data.target_path", "data.val_path", "data.val_target_path", "data.test_path",
    "data.test_target_path", "data.columns.text", "data.columns.pair", "data.columns.label", "data.columns.score",
    "data.columns.answer", "data.columns.offset", "columns.text", "columns.pair", "question", "context", "target",
    "prompts", "prompts_field", "stop", "system",
}  # fmt: skip
# The name of a column, or a list of names.
NAMES = {"data.columns.target", "data.columns.choices", "columns.choices"}
# A text, or a list of texts, of a verb.
SHELL = {"hydra.launcher.setup", "hydra.launcher.srun"}  # lists of words for a shell, of a whole sweep
LISTS = {"generate": {"prompt", "stop"}, "train": SHELL}
# What the grammar takes for null, a truth or a number.
NO_NAME = re.compile(r"null|true|false|[-+]?(0|[1-9]\d*)(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)
MULTIRUN = ("-m", "--multirun")
OF_SWEEPS = ("hydra/launcher=", "hydra/sweeper=", "hydra.launcher.", "hydra.sweeper.")
CONFIG_DIR = ("--config-dir", "-cd")
# What may be said anew about a run that is resumed: where its data lie and what it computes on. Other choices of
# `debug` change the plan of the run.
RESUMABLE = ("resume=", "paths.", "hardware=", "hardware.", "debug=traceback", "hydra.", "hydra/")


def arrange(arguments: list[str], verb: str = "") -> list[str]:
    """Return a command line of a verb as Hydra takes it: flags before the settings, which must stand in one piece,
    texts quoted.

    In a sweep a text with a comma or a bracket is left to Hydra: it lists values.
    """
    flags = [argument for argument in arguments if argument in MULTIRUN]
    folder, rest = take_config_dir([argument for argument in arguments if argument not in MULTIRUN])
    left = [bool(flags and re.search("[,(]", each)) and each.partition("=")[0] not in SHELL for each in rest]
    settings = [each if lists else quote(each, verb) for each, lists in zip(rest, left, strict=True)]
    return [*flags, *(["--config-dir", folder] if folder else []), *settings]


def take_config_dir(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Return the folder that `--config-dir` names, which holds choices of people's own, and the other arguments."""
    folder, rest, each = None, [], iter(arguments)
    for argument in each:
        flag, assigned, value = argument.partition("=")
        if flag in CONFIG_DIR:
            folder = value if assigned else next(each, None)
        else:
            rest.append(argument)
    return folder, rest


def gather(arguments: list[str], name: str) -> list[str]:
    """Return a command line with its plain words, those that are no settings and no flags, as one list `name=[...]`."""
    plain = [word for word in arguments if not word.startswith("-") and not re.match(r"[+~]*[\w./@]+=", word)]
    # What is there is meant, although a run's name looks like a setting.
    plain += [word for word in arguments if word not in plain and not word.startswith("-") and _is_path(word)]
    rest = [word for word in arguments if word not in plain]
    return [*rest, f"{name}=[{','.join(quote_value(word) for word in arguments if word in plain)}]"] if plain else rest


def quote(argument: str, verb: str = "") -> str:
    """Quote the value of `prompt=...` and the like for Hydra, whose grammar has its own uses for commas and brackets.

    A value that already stands in quotes is left as it is, and so is null, which means none; a prompt may say "null".
    Where the verb takes a list of texts each of them is quoted.
    """
    key, _, value = argument.partition("=")
    none = value == "" or (value == "null" and key != "prompt")
    if key in NAMES and value.startswith("[") and value.endswith("]"):
        return argument
    if key in LISTS.get(verb, ()) and value.startswith("[") and value.endswith("]"):
        return f"{key}=[{','.join(map(_quote_item, split_list(value[1:-1])))}]"
    if none or key not in TEXTS | NAMES or _is_quoted(value):
        return argument
    return f"{key}={quote_value(value)}"


def split_list(inner: str) -> list[str]:
    """Return the items between the brackets of a list: what commas separate that stand in no quotes."""
    # Line ends are texts too, and stay. At the end the pattern matches nothing once more.
    return re.findall(r""" *("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^,]*?) *(?:,|\Z)""", inner.strip(" "), re.DOTALL)[:-1]


def _quote_item(item: str) -> str:
    return item if _is_quoted(item) else quote_value(item)


def _is_quoted(value: str) -> bool:
    return re.fullmatch(r"""(['"])(\\.|(?!\1)[^\\])*\1""", value, re.DOTALL) is not None


def as_typed(override: str) -> str:
    """Return an override without the quotes that `quote` gave it."""
    key, _, value = override.partition("=")
    plain = re.sub(r"(\\*)('|\$\{|$)", lambda found: found[1][: len(found[1]) // 2] + found[2], value[1:-1])
    plain = f"{key}={plain}"
    return plain if value.startswith("'") and quote(plain) == override else override


def quote_value(value: str) -> str:
    """Quote any text as a value of Hydra's."""
    escaped = re.sub(r"(\\*)('|\$\{|$)", lambda found: found[1] * 2 + (found[2] and "\\" + found[2]), value)
    return f"'{escaped}'"


def check_resumed(overrides: list[str]) -> None:
    """Refuse settings that would make another run of the one that `resume=` names.

    Before anything is composed: what may be set depends on choices of that run, which today's defaults do not know.

    Raises:
        ConfigError: there is one; names the first.
    """
    resumed = {override.lstrip("+") for override in overrides if override.lstrip("+").startswith("resume=")}
    if not resumed - {"resume=", "resume=null"}:
        return
    for override in overrides:
        if not override.lstrip("+").startswith(RESUMABLE):
            raise ConfigError(
                f"{override} cannot be changed in a run that is resumed: it goes on as it was started; "
                "start a new run for it"
            )


def check_length(overrides: list[str], others: Mapping[str, float | None]) -> None:
    """Refuse two lengths of a run.

    Args:
        others: what may be said in place of a number of steps, such as epochs.

    Raises:
        ConfigError: a number of steps was typed, and the length is said otherwise.
    """
    steps = [override for override in overrides if override.lstrip("+").startswith("trainer.max_steps=")]
    for name, value in others.items():
        if steps and value is not None:
            raise ConfigError(
                f"{steps[0]} and trainer.{name}={value} are two lengths: give one, or add trainer.{name}=null"
            )


def check_config_dir(folder: Path, conf: Path) -> None:
    """Refuse a folder of people's own choices that is not there, or holds one that Hydra would not take or misread.

    Raises:
        ConfigError: as above.
    """
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {folder} is no folder")
    for path in sorted(folder.rglob("*.yaml")):
        with path.open("rb") as file:
            if file.read(len(BOM_UTF8)) == BOM_UTF8:
                raise ConfigError(f"{path} begins with a byte order mark, which hides its first line: save it without")
        if (conf / path.relative_to(folder)).is_file():
            raise ConfigError(f"{path} bears the name of a choice of molino's, which counts: give yours another")


def check_groups(overrides: list[str], conf: Path) -> None:
    """Refuse null and numbers as choices of groups.

    Raises:
        ConfigError: there is such a choice.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        if NO_NAME.fullmatch(value) and (conf / key).is_dir():
            first = min(path.stem for path in (conf / key).glob("*.yaml"))
            raise ConfigError(f"{override}: a group takes the name of one of its choices, such as {key}={first}")


def check_hydras(overrides: list[str]) -> None:
    """Refuse settings of Hydra's that would have no effect here.

    Raises:
        ConfigError: there is one.
    """
    for override in overrides:
        if override.lstrip("+~").startswith("hydra.mode="):
            raise ConfigError(f"{override} has no effect: -m, and nothing else, makes it a sweep")
        if group := re.match(r"[+~]*hydra\.(launcher|sweeper)=(.*)", override):
            raise ConfigError(f"{override} has no effect: did you mean hydra/{group[1]}={group[2]}?")
        if override.lstrip("+~").startswith("hydra.run.dir="):
            raise ConfigError(
                f"{override} has no effect: a run lies below paths.outputs, and its name begins with name="
            )


def check_alone(overrides: list[str]) -> None:
    """Refuse for a single run what says how the runs of a sweep are found and where they train.

    Raises:
        ConfigError: there is such a setting.
    """
    for override in overrides:
        if override.lstrip("+~").startswith(OF_SWEEPS):
            raise ConfigError(f"{override} has no effect on a single run: add -m, which makes it a sweep")


def describe_overruled(overrides: list[str]) -> str:
    """Return which settings do not count because the same is typed once more behind them; '' for none."""
    plain = [as_typed(override) for override in overrides]
    last = {_key(override): override for override in plain}
    return "; ".join(dict.fromkeys(f"{each}: {last[_key(each)]} counts" for each in plain if each != last[_key(each)]))


def _key(override: str) -> str:
    # What is deleted may be added anew.
    return override if override.startswith("~") else override.lstrip("+").partition("=")[0]


def wants_traceback() -> bool:
    """Tell whether `debug=traceback` was typed."""
    return "debug=traceback" in sys.argv


def _is_path(word: str) -> bool:
    return Path(word).expanduser().is_dir()
