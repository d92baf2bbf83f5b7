"""molino results: what many runs came to, in a table: seeds averaged, the best of each text marked."""

import shlex
import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from molino.base.console import working
from molino.base.errors import CheckpointError, ConfigError
from molino.base.messages import few, typed
from molino.comparison import crosstab_tables as told
from molino.comparison.collect import find_folders, find_runs, read_runs
from molino.comparison.crosstab import cross
from molino.comparison.pictures import require_matplotlib
from molino.comparison.report import check_target, write_page, write_report
from molino.comparison.rows import default_metrics, make_rows
from molino.comparison.run import Run
from molino.comparison.tables import as_csv, as_json, markdown, print_table
from molino.configuration.build import check_arguments
from molino.configuration.overrides import as_typed
from molino.configuration.request import Request
from molino.sweeps.standing import statuses
from molino.tasks import earlier

FORMATS = {"markdown": markdown, "csv": as_csv, "json": as_json}


def run(request: Request) -> None:
    """Check the settings and compare."""
    settings = dict(request.settings)
    for name in ("runs", "metric", "group_by"):
        if settings[name] is not None:
            listed = settings[name] if isinstance(settings[name], list) else [settings[name]]
            settings[name] = [str(item) for item in listed]  # a sweep may be called 2026
    check_arguments(results, settings)
    results(**settings, command=shlex.join(["molino", "results", *map(as_typed, request.overrides)]))


def results(
    runs: list[str],
    metric: list[str] | None,
    group_by: list[str] | None,
    columns: str | None,
    format: str,
    to: str | None,
    compare: str | None,
    paths: dict[str, Any],
    command: str = "",
) -> None:
    """Print a table of runs: what differs between them, and how good they are.

    Args:
        runs: sweeps by name, folders and runs by path; none for everything below the outputs.
        metric: of the summaries; rows are sorted by the first. None for what decides in each run.
        group_by: settings whose combinations are the rows; None for a row for each configuration, seeds aside.
        columns: a setting with a column for each of its values; the rows are then those of the one in `group_by`.
        format: `table`, `csv`, `markdown` or `json`.
        to: a folder for a page with the table and pictures.
        compare: `windows` for single runs, piece by piece of the held-out text, in place of all that.
        command: what made it, for the page.

    Raises:
        ConfigError: a metric, a setting or a format is unknown, or `to` holds something else.
        CheckpointError: there are no such runs.
        ResourceError: matplotlib is missing, or the pictures cannot be written.
    """
    if format != "table" and format not in FORMATS:
        raise ConfigError(f"format={format} is unknown: choose table, {', '.join(FORMATS)}")
    if metric == [] or group_by == []:
        raise ConfigError("metric=[] and group_by=[] name nothing: name one, or leave them out")
    if compare is not None:
        _check_compare(compare, {"metric": metric, "group_by": group_by, "columns": columns, "to": to})
    target = Path(to).expanduser() if to else None
    if target:
        check_target(target)
        require_matplotlib()
    folders = find_folders(runs, Path(paths["outputs"]))
    found = find_runs(folders)
    if not found:
        places = few(map(str, folders))
        raise CheckpointError(f"there is no run below {places}: train one with {typed('train')}, or name a folder")
    if compare is not None:
        # It loads models, which nothing else here does.
        import_module("molino.verbs.windows").compare(found, format, paths)
        return
    # What other programs read holds nothing else.
    telling = working if format == "table" else nullcontext
    with telling("reading runs"):
        read = read_runs(found, earlier.measures, statuses)
    if columns is not None:
        show_crosstab(read, group_by, columns, metric, format, target, command)
        return
    rows = make_rows(read, metric, group_by)
    metric = metric or default_metrics(read)
    if format == "table":
        print_table(rows, metric)
    else:
        print(FORMATS[format](rows, metric))
    if target:
        with telling("drawing"):
            index = write_report(target, rows, metric, command)
        print(f"page: {index}", file=sys.stdout if format == "table" else sys.stderr)


def runs_below(names: list[str], outputs: Path) -> list[Run]:
    """Return the runs of sweeps by name, of folders and runs by path; without names, all below `outputs`.

    Raises:
        CheckpointError: there is no such sweep or folder.
    """
    return read_runs(find_runs(find_folders(names, outputs)), earlier.measures, statuses)


def show_crosstab(
    runs: list[Run],
    group_by: list[str] | None,
    columns: str,
    metric: list[str] | None,
    format: str,
    target: Path | None,
    command: str,
) -> None:
    """Print a table of two settings, and make a page of it.

    Raises:
        ConfigError: its rows are not named, or a metric is.
    """
    if group_by is None or len(group_by) != 1 or metric is not None:
        raise ConfigError(
            f"columns={columns} needs group_by=<one setting> for the rows, and no metric: each has its own"
        )
    tab = cross(runs, group_by[0], columns)
    if format == "table":
        told.print_crosstab(tab, group_by[0])
    else:
        print({"markdown": told.markdown, "csv": told.as_csv, "json": told.as_json}[format](tab, group_by[0]))
    if target:
        index = write_page(target, *told.make_page(tab, group_by[0], command))
        print(f"page: {index}", file=sys.stdout if format == "table" else sys.stderr)


def _check_compare(compare: str, others: dict[str, Any]) -> None:
    if compare != "windows":
        raise ConfigError(f"compare={compare} is unknown: choose windows")
    for name, value in others.items():
        if value is not None:
            raise ConfigError(f"{name}={value} has no effect with compare=windows: leave it out")
