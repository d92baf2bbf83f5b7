"""The notebooks run from top to bottom, and come to the figures that they tell of."""

import ast
import json
import math

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.xdist_group("notebooks")
FIGURES = """
import json
print(json.dumps({
    "counted": [best_on_train, best_heldout],
    "floors": [untrained.summary["floor/bigram_train"], untrained.summary["floor/bigram"]],
    "untrained": untrained.summary["val/loss"], "size": size,
    "bigram": bigram.summary["val/loss"], "gpt": gpt.summary["val/loss"], "curve": bigram.curve("val/loss")[0].tolist(),
    "difference": float(difference), "surprise": surprise, "attention": list(attention.shape),
    "probabilities": probabilities.sum().item(),
}))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """What both count and prepare, they do once where they run one after the other."""
    return tmp_path_factory.mktemp("cache")


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook(path, mirror, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("MOLINO_MIRROR", str(mirror))
    monkeypatch.setenv("MOLINO_CACHE", str(cache))
    notebook = read(path)
    notebook.cells.append(nbformat.v4.new_code_cell(FIGURES))
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    found = json.loads(outputs[-1].text)
    # Counted here and by molino; see DESIGN for where they come from.
    assert found["counted"] == pytest.approx([2.2062, 2.2440], abs=1e-4)
    assert found["floors"] == pytest.approx(found["counted"], abs=1e-6)
    assert found["untrained"] == pytest.approx(math.log(found["size"]), abs=1e-4)
    assert 2.2440 < found["bigram"] < 2.2560 and found["curve"] == list(range(1000, 10_001, 1000))
    assert found["gpt"] < 2.0 and found["difference"] < 0.05
    assert found["surprise"]["gpt"][0] < found["surprise"]["bigram"][0] < found["surprise"]["bigram"][1]
    assert found["attention"] == [2, 4, 24, 24] and found["probabilities"] == pytest.approx(1, abs=1e-5)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    # Progress is one line that is written over, a training; and nobody warns of anything.
    cells = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    lines = ["".join(each.text for each in cell if each.get("name") == "stdout") for cell in cells]
    bars = [line for line in lines if "\rstep" in line]
    assert len(bars) == 2 and all(bar.count("\n") == 1 and bar.count("\r") > 5 for bar in bars)
    told = [output.text for output in outputs if output.get("name") == "stderr"]
    assert all(text.startswith("molino: the prompt has 11 tokens") for text in told), told


def test_both_notebooks_do_the_same():
    english, spanish = ([cell for cell in read(path).cells if cell.cell_type == "code"] for path in NOTEBOOKS)
    assert [without_texts(cell.source) for cell in english] == [without_texts(cell.source) for cell in spanish]
    assert not any(cell.outputs for cell in (*english, *spanish))


def without_texts(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)
