"""Every callback that Lightning ships does what it does under Lightning's own loop, or is refused by name."""

import csv
import functools
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch import callbacks as lightning
from lightning.pytorch.loggers import Logger
from running import assert_same_run, finish, only_run, start, wait_for_step
from test_module import COSINE, STEPS, cache, same, small_gpt, text_data, train  # noqa: F401

from molino.base.errors import ConfigError
from molino.data.batches import draw_block
from molino.runs.directory import read_summary
from molino.runs.measures import MINIMIZE, read_measures
from molino.tasks.language_model import LanguageModel
from molino.training import schedules
from molino.training.average import measured_aside
from molino.training.callbacks import EACH_STEP, INSTEAD, asks_each_step, refuse_callback
from molino.training.module import TrainingModule

# What is taken, and whether it is called at every step.
TAKEN = {
    "Callback": False,
    "DeviceStatsMonitor": True,
    "EMAWeightAveraging": True,
    "EarlyStopping": False,
    "LearningRateMonitor": True,
    "ModelSummary": False,
    "RichModelSummary": False,
    "Timer": True,
    "WeightAveraging": True,
}
SETTINGS = {"EarlyStopping": {"monitor": "val/loss"}}


@pytest.mark.parametrize("name", lightning.__all__)
def test_each_is_taken_or_refused_by_name(name):
    kind = getattr(lightning, name)
    if name in TAKEN:
        refuse_callback("x", kind)
        assert asks_each_step(kind(**SETTINGS.get(name, {}))) == TAKEN[name]
    else:
        with pytest.raises(ConfigError, match=rf"callbacks\.x: {name} .*: ") as refused:
            refuse_callback("x", kind)
        assert "\n" not in str(refused.value)


def test_nothing_is_refused_that_lightning_does_not_have():
    assert all(getattr(lightning, kind.__name__) is kind for kind in INSTEAD)


class PlainModule(LightningModule):
    """The same training as Lightning has it: automatic optimization, a schedule of its own."""

    def __init__(self, model, max_steps):
        super().__init__()
        self.model, self.max_steps = model, max_steps

    def configure_optimizers(self):
        decayed = [p for p in self.model.parameters() if p.dim() >= 2]
        others = {"params": [p for p in self.model.parameters() if p.dim() < 2], "weight_decay": 0.0}
        optimizer = torch.optim.AdamW([{"params": decayed}, others], lr=1e-2, weight_decay=0.1, fused=False)
        rate = functools.partial(schedules.cosine, max_steps=self.max_steps, warmup_steps=3, floor=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(min(step, self.max_steps - 1)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch, batch_idx):
        return self.model.loss(*batch)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.model.loss(*batch))


class Batches:
    """Batches in their order. (Lightning would take a list for several loaders.)"""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class Recorder(Logger):
    """Keeps what is logged, but for what molino itself logs."""

    def __init__(self):
        super().__init__()
        self.rows = {}

    name = version = property(lambda self: "")

    def log_hyperparams(self, *args, **kwargs): ...

    def log_metrics(self, metrics, step=None):
        other = {k: v for k, v in metrics.items() if not k.startswith(("train/", "val/", "epoch"))}
        if other:
            self.rows.setdefault(step, {}).update(other)


def fit(module, data, callback, **settings):
    """Train by a Trainer as a run has it, with a line of metrics every 5 steps; return the trainer."""
    trainer = Trainer(
        max_epochs=1,
        max_steps=STEPS,
        accelerator="cpu",
        logger=Recorder(),
        callbacks=callback if isinstance(callback, list) else [callback],
        num_sanity_val_steps=0,
        log_every_n_steps=5,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=5,
        check_val_every_n_epoch=None,
        **settings,
    )
    trainer.fit(module, data) if not isinstance(data, tuple) else trainer.fit(module, *data)
    return trainer


def ours(cache, callback, model=None, each_step=True, **settings):  # noqa: F811
    data = text_data(cache)
    adamw = functools.partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1, fused=False)
    module = TrainingModule(
        LanguageModel(),
        small_gpt(data, dropout=0.0) if model is None else model,
        adamw,
        COSINE,
        max_steps=STEPS,
        log_every=5,
        seed=7,
        heldout=data.splits["val"],
        each_step=each_step,
        **settings,
    )
    return module, fit(module, data, callback)


def plain(cache, callback):  # noqa: F811
    data = text_data(cache)
    module = PlainModule(small_gpt(data, dropout=0.0), STEPS)
    batches = []
    for step in range(STEPS):
        fields = draw_block(data.draw, ("loss",), torch.arange(step, step + 1).numpy(), 1, data.batch_size).fields
        batches.append((fields["tokens"][0, 0], fields["targets"][0, 0]))
    return module, fit(module, (Batches(batches), Batches(batches[:1])), callback)


