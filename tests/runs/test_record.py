"""A run records what it starts from, and no secrets."""

import json
import subprocess
import sys
from importlib import metadata

import pytest
import yaml

from molino.runs import record as module
from molino.runs.record import record

CONFIG = {"seed": 3, "name": "señor", "model": {"_target_": "molino.models.bigram.Bigram", "sizes": [1, None]}}


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout in whose depth the source lies; a function that runs git in it."""
    source = tmp_path / "checkout" / "src" / "code.py"
    source.parent.mkdir(parents=True)
    source.write_text("one = 1\n")
    monkeypatch.setattr(module, "__file__", str(source))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))

    def git(*arguments):
        identity = ("-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path / "checkout"), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return source, git


def written(run):
    return json.loads((run / "environment.json").read_text("utf-8"))


def test_a_clean_checkout(run, checkout):
    _, git = checkout
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    record(run, CONFIG, ["seed=3", "name=señor"], {})
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "environment.json", "overrides.yaml"]
    assert yaml.safe_load((run / "config.yaml").read_text("utf-8")) == CONFIG
    assert list(yaml.safe_load((run / "config.yaml").read_text("utf-8"))) == ["seed", "name", "model"]
    assert yaml.safe_load((run / "overrides.yaml").read_text("utf-8")) == ["seed=3", "name=señor"]
    assert written(run)["git_commit"] == git("rev-parse", "HEAD").strip()
    assert written(run)["git_changed"] is False


def test_changes_can_be_applied_again(run, checkout):
    source, git = checkout
    git("init")
    (source.parent.parent / "elsewhere.txt").write_text("a\n")
    git("add", ".")
    git("commit", "-m", "first")
    source.write_text("two = 'señor'\n")
    (source.parent.parent / "elsewhere.txt").write_text("b\n")
    record(run, CONFIG, [], {})
    assert written(run)["git_changed"] is True
    git("checkout", ".")
    assert source.read_text() == "one = 1\n"
    git("apply", str(run / "changes.patch"))
    assert source.read_text("utf-8") == "two = 'señor'\n"
    assert (source.parent.parent / "elsewhere.txt").read_text() == "b\n"


@pytest.mark.parametrize("why", ["no repository", "no git", "no commit"])
def test_without_a_commit(run, checkout, monkeypatch, why):
    _, git = checkout
    if why == "no commit":
        git("init")
    if why == "no git":
        monkeypatch.setenv("PATH", "")
    record(run, CONFIG, [], {})
    assert written(run)["git_commit"] is None
    assert written(run)["git_changed"] is False
    assert not (run / "changes.patch").exists()


def test_versions_and_command(run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/molino", "seed=1"])
    record(run, CONFIG, [], {})
    environment = written(run)
    assert environment["command"] == ["molino", "train", "seed=1"]
    assert environment["packages"]["torch"] == metadata.version("torch")
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["cores"] >= 1


def test_environment_variables_stay_out(run, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "swordfish-1605")
    record(run, CONFIG, [], {})
    for path in run.iterdir():
        assert "SECRET_TOKEN" not in path.read_text("utf-8")
        assert "swordfish-1605" not in path.read_text("utf-8")


def test_the_configuration_comes_last(run, monkeypatch):
    order = []
    monkeypatch.setattr(module, "write_text", lambda path, _: order.append(path.name))
    monkeypatch.setattr(module, "_source_state", lambda: ("abc", "diff"))
    record(run, CONFIG, [], {})
    assert order == ["overrides.yaml", "environment.json", "changes.patch", "config.yaml"]
