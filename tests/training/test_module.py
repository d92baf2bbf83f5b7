"""The training loop against plain PyTorch: the same batches give the same weights, bit for bit."""

import functools
import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from molino.base.errors import ConfigError, NonFiniteError
from molino.data.batches import draw_block
from molino.data.corpora.grammar import Grammar
from molino.data.module import TextDataModule
from molino.data.tokenizers import train_char
from molino.models.bigram import Bigram
from molino.models.gpt import GPT
from molino.tasks.language_model import LanguageModel
from molino.training import schedules
from molino.training.checkpoints import AtomicCheckpointIO
from molino.training.module import TrainingModule, seed_step

STEPS = 20
ADAMW = functools.partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1, fused=True)
COSINE = functools.partial(schedules.cosine, warmup_steps=3, floor=0.1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def text_data(cache, **settings):
    defaults = {"batches": "windows", "block_size": 16, "batch_size": 8, "max_steps": STEPS, "seed": 7} | {
        "accumulate": 1,
        "steps_per_block": 1,
    }
    settings = defaults | settings
    steps = settings.pop("max_steps")
    data = TextDataModule(
        Grammar(characters=20_000), functools.partial(train_char), cache=str(cache), task=LanguageModel(), **settings
    )
    data.setup()
    data.max_steps = steps
    return data


def small_gpt(data, dropout=0.1):
    torch.manual_seed(1)
    return GPT(data.tokenizer.size, data.block_size, n_layer=2, n_head=2, n_embd=16, dropout=dropout)


def train(data, model, optimizer=ADAMW, schedule=COSINE, callbacks=(), clip=1.0, precision="32-true", **settings):
    module = TrainingModule(
        LanguageModel(),
        model,
        optimizer,
        schedule,
        max_steps=data.max_steps,
        log_every=5,
        clip=clip,
        seed=7,
        heldout=data.splits["val"],
        **settings,
    )
    trainer = Trainer(
        max_epochs=1,
        max_steps=data.max_steps,
        accelerator="cpu",
        precision=precision,
        logger=False,
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO()],
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    assert trainer.global_step == data.max_steps
    return module


def plain_loop(data, model, clip=1.0):
    """Train without Lightning, blocks or partials."""
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([{"params": decayed}, others], lr=1e-2, weight_decay=0.1, fused=True)
    model.train()
    losses = []
    for step in range(data.max_steps):
        seed_step(7, step, 0, torch.device("cpu"))
        fields = draw_block(data.draw, ("loss",), torch.arange(step, step + 1).numpy(), 1, data.batch_size).fields
        loss = model.loss(fields["tokens"][0, 0], fields["targets"][0, 0])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * schedules.cosine(step, data.max_steps, warmup_steps=3, floor=0.1)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("steps_per_block", [1, 5, 7, 20])
def test_blocks_of_any_size_equal_a_plain_loop_bit_for_bit(cache, steps_per_block):
    data = text_data(cache, steps_per_block=steps_per_block)
    expected = small_gpt(data)
    losses = plain_loop(data, expected)
    module = train(data, small_gpt(data))
    assert same(module.model, expected)
    # A line of metrics every 5 steps tells their mean; where no block ends there, the only line is the last.
    last = losses[-5 if 5 % steps_per_block == 0 else 0 :]
    assert module.train_metrics["train/loss"] == pytest.approx(sum(last) / len(last), rel=1e-6)
    assert module.train_metrics["train/perplexity"] == pytest.approx(math.exp(sum(last) / len(last)), rel=1e-5)


def test_in_mixed_precision_the_weights_of_a_block_are_not_stale(cache):
    """Autocast caches half-precision weights for as long as its context lasts, which is a whole block."""
    one = train(text_data(cache, steps_per_block=1), small_gpt(text_data(cache)), precision="bf16-mixed")
    many = train(text_data(cache, steps_per_block=10), small_gpt(text_data(cache)), precision="bf16-mixed")
    assert same(one.model, many.model)


def test_lightnings_own_optimizer_path_gives_the_same_weights(cache, monkeypatch):
    data = text_data(cache, steps_per_block=5)
    raw = train(data, small_gpt(data))
    monkeypatch.setattr("molino.training.module.SingleDeviceStrategy", type("Never", (), {}))
    hooked = train(data, small_gpt(data))
    assert same(raw.model, hooked.model)


def test_micro_batches_equal_one_batch(cache):
    whole = train(text_data(cache, batch_size=8), small_gpt(text_data(cache), dropout=0.0))
    parts = train(text_data(cache, batch_size=2, accumulate=4), small_gpt(text_data(cache), dropout=0.0))
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


def test_the_first_step_already_moves_the_weights(cache):
    data = text_data(cache, max_steps=1)
    before = small_gpt(data)
    assert not same(train(data, small_gpt(data)).model, before)


def test_gradients_are_clipped_and_their_norm_is_reported(cache):
    data = text_data(cache, max_steps=1)
    model, clip = Bigram(data.tokenizer.size, data.block_size), 1e-3
    sgd = functools.partial(torch.optim.SGD, lr=1.0)
    module = train(data, model, sgd, functools.partial(schedules.constant), clip=clip)
    # From zero weights one step of SGD with rate 1 moves them by the clipped gradient.
    moved = next(module.model.parameters()).norm().item()
    assert moved == pytest.approx(clip, rel=1e-3)
    assert module.train_metrics["train/gradient_norm"] > 10 * clip


def test_weight_decay_acts_on_matrices_only():
    model = GPT(10, 8, n_layer=1, n_head=2, n_embd=8)
    module = TrainingModule(LanguageModel(), model, ADAMW, COSINE, max_steps=10, log_every=1)
    decayed, others = module.configure_optimizers().param_groups
    assert all(p.dim() >= 2 for p in decayed["params"]) and decayed["weight_decay"] == 0.1
    assert all(p.dim() < 2 for p in others["params"]) and others["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_a_diverging_run_stops_at_the_step_that_did_it(cache):
    data = text_data(cache, steps_per_block=5)

    def explode(step, max_steps):
        return 1e30 if step == 7 else 1.0

    with pytest.raises(NonFiniteError, match=r"loss became (nan|inf) at step (8|9)"):
        train(data, small_gpt(data), functools.partial(torch.optim.SGD, lr=1.0), explode)


def test_a_bad_optimizer_setting_is_a_configuration_error(cache):
    data = text_data(cache)
    with pytest.raises(ConfigError, match="learning rate"):
        TrainingModule(
            LanguageModel(),
            small_gpt(data),
            functools.partial(torch.optim.AdamW, lr=-1.0),
            COSINE,
            max_steps=1,
            log_every=1,
        ).configure_optimizers()


def test_validation_covers_the_whole_split_and_callbacks_see_it(cache):
    data, seen = text_data(cache, max_steps=5, steps_per_block=5), {}

    class Watch(Callback):
        def on_validation_end(self, trainer, module):
            seen.update(trainer.callback_metrics)

    module = train(data, small_gpt(data), callbacks=[Watch()])
    model, tokens = module.model.eval(), torch.from_numpy(data.splits["val"].tokens.astype("int64"))
    nll = 0.0
    with torch.no_grad():
        for first in range(0, len(tokens) - 1, data.block_size):
            window = tokens[first : first + data.block_size + 1]
            logits = model(window[None, :-1])[0].double()
            nll -= logits.log_softmax(-1).gather(-1, window[1:, None]).sum().item()
    expected = nll / (len(tokens) - 1)
    assert module.val_metrics["val/loss"] == pytest.approx(expected, rel=1e-6)
    assert seen["val/loss"].item() == pytest.approx(expected, rel=1e-6)
    # All but the first of as many tokens as there are characters.
    bits = expected / math.log(2) * (len(tokens) - 1) / len(tokens)
    assert module.val_metrics["val/bits_per_character"] == pytest.approx(bits, rel=1e-6)


def test_speed_is_tokens_over_elapsed_seconds(cache, monkeypatch):
    ticks = iter(float(n) for n in range(1000))
    monkeypatch.setattr("molino.training.module.time.perf_counter", lambda: next(ticks))
    data = text_data(cache, steps_per_block=5)
    module = train(data, small_gpt(data))
    # The clock is read twice a block, so a block of 5 steps of 8 x 16 tokens takes one second.
    assert module.train_metrics["train/tokens_per_second"] == 5 * 8 * 16


def test_the_tokens_of_all_processes_count(cache, monkeypatch):
    """As one of two that share a batch: the other's half is trained at the same time."""
    ticks = iter(float(n) for n in range(1000))
    monkeypatch.setattr("molino.training.module.time.perf_counter", lambda: next(ticks))
    monkeypatch.setattr(Trainer, "world_size", 2)
    data = text_data(cache, steps_per_block=5)
    assert train(data, small_gpt(data)).train_metrics["train/tokens_per_second"] == 5 * 8 * 16


def test_what_a_step_draws_follows_from_seed_step_and_rank():
    def draws(*key):
        seed_step(*key, torch.device("cpu"))
        return tuple(torch.rand(4).tolist())

    keys = [(seed, step, rank) for seed in (0, 1, 2) for step in (0, 1, 2) for rank in (0, 1, 2)]
    assert len({draws(*key) for key in keys}) == len(keys)
    assert [draws(*key) for key in keys] == [draws(*key) for key in keys]


def test_a_step_is_seeded_with_its_own_number_and_the_rank_of_its_process(cache, monkeypatch):
    seeded = []
    monkeypatch.setattr("molino.training.module.seed_step", lambda *key: seeded.append(key))
    data = text_data(cache, max_steps=6, steps_per_block=3)
    train(data, small_gpt(data))
    assert seeded == [(7, step, 0, torch.device("cpu")) for step in range(6)]
    module = TrainingModule(LanguageModel(), small_gpt(data), ADAMW, COSINE, max_steps=20, log_every=5, seed=5)
    module._trainer = SimpleNamespace(global_rank=3)
    module._raw_optimizer, module._base_rates = SimpleNamespace(param_groups=[{}]), [2.0]
    module._prepare_step(11)
    assert seeded[-1] == (5, 11, 3, torch.device("cpu"))
    assert module._raw_optimizer.param_groups == [{"lr": 2.0 * COSINE(11, 20)}]


def test_the_share_of_the_peak_is_logged_where_it_is_known(cache):
    data = text_data(cache)
    known, unknown = train(data, small_gpt(data), token_peak=1e9), train(data, small_gpt(data))
    metrics = known.train_metrics
    assert metrics["train/mfu"] == metrics["train/tokens_per_second"] / 1e9
    assert "train/mfu" not in unknown.train_metrics
