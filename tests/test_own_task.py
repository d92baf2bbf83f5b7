"""A task of people's own, of another kind than molino's: which of two halves of a text came first (examples/mylab).

Its batches hold other fields, its loss has two parts, and of what decides more is better. Molino knows nothing of it.
"""

import csv
import itertools
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CPU, ROOT
from optuna.trial import TrialState
from running import assert_same_run, finish, metrics, only_run, start, wait_for_step
from search.searching import study_in

from molino.configuration.door import ALLOW, let_in
from molino.data.batches import draw_block
from molino.data.tokens import Split
from molino.evaluation.totals import measure_all
from molino.models.gpt import GPT
from molino.runs import directory
from molino.runs.measures import read_measures
from molino.trained.load import load_run
from molino.training.optimizers import hidden_weights

MYLAB = ROOT / "examples" / "mylab"
OWN = ("--config-dir", str(MYLAB / "conf"), "task=order", "data=text")
# Six letters over and over: in order the second half goes on where the first ends, which is learned in some 40 steps.
TEXT = "abcdef" * 2000
SMALL = (
    "model.n_layer=1", "model.n_head=2", "model.n_embd=16", "data.block_size=8", "data.batch_size=32",
    "optimizer.lr=0.01", "scheduler=constant", "trainer.max_steps=60", "trainer.log_every=10", "trainer.val_every=20",
    "trainer.checkpoint_every=20", "trainer.sample_tokens=24",
)  # fmt: skip
SEARCH = ("hydra/sweeper=optuna", "seed=range(0,3)")
pytestmark = pytest.mark.xdist_group("own task")


@pytest.fixture(autouse=True)
def at_mylab(monkeypatch):
    monkeypatch.setenv(ALLOW, "mylab")
    monkeypatch.syspath_prepend(str(MYLAB))
    monkeypatch.setenv("PYTHONPATH", str(MYLAB))  # of processes of their own
    let_in()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("order")
    (home / "text.txt").write_text(TEXT)
    return home


@pytest.fixture
def train(molino, home, tmp_path):
    def run(*settings: str, own: tuple[str, ...] = OWN):
        typed = {word.partition("=")[0] for word in settings}
        small = [word for word in SMALL if word.partition("=")[0] not in typed]
        small = [word for word in small if not (word.startswith("model.") and "model" in typed)]
        places = [f"data.path={home / 'text.txt'}", f"paths.cache={home / 'cache'}"]
        places += [] if "paths.outputs" in typed else [f"paths.outputs={tmp_path}"]
        multirun = ["-m"] if "-m" in settings else []
        return molino("train", *multirun, *own, *small, *CPU, *places, *(word for word in settings if word != "-m"))

    return run


@pytest.fixture
def order():
    from mylab.tasks import Order

    return Order()


# What the task computes


def test_halves_are_swapped_and_what_counts_is_counted():
    from mylab.tasks import examples

    fields = examples(np.array([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]], np.uint16), np.array([0, 1]))
    assert fields["tokens"].tolist() == [[1, 2, 3, 4, 5, 6], [4, 5, 6, 1, 2, 3]]
    assert fields["targets"].tolist() == [[2, 3, -100, 5, 6, -100], [-100] * 6]
    assert fields["swapped"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("seed", range(3))
def test_the_area_is_the_share_of_pairs_in_the_right_order(seed):
    from mylab.tasks import auc

    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 6, 40).astype(float), rng.integers(0, 2, 40)
    pairs = itertools.product(scores[labels == 1], scores[labels == 0])
    wins = [1.0 if one > other else 0.5 if one == other else 0.0 for one, other in pairs]
    assert auc(scores, labels) == pytest.approx(statistics.mean(wins), rel=1e-12)
    assert auc(scores, np.ones(40)) == 0.5


