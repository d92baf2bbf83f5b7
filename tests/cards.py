"""The examples of model cards, as somebody would run them."""

import contextlib
import io
import re
from pathlib import Path


def example_of(folder: Path, *texts: str) -> str:
    """The example of a card, with this folder and these texts, the last of which is repeated."""
    (block,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    left = iter(texts)
    filled = re.sub(r"(?<=\")\.\.\.|\.\.\.(?=\")", lambda _: next(left, texts[-1]), block)
    assert filled.count("path/to/this/folder") == 1
    return filled.replace("path/to/this/folder", str(folder))


def run_example(code: str) -> str:
    """What it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    return printed.getvalue()
