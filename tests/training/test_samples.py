"""Texts sampled while a model trains: the same every time, without a trace in training, right after a resume."""

from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from molino.data.tokenizers import train_char
from molino.models.bigram import Bigram
from molino.tasks.language_model import LanguageModel
from molino.training.loggers import MetricsFile, TensorBoard
from molino.training.samples import Samples

TOKENIZER = train_char(["abc &<>\r\n"])
START = int(TOKENIZER.encode("\n")[0])
TEXT = SimpleNamespace(tokenizer=TOKENIZER, corpus=SimpleNamespace(documents=False))


def sample_text(bigram: Bigram, tokens: int, seed: int) -> str:
    return LanguageModel().sample(bigram, TEXT, tokens, seed)


def model(seed: int = 0) -> Bigram:
    bigram = Bigram(TOKENIZER.size, 8)
    torch.nn.init.normal_(bigram.table.weight, generator=torch.Generator().manual_seed(seed))
    return bigram


def saying(text: str) -> Bigram:
    """A model that says one text after START, over and over. No character of `text` may occur twice."""
    bigram, ids = Bigram(TOKENIZER.size, 8), [START, *TOKENIZER.encode(text).tolist()]
    with torch.no_grad():
        for id, following in zip(ids, [*ids[1:], ids[1]], strict=True):
            bigram.table.weight[id, following] = 1000.0
    return bigram


def trainer(step: int, loggers=(), is_global_zero: bool = True) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, loggers=list(loggers), is_global_zero=is_global_zero)


def sampler(run, tokens: int = 6) -> Samples:
    return Samples(run, TEXT, tokens, seed=0)


def validate(callback: Samples, step: int, bigram: Bigram, loggers=(), is_global_zero: bool = True) -> None:
    callback.on_validation_end(
        trainer(step, loggers, is_global_zero), SimpleNamespace(model=bigram, task=LanguageModel())
    )


def test_a_sample_is_a_function_of_model_and_seed():
    first = sample_text(model(), 50, seed=0)
    torch.manual_seed(99)
    assert sample_text(model(), 50, seed=0) == first
    assert len(first) == 50
    assert sample_text(model(), 50, seed=1) != first
    assert sample_text(model(1), 50, seed=0) != first


def test_special_tokens_are_never_sampled():
    bigram = model()
    with torch.no_grad():
        bigram.table.weight[:, :3] = 20.0  # <unk>, <pad> and <|endoftext|>, which this text never had
    text = sample_text(bigram, 200, seed=0)
    assert len(text) == 200 and set(text) <= set("abc &<>\r\n")


@pytest.mark.parametrize("training", [True, False])
def test_training_does_not_notice(training, tmp_path):
    bigram = model().train(training)
    weights = {name: value.clone() for name, value in bigram.state_dict().items()}
    state = torch.get_rng_state()
    validate(sampler(tmp_path), 10, bigram)
    assert torch.equal(torch.get_rng_state(), state)
    assert bigram.training is training
    assert all(torch.equal(value, weights[name]) for name, value in bigram.state_dict().items())
    assert all(parameter.grad is None for parameter in bigram.parameters())


def test_samples_stand_below_their_steps_with_their_own_line_ends(tmp_path):
    callback = sampler(tmp_path)
    for step, text in ((10, "abc"), (20, "c\r"), (30, "ba&")):
        validate(callback, step, saying(text))
    expected = "--- step 10 ---\nabcabc\n\n--- step 20 ---\nc\rc\rc\r\n\n--- step 30 ---\nba&ba&\n\n"
    assert (tmp_path / "samples.txt").read_bytes() == expected.encode()


@pytest.mark.parametrize(("step", "left"), [(0, 0), (15, 1), (20, 2), (30, 3)])
def test_a_resumed_run_drops_later_samples_and_ends_as_if_never_stopped(step, left, tmp_path):
    steps = (10, 20, 30)
    for at in steps:
        validate(sampler(tmp_path), at, model(at))
    whole = (tmp_path / "samples.txt").read_bytes()
    resumed = sampler(tmp_path)
    resumed.on_train_start(trainer(step), None)
    cut = (tmp_path / "samples.txt").read_bytes()
    assert whole.startswith(cut) and cut.count(b"--- step ") == left
    for at in steps[left:]:
        validate(resumed, at, model(at))
    assert (tmp_path / "samples.txt").read_bytes() == whole


def test_a_new_run_starts_without_a_file(tmp_path):
    sampler(tmp_path).on_train_start(trainer(0), None)
    assert list(tmp_path.iterdir()) == []


def test_what_shows_nothing_leaves_no_file(tmp_path):
    silent = SimpleNamespace(sample=lambda *_: "")
    sampler(tmp_path).on_validation_end(trainer(10), SimpleNamespace(model=None, task=silent))
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_process_writes(tmp_path):
    validate(sampler(tmp_path), 10, model())
    before = (tmp_path / "samples.txt").read_bytes()
    other = sampler(tmp_path)
    other.on_train_start(trainer(0, is_global_zero=False), None)
    validate(other, 20, model(), is_global_zero=False)
    assert (tmp_path / "samples.txt").read_bytes() == before


def test_tensorboard_shows_the_text_and_nothing_it_names(tmp_path):
    logger = TensorBoard(tmp_path, None)
    validate(sampler(tmp_path, tokens=3), 10, saying("<b>"), [MetricsFile(tmp_path, None), logger])
    validate(sampler(tmp_path, tokens=2), 20, saying("&a"), [logger])
    logger.finalize("success")
    shown = EventAccumulator(str(tmp_path)).Reload().Tensors("samples/text_summary")
    assert [(event.step, event.tensor_proto.string_val[0].decode()) for event in shown] == [
        (10, "<p>&lt;b&gt;</p>"),
        (20, "<p>&amp;a</p>"),
    ]