def test_a_split_is_measured_the_same_however_it_is_shared(order):
    split = Split(
        "val", np.random.default_rng(0).integers(0, 9, 8 * 700).astype(np.uint16), np.array([0, 5599]), 1, 1, 0
    )
    text = type("Text", (), {"splits": {"val": split}})
    torch.manual_seed(0)
    network = order.network(GPT(9, 8, n_layer=1, n_head=2, n_embd=8)).eval()
    cpu = torch.device("cpu")
    whole = measure_all(order.measure, network, order.evaluation(text, "val", 8, None), cpu)
    shares = [
        measure_all(order.measure, network, order.evaluation(text, "val", 8, None, rank, 3), cpu) for rank in range(3)
    ]
    together = {name: sum(share[name] for share in shares) for name in whole if name != "scores"}
    together["scores"] = np.concatenate([share["scores"] for share in shares])
    wanted, found = order.figures(whole, split), order.figures(together, split)
    assert found == pytest.approx(wanted, rel=1e-6) and whole["examples"] == 700
    # By hand, example by example.
    right = []
    for batch in order.evaluation(text, "val", 8, None):
        for tokens_T, swapped in zip(batch["tokens"], batch["swapped"], strict=True):
            with torch.no_grad():
                right.append((network(tokens_T[None])[0].item() > 0) == bool(swapped))
    assert found["accuracy"] == pytest.approx(statistics.mean(right))
    (floor,) = order.floors(text, "val", 8)
    assert floor.value == pytest.approx(max(np.mean(whole["scores"][:, 1]), 1 - np.mean(whole["scores"][:, 1])))


