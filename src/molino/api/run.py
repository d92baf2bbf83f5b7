"""`molino.load`: a run, or a folder of Hugging Face's, to look at and to write with."""

import csv
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from molino.api.aside import Explained
from molino.api.writing import write_on
from molino.base.errors import CheckpointError, ConfigError
from molino.base.files import whole_lines
from molino.base.messages import suggest
from molino.configuration.build import check_arguments
from molino.configuration.composer import compose
from molino.data.examples import Example
from molino.data.tokenizers import Tokenizer
from molino.machine.hardware import Hardware
from molino.runs import directory
from molino.runs.measures import TEST
from molino.trained.load import LoadedRun, load_run, load_source
from molino.trained.measuring import corpus_of, measure, read_texts, record_test
from molino.trained.predicting import answers_of, as_example, told_to_write
from molino.trained.reading import (
    SourceAttention,
    read_attention,
    read_hidden,
    read_logits,
    read_loss,
    read_tokens,
)
from molino.trained.scoring import asked_of, score_of
from molino.trained.writing import Sampling


def load(
    run: "str | Path | Run" = "latest", checkpoint: str = "best", *, outputs: str = "outputs", device: str = "auto"
) -> "Run":
    """Return a run, or a model in Hugging Face's format.

    Args:
        run: a run's path, its name below `outputs`, `latest`; a Run; or a folder, one that `molino export` has written
            or of Hugging Face's format.
        checkpoint: `best` or `last`.
        device: `auto`, `cpu` or `gpu`.

    Raises:
        CheckpointError: there is no such run, or it is damaged.
    """
    with Explained():
        if device not in ("auto", "cpu", "gpu"):
            raise ConfigError(f"device={device} is unknown: choose auto, cpu or gpu")
        name, hardware = str(getattr(run, "path", run)), Hardware(accelerator=device, precision="32-true")
        path = Path(name).expanduser()
        if path.is_dir() and not (path / directory.CONFIG).is_file():
            return Run(path, loaded=load_source(name, hardware.device), hardware=hardware)
        found = directory.find(name, Path(outputs), trained=True)
        return Run(found, checkpoint, hardware=hardware, loaded=load_run(found, checkpoint, hardware.device))


