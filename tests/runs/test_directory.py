"""Run directories: unique, found by name, done or not."""

import json
import math
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from molino.base.errors import CheckpointError, ConfigError, ResourceError
from molino.runs import directory
from molino.runs.directory import BEST, CONFIG, LAST, SUMMARY


def make_run(path, seconds):
    """A run that started at this time."""
    path.mkdir(parents=True)
    (path / CONFIG).write_text("seed: 0\n")
    os.utime(path / CONFIG, (seconds, seconds))
    return path


def create_many(parent, count):
    return [directory.create(parent, "run") for _ in range(count)]


def test_a_directory_is_new_and_numbered(tmp_path):
    parent = tmp_path / "a" / "b"
    assert [path.relative_to(parent).name for path in create_many(parent, 3)] == ["run", "run-2", "run-3"]
    (parent / "other").touch()
    assert directory.create(parent, "other") == parent / "other-2"


def test_no_two_runs_share_a_directory(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        by_threads = [path for paths in pool.map(lambda _: create_many(tmp_path, 10), range(8)) for path in paths]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        by_processes = [path for paths in pool.starmap(create_many, [(tmp_path, 10)] * 4) for path in paths]
    assert len(set(by_threads + by_processes)) == 120
    assert len(list(tmp_path.iterdir())) == 120


@pytest.mark.parametrize("name", ["a/b", "../a", "", ".", ".."])
def test_a_name_is_only_a_name(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot name a run's directory"):
        directory.create(tmp_path / "outputs", name)
    assert list(tmp_path.iterdir()) == []


def test_places_that_take_no_directory(tmp_path):
    (tmp_path / "file").touch()
    for parent in (tmp_path / "file", tmp_path / "file" / "outputs"):
        with pytest.raises(ResourceError, match=r"cannot be written.*; set paths\.outputs"):
            directory.create(parent, "run")
    with pytest.raises(ResourceError, match="File name too long"):
        directory.create(tmp_path, "x" * 300)


def test_a_readable_name():
    assert directory.readable_name([]) == "defaults"
    assert directory.readable_name(["seed=1", "data=text", "data.path=a/b c"]) == "seed=1,data=text,data.path=a-bc"
    long = [f"setting{number}=value" for number in range(100)]
    names = {directory.readable_name([*long, last]) for last in ("seed=0", "seed=1")}
    assert len(names) == 2
    assert all(len(name) == directory.LONGEST_NAME and name.startswith("setting0=value,") for name in names)
    assert len(directory.readable_name([f"prompt={'ñ字' * 100}"]).encode()) <= directory.LONGEST_NAME


def test_listing_runs_imports_no_torch():
    code = "import sys, molino.runs.directory, molino.runs.record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_runs_are_listed_oldest_first_at_any_depth(tmp_path):
    second = make_run(tmp_path / "a", 2000)
    first = make_run(tmp_path / "sweeps" / "x" / "z", 1000)
    third = make_run(tmp_path / "b", 3000)
    (tmp_path / "no_run").mkdir()
    assert directory.list_runs(tmp_path) == [first, second, third]
    assert directory.list_runs(tmp_path / "absent") == []


def test_find(tmp_path, monkeypatch):
    first = make_run(tmp_path / "outputs" / "first", 1000)
    latest = make_run(tmp_path / "outputs" / "sweeps" / "one" / "seed=1", 3000)
    second = make_run(tmp_path / "outputs" / "second", 2000)
    outputs = tmp_path / "outputs"
    assert directory.find("latest", outputs) == latest
    assert directory.find("second", outputs) == second
    assert directory.find("seed=1", outputs) == latest
    assert directory.find(str(first), tmp_path / "elsewhere") == first
    monkeypatch.setenv("HOME", str(tmp_path))
    assert directory.find("~/outputs/first", tmp_path / "elsewhere") == first


def test_a_name_without_its_time_is_the_latest_run_of_it(tmp_path):
    older, newer, other = (
        make_run(tmp_path / name, age)
        for name, age in (("a_20260101-000000", 1000), ("a_20260102-000000-2", 2000), ("a-b_20260103-000000", 3000))
    )
    assert directory.find("a", tmp_path) == directory.find("a", tmp_path, trained=True) == newer
    (older / "checkpoints").mkdir()
    (older / directory.LAST).touch()
    assert directory.find("a", tmp_path) == newer and directory.find("a", tmp_path, trained=True) == older
    assert directory.is_short_for("a", newer) and not directory.is_short_for(newer.name, newer)
    assert not directory.is_short_for("a", other) and not directory.is_short_for("seed=1", tmp_path / "seed=1")


def test_what_cannot_be_found(tmp_path):
    with pytest.raises(CheckpointError, match="there is no run below"):
        directory.find("latest", tmp_path)
    with pytest.raises(CheckpointError, match=f"there is no run x, neither as a path nor as a name below {tmp_path}$"):
        directory.find("x", tmp_path)
    make_run(tmp_path / "one" / "same", 1000)
    newer = make_run(tmp_path / "two" / "same", 2000)
    with pytest.raises(CheckpointError, match=f"2 runs are called same: name one by its path, such as {newer}"):
        directory.find("same", tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no run x.*; the latest is same$"):
        directory.find("x", tmp_path)
    for nothing in (None, ""):
        with pytest.raises(ConfigError, match="no run was named: add run=latest"):
            directory.find(nothing, tmp_path)


def test_a_run_is_done_when_it_has_its_summary(tmp_path):
    run = make_run(tmp_path / "run", 1000)
    assert not directory.is_done(run)
    summary = {"val/loss": 1.5, "steps": 20, "name": "señor"}
    directory.write_summary(run, summary)
    assert directory.is_done(run)
    assert directory.read_summary(run) == json.loads((run / SUMMARY).read_text("utf-8")) == summary


def test_a_summary_is_json_also_without_a_perplexity(tmp_path):
    run = make_run(tmp_path / "run", 1000)
    directory.write_summary(run, {"val/loss": 1e28, "val/perplexity": math.inf})
    assert directory.read_summary(run) == {"val/loss": 1e28, "val/perplexity": None}


@pytest.mark.parametrize("content", [None, b"", b"[1]", b"null", b'{"a": 1', b"\xff\xfe"])
@pytest.mark.parametrize(("read", "name"), [(directory.read_summary, SUMMARY), (directory.read_config, CONFIG)])
def test_damaged_records_are_one_line(tmp_path, content, read, name):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^[^\n]*{name}[^\n]*$"):
        read(tmp_path)


def test_the_path_of_a_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        directory.checkpoint_path(tmp_path, "best")
    (tmp_path / LAST).touch()
    assert directory.checkpoint_path(tmp_path, "best") == tmp_path / LAST
    (tmp_path / BEST).touch()
    assert directory.checkpoint_path(tmp_path, "best") == tmp_path / BEST
    assert directory.checkpoint_path(tmp_path, "last") == tmp_path / LAST
    with pytest.raises(ConfigError, match="checkpoint=first is unknown: choose best or last"):
        directory.checkpoint_path(tmp_path, "first")