def test_an_average_of_the_weights_is_that_of_lightning(cache):  # noqa: F811
    own, wanted = (
        make(cache, lightning.EMAWeightAveraging(decay=0.9))[0].model for make in (ours, plain)
    )  # in the end the model has the average
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(own.parameters(), wanted.parameters(), strict=True))
    assert not same(own, ours(cache, Callback())[0].model)


def test_the_average_of_a_run_is_that_of_lightning_whatever_the_block(cache):  # noqa: F811
    wanted = plain(cache, lightning.EMAWeightAveraging(decay=0.9))[0].model
    raw = functools.partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1, fused=False)
    found = []
    for steps_per_block in (1, 5, 20):
        data = text_data(cache, steps_per_block=steps_per_block)
        module = train(data, small_gpt(data, dropout=0.0), raw, clip=None, ema=0.9)
        trained, average = small_gpt(data, dropout=0.0), module.average
        plain_loop_without_clipping(data, trained)
        assert same(module.model, trained)  # what is averaged is trained as ever
        with average.aside():
            found.append([parameter.detach().clone() for parameter in module.model.parameters()])
    for each in found:
        assert all(torch.equal(a, b) for a, b in zip(each, found[0], strict=True))
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(each, wanted.parameters(), strict=True))


def plain_loop_without_clipping(data, model):
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() >= 2]},
            {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=1e-2,
        weight_decay=0.1,
        fused=False,
    )
    for step in range(STEPS):
        fields = draw_block(data.draw, ("loss",), torch.arange(step, step + 1).numpy(), 1, data.batch_size).fields
        model.loss(fields["tokens"][0, 0], fields["targets"][0, 0]).backward()
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * schedules.cosine(step, STEPS, warmup_steps=3, floor=0.1)
        optimizer.step()
        optimizer.zero_grad()


def test_what_is_measured_is_the_average_and_the_weights_themselves_aside(cache):  # noqa: F811
    module, _ = ours(cache, Callback(), each_step=False, ema=0.9)
    data, task = text_data(cache), LanguageModel()

    def loss():
        batches = task.evaluation(data.text, "val", data.block_size, None)
        sums = [task.measure(module.model, batch) for batch in batches]
        return sum(each["nll"].item() for each in sums) / sum(each["tokens"].item() for each in sums)

    module.eval()
    assert module.val_metrics["val/plain_loss"] == pytest.approx(loss(), rel=1e-6)
    with module.average.aside():
        assert module.val_metrics["val/loss"] == pytest.approx(loss(), rel=1e-6)
    assert module.val_metrics["val/loss"] > module.val_metrics["val/plain_loss"]  # it lags behind
    assert [metric.tag for metric in measured_aside(task).values()] == ["val/plain_loss"]


def test_rates_stand_beside_the_steps_that_they_are_of(cache):  # noqa: F811
    own, wanted = (make(cache, lightning.LearningRateMonitor())[1].logger.rows for make in (ours, plain))
    # The first one is that of an optimizer without a schedule of Lightning's own.
    assert list(own) == [0, *wanted] and list(wanted) == [4, 9, 14, 19]
    for step, row in own.items():
        assert not step or list(row.values()) == pytest.approx(list(wanted[step].values()), rel=1e-12)
        assert row["lr-AdamW/pg1"] == pytest.approx(1e-2 * COSINE(step, STEPS), rel=1e-12)


def test_the_device_is_watched_at_the_same_steps(cache):  # noqa: F811
    pytest.importorskip("psutil")
    own, wanted = (make(cache, lightning.DeviceStatsMonitor())[1].logger.rows for make in (ours, plain))
    ends = "DeviceStatsMonitor.on_train_batch_end"
    assert {step: [tag for tag in row if tag.startswith(ends)] for step, row in own.items() if step} == {
        step: [tag for tag in row if tag.startswith(ends)] for step, row in wanted.items() if step
    }


def test_time_that_is_up_ends_a_run_at_its_step(cache):  # noqa: F811
    for make in (ours, plain):
        timer = lightning.Timer(duration={"seconds": 60})
        up = type("Up", (Callback,), {"on_train_start": lambda self, *_, timer=timer: setattr(timer, "_duration", 0)})()
        _, trainer = make(cache, [timer, up])
        assert trainer.global_step == 1 and timer.time_elapsed("train") > 0


class Hooks(Callback):
    """Notes what is called, and which gradients are there when the optimizer is about to step."""

    def __init__(self):
        self.called, self.norms, self.losses = [], [], []

    def on_before_backward(self, trainer, module, loss):
        self.called.append("before_backward")

    def on_after_backward(self, trainer, module):
        self.called.append("after_backward")

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.called.append("before_optimizer_step")
        gradients = [p.grad for p in module.model.parameters() if p.grad is not None]
        self.norms.append(torch.nn.utils.get_total_norm(gradients).item())

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.called.append(("end", batch_idx, trainer.global_step))
        self.losses.append(outputs["loss"].item())


