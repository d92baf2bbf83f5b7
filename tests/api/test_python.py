"""molino from Python: the same numbers as the commands', and a process that is left as it was."""

import csv
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CPU, small_text
from ranks import srun

import molino
from molino.base.console import console
from molino.data.module import TextDataModule
from molino.runs import directory

SMALL = ("data.block_size=16", "data.batch_size=4", "debug=fast", *CPU)
GPT = ("model=gpt", "model.n_layer=2", "model.n_head=2", "model.n_embd=16", *SMALL)
TEXT = small_text(3, 400)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    home = tmp_path_factory.mktemp("python")
    return [f"paths.outputs={home / 'outputs'}", f"paths.cache={home / 'cache'}"]


@pytest.fixture(scope="module")
def run(places):
    return molino.train([*GPT, *places], corpus=TEXT, quiet=True)


@pytest.fixture(scope="module")
def loaded(tiny):
    return molino.load(tiny.path, device="cpu")


def split_of(text):
    at = math.floor(len(text) * 0.9)
    return text[:at], text[at:]


def reference_loss(run, text, block_size):
    """One window at a time, in float64."""
    ids = torch.tensor(run.tokenizer.encode(text).astype("int64"))
    total = 0.0
    for first in range(0, len(ids) - 1, block_size):
        window = ids[first : first + block_size + 1]
        with torch.no_grad():
            logits_TV = run.model(window[None, :-1])[0].double()
        total += F.cross_entropy(logits_TV, window[1:], reduction="sum").item()
    return total / (len(ids) - 1)


