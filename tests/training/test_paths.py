"""Every way to train fast against the plain one, and every one of them cut off and resumed."""

from pathlib import Path

import pytest
import torch
from conftest import small_text

from molino.base.errors import ResourceError
from molino.models import head
from molino.runs import directory
from molino.trained.load import load_checkpoint
from molino.training.checkpoints import Checkpoints

RUN = (
    "data=text", "data.block_size=16", "data.batch_size=8", "hardware=cpu", "hardware.threads=1",
    "trainer.log_every=5", "trainer.val_every=60", "trainer.checkpoint_every=20", "trainer.max_steps=60",
    "trainer.sample_tokens=0", "scheduler.warmup_steps=10",
)  # fmt: skip
GPT = ("model=gpt", "model.n_layer=2", "model.n_head=2", "model.n_embd=32")
LLAMA = ("model=llama", "model.n_layer=1", "model.n_head=2", "model.n_embd=32", "model.n_kv_head=1")
PLAIN = ("hardware.precision=32-true", "hardware.attention=fused", "hardware.compile=false")
BF16 = ("hardware.precision=bf16-mixed",)
PATHS = {
    "products and dropout": (*GPT, "model.dropout=0.2", "hardware.attention=products"),
    "bf16": (*GPT, "model.dropout=0.2", *BF16, "hardware.attention=products"),
    "muon and n-grams": (
        *LLAMA,
        "optimizer=muon",
        "model.ngrams=3",
        "model.ngram_rows=200",
        "model.qk_norm=true",
        *BF16,
    ),
    "large vocabulary": (*GPT, "model.dropout=0.1", *BF16),
    "compiled": (*GPT, "model.n_layer=1", "hardware.compile=true"),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("text") / "mancha.txt"
    file.write_text(small_text(3, 2000), "utf-8")
    return file


@pytest.fixture
def train(molino, text, tmp_path):
    """Train with these settings in a folder of outputs by this name; return the run."""

    def run(name: str, *settings: str, status: int = 0) -> Path:
        places = (f"paths.outputs={tmp_path / name}", f"paths.cache={text.parent / 'cache'}")
        new = () if "resume=latest" in settings else (*RUN, f"data.path={text}")
        done = molino("train", *new, *settings, *places)
        assert done.status == status, done.err
        (found,) = directory.list_runs(tmp_path / name)
        return found

    return run


def held_out(run: Path) -> float:
    return directory.read_summary(run)["val/loss"]


def losses(run: Path) -> list[float]:
    rows = [line.split(",") for line in (run / "metrics.csv").read_text("utf-8").splitlines()]
    place = rows[0].index("train/loss")
    return [float(row[place]) for row in rows[1:] if row[place]]


@pytest.mark.parametrize("family", [GPT, LLAMA], ids=["gpt", "llama"])
def test_in_fp32_products_follow_the_plain_curve_to_rounding(train, family):
    plain = train("plain", *family, *PLAIN)
    fast = train("fast", *family, *PLAIN, "hardware.attention=products")
    assert len(losses(plain)) == 12
    assert losses(fast) == pytest.approx(losses(plain), abs=2e-4)
    assert held_out(fast) == pytest.approx(held_out(plain), abs=2e-4)


@pytest.mark.parametrize("settings", [(*GPT,), (*LLAMA, "optimizer=muon")], ids=["gpt", "llama, muon"])
def test_in_bf16_the_held_out_loss_is_near_the_plain_one(train, settings):
    plain, fast = train("plain", *settings, *PLAIN), train("fast", *settings, *BF16)
    assert losses(fast) != losses(plain)
    assert held_out(fast) == pytest.approx(held_out(plain), abs=0.01)


def test_a_large_vocabulary_follows_the_plain_curve(train, monkeypatch):
    plain = train("plain", *GPT, *PLAIN)
    monkeypatch.setattr("molino.models.head.LARGE_VOCABULARY", 1)
    monkeypatch.setitem(head.PIECE, "cpu", 3000)
    fast = train("fast", *GPT, *PLAIN)
    assert losses(fast) == pytest.approx(losses(plain), abs=2e-4)


@pytest.mark.parametrize("path", PATHS)
def test_a_run_that_was_cut_off_goes_on_bit_for_bit(train, path, monkeypatch):
    if path == "large vocabulary":
        monkeypatch.setattr("molino.models.head.LARGE_VOCABULARY", 1)
    undisturbed = train("undisturbed", *PATHS[path])

    def cut_off(checkpoints, trainer, *rest):
        if trainer.global_step == 35:
            raise ResourceError("cut off")
        on_train_batch_end(checkpoints, trainer, *rest)

    on_train_batch_end = Checkpoints.on_train_batch_end
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", cut_off)
        run = train("cut off", *PATHS[path], status=5)
    assert load_checkpoint(run / directory.LAST)["global_step"] == 20
    train("cut off", "resume=latest")
    expected = load_checkpoint(undisturbed / directory.LAST)["state_dict"]
    found = load_checkpoint(run / directory.LAST)["state_dict"]
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert losses(run) == losses(undisturbed) and held_out(run) == held_out(undisturbed)


def test_what_was_left_to_the_machine_is_on_record(train, monkeypatch):
    monkeypatch.setattr("molino.machine.policy.multiplies_bf16", lambda: True)
    # Large enough for bf16 to pay.
    run = train("one", "model=gpt", "model.n_layer=1", "data.batch_size=64", "hardware=auto", "trainer.max_steps=5",
                "hardware.accelerator=cpu")  # fmt: skip
    settled = directory.read_config(run)["hardware"]
    assert (settled["precision"], settled["attention"], settled["compile"]) == ("bf16-mixed", "products", False)
