"""What is written between blocks, and that a failed write costs nothing."""

import errno
import math
import time
from types import SimpleNamespace

import pytest
import torch
from test_module import cache, small_gpt, text_data, train  # noqa: F401 (a fixture is used by its name)

from molino.base.errors import ResourceError
from molino.runs.directory import BEST, LAST
from molino.runs.measures import MAXIMIZE, MINIMIZE
from molino.trained.load import load_checkpoint
from molino.training.checkpoints import AtomicCheckpointIO, Checkpoints


def test_last_and_best_hold_plain_values_and_the_right_step(cache, tmp_path):  # noqa: F811
    data = text_data(cache, steps_per_block=5)
    checkpoints = Checkpoints(
        tmp_path, 5, facts={"start_id": 9, "data": "abc"}, validation_due=lambda step: step >= 20, started=0.0
    )
    module = train(data, small_gpt(data), callbacks=[checkpoints])
    for name in (LAST, BEST):
        content = load_checkpoint(tmp_path / name)
        assert content["global_step"] == 20 and (content["start_id"], content["data"]) == (9, "abc")
        for key, value in module.state_dict().items():
            assert torch.equal(content["state_dict"][key], value)
    assert checkpoints.best_step == 20 and checkpoints.best == module.val_metrics
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("sign", [1, -1])
def test_best_stays_when_the_monitor_gets_worse(tmp_path, sign):
    task = SimpleNamespace(monitor="val/x", direction=MINIMIZE if sign == 1 else MAXIMIZE)
    checkpoints = Checkpoints(tmp_path, every=100, facts={}, validation_due=lambda step: True, started=0.0)
    saved = []

    class FakeTrainer:
        global_step, should_stop, loggers = 1, False, ()
        reduce = staticmethod(lambda value, reduce_op: value)
        strategy = type("S", (), {"reduce": reduce, "root_device": torch.device("cpu")})()

        def save_checkpoint(self, path):
            saved.append((path.name, self.global_step))

    trainer = FakeTrainer()
    for trainer.global_step, loss in enumerate([3.0, 2.0, 2.0, 2.5, 1.0, 1.0], start=1):
        metrics = {"val/x": sign * loss, "val/other": trainer.global_step}
        checkpoints.on_validation_end(trainer, SimpleNamespace(val_metrics=metrics, task=task))
    # Of equal ones the first is kept.
    assert saved == [("best.ckpt", 1), ("best.ckpt", 2), ("best.ckpt", 5)]
    state = checkpoints.state_dict()
    assert (state["best"], state["best_step"]) == ({"val/x": sign * 1.0, "val/other": 5}, 5)


def test_the_seconds_of_all_processes_add_up(tmp_path):
    checkpoints = Checkpoints(tmp_path, 1, {}, lambda step: True, started=time.perf_counter() - 20)
    # As a checkpoint of before there were tasks has it.
    checkpoints.load_state_dict({"best_loss": 1.0, "best_step": 1, "stopped": False, "seconds": 300.0})
    assert 320 <= checkpoints.state_dict()["seconds"] < 350
    assert checkpoints.best == {"val/loss": 1.0, "val/perplexity": math.e}


def test_a_write_that_fails_is_loud_and_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"global_step": 1}, str(path))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("molino.base.files.os.fsync", full)
    with pytest.raises(ResourceError, match="no space left"):
        io.save_checkpoint({"global_step": 2}, str(path))
    monkeypatch.undo()
    assert io.load_checkpoint(str(path)) == {"global_step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_disk_that_fills_up_in_mid_write_is_a_full_disk(tmp_path, monkeypatch):
    from contextlib import contextmanager

    import molino.base.files

    class Full(molino.base.files.tempfile.SpooledTemporaryFile):
        def write(self, data):
            if self.tell() > 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    @contextmanager
    def small_disk(path, hint=""):
        with molino.base.files.explain_os_errors(path, hint), Full() as file:
            yield file

    monkeypatch.setattr("molino.training.checkpoints.atomic_write", small_disk)
    with pytest.raises(ResourceError, match="no space left"):
        AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(10_000)}, str(tmp_path / "last.ckpt"))