def test_a_run_is_what_the_command_makes_of_the_same_settings(run, places, molino, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    path = [f"data.path={tmp_path / 'text.txt'}", f"paths.outputs={tmp_path / 'outputs'}", places[1]]
    done = molino("train", "data=text", *path, *GPT)
    assert done.status == 0, done.err
    (other,) = directory.list_runs(tmp_path / "outputs")
    timings = ("seconds", "tokens_per_second", "train/tokens_per_second", "corpus")
    expected = directory.read_summary(other)
    assert {k: v for k, v in run.summary.items() if k not in timings} == {
        k: v for k, v in expected.items() if k not in timings
    }
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["command"][:3] == ["molino", "train", "model=gpt"]
    assert environment["choices"]["model"] == "gpt" and environment["choices"]["data"] == "text"


def test_curves_are_those_of_the_metrics_file(run):
    with (run.path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps, losses = run.curve("val/loss")
    assert steps.tolist() == [10, 20] and steps.dtype == np.int64
    assert losses.tolist() == [float(row["val/loss"]) for row in rows if row["val/loss"]]
    table = run.curve()
    assert {len(column) for column in table.values()} == {len(rows)} and table["step"].tolist() == [5, 10, 15, 20]
    assert np.isnan(table["val/loss"]).tolist() == [True, False, True, False]
    with pytest.raises(molino.ConfigError, match="has not recorded val/los; did you mean val/loss"):
        run.curve("val/los")


def test_losses_and_figures_are_exact(run, places):
    train, val = split_of(TEXT)
    assert run.loss(val) == pytest.approx(reference_loss(run, val, 16), abs=1e-7)
    figures = run.evaluate(overrides=[places[1]])
    assert figures["val/loss"] == pytest.approx(run.summary["val/best_loss"], abs=1e-6)
    assert figures["val/loss"] == pytest.approx(run.loss(val), abs=1e-7)
    assert figures["floor/bigram"] == run.summary["floor/bigram"]
    assert run.evaluate("train", floors=False, stride=8, overrides=[places[1]]).keys() == {
        "train/loss", "train/perplexity", "train/bits_per_character", "train/bits_per_byte",
    }  # fmt: skip
    assert run.texts("train", places[1:]) == [train] and run.texts("val", places[1:]) == [val]
    with pytest.raises(molino.DataError, match=r"has no test split"):
        run.texts("test", places[1:])
    with pytest.raises(molino.DataError, match="the text has 1 tokens: there is nothing to predict"):
        run.loss("a")
    for ask in (run.loss, run.tokens, run.logits, run.attention, run.hidden, run.generate):
        with pytest.raises(molino.DataError, match="a text must be a str, and this is a NoneType"):
            ask(None)
    with pytest.raises(molino.DataError, match="a text must be a str, and this is a int"):
        run.generate(["a", 3])


def test_what_a_model_says_inside(run):
    text = "en un lugar"
    ids = run.tokens(text)
    assert run.tokenizer.decode(ids) == text and len(ids) == len(text)
    with torch.no_grad():
        expected_TV = run.model(torch.tensor([ids]))[0]
    assert torch.allclose(run.logits(text), expected_TV, atol=1e-6)
    assert torch.allclose(run.model.head(run.hidden(text)[None])[0], expected_TV, atol=1e-5)
    attention = run.attention(text)
    assert attention.shape == (2, 2, len(ids), len(ids))
    assert torch.allclose(attention.sum(-1), torch.ones(2, 2, len(ids))) and (attention.triu(1) == 0).all()
    assert isinstance(run.model, torch.nn.Module) and not run.model.training
    assert run.settings["model"]["n_layer"] == 2 and run.step in (10, 20)
    with pytest.raises(molino.DataError, match="the text has 22 tokens, and the model reads 1 to 16"):
        run.logits(text * 2)
    with pytest.raises(molino.DataError, match="the text has 0 tokens"):
        run.attention("")


def test_texts_are_those_of_the_command(loaded, tiny, molino):
    settings = ("max_new_tokens=40", "temperature=0.8", "top_k=5", "seed=3", f"paths.outputs={tiny.outputs}", *CPU)
    done = molino("generate", f"run={tiny.path}", "prompt=En un", *settings)
    drawn = {"temperature": 0.8, "top_k": 5, "seed": 3}
    text = loaded.generate("En un", 40, **drawn)
    assert text + "\n" == done.out
    assert "".join(loaded.generate("En un", 40, stream=True, **drawn)) == text.removeprefix("En un")
    several = loaded.generate("En un", 40, samples=3, **drawn)
    assert len(several) == 3 == len(set(several)) and all(each.startswith("En un") for each in several)
    assert len(loaded.generate(max_new_tokens=7)) == 7


def test_texts_of_several_prompts_and_up_to_a_stop(loaded):
    prompts, drawn = ["En un", "", "de la"], {"temperature": 0.8, "seed": 3}
    alone = [loaded.generate(each, 40, **drawn) for each in prompts]
    assert loaded.generate(prompts, 40, **drawn) == loaded.generate(tuple(prompts), 40, **drawn) == alone
    both = loaded.generate(prompts, 40, samples=2, **drawn)
    assert [each[0] for each in both] == alone and both[2] == loaded.generate("de la", 40, samples=2, **drawn)
    assert loaded.generate([], 40) == [] and loaded.generate(["En un"], 40, **drawn) == alone[:1]
    new = loaded.generate(prompts, 40, new_text_only=True, **drawn)
    assert [start + text for start, text in zip(prompts, new, strict=True)] == alone
    assert loaded.generate("En un", 40, stop="a", **drawn) == "En un" + new[0].partition("a")[0]
    ended = min(new[0].find(each) for each in "ae" if each in new[0])
    for stop in (["a", "e"], ("e", "a")):
        assert loaded.generate("En un", 40, stop=stop, **drawn) == "En un" + new[0][:ended]
        assert "".join(loaded.generate("En un", 40, stop=stop, stream=True, **drawn)) == new[0][:ended]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": -1}, "temperature=-1"),
        ({"prompt": ["a", "b"], "stream": True}, "a list of prompts cannot be streamed together"),
        ({"stream": True, "new_text_only": True}, "leave new_text_only out"),
        ({"stop": ""}, 'stop="" would end every text'),
        ({"stop": 3}, "stop must be str"),
        ({"stop": ["a", 3]}, "stop must be str"),
        ({"samples": 0}, "samples=0"),
        ({"seed": -1}, "seed=-1 must be a whole number"),
        ({"samples": 2, "stream": True}, "samples=2 cannot be streamed together"),
        ({"temperature": "a"}, "temperature must be float, but it is 'a'"),
        ({"top_k": 2.5}, "top_k must be int"),
    ],
)
def test_mistakes_in_sampling(loaded, settings, says):
    with pytest.raises(molino.ConfigError, match=says):
        loaded.generate(**{"prompt": "a", "max_new_tokens": 3, **settings})


def test_runs_are_found_by_path_name_and_time(run, places, tmp_path):
    outputs = places[0].partition("=")[2]
    for name in (run, run.path, str(run.path), run.path.name, "text-gpt", "latest"):
        assert molino.load(name, outputs=outputs).path == run.path
    assert molino.load(run.path, "last").step == 20
    with pytest.raises(molino.CheckpointError, match="there is no run nothing"):
        molino.load("nothing", outputs=outputs)
    with pytest.raises(molino.ConfigError, match="checkpoint=first is unknown"):
        molino.load(run, "first")
    with pytest.raises(molino.ConfigError, match="device=cuda is unknown: choose auto, cpu or gpu"):
        molino.load(run, device="cuda")