@pytest.mark.parametrize(("accumulate", "world_size"), [(1, 1), (4, 1), (2, 2)])
def test_each_part_of_the_loss_is_the_mean_over_what_counts_in_it(order, accumulate, world_size):
    """However a step is cut, and although some pieces hold no text in order."""
    tokens = np.random.default_rng(1).integers(0, 9, 500).astype(np.uint16)
    text = type("Text", (), {"splits": {"train": Split("train", tokens, np.array([0, 499]), 1, 1, 0)}})
    torch.manual_seed(0)
    network = order.network(GPT(9, 8, n_layer=1, n_head=2, n_embd=8)).double()
    draw = order.draw(text, "windows", 8, 0)
    steps = np.arange(6)

    def parts(accumulate: int, world_size: int) -> list[dict[str, float]]:
        blocks = [
            draw_block(draw, order.parts, steps, accumulate, 8 // accumulate, rank, world_size)
            for rank in range(world_size)
        ]
        found = [dict.fromkeys(order.parts, 0.0) for _ in steps]
        for block in blocks:
            for step, micro_batches in enumerate(block.steps()):
                for batch, weight in micro_batches:
                    batch = {**batch, "swapped": batch["swapped"].double()}
                    for part, loss in order.loss(network, batch).items():
                        found[step][part] += weight[part] * loss.item() / world_size
        return found

    for cut, whole in zip(parts(accumulate, world_size), parts(1, 1), strict=True):
        assert cut == pytest.approx(whole, rel=1e-6)


def test_a_step_in_which_nothing_counts_for_a_part_is_learnt_without_it(train, tmp_path):
    """Batches of two: in a quarter of the steps no text is in order."""
    assert train("data.batch_size=2").status == 0
    (run,) = directory.list_runs(tmp_path)
    assert all(math.isfinite(float(row["train/loss"])) for row in metrics(run) if row["train/loss"])


def test_a_search_over_two_tasks_needs_a_figure_of_both(train, tmp_path):
    tasks = ("hydra/sweeper=optuna", "task=choice(order,language_model)", "hydra.sweeper.n_trials=2")
    own = (*OWN[:2], OWN[3])
    done = train("-m", "sweep=s", *tasks, "hydra.sweeper.sampler=grid", "hydra.sweeper.objective=val/loss", own=own)
    assert done.status == 0 and study_in(tmp_path / "sweeps" / "s").direction.name == "MINIMIZE", done.err
    for objective, says in (("val/accuracy", "val/accuracy is not measured"), ("val/auk", "is not measured")):
        done = train("-m", "sweep=t", *tasks, f"hydra.sweeper.objective={objective}", own=own)
        assert done.status == 2 and says in done.err and not (tmp_path / "sweeps" / "t").exists()


def test_no_head_is_hidden_from_muon(order):
    """Wherever it stands: the language model's is inside the network by another name."""
    network = order.network(GPT(9, 8, n_layer=1, n_head=2, n_embd=8, tie_weights=False))
    hidden = {
        name for name, each in network.named_parameters() if any(each is other for other in hidden_weights(network))
    }
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert hidden == {f"model.h.0.{layer}.weight" for layer in layers}


# Through molino


def test_it_is_trained_measured_and_told(train, molino, home, tmp_path):
    done = train()
    assert done.status == 0, done.err
    (run,) = directory.list_runs(tmp_path)
    summary, measures = directory.read_summary(run), read_measures(run)
    assert summary["val/accuracy"] == summary["val/auc"] == 1.0 > summary["floor/majority"] >= 0.5
    assert (
        measures.monitor == "val/accuracy" and measures.maximized("val/accuracy") and measures.maximized("val/best_auc")
    )
    majority = ("majority", summary["floor/majority"])
    assert not measures.maximized("val/loss") and measures.levels_of("val/best_accuracy") == {
        "floor/majority": majority
    }
    assert {"val/best_accuracy", "val/best_auc", "val/best_loss"} < summary.keys() and "val/best_lm_loss" not in summary
    for row in metrics(run):
        if row["train/loss"]:
            total = float(row["train/task_loss"]) + 0.5 * float(row["train/lm_loss"])
            assert float(row["train/loss"]) == pytest.approx(total, rel=1e-6)
    # The first of the best steps is kept.
    accuracies = {int(row["step"]): float(row["val/accuracy"]) for row in metrics(run) if row["val/accuracy"]}
    assert summary["best_step"] == min(step for step, value in accuracies.items() if value == max(accuracies.values()))
    for said in (
        "held-out accuracy 1.0000 auc 1.0000", "task loss", " majority floor           0.",
        "best held-out accuracy   1.0000",
    ):  # fmt: skip
        assert said in done.out
    assert "generate.py" not in done.out and "| 'abcd'" in (run / "samples.txt").read_text().replace("cdef", "abcd")
    loaded = load_run(run, "last", torch.device("cpu"))
    assert type(loaded.task).__name__ == "Order" and type(loaded.model).__name__ == "OrderNetwork"
    named = (f"run={run}", f"paths.outputs={tmp_path}")
    evaluated = molino("evaluate", *named, f"paths.cache={home / 'cache'}", "checkpoint=last", *CPU)
    assert evaluated.status == 0 and " accuracy         1.0000" in evaluated.out, evaluated.err
    assert "150 windows of 8 tokens" in evaluated.out and f"(+{1 - summary['floor/majority']:.4f})" in evaluated.out
    for verb, more in (
        ("generate", ("prompt=abc",)),
        ("explain", ("prompt=abc",)),
        ("export", (f"to={tmp_path / 'x'}", "format=gpt2")),
    ):
        refused = molino(verb, *named, *more)
        assert refused.status == 2 and refused.err.count("\n") == 1
        assert f"{verb} needs a language model, and OrderNetwork tells no next token" in refused.err
    strided = molino("evaluate", *named, f"paths.cache={home / 'cache'}", "stride=2", *CPU)
    assert strided.status == 2 and "stride=2 has no use for this task" in strided.err


def test_killed_it_goes_on_bit_for_bit(train, home, tmp_path):
    more = ("trainer.max_steps=200", "model.dropout=0.2")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(killed, *OWN, *SMALL, *CPU, *more, f"data.path={home / 'text.txt'}")
    wait_for_step(process, killed, 3)
    process.kill()
    process.wait()
    assert (only_run(killed) / directory.LAST).is_file() and not directory.is_done(only_run(killed))
    finish(start(killed, "resume=latest"))
    assert train(*more, f"paths.outputs={whole / 'outputs'}").status == 0
    assert_same_run(only_run(killed), only_run(whole))


def test_two_processes_come_to_the_figures_of_one(train, home, tmp_path):
    """Texts in order are shared unequally by processes and micro-batches: both parts have weights of their own."""
    more = ("trainer.accumulate=2", "data.batch_size=8")
    one, two = tmp_path / "one", tmp_path / "two"
    small = [word for word in SMALL if not word.startswith("data.batch_size")]
    path = f"data.path={home / 'text.txt'}"
    process = start(two, *OWN, *small, *more, path, "hardware=ddp", "hardware.accelerator=cpu")
    assert train(*more, f"paths.outputs={one / 'outputs'}").status == 0
    finish(process)
    for mine, wanted in zip(metrics(only_run(two)), metrics(only_run(one)), strict=True):
        assert mine.keys() == wanted.keys()
        for tag in mine:
            assert (mine[tag] == wanted[tag] == "") or float(mine[tag]) == pytest.approx(float(wanted[tag]), rel=1e-3)


def test_swept_it_is_ranked_the_right_way_up(train, molino, tmp_path):
    done = train(
        "-m", "sweep=s", "optimizer.lr=1e-7,0.01", "seed=0,1", "hydra/launcher=local", "hydra.launcher.workers=1"
    )
    assert done.status == 0, done.err
    assert done.out.count(": held-out accuracy 1.0000") == 2
    page = tmp_path / "page"
    table = molino("results", "s", f"paths.outputs={tmp_path}", f"to={page}", "format=csv")
    assert table.status == 0, table.err
    best, worse = csv.DictReader(table.out.splitlines())
    assert (best["optimizer.lr"], best["verdict"], float(best["val/accuracy"])) == ("0.01", "best", 1.0)
    assert float(worse["val/accuracy"]) < 0.9 and worse["verdict"] in ("worse", "unclear")
    assert 0.5 <= float(best["floor"]) < 0.6
    assert {path.name for path in page.iterdir()} == {
        "index.html", "held-out-accuracy-by-steps.png", "held-out-accuracy-by-seconds.png",
        "val-accuracy-by-optimizer.lr.png",
    }  # fmt: skip
    text = molino("results", "s", f"paths.outputs={tmp_path}", "metric=[val/loss,val/accuracy]")
    assert text.out.index("0.01 ") < text.out.index("1e-07 ")
    # Beside language models of the same text both have a best row, each by what decides in it.
    own = ("--config-dir", str(MYLAB / "conf"), "data=text")
    assert train("name=lm", "trainer.max_steps=20", own=own).status == 0
    both = molino("results", f"paths.outputs={tmp_path}", "format=json")
    groups = json.loads(both.out)["groups"]
    assert (
        json.loads(both.out)["metrics"] == ["val/accuracy", "val/loss"]
        or json.loads(both.out)["metrics"][0] == "val/loss"
    )
    assert sum(group["best"] for group in groups) == 2 and len(groups) == 3


def test_a_search_maximises_and_prunes_what_is_low(train, tmp_path):
    grid = ("optimizer.lr=choice(0.03,0.01,1e-7,1e-6)", "hydra.sweeper.sampler=grid", "hydra.sweeper.n_trials=4")
    # The seed asks for a good rate first.
    prune = ("hydra.sweeper.pruner_startup_trials=1", "hydra.sweeper.seed=0", "trainer.val_every=50")
    done = train("-m", "sweep=s", "hydra/sweeper=optuna", *grid, *prune)
    assert done.status == 0, done.err
    study = study_in(tmp_path / "sweeps" / "s")
    assert study.direction.name == "MAXIMIZE" and study.best_value == 1.0
    assert float(study.best_params["optimizer.lr"]) > 0.001
    assert study.user_attrs["identity"]["objective"] == "val/accuracy"
    pruned = study.get_trials(states=(TrialState.PRUNED,))
    assert pruned and all(float(trial.params["optimizer.lr"]) < 0.001 for trial in pruned)
    for trial in study.trials:
        (run,) = (tmp_path / "sweeps" / "s").glob(f"optimizer.lr={trial.params['optimizer.lr']}")
        told = {int(row["step"]): float(row["val/accuracy"]) for row in metrics(run) if row["val/accuracy"]}
        assert all(told[step] == value for step, value in trial.intermediate_values.items())


# Mistakes


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("model=kneser_ney",), "KneserNey has no hidden states"),
        (("task.monitor=val/acuracy",), "task.monitor=val/acuracy is not measured; did you mean val/accuracy?"),
        (("task.direction=minimize",), "val/accuracy is better when higher: set task.direction=maximize"),
        (("task.lm_coef=-1",), "task.lm_coef=-1 must be 0 or more"),
        (("task.lm_coeff=1",), "task.lm_coef"),
        (("data.batches=documents",), "halves are cut out of windows"),
        (("task=ordre",), "did you mean task=order?"),
        (("task._target_=mylab.models.GRU",), "is no Task: it has no network(model) and no draw("),
        (("data.task=x",), "data.task"),
        (
            ("+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/accuracy}",),
            "callbacks.stop.mode=min takes the worse val/accuracy for the better: set callbacks.stop.mode=max",
        ),
        (("-m", *SEARCH, "hydra.sweeper.objective=val/auk"), "did you mean val/auc?"),
        (("-m", *SEARCH, "task.monitor=val/loss"), "set task.direction=minimize"),
        (("-m", *SEARCH, "task.monitor=val/los"), "task.monitor=val/los is not measured; did you mean val/loss?"),
        (
            ("-m", *SEARCH, "hydra.sweeper.objective=steps", "hydra.sweeper.pruner=null"),
            "hydra.sweeper.objective=steps is better in neither direction",
        ),
        (
            ("-m", "hydra/sweeper=optuna", "task=choice(order,language_model)"),
            "several monitors, val/accuracy and val/loss: add hydra.sweeper.objective=<metric>",
        ),
    ],
)
def test_mistakes_are_one_line(train, tmp_path, settings, says):
    own = OWN if not any("task=" in word and "data" not in word for word in settings) else (*OWN[:2], OWN[3])
    added = ("task.lm_coeff", "data.task")  # which no file names
    done = train(*(f"+{word}" if word.startswith(added) else word for word in settings), own=own)
    assert done.status == 2 and done.err.count("\n") == 1 and says in done.err, done.err
    assert not directory.list_runs(tmp_path)