@pytest.mark.parametrize("clip", [None, 0.1])
def test_hooks_are_called_as_lightning_calls_them(cache, clip):  # noqa: F811
    own, wanted = Hooks(), Hooks()
    ours(cache, own, clip=clip)
    plain(cache, wanted)
    assert own.called == wanted.called and len(own.called) == 4 * STEPS
    # Gradients are seen before they are clipped.
    steps = STEPS if clip is None else 1
    assert own.norms[:steps] == pytest.approx(wanted.norms[:steps], rel=1e-4)
    assert own.losses[: steps + 1] == pytest.approx(wanted.losses[: steps + 1], rel=1e-5)


def test_steps_one_by_one_come_to_the_same_weights(cache):  # noqa: F811
    one = ours(cache, Callback(), each_step=True, clip=1.0)[0]
    raw = ours(cache, Callback(), each_step=False, clip=1.0)[0]
    assert same(one.model, raw.model) and one.train_metrics["train/loss"] == raw.train_metrics["train/loss"]


def test_a_callback_of_ones_own_may_be_written_for_blocks():
    for hook in EACH_STEP:
        own = type("Own", (Callback,), {hook: lambda self, *_: None})
        assert asks_each_step(own())
        assert not asks_each_step(type("OfBlocks", (own,), {"per_block": True})())
    assert not asks_each_step(type("Seldom", (Callback,), {"on_validation_end": lambda self, *_: None})())


SMALL = (
    "debug=fast", "hardware=cpu", "hardware.threads=1", "model=gpt", "model.n_layer=1", "model.n_head=2",
    "model.n_embd=16", "data.block_size=16", "data.batch_size=4", "trainer.max_steps=24", "trainer.val_every=12",
    "trainer.checkpoint_every=12",
)  # fmt: skip
EMA = ("+callbacks.average._target_=lightning.pytorch.callbacks.EMAWeightAveraging", "+callbacks.average.decay=0.8")


def curve(run):
    with (run / "metrics.csv").open(newline="") as file:
        return {row["step"]: row["val/loss"] for row in csv.DictReader(file) if row["val/loss"]}


@pytest.fixture(scope="module")
def trained(molino, tmp_path_factory):
    """Train by these settings, in a folder of its own; return the run."""
    home = tmp_path_factory.mktemp("averages")

    def run(*settings):
        places = (f"paths.cache={home / 'cache'}", f"paths.outputs={home / str(len(list(home.iterdir())))}")
        done = molino("train", *SMALL, *places, *settings)
        assert done.status == 0, done.err
        return next(Path(places[1].partition("=")[2]).iterdir()), done

    return run


def test_how_often_it_looks_changes_no_average(trained):
    (one, said), (many, _) = (trained(*EMA, f"trainer.log_every={every}") for every in (1, 12))
    assert "asked for by callbacks.average: a block is one step" in " ".join(said.out.split())
    assert curve(one) == curve(many) and len(curve(one)) == 2
    setting, said = trained("trainer.ema=0.8", "trainer.log_every=12")
    assert "each step" not in said.out
    pairs = zip(curve(setting).values(), curve(one).values(), strict=True)
    assert all(float(a) == pytest.approx(float(b), rel=1e-6) for a, b in pairs)


def test_best_and_last_hold_the_average_and_evaluate_measures_it(trained, molino):
    run, _ = trained("trainer.ema=0.8")
    summary = read_summary(run)
    for checkpoint, tag in (("best", "val/best_loss"), ("last", "val/loss")):
        done = molino("evaluate", f"run={run}", f"checkpoint={checkpoint}", "hardware=cpu")
        assert done.status == 0, done.err
        assert f"{summary[tag]:.4f}" in done.out
    assert read_measures(run).metric("val/plain_loss").direction == MINIMIZE
    assert summary["val/plain_loss"] != summary["val/loss"]


def test_a_run_with_an_average_goes_on_bit_for_bit(tmp_path):
    long = (*SMALL, "trainer.ema=0.8", "trainer.max_steps=300", "trainer.checkpoint_every=3", "trainer.log_every=6")
    finish(start(tmp_path / "whole", *long))
    process = start(tmp_path / "killed", *long)
    wait_for_step(process, tmp_path / "killed", 9)
    process.kill()
    process.wait()
    finish(start(tmp_path / "killed", "resume=latest"))
    assert_same_run(only_run(tmp_path / "killed"), only_run(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("trainer.ema=0.5", "both average the weights"),
        ("trainer.val_windows=2", "not go with trainer.val_windows"),
    ],
)
def test_two_ways_to_average_are_refused(molino, tmp_path, setting, says):
    done = molino("train", *SMALL, *EMA, setting, f"paths.outputs={tmp_path / 'outputs'}")
    assert done.status == 2 and says in done.err and not (tmp_path / "outputs").exists()