def test_a_folder_of_hugging_faces(loaded, tiny, molino, tmp_path):
    assert (
        molino("export", f"run={tiny.path}", f"to={tmp_path / 'folder'}", f"paths.outputs={tiny.outputs}").status == 0
    )
    folder = sys.modules["molino"].load(tmp_path / "folder", device="cpu")
    assert torch.allclose(folder.logits("un lugar"), loaded.logits("un lugar"), atol=1e-5)
    assert folder.generate("un", 5, temperature=0) == loaded.generate("un", 5, temperature=0)


def test_a_table_of_runs(run, places):
    outputs = places[0].partition("=")[2]
    rows = molino.list_runs(outputs=outputs)
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    row = next(row for row in rows if row["run"] == run.path.name)
    assert row["state"] == "done" and row["model"] == "gpt" and row["seed"] == 0
    assert row["val/loss"] == run.summary["val/loss"] and row["model.n_layer"] == 2
    assert molino.list_runs(str(run.path)) == [{key: row[key] for key in molino.list_runs(str(run.path))[0]}]
    with pytest.raises(molino.CheckpointError, match="there is no sweep nowhere"):
        molino.list_runs("nowhere", outputs=outputs)


@pytest.mark.parametrize(
    ("arguments", "more", "kind", "says"),
    [
        (["modle=gpt"], {}, "ConfigError", "modle is not a setting; did you mean model?"),
        (["model=gtp"], {}, "ConfigError", "did you mean model=gpt?"),
        (["-m", "seed=0,1"], {}, "ConfigError", "-m is for the command line: this is one run"),
        (["seed=0,1"], {}, "ConfigError", "seed"),
        (["sweep=x"], {}, "ConfigError", "sweep=x names a sweep"),
        (["hydra.mode=MULTIRUN"], {}, "ConfigError", "has no effect"),
        ("model=gpt", {}, "ConfigError", r"overrides='model=gpt' is one text: give a list"),
        (["data=pydocs"], {"corpus": "abc"}, "ConfigError", "corpus= and data=pydocs name two texts"),
        ([], {"corpus": 5}, "ConfigError", "corpus= must be a text, not a int"),
        (["model.n_embd=17"], {}, "ConfigError", "is not divisible by"),
        ([], {"corpus": ""}, "DataError", "corpus= is empty: give a text"),
        ([], {"corpus": "ab\ud800"}, "DataError", r"corpus= holds half a character \(U\+D800\) at 2"),
        (["foo"], {}, "ConfigError", "foo is no setting: write <setting>=<value>"),
        (["resume=nothing"], {}, "CheckpointError", "there is no run nothing"),
    ],
)
def test_mistakes_are_molinos_own_errors_in_one_line(places, tmp_path, arguments, more, kind, says):
    arguments = arguments if isinstance(arguments, str) else [*arguments, f"paths.outputs={tmp_path}", places[1]]
    with pytest.raises(getattr(molino, kind), match=says) as raised:
        molino.train(arguments, **more)
    assert "\n" not in str(raised.value) and raised.value.__cause__ is None and not list(tmp_path.iterdir())
    # Nothing of molino's inside is shown.
    assert len(raised.traceback) <= 5


def settings_of_the_process():
    return {
        "threads": torch.get_num_threads(),
        "matmul": torch.get_float32_matmul_precision(),
        "dtype": torch.get_default_dtype(),
        "denormals": (torch.tensor(1e-40) * 1.0).item() == 0.0,
        "random": torch.get_rng_state().tolist(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "arguments": list(sys.argv),
        "handlers": {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)},
        "loggers": [logging.getLogger(name).level for name in ("", "lightning.pytorch", "lightning.fabric")],
        "handlers of loggers": list(logging.getLogger().handlers),
        "warnings": list(warnings.filters),
        "quiet": console.quiet,
        "hook": (sys.excepthook, threading.excepthook),
    }


@pytest.mark.parametrize("arguments", [["hardware.threads=1"], ["hardware.precision=bf16-true"], ["seed=-1"]])
def test_the_process_is_left_as_it_was(places, arguments):
    torch.set_num_threads(2)
    torch.set_flush_denormal(False)
    before = settings_of_the_process()
    try:
        molino.train([*GPT, *places, "hardware=cpu", *arguments], corpus=TEXT, quiet=True)
    except molino.ConfigError:
        assert arguments == ["seed=-1"]
    assert settings_of_the_process() == before


def test_it_trains_in_a_thread(places):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(molino.train(["model=bigram", *SMALL, *places], corpus=TEXT, quiet=True))
    )
    thread.start()
    thread.join()
    assert directory.is_done(found[0].path)


