"""molino results ... compare=windows: runs compared on the held-out text piece by piece."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from conftest import CPU

from molino.runs import directory


@pytest.fixture(scope="module")
def home(tmp_path_factory, molino, tiny) -> Path:
    """Beside the small transformer a bigram and counts, of the same text."""
    home = tmp_path_factory.mktemp("windows")
    for model in ("bigram", "kneser_ney"):
        places = (f"paths.outputs={home}", f"paths.cache={tiny.cache}", f"data.path={tiny.file}")
        sizes = ("data.block_size=16", "data.batch_size=4", "debug=fast", f"name={model}")
        done = molino("train", "data=text", f"model={model}", *sizes, *places, *CPU)
        assert done.status == 0, done.err
    return home


def compare(molino, home, tiny, *more):
    runs = [str(directory.find(name, home)) for name in ("bigram", "kneser_ney")]
    return molino("results", *runs, str(tiny.path), "compare=windows", f"paths.cache={tiny.cache}", *more)


def test_losses_are_those_of_evaluation_and_the_best_comes_first(molino, home, tiny):
    done = compare(molino, home, tiny, "format=json")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    runs = [directory.find(name, home) for name in ("bigram", "kneser_ney")]
    wanted = {str(run): directory.read_summary(run)["val/best_loss"] for run in [*runs, tiny.path]}
    assert {each["run"]: each["loss"] for each in found} == pytest.approx(wanted, abs=1e-5)
    assert [each["loss"] for each in found] == sorted(each["loss"] for each in found)
    assert found[0]["difference"] is None and Path(found[0]["run"]).name.startswith("kneser_ney")
    assert all(each["low"] < each["loss"] < each["high"] for each in found)


def test_it_is_a_table_or_what_other_programs_read(molino, home, tiny):
    done = compare(molino, home, tiny)
    assert (done.status, done.err) == (0, "")
    assert (
        "mancha.txt, val split: " in done.out and "windows of 16 tokens" in done.out and "paired bootstrap" in done.out
    )
    assert "best" in done.out and "worse" in done.out
    rows = list(csv.DictReader(io.StringIO(compare(molino, home, tiny, "format=csv").out)))
    assert len(rows) == 3 and float(rows[1]["p"]) <= 1
    assert compare(molino, home, tiny, "format=markdown").out.startswith("| run | loss | 95 % interval |")


def test_what_does_not_compare_is_refused(molino, home, tiny, tiny_documents, tmp_path):
    def refused(*arguments: str) -> str:
        done = molino("results", *arguments, f"paths.cache={tiny.cache}")
        assert done.status == 2 and done.err.count("\n") == 1 and not done.out, done.err
        return done.err

    run = str(tiny.path)
    assert "this is" in refused(run, "compare=windows") and "alone: name another" in refused(run, "compare=windows")
    assert "has others than" in refused(run, str(tiny_documents.path), "compare=windows")
    assert "compare=documents is unknown: choose windows" in refused(run, "compare=documents")
    assert "to=x has no effect with compare=windows" in refused(run, "compare=windows", "to=x")
    lost = shutil.copytree(tiny.path, tmp_path / "lost")
    shutil.rmtree(lost / "checkpoints")
    done = molino("results", run, str(lost), "compare=windows", f"paths.cache={tiny.cache}")
    assert done.status != 0 and "Traceback" not in done.err
