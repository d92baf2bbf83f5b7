"""What a start leaves out, and that whoever uses it finds it as ever."""

import gc
import json
import subprocess
import sys

import pytest
from conftest import CPU

from molino.command.light import uncollected

# Imports Lightning by import_lightning, or tries to, and prints which attributes of what it could have touched are
# others than before, what has been imported, and whether packages are known to be there.
WATCHED = """
import builtins, json, sys
import torch
from lightning_utilities.core import imports
from molino.command.light import LEFT_OUT, import_lightning
from torch.optim import Optimizer

watched = [vars(each) for each in (imports, imports.RequirementCache, builtins, sys, torch.compiler, Optimizer)]
before = [dict(each) for each in watched]
found = list(sys.meta_path), list(sys.path_hooks)
if sys.argv[1] == "fails":
    sys.modules["lightning.pytorch"] = None
try:
    import_lightning()
    assert sys.argv[1] == "works"
except ImportError:
    assert sys.argv[1] == "fails"
changed = [name for old, new in zip(before, watched) for name in old.keys() | new if old.get(name) is not new.get(name)]
assert found == (sys.meta_path, sys.path_hooks)
imported = [name for name in LEFT_OUT if name in sys.modules]
there = [imports.package_available(name) and bool(imports.RequirementCache(name)) for name in LEFT_OUT]
there.append(imports.module_available("matplotlib"))
print(json.dumps([changed, imported, there]))
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_a_run_imports_nothing_for_nothing(tmp_path, tiny):
    """Because it is installed it would take most of every start."""
    code = """
import sys
from molino.command.entry import command
command("train")
needless = {"transformers", "matplotlib", "scipy", "optuna"}
print(sorted(needless & sys.modules.keys()))
"""
    settings = [*CPU, "data=text", f"data.path={tiny.file}", f"paths.outputs={tmp_path}", f"paths.cache={tiny.cache}"]
    done = python(code, *settings, "debug=fast")
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("how", ["works", "fails"])
def test_nobody_else_sees_that_something_was_left_out(how):
    done = python(WATCHED, how)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[], [], [True] * 4]


def test_garbage_is_looked_for_again_after_imports():
    frozen = gc.get_freeze_count()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > frozen
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()
