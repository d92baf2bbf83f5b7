"""The folder of a comparison: a page and the pictures in it. An earlier one is replaced, anything else is refused."""

import re
from pathlib import Path

from molino.base.errors import ConfigError
from molino.base.files import atomic_write, explain_os_errors, write_text
from molino.comparison import pictures
from molino.comparison.page import GENERATOR, make_page
from molino.comparison.rows import Row
from molino.runs.examples import read_outcomes
from molino.runs.measures import spoken
from molino.runs.pictures import draw_outcomes, read_look

INDEX = "index.html"
FIRST = 6  # rows whose examples and whose inside are shown


def check_target(target: Path) -> None:
    """Refuse a place that holds anything but an earlier report.

    Raises:
        ConfigError: it does.
    """
    if target.exists() and not target.is_dir():
        raise ConfigError(f"to={target} is a file: choose another name, nothing is overwritten")
    if foreign := [path for path in _entries(target) if not _is_ours(path) and not _is_orphan(path)]:
        raise ConfigError(
            f"to={target} holds {foreign[0].name}, which is of no earlier report: choose another folder, nothing is "
            "overwritten"
        )


def write_report(target: Path, rows: list[Row], metrics: list[str], command: str) -> Path:
    """Draw all pictures, write them and the page into the folder `target`, and return the page.

    Raises:
        ResourceError: matplotlib is missing, or the folder cannot be written.
    """
    drawn = draw(rows, metrics) | draw_examples(rows)
    return write_page(target, make_page(rows, metrics, drawn | read_looks(rows), command, most_wrong(rows)), drawn)


def write_page(target: Path, page: str, drawn: dict[str, bytes]) -> Path:
    """Write a page, and its pictures beside it, into the folder `target` and return the page."""
    for title, png in drawn.items():
        with atomic_write(target / file_name(title)) as file:
            file.write(png)
    # Names of directories may hold bytes that are no text.
    write_text(target / INDEX, page.encode("utf-8", "backslashreplace").decode())
    # Pictures of an earlier report that this one has not.
    names = {INDEX, *map(file_name, drawn)}
    for path in _entries(target):
        if path.name not in names and _is_ours(path):
            path.unlink()
    return target / INDEX


def draw(rows: list[Row], metrics: list[str]) -> dict[str, bytes]:
    """Return title -> PNG of each picture there is something to draw in."""
    figures = {
        f"{spoken(metric)} by {axis}": pictures.draw_curves(rows, metric, axis)
        for metric in dict.fromkeys(map(pictures.drawn_metric, rows))
        for axis in ("steps", "seconds")
    }
    for metric in metrics:
        for key in pictures.numeric_settings(rows):
            figures[f"{metric} by {key}"] = pictures.draw_setting(rows, metric, key)
    return {title: pictures.render(figure) for title, figure in figures.items() if figure}


def draw_examples(rows: list[Row]) -> dict[str, bytes]:
    """Return title -> PNG of what became of the held-out examples in the first run of each of the first rows."""
    found = {}
    for row in [row for row in rows if row.runs][:FIRST]:
        run = row.runs[0]
        if (outcomes := read_outcomes(run.path)) and (figure := draw_outcomes(outcomes, run.path.name)):
            found[f"held-out examples of {run.path.name}"] = pictures.render(figure)
    return found


def read_looks(rows: list[Row]) -> dict[str, bytes]:
    """Return title -> PNG of what `molino explain` drew of the first run of each of the first rows, where it did."""
    runs = [row.runs[0].path for row in rows if row.runs][:FIRST]
    return {f"inside {run.name}: {look[0]}": look[1] for run in runs if (look := read_look(run))}


def most_wrong(rows: list[Row]) -> tuple[str, list[list[str]]] | None:
    """Return a title and the examples that the first run of the best row is most wrong about; None where there are
    none."""
    run = next((row.runs[0] for row in rows if row.runs), None)
    outcomes = read_outcomes(run.path) if run else None
    if outcomes is None or not outcomes.wrong:
        return None
    title = f"what {run.path.name} is most wrong about"
    return title, [[each.text, each.told, each.wanted, f"{each.sure:.3f}"] for each in outcomes.wrong]


def file_name(title: str) -> str:
    """Return the name of the file of a picture."""
    return re.sub(r"[^\w.-]+", "-", title) + ".png"


def _entries(target: Path) -> list[Path]:
    with explain_os_errors(target):
        return sorted(target.iterdir()) if target.is_dir() else []


def _is_ours(path: Path) -> bool:
    if not path.is_file() or path.is_symlink():
        return False
    with explain_os_errors(path), path.open("rb") as file:
        start = file.read(1000)
    mark = GENERATOR if path.name == INDEX else pictures.MARK if path.suffix == ".png" else None
    return mark is not None and mark.encode() in start


def _is_orphan(path: Path) -> bool:
    """Tell whether a report that was killed left this behind while writing."""
    return re.fullmatch(r"\..+\.(png|html)\..*\.tmp", path.name) is not None and path.is_file()
