"""The wheel: the command and conf/ in it, at work in an empty folder without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import CPU, ROOT

DISTRIBUTION = "molino_lm-0.1.0"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    subprocess.run(command, check=True, cwd=ROOT)
    (built,) = folder.iterdir()
    return built


def test_it_holds_the_package_its_choices_and_the_command(wheel):
    assert wheel.name.startswith(f"{DISTRIBUTION}-py3-none-any")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        assert (
            "molino = molino.command.entry:main" in archive.read(f"{DISTRIBUTION}.dist-info/entry_points.txt").decode()
        )
    source = ROOT / "src"
    code = {str(file.relative_to(source)) for file in source.rglob("*.py")}
    choices = {f"molino/{file.relative_to(ROOT)}" for file in (ROOT / "conf").rglob("*.yaml")}
    beside = {name for name in held if not name.startswith(f"{DISTRIBUTION}.dist-info/")}
    assert beside == code | choices


def test_it_trains_in_an_empty_folder_without_the_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    # Before the checkout that this environment has installed.
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "MOLINO_CACHE": str(tmp_path / "cache")}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "molino", *words]
        done = subprocess.run(command, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = run("train", "debug=fast", "model=bigram", "data.corpus.train_fraction=0.99", *CPU)
    assert "held-out loss" in shown and "next: " in shown
    (summary,) = (tmp_path / "empty" / "outputs").glob("*/summary.json")
    recorded = (summary.parent / "environment.json").read_text()
    assert str(ROOT) not in recorded and '"git_commit": null' in recorded
    assert "pydocs-bigram,pydocs,done,1," in run("results", "format=csv")
