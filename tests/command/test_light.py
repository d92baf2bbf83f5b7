"""What a start leaves out, and that whoever uses it finds it as ever."""

import gc
import json
import subprocess
import sys

import pytest
from conftest import CPU, ROOT

from molino.command.light import uncollected

# Trains without torch._dynamo if `lightly`, then uses what needs it, and prints what comes out.
USES = """
import json, sys, torch
from molino.command.light import import_lightning
lightly = sys.argv[1] == "lightly"
if lightly:
    import_lightning()
from lightning.fabric.wrappers import OptimizedModule
from torch.optim.optimizer import register_optimizer_step_post_hook
assert ("torch._dynamo" in sys.modules) != lightly

def train(make, compiled=False):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizer = make(model.parameters(), lr=0.01)
    optimizer.load_state_dict(optimizer.state_dict())
    forward, step = model, optimizer.step
    if compiled:
        forward, step = torch.compile(model, backend="eager"), torch.compile(optimizer.step, backend="eager")
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = forward(torch.ones(3, 4)).square().mean()
        loss.backward()
        step()
        losses.append(loss.item())
    return losses

def differentiable():
    weight, rate = torch.tensor([3.0]), torch.tensor(0.5, requires_grad=True)
    copy = weight.clone()
    copy.grad = 2 * copy
    torch.optim.SGD([copy], lr=rate, differentiable=True).step()
    copy.sum().backward()
    return rate.grad.item()

hooked, makers = [], (torch.optim.AdamW, torch.optim.SGD)
handle = register_optimizer_step_post_hook(lambda *_: hooked.append(1))
eager = [train(make) for make in makers], differentiable(), len(hooked)
handle.remove()
assert ("torch._dynamo" in sys.modules) != lightly
compiled = [train(make, compiled=True) for make in makers], differentiable()
known = [isinstance(thing, OptimizedModule) for thing in (torch.compile(torch.nn.Linear(2, 2)), torch.nn.Linear(2, 2))]
from torch._dynamo.utils import counters
import torch.distributed.fsdp, transformers
graphs = counters["stats"], counters["graph_break"]
print(json.dumps({"eager": eager, "compiled": compiled, "known": known, "graphs": graphs}))
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_a_run_imports_nothing_for_nothing(tmp_path, tiny):
    """Because it is installed, or in case somebody compiles something, it would take most of every start."""
    code = """
import sys
from molino.command.entry import command
command(sys.argv[0])
needless = {"transformers", "matplotlib", "scipy", "optuna", "submitit", "torch._dynamo", "sympy"}
print(sorted(needless & sys.modules.keys()))
"""
    settings = [*CPU, "data=text", f"data.path={tiny.file}", f"paths.outputs={tmp_path}", f"paths.cache={tiny.cache}"]
    script = f"import sys; sys.argv[0] = {str(ROOT / 'scripts' / 'train.py')!r}" + code
    done = python(script, *settings, "debug=fast")
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_what_needs_the_compiler_finds_it_as_if_it_had_been_there():
    lightly, stock = (python(USES, how) for how in ("lightly", "stock"))
    assert lightly.returncode == 0 == stock.returncode, lightly.stderr + stock.stderr
    found = json.loads(lightly.stdout)
    assert found == json.loads(stock.stdout)
    losses, gradient, hooked = found["eager"]
    assert found["compiled"] == [[pytest.approx(each, rel=1e-3) for each in losses], gradient]
    assert gradient == -2 * 3.0 and hooked == 2 * 4 + 1 and found["known"] == [True, False]


def test_garbage_is_looked_for_again_after_imports():
    frozen = gc.get_freeze_count()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > frozen
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()
