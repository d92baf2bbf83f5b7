"""What a run is made of, from settings."""

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from molino.base.errors import ConfigError
from molino.training.parts import build_parts

STOP = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/loss", "patience": 7}


@pytest.fixture
def settings(tmp_path):
    return {
        "seed": 3,
        "task": {"_target_": "molino.tasks.language_model.LanguageModel"},
        "callbacks": {"stop": STOP, "off": None},
        "logger": {"csv": {"_target_": "molino.training.loggers.MetricsFile"}, "tensorboard": None},
        "hardware": {"_target_": "molino.machine.hardware.Hardware", "accelerator": "cpu"},
        "trainer": {"_target_": "molino.training.plan.Plan", "max_steps": 20, "log_every": 4, "val_every": 10,
                    "checkpoint_every": 6, "accumulate": 2},
        "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.1},
        "model": {"_target_": "molino.models.gpt.GPT", "block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 8},
        "scheduler": {"_target_": "molino.training.schedules.cosine", "_partial_": True, "warmup_steps": 2},
        "data": {
            "_target_": "molino.data.module.TextDataModule",
            "corpus": {"_target_": "molino.data.corpora.grammar.Grammar", "characters": 2000},
            "tokenizer": {"_target_": "molino.data.tokenizers.train_char", "_partial_": True},
            "batches": "windows",
            "block_size": 8,
            "batch_size": 3,
            "cache": str(tmp_path / "cache"),
        },
    }  # fmt: skip


def test_parts_know_of_each_other_what_they_need(settings, tmp_path):
    parts = build_parts(settings)
    assert parts.data.seed == 3 and parts.data.accumulate == 2 and parts.data.tokens_per_step == 2 * 3 * 8
    assert parts.plan.max_steps == 20 and parts.data.steps_per_block == parts.plan.steps_per_block == 2
    (stop,) = parts.callbacks.values()
    assert type(stop) is EarlyStopping and stop.patience == 7
    assert parts.optimizer.func is torch.optim.AdamW and parts.schedule.keywords["warmup_steps"] == 2
    # Nothing has been read, nor written.
    assert parts.data.text is None and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("section", "changes", "says"),
    [
        ("optimizer", {"lr": -1}, "optimizer: Invalid learning rate: -1"),
        ("scheduler", {"floor": 2.0}, "scheduler.floor=2.0 must be a fraction"),
        ("hardware", {"devices": 2, "strategy": "ddp"}, "data.batch_size=3 cannot be shared by 2 processes"),
        ("callbacks", {"stop": STOP | {"monitor": "val/los"}}, "callbacks.stop.monitor=val/los is not measured"),
        ("task", {"monitor": "val/los"}, "task.monitor=val/los is not measured; did you mean val/loss?"),
        ("task", {"direction": "maximize"}, "but val/loss is better when lower: set task.direction=minimize"),
        ("model", {"n_layr": 2}, "model.n_layr is not a setting; did you mean model.n_layer?"),
        ("model", {"n_head": 3}, "model.n_embd=8 is not divisible by model.n_head=3"),
        ("model", {"block_size": 4}, "data.block_size=8 is beyond the model's context of 4"),
        ("logger", {"csv": 5}, "logger.csv=5 says nothing that can be built"),
        (
            "logger",
            {"csv": {"_target_": "molino.training.loggers.MetricsFile", "x": 1}},
            "logger.csv.x is not a setting",
        ),
    ],
)
def test_what_goes_wrong_shows_before_there_is_a_text(settings, tmp_path, section, changes, says):
    with pytest.raises(ConfigError) as raised:
        build_parts(settings | {section: settings[section] | changes})
    assert says in str(raised.value) and not (tmp_path / "cache").exists()
