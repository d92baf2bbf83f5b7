"""Runs on a device that is not there (tests/elsewhere.py): what only a GPU would show."""

import functools
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import small_text
from elsewhere import Elsewhere, elsewhere, is_elsewhere, to_others
from families import FAMILIES, V, make, random_tokens
from test_module import small_gpt, text_data, train

from molino.generation.decode import generate
from molino.models.tables import Tables
from molino.trained.load import load_run
from molino.trained.writing import Sampling, Writer
from molino.training.checkpoints import Checkpoints
from molino.training.samples import Samples

HERE = torch.device("cpu")


def test_the_device_refuses_what_a_gpu_refuses():
    with Elsewhere():
        there, here = torch.ones(3, device=HERE), torch.ones(3)
        assert is_elsewhere(there * 2) and not is_elsewhere(here * 2) and is_elsewhere(here.to(HERE))
        assert not is_elsewhere(there.cpu()) and is_elsewhere(there)
        assert (there * torch.tensor(2.0)).sum().item() == 6  # a number may come along
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, device=HERE, generator=torch.Generator())
        with pytest.raises(RuntimeError, match="No backend type"):
            to_others(here)
        layer = torch.nn.Linear(3, 3).to(HERE)
        assert is_elsewhere(layer.weight) and is_elsewhere(layer(there))
        with pytest.raises(RuntimeError, match="same device"):
            layer(here)