class Run:
    """A trained model with what belongs to it. What is computed, is in fp32; tensors come back on the CPU.

    Attributes:
        path: its directory.
        checkpoint: which of its checkpoints is meant: `best` or `last`.
    """

    def __init__(
        self,
        path: Path,
        checkpoint: str = "best",
        *,
        hardware: Hardware | None = None,
        loaded: LoadedRun | None = None,
    ):
        self.path, self.checkpoint = Path(path), checkpoint
        self._hardware = hardware or Hardware(precision="32-true")
        if loaded is not None:
            self._loaded = loaded

    def __repr__(self) -> str:
        return f"molino.load({str(self.path)!r})"

    @functools.cached_property
    def _loaded(self) -> LoadedRun:
        with Explained():
            return load_run(self.path, self.checkpoint, self._hardware.device)

    @property
    def model(self) -> nn.Module:
        """The network, in eval mode: a plain module, `model(tokens_BT) -> logits_BTV` of a language model."""
        return self._loaded.model

    @property
    def tokenizer(self) -> Tokenizer:
        """`encode(text)`, `decode(ids)`, `token(id)`, `size`."""
        return self._loaded.tokenizer

    @property
    def settings(self) -> dict[str, Any]:
        """What it was trained with, nested; of a folder of Hugging Face's nothing is known."""
        return self._loaded.settings

    @property
    def step(self) -> int | None:
        """Optimizer steps that the weights have seen."""
        return self._loaded.step

    @property
    def summary(self) -> dict[str, Any]:
        """What it came to: held-out figures, floors, times, by TensorBoard's tags."""
        with Explained():
            return directory.read_summary(self.path)

    def curve(self, tag: str | None = None) -> Any:
        """Return what was measured while it trained.

        Args:
            tag: a figure, such as `train/loss`.

        Returns:
            Of a tag: its steps and its values, two arrays: `plt.plot(*run.curve(tag))`. Without one: all of it, a dict
            of arrays of equal length, one of them `step`, with nan where a figure was not measured:
            `pandas.DataFrame(run.curve())`.

        Raises:
            CheckpointError: nothing was recorded.
            ConfigError: there is no such figure.
        """
        with Explained():
            table = _read_metrics(self.path)
            if tag is None:
                return table
            if tag == "step" or tag not in table:
                known = [name for name in table if name != "step"]
                raise ConfigError(f"{self.path.name} has not recorded {tag}{suggest(str(tag), known)}")
            there = ~np.isnan(table[tag])
            return table["step"][there], table[tag][there]

    def texts(self, split: str = "train", overrides: Sequence[str] = ()) -> list[str]:
        """Return what it was trained on, or is measured on: the documents of a split; a continuous text is one.

        Args:
            overrides: where the corpus lies, such as "paths.mirror=...".
        """
        with Explained():
            return read_texts(self._loaded, split, compose("evaluate", list(overrides)).settings["paths"])

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a text."""
        with Explained():
            return read_tokens(self._loaded, text)

    def logits(self, text: str) -> Tensor:
        """Return what the model expects after each token of a text, logits (T, V)."""
        with Explained():
            return read_logits(self._loaded, text)

    def attention(self, text: str, target: str | None = None) -> Tensor | SourceAttention:
        """Return what each head of each layer attends to, (layers, H, T, T): rows sum to 1. Of a model with an encoder
        and a decoder a tuple of three such tensors: `encoder`, `decoder`, `cross`.

        Args:
            target: what is written about the text, by a model that does; None for what it writes itself.

        Raises:
            ConfigError: the model has no attention to look at.
        """
        with Explained():
            return read_attention(self._loaded, text, target)

    def hidden(self, text: str) -> Tensor:
        """Return what the model's head reads at each token of a text, (T, C).

        Raises:
            ConfigError: the model has no such thing.
        """
        with Explained():
            return read_hidden(self._loaded, text)

    def loss(self, text: str) -> float:
        """Return the mean loss of a text's tokens but the first, in nats, in windows of the model's context.

        Raises:
            DataError: it has fewer than two tokens.
        """
        with Explained():
            return read_loss(self._loaded, text)

    def predict(self, asked: Any, *, writing: Mapping[str, Any] | None = None) -> Any:
        """Return what the run tells of examples, such as {"label": "positive", "score": 0.98, "probabilities": {...}}.

        Args:
            asked: a text, or a dict of `text` and `pair` or `choices`, or of `question` and `context`; or a list of
                them, whose answers are a list.
            writing: how a run that writes targets is to write them, such as {"beams": 4}; see `molino predict --help`.

        Raises:
            ConfigError: the run was not trained to tell anything of such examples.
        """
        with Explained():
            alone = not isinstance(asked, list | tuple) or isinstance(asked, Example)
            loaded = told_to_write(self._loaded, writing or {})
            answers = answers_of(loaded, [as_example(each) for each in ([asked] if alone else asked)])
        return answers[0] if alone else answers

    def score(
        self,
        data: str,
        split: str = "val",
        *,
        template: str | None = None,
        words: dict[str, str] | None = None,
        overrides: Sequence[str] = (),
    ) -> dict[str, float]:
        """Return how well a language model tells the classes, or the right choices, of examples that it was never
        trained on: `accuracy`, of acceptability `matthews`, and what `chance` comes to.

        Args:
            data: a corpus with labels, by the name of its choice, such as "sst2".
            template, words: how classes are asked for; see `molino score --help`.
            overrides: further settings of `molino score`, such as "paths.cache=...".
        """
        with Explained():
            section = compose("score", [f"data={data}", *overrides]).settings["data"]
            return score_of(self._loaded, asked_of(section, split, template, words), self._hardware)

    def evaluate(
        self,
        split: str = "val",
        *,
        data: str | None = None,
        stride: int | None = None,
        floors: bool = True,
        pseudo: bool = False,
        writing: Mapping[str, Any] | None = None,
        overrides: Sequence[str] = (),
    ) -> dict[str, float]:
        """Return exact figures over a whole split, and what counting achieves there, by tag.

        Args:
            split: `train`, `val` or `test`.
            data: another corpus than the run's, by the name of its choice, such as "shakespeare".
            stride: tokens between the starts of two windows; None for windows that do not overlap.
            floors: count as well.
            pseudo: also hide each token in turn, of a run that fills in hidden ones.
            writing: as that of `predict`; what is written otherwise than the run says is not kept in its summary.
            overrides: further settings of `molino evaluate`, such as "paths.cache=...".
        """
        with Explained():
            request = compose("evaluate", [*([f"data={data}"] if data else []), *overrides])
            paths = request.settings["paths"]
            corpus = corpus_of(self._loaded, request.settings.get("data"), paths)
            cache = Path(paths["cache"])
            loaded = told_to_write(self._loaded, writing or {})
            found = measure(loaded, corpus, split, stride, floors, self._hardware, cache, pseudo)
            if split == TEST and request.settings.get("data") is None and loaded is self._loaded:
                record_test(self._loaded, found.figures)
        figures = {f"{split}/{name}": value for name, value in found.figures.items()}
        return figures | {floor.tag: floor.value for floor in found.floors}

    def generate(
        self,
        prompt: str | Sequence[str] = "",
        max_new_tokens: int = 300,
        *,
        samples: int = 1,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        stop: str | Sequence[str] | None = None,
        seed: int = 0,
        new_text_only: bool = False,
        stream: bool = False,
    ) -> Any:
        """Return a text that goes on from a prompt, the prompt included; of several samples a list.

        Args:
            prompt: of a list of them the texts are a list too, each as it is alone; of several samples one of lists.
            stop: a text, or several, before which the new text ends.
            new_text_only: leave the prompt out.
            stream: return an iterator over the pieces of new text in its place, as they become readable.
            For the others see `molino generate --help`.
        """
        settings = {
            "max_new_tokens": max_new_tokens,
            "samples": samples,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "stop": list(stop) if isinstance(stop, tuple) else stop,
            "seed": seed,
        }
        with Explained():
            check_arguments(Sampling, settings)
            return write_on(self._loaded, prompt, Sampling(**settings), new_text_only, stream)


def _read_metrics(run: Path) -> dict[str, np.ndarray]:
    path = run / "metrics.csv"
    try:
        reader = csv.DictReader(whole_lines(path))
        rows = [{name: float(value) if value else math.nan for name, value in row.items()} for row in reader]
        names = reader.fieldnames or []
    except FileNotFoundError as error:
        raise CheckpointError(f"{run} has recorded no metrics: it has no {path.name}") from error
    except (OSError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    table = {name: np.array([row[name] for row in rows]) for name in names}
    return table | {"step": table["step"].astype(np.int64)} if "step" in table else table