FAULTY = """
from molino.data.batches import Draw
from mylab.tasks import Order

class Partless(Order):
    def loss(self, network, batch):
        return {"task_loss": super().loss(network, batch)["task_loss"]}

class Vector(Order):
    def loss(self, network, batch):
        return {part: batch["swapped"] for part in self.parts}

class Breaks(Order):
    def measure(self, network, batch):
        return {"x": batch["nothing"]}

class Numbers(Order):
    def measure(self, network, batch):
        return {"x": 1}

class Fewer(Order):
    def figures(self, totals, split):
        return {"accuracy": 1.0}

class Words(Order):
    def figures(self, totals, split):
        return dict.fromkeys(("accuracy", "auc", "loss", "lm_loss"), "good")

class Blind(Order):
    inputs = ("token",)

class Bare(Order):
    def draw(self, text, batches, block_size, seed):
        return Draw(lambda rows: {}, 10)

class Handmade(Order):
    def draw(self, text, batches, block_size, seed):
        return lambda rows: {}

class Lossless(Order):
    def network(self, model):
        return model.lm_head

class Deaf(Order):
    def __init__(self, monitor="val/accuracy", direction="maximize"):
        super().__init__()

class Listed(Order):
    def evaluation(self, text, split, block_size, stride, rank=0, world_size=1):
        return list(super().evaluation(text, split, block_size, stride, rank, world_size))

class Floorless(Order):
    def floors(self, text, split, block_size):
        return None

class Empty(Order):
    parts = {}
    def __init__(self, monitor="val/accuracy", direction="maximize"):
        self.monitor, self.direction = monitor, direction

class Stumbles(Order):
    def network(self, model):
        return model.nothing

class Silent(Order):
    def training_figures(self, losses):
        return dict(losses)
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Partless", "Partless.loss(network, batch) must be a dict of task_loss, lm_loss"),
        ("Vector", "task_loss must be a scalar tensor, not a tensor of shape (2,)"),
        ("Breaks", "Breaks.measure(network, batch) fails: KeyError: 'nothing'"),
        ("Numbers", "Numbers.measure(network, batch) must be a dict of tensors and Pairs"),
        (
            "Fewer",
            "Fewer.figures(totals, split) must be a dict of accuracy, auc, loss, lm_loss, but it is a dict of",
        ),
        ("Words", "Words.figures(totals, split): accuracy must be a number, but it is 'good'"),
        ("Blind", "Blind.inputs names token, which is no field of its batches: tokens, targets, swapped"),
        ("Bare", "Bare.draw(...)(rows) must be Rows"),
        (
            "Handmade",
            "Handmade.draw(...) must be a molino.data.batches.Draw or molino.data.examples_drawn.Examples, not a "
            "function",
        ),
        ("Lossless", "Lossless.network(model) must be a torch.nn.Module with loss(...), not a Linear"),
        ("Deaf, monitor: val/auc", "task.monitor=val/auc is not taken up by Deaf: it keeps val/accuracy"),
        ("Listed", "Listed.evaluation(...) must have __len__, __iter__ and describe()"),
        ("Floorless", "Floorless.floors(...) must be a list of Floor"),
        ("Empty", "Empty.parts must be a dict of the parts of its loss with their factors"),
        ("Stumbles", "Stumbles.network(model) fails for GPT: 'GPT' object has no attribute 'nothing'"),
        ("Silent", "Silent.training_figures(losses) must be a dict of loss"),
    ],
)
def test_what_a_task_does_otherwise_is_said_before_anything_is_written(train, tmp_path, monkeypatch, name, says):
    (tmp_path / "wrong.py").write_text(FAULTY)
    monkeypatch.setenv(ALLOW, "mylab,wrong")
    monkeypatch.syspath_prepend(str(tmp_path))
    let_in()
    name, _, monitor = name.partition(", monitor: ")
    more = [f"task.monitor={monitor}"] if monitor else []
    coefficient = [] if name not in ("Deaf", "Empty") else ["~task.lm_coef"]
    done = train(f"task._target_=wrong.{name}", *more, *coefficient)
    assert done.status == 2 and done.err.count("\n") == 1 and says in done.err, done.err
    assert not directory.list_runs(tmp_path)


def test_what_one_task_has_learnt_is_where_another_begins(train, molino, home, tmp_path):
    """A language model, then the task on its weights, and a language model on those of the task."""
    places = (f"data.path={home / 'text.txt'}", f"paths.cache={home / 'cache'}", f"paths.outputs={tmp_path}", *CPU)
    fitting = [each for each in SMALL if not each.startswith("model.")]
    assert train("name=first", "task=language_model").status == 0
    first = directory.find("first", tmp_path)
    weights = f"weights={first}"
    done = molino("train", *OWN, *fitting, *places, weights, "name=second", "trainer.max_steps=0")
    assert done.status == 0, done.err
    second = directory.find("second", tmp_path)
    base, network = (load_run(run, "best", torch.device("cpu")).model for run in (first, second))
    body = base.state_dict()
    inside = {name.removeprefix("model."): value for name, value in network.state_dict().items()}
    assert body.keys() <= inside.keys() and all(torch.equal(value, inside[name]) for name, value in body.items())
    assert inside.keys() > body.keys()  # the head of the task begins as the seed makes it
    done = molino("train", "data=text", *fitting, *places, f"weights={second}", "name=third", "trainer.max_steps=0")
    assert done.status == 0, done.err
    third = load_run(directory.find("third", tmp_path), "best", torch.device("cpu")).model.state_dict()
    assert all(torch.equal(value, third[name]) for name, value in body.items())