@pytest.mark.parametrize("each_step", [False, True])
def test_a_run_trains_measures_samples_and_saves(tmp_path, monkeypatch, each_step):
    data = text_data(tmp_path / "cache", steps_per_block=5)
    settings = {"ema": 0.9, "each_step": each_step}
    # With dropout a CPU goes another way than a GPU.
    wanted = train(data, small_gpt(data, dropout=0.0), **settings)
    callbacks = [
        Samples(tmp_path, data.text, 5, seed=0),
        Checkpoints(tmp_path, 5, {"start_id": 0}, validation_due=lambda step: step >= 20, started=0.0),
    ]
    with elsewhere(monkeypatch):
        found = train(data, small_gpt(data, dropout=0.0), callbacks=callbacks, **settings)
    assert found.val_metrics == wanted.val_metrics and is_elsewhere(found.model.lm_head.weight)
    assert (tmp_path / "samples.txt").exists() and (tmp_path / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_k": 5, "top_p": 0.9, "repetition_penalty": 1.2}])
def test_every_family_writes(family, settings, monkeypatch):
    prompts = [random_tokens(4), random_tokens(7)]
    draw = functools.partial(generate, max_new_tokens=24, samples=2, stop_id=3, forbidden_ids=[1], chunk=4, **settings)

    def texts(model):
        return torch.stack(list(draw(model, prompts, generator=torch.Generator().manual_seed(1))))

    wanted = texts(make(family, 16))
    with elsewhere(monkeypatch):
        model = make(family, 16).to(HERE)
        if model.capabilities.counts:
            # Where they are is asked by name, and this device is called as the CPU is.
            model.tables = Tables(**{name: tensor.to(HERE) for name, tensor in model.tables.tensors().items()})
        found = texts(model)
    assert torch.equal(found, wanted) and found.max() < V


@pytest.mark.parametrize("family", ["gpt", "llama", "llama-grouped", "llama-one-key-head-biases"])
def test_attention_may_lay_its_output_out_as_it_likes(family, monkeypatch):
    """Kernels of a GPU return other strides than that of the CPU."""
    fused = F.scaled_dot_product_attention

    def strided(*args, **kwargs):
        return fused(*args, **kwargs).transpose(1, 2).contiguous().transpose(1, 2)

    draw = functools.partial(generate, max_new_tokens=24, temperature=0.0)
    wanted = torch.stack(list(draw(make(family, 16), random_tokens(4))))
    loss = make(family, 16).loss(random_tokens(2, 8), random_tokens(2, 8, seed=2))
    monkeypatch.setattr(F, "scaled_dot_product_attention", strided)
    assert torch.equal(torch.stack(list(draw(make(family, 16), random_tokens(4)))), wanted)
    assert make(family, 16).loss(random_tokens(2, 8), random_tokens(2, 8, seed=2)).item() == pytest.approx(loss.item())


SMALL = (
    "debug=fast", "hardware=cpu", "hardware.threads=1", "model.n_layer=1", "model.n_head=2", "model.n_embd=16",
    "model.dropout=0", "data.block_size=16", "data.batch_size=4", "trainer.max_steps=4", "trainer.val_every=2",
    "trainer.log_every=2", "trainer.checkpoint_every=2", "trainer.sample_tokens=8",
)  # fmt: skip
# What each task is trained on, and what is asked of its run.
TASKS = {
    "language_model": (("model=gpt", "data=text"), ("generate", 'prompt="en un"', "samples=2")),
    "masked_language_model": (("model=bert", "data=text"), ("predict", 'text="en <mask>n"')),
    "denoising": (("model=t5", "data=text"), ()),
    "classification": (("model=gpt", "data=labelled", "task.dropout=0"), ("predict", 'text="one 1"')),
    "sequence_to_sequence": (("model=transformer", "data=pairs"), ("predict", 'text="one 1"', "writing.beams=2")),
    "span": (("model=bert", "data=answers"), ("predict", 'question="what is 3?"', 'context="the 3 is 4"')),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    home = tmp_path_factory.mktemp("files")
    rows = {
        "text": small_text(0, 300),
        "labelled": "text,label\n" + "".join(f"{('one', 'two')[n % 2]} {n},{n % 2}\n" for n in range(60)),
        "pairs": "text,target\n" + "".join(f"one {n},{n} eno\n" for n in range(60)),
        "answers": "".join(
            json.dumps({"question": f"what is {n}?", "context": f"the {n} is {n + 1}", "answer": str(n + 1)}) + "\n"
            for n in range(60)
        ),
    }
    suffixes = {"text": "txt", "answers": "jsonl"}
    for name, text in rows.items():
        (home / f"{name}.{suffixes.get(name, 'csv')}").write_text(text, "utf-8")
    return home


@pytest.mark.parametrize("task", TASKS)
def test_whole_commands(task, files, molino, tmp_path, monkeypatch):
    (model, data, *more), asked = TASKS[task]
    name = data.partition("=")[2]
    (path,) = files.glob(f"{name}.*")
    places = (f"paths.cache={files / 'cache'}", f"paths.outputs={tmp_path / 'outputs'}")
    sizes = [size for size in SMALL if not (model == "model=transformer" and size == "model.n_layer=1")]
    sizes += ["data/tokenizer=bpe", "data.tokenizer.size=300"] if task in ("span", "denoising") else []
    with elsewhere(monkeypatch):
        done = molino("train", f"task={task}", model, data, f"data.path={path}", *more, *sizes, *places)
        assert done.status == 0, done.err + _trace(tmp_path)
        for verb, *settings in (("evaluate", "floors=false"), *([asked] if asked else [])):
            cache = places[:1] if verb == "evaluate" else ()
            done = molino(verb, "run=latest", "hardware=cpu", places[1], *cache, *settings)
            assert done.status == 0, done.err


def _trace(home: Path) -> str:
    return "".join(path.read_text() for path in home.rglob("traceback.txt"))


def test_a_trained_run_writes_and_is_measured(tiny, monkeypatch):
    sampling = Sampling(max_new_tokens=20, samples=3, stop=["x"])

    def text():
        loaded = load_run(tiny.path, "best", HERE)
        writer = Writer(loaded, sampling, scored=True)
        return [each.row.text for each in next(iter(writer.together([writer.opening("en un")])))]

    wanted = text()
    with elsewhere(monkeypatch):
        assert text() == wanted