def test_what_is_quiet_and_what_is_not(places, capsys):
    molino.train(["model=bigram", *SMALL, *places], corpus=TEXT, quiet=True)
    assert capsys.readouterr() == ("", "")
    molino.train(["model=bigram", *SMALL, *places], corpus=TEXT)
    shown = capsys.readouterr()
    assert "held-out loss" in shown.out and "Traceback" not in shown.err


def test_an_interrupted_run_can_be_gone_on_with(places, monkeypatch):
    """Ctrl-C, or a notebook's stop: SIGINT while steps are drawn."""
    drawn = TextDataModule.train_dataloader

    def interrupting(self):
        loader = drawn(self)
        block = loader.block

        def draw(first, count):
            if first == 10:
                os.kill(os.getpid(), signal.SIGINT)
            return block(first, count)

        loader.block = draw
        return loader

    monkeypatch.setattr(TextDataModule, "train_dataloader", interrupting)
    before = signal.getsignal(signal.SIGINT)
    arguments = ["model=gpt", "model.n_layer=1", "model.n_head=2", "model.n_embd=16", *SMALL, *places, "name=stopped"]
    with pytest.raises(KeyboardInterrupt, match=r"SIGINT after step 1\d: saved; go on with .* train resume="):
        molino.train(arguments, corpus=TEXT, quiet=True)
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    run = molino.train(["resume=stopped", *places], quiet=True)
    whole = molino.train([*arguments, "name=whole"], corpus=TEXT, quiet=True)
    assert run.summary["steps"] == 20 and run.summary["val/loss"] == whole.summary["val/loss"]


def test_several_processes_are_a_command_of_their_own(run, places, monkeypatch):
    # A program, or a notebook, is nothing to start a second time.
    monkeypatch.setattr(sys, "argv", ["/no/such/program.py"])
    settings = [*GPT, "hardware=ddp", "hardware.accelerator=cpu", *places]
    together = molino.train(settings, corpus=TEXT, quiet=True)
    assert together.summary["val/loss"] == pytest.approx(run.summary["val/loss"], abs=1e-4)
    assert json.loads((together.path / "environment.json").read_text())["choices"]["hardware"] == "ddp"


def test_a_program_that_was_started_several_times_is_refused(places, monkeypatch):
    for name, value in srun(1, (2,)).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        molino.ConfigError, match="srun has started 2 of this one: start one, or have srun start `molino"
    ):
        molino.train([*GPT, *places], quiet=True)


def test_importing_is_quick():
    code = "import sys, time; t = time.perf_counter(); import molino; print(time.perf_counter() - t); "
    code += "print(sorted({'torch', 'lightning', 'hydra', 'numpy'} & sys.modules.keys())); print(dir(molino))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy, names = done.stdout.splitlines()
    assert float(seconds) < 0.3 and heavy == "[]" and "'list_runs'" in names
    with pytest.raises(AttributeError, match="module 'molino' has no attribute 'trian'"):
        _ = molino.trian


# A program of somebody's own on Hydra, with other settings, another base version, and resolvers.
PROGRAM = """
import json, os, random, sys
import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra import version
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer

OmegaConf.register_new_resolver("now", lambda pattern: "mine", replace=True)


@hydra.main(version_base="1.2", config_path=None, config_name=None)
def main(config):
    import molino

    def state():
        return (
            GlobalHydra.instance().hydra, HydraConfig.instance().cfg, HydraConfig.get().job.name, version.getbase(),
            dict(BaseContainer._resolvers), OmegaConf.create({"a": "${now:%Y}"}).a,
        )

    # What brings torch and Lightning, which draw random numbers and set variables, puts that back.
    drawn = random.getstate(), dict(os.environ)
    molino.train
    assert drawn == (random.getstate(), dict(os.environ))
    before = state()
    run = molino.train(json.loads(sys.stdin.read()), quiet=True)
    assert state() == before
    assert run.evaluate(floors=False, overrides=[f"paths.cache={config.cache}"])["val/loss"] > 0
    assert state() == before and config.x == 1
    print(run.path)


main()
"""


def test_inside_a_program_on_hydra(tmp_path, tiny):
    (tmp_path / "program.py").write_text(PROGRAM)
    arguments = ["data=text", f"data.path={tiny.file}", "model=bigram", *SMALL]
    arguments += [f"paths.outputs={tmp_path / 'runs'}", f"paths.cache={tiny.cache}"]
    done = subprocess.run(
        [sys.executable, "program.py", "+x=1", f"+cache={tiny.cache}", "hydra.run.dir=."],
        input=json.dumps(arguments), capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = directory.list_runs(tmp_path / "runs")
    assert done.stdout.strip() == str(run)
