"""What `--help` prints: the choices and settings under conf/, in the words of their own comments.

Hydra's help composes a configuration for every group, which takes a second; reading the files takes none.
"""

import re
from collections.abc import Mapping
from pathlib import Path

NAMES = 20  # columns of the names of choices, at least
SENTENCE = re.compile(r"\.(?= [A-Z0-9]|$)(?<! al\.)")  # its end; "et al. 2020" is none


def help_text(verb: str, conf: Path, words: str = "", own: Path | None = None) -> str:
    """Return usage, groups with their choices, and the settings of conf/<verb>.yaml with their comments.

    Args:
        words: what the verb takes beside settings.
        own: a further folder of choices.
    """
    root = (conf / f"{verb}.yaml").read_text("utf-8")
    folders = [conf, own] if own else [conf]
    groups = "\n".join(_describe_group(group, folders) for group in _groups(conf, root))
    taken = " ".join(part for part in (words, "[group=choice ...]" if groups else "", "[setting=value ...]") if part)
    settings = "Settings (those of a choice are in its file under conf/):" if groups else "Settings:"
    listed = f"Groups:\n{groups}\n\n" if groups else ""
    return f"""Usage: molino {verb} {taken}

{listed}{settings}

{_settings(root)}
More: --cfg job --resolve  prints all settings with their values, as they would be used
{_more(verb, root, bool(groups))}      --hydra-help         Hydra's own flags
"""


def _more(verb: str, root: str, groups: bool) -> str:
    """Return what else a verb takes, by what it has: something that is worth varying, groups."""
    named = [line.split(":")[0] for line in root.splitlines()]
    if verb == "train":
        many = "      -m seed=0,1,2        runs every combination of listed values; again: what is left of them\n"
    elif "run" in named:
        many = "      -m run=one,another   does it once for each of the values listed\n"
    else:
        many = ""
    own = "--config-dir conf    takes choices of your own: conf/model/mine.yaml is model=mine (docs/your-own-code.md)"
    return many + (f"      {own}\n" if groups else "")


def overview(verbs: Mapping[str, str]) -> str:
    """Return what `molino` alone prints.

    Args:
        verbs: a line on each.
    """
    listed = "\n".join(f"  {verb:<10} {line}" for verb, line in verbs.items())
    return f"""molino: text goes in, language models come out.

Usage: molino <verb> [group=choice ...] [setting=value ...]

{listed}

To begin with:
  molino train                                     a small GPT on the Python manual, offline, in a minute or two
  molino generate run=latest prompt="The list of"  text from it

More: molino <verb> --help     choices and settings
      molino --version         versions, and the device
      molino completion bash   (zsh, fish) completes verbs, choices and settings: eval "$(molino completion bash)"
"""


def groups_of(verb: str, conf: Path) -> list[str]:
    """Return the groups a verb composes, such as data and data/tokenizer."""
    return _groups(conf, (conf / f"{verb}.yaml").read_text("utf-8"))


def _groups(conf: Path, root: str) -> list[str]:
    """Return the groups that conf/<verb>.yaml lists under `defaults`, in its order, those below them included."""
    listed = [line.split(":")[0].strip(" -") for line in root.splitlines() if line.startswith("  - ") and ":" in line]
    names = [name.removeprefix("override ") for name in listed]
    # Hydra's own default stands, so that a recipe may choose another one.
    names += ["hydra/launcher"] if "hydra/sweeper" in names else []
    folders = [conf / name for name in names if (conf / name).is_dir()]
    found = [each for folder in folders for each in (folder, *sorted(p for p in folder.rglob("*") if p.is_dir()))]
    return [str(each.relative_to(conf)) for each in found]


def _describe_group(group: str, folders: list[Path]) -> str:
    lines = [f"  {group}="]
    files = [path for folder in folders for path in (folder / group).glob("*.yaml")]
    width = max(NAMES, *(len(path.stem) for path in files)) if files else NAMES
    for path in sorted(files, key=lambda path: path.stem):
        lines.append(f"    {path.stem:<{width}} {_describe_choice(path)}".rstrip())
    return "\n".join(lines)


def _describe_choice(path: Path) -> str:
    """Return what a choice says of itself: the sentences that end in the first line of its comment, or the first."""
    comments = [line[2:] for line in path.read_text("utf-8").splitlines() if line.startswith("# ")]
    words = [comment for comment in comments if not comment.startswith(("@package", "COMMAND: "))]
    if not words:
        return ""
    whole = " ".join(words)
    ends = [found.end() for found in SENTENCE.finditer(whole)]
    within = [end for end in ends if end <= len(words[0])]
    return whole[: within[-1] if within else min(ends, default=len(whole))]


def _settings(root: str) -> str:
    """Return a root configuration without its list of defaults and without what it says to Hydra."""
    sections = root.split("\n\n")
    kept = [s for s in sections if not s.startswith(("hydra:", "defaults:")) and "\ndefaults:" not in s]
    return "\n\n".join(kept).rstrip() + "\n"
