"""An answer inside a text (Rajpurkar et al. 2016): where it begins and ends, told by a head (Devlin et al. 2019).

Shapes: B windows, T time (tokens).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from molino.base.errors import ConfigError, DataError
from molino.data.batches import Rows
from molino.data.examples import Answer, Example
from molino.data.examples_drawn import Examples
from molino.data.tokenizers import PADDING, Tokenizer
from molino.data.tokens import Split, TokenizedCorpus
from molino.evaluation.totals import Pairs, measure_all
from molino.evaluation.written import exact_match, metrics_of, scores_of
from molino.models.capabilities import device_of
from molino.models.trained_head import SPANS, Head
from molino.models.with_span import WithSpan, best_spans
from molino.runs.examples import LONGEST, Outcomes, Wrong
from molino.runs.measures import HELDOUT, MAXIMIZE, Floor, Metric
from molino.tasks.context_windows import ContextWindows, WindowBatches, answer_at
from molino.tasks.floors_of_targets import Texts, floors_of_targets
from molino.tasks.sequences import DELIMITER, EXTRACT, START
from molino.tasks.task import Batch

ANSWER = "answer"  # the score of `evaluation.written`
METRICS = (*metrics_of(ANSWER), Metric("loss", unit="nats a window", per_token=True))
ENGLISH = "en"  # of a corpus that does not say its language
SHOWN = 6  # questions that a sample shows
MOST_WRONG = 20  # answers that are shown of those that are wrong


class Span:
    """The mean negative log likelihood of the first and of the last token of the answer, in each window of a context.

    A batch holds `tokens_BT`, `begins_B` and `ends_B` (where in them the context stands) and `answers_B2`, the places
    of the answer's first and last token. A window that does not hold the whole answer is to point to its <start>.

    Args:
        monitor, direction: the metric that decides, and in which direction it improves.
        stride: tokens that two windows of one context share; None for a quarter of what a window has room for.
        longest: tokens of an answer at most.
        in_common: the model is told which tokens of a context its question holds too, see molino.models.with_span.
    """

    tokens = (START, DELIMITER, EXTRACT, PADDING[0])
    metrics = METRICS
    parts: Mapping[str, float] = {"loss": 1.0}
    learnt = ("loss",)
    inputs = ("tokens",)
    fields = ("question", "context")

    def __init__(
        self,
        monitor: str = METRICS[0].tag,
        direction: str = MAXIMIZE,
        stride: int | None = None,
        longest: int = 30,
        in_common: bool = False,
    ):
        if longest < 1:
            raise ConfigError(f"task.longest={longest} is too small: choose 1 or more")
        self.monitor, self.direction, self.stride, self.longest = monitor, direction, stride, longest
        self.in_common = in_common
        self._windows: dict[tuple[str, str, int], ContextWindows] = {}
        self._held: dict[str, tuple[list[Example], str]] = {}

    def network(self, model: nn.Module) -> WithSpan:
        return WithSpan(model, self.in_common)

    def exported(self, network: WithSpan) -> tuple[nn.Module, Head]:
        """Return the model and its head, for the formats of transformers.

        Raises:
            ConfigError: no format computes the same.
        """
        if network.in_common is not None:
            raise ConfigError("task.in_common=true has no counterpart in transformers")
        marks, head = ((START,), (DELIMITER,), (EXTRACT,)), network.span_head
        return network.model, Head(SPANS, None, head.weight, True, marks, head.bias)

    def begin(self, network: WithSpan, trained: nn.Module | Head | None) -> None:
        """Take over the head of another run of this task, and what is beside it, or that of a folder; other heads tell
        nothing of places.

        Raises:
            ConfigError: something of it would be lost.
        """
        if isinstance(trained, Head) and trained.kind == SPANS:
            trained.check_width(network.span_head.in_features)
            network.span_head.load_state_dict({"weight": trained.weight, "bias": trained.bias})
        if not isinstance(trained, WithSpan):
            return
        network.span_head.load_state_dict(trained.span_head.state_dict())
        if trained.in_common is not None and network.in_common is None:
            raise ConfigError(
                "weights= name a run that is told what question and context have in common, which would be lost: add "
                "task.in_common=true"
            )
        if trained.in_common is not None:
            network.in_common.load_state_dict(trained.in_common.state_dict())

    def remarks(self, text: TokenizedCorpus, block_size: int) -> dict[str, str]:
        """Return what is to be said of the questions before they are trained on."""
        examples, windows = self._examples(text), {}
        for split in examples:
            windows[split] = self._read(text, split, block_size)
        told = {split: f"{split} {len(each.cut_N):,} in {len(each):,} windows" for split, each in windows.items()}
        found = {"questions": ", ".join(told.values())}
        for title, counts in {
            "questions that are cut": {split: each.cut_N.sum() for split, each in windows.items()},
            "answers that no window holds whole": {split: (~each.found_N).sum() for split, each in windows.items()},
            "without an answer": {split: len(each) - len(windows[split].cut_N) for split, each in examples.items()},
        }.items():
            if any(counts.values()):
                found[title] = ", ".join(f"{count:,} of {split}" for split, count in counts.items() if count)
        return found

    def draw(self, text: TokenizedCorpus, batches: str, block_size: int, seed: int) -> Examples:
        """Draw windows, each once an epoch, in batches of near-equal lengths."""
        self._examples(text)
        if batches != "documents":
            raise ConfigError(f"data.batches={batches} has no use for questions: leave it out, or say documents")
        windows = self._read(text, "train", block_size)

        def take(windows_R: np.ndarray) -> Rows:
            taken = windows.take(windows_R)
            return Rows({name: taken[name] for name in ("tokens", "begins", "ends", "answers")}, {})

        return Examples(take, windows.lengths_W[:, None], seed)

    def evaluation(
        self, text: TokenizedCorpus, split: str, block_size: int, stride: int | None, rank: int = 0, world_size: int = 1
    ) -> WindowBatches:
        if stride is not None:
            raise ConfigError(f"stride={stride} has no use for this task: windows are cut as task.stride says")
        self._held[split] = _answered(self._examples(text)[split]), _language(text)
        return WindowBatches(self._read(text, split, block_size), rank, world_size)

    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": network.loss(batch["tokens"], batch["begins"], batch["ends"], batch["answers"])}

    def training_figures(self, losses: Mapping[str, float]) -> dict[str, float]:
        return {"loss": losses["loss"]}

    @torch.no_grad()
    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor | Pairs]:
        """Return of each window the number of its example, its loss in nats, and of its best span the logarithm of the
        probability and where it begins and ends in the context, in characters."""
        log_p_B2T = network(batch["tokens"], batch["begins"], batch["ends"])
        loss_B = -log_p_B2T.gather(2, batch["answers"][..., None])[..., 0].double().mean(1)
        rows = [batch["numbers"].double(), loss_B, *self._best(log_p_B2T, batch)]
        return {"rows": Pairs(torch.stack(rows, dim=1))}

    def _best(self, log_p_B2T: Tensor, batch: Batch) -> list[Tensor]:
        span_B2, best_B = best_spans(log_p_B2T, batch["begins"], self.longest)
        each_B = torch.arange(len(span_B2), device=span_B2.device)
        first_B2, last_B2 = (batch["places"][each_B, span_B2[:, side]] for side in (0, 1))
        return [best_B, first_B2[:, 0].double(), last_B2[:, 1].double()]

    def figures(self, totals: Mapping[str, Any], split: Split) -> dict[str, float]:
        examples, language = self._held[split.name]
        told = told_of(totals["rows"], examples)
        numbers = sorted(told)
        wanted = [[answer.text for answer in examples[number].answers] for number in numbers]
        scores = scores_of(ANSWER, [told[number][0].text for number in numbers], wanted, language)
        return scores | {"loss": float(totals["rows"][:, 1].mean())}

    def outcomes(self, totals: Mapping[str, Any], text: TokenizedCorpus, step: int) -> Outcomes:
        """Return which held-out answers it is most wrong about."""
        examples, language = _answered(self._examples(text)[HELDOUT]), _language(text)
        wrong = []
        for number, (answer, sure) in told_of(totals["rows"], examples).items():
            right = [each.text for each in examples[number].answers]
            if not exact_match([answer.text], [right], language):
                context = examples[number].pair[max(examples[number].answers[0].start - LONGEST // 2, 0) :][:LONGEST]
                wrong.append(Wrong(f"{examples[number].text} | {context}", answer.text, right[0], sure))
        wrong.sort(key=lambda each: -each.sure)
        return Outcomes(step, [], [], [], [], wrong[:MOST_WRONG])

    def floors(self, text: TokenizedCorpus, split: str, block_size: int) -> list[Floor]:
        """Return what the sentence with most words of the question, and a random span, come to."""
        held = _answered(self._examples(text)[split])
        targets = [[answer.text for answer in each.answers] for each in held]
        texts = Texts([each.text for each in held], targets, [each.pair for each in held])
        return floors_of_targets(ANSWER, texts, texts, _language(text))

    def sample(self, network: nn.Module, text: TokenizedCorpus, tokens: int, seed: int) -> str:
        """Return some held-out questions with what the network answers, and what is right."""
        examples = _answered(self._examples(text)[HELDOUT])
        few = [examples[at] for at in np.linspace(0, len(examples) - 1, min(SHOWN, len(examples))).astype(int)]
        told = self.predict(network, text.tokenizer, few, network.block_size)
        return "\n\n".join(
            f"{each.text}\n  > {answer['answer']} ({answer['score']:.2f})\n  = {each.answers[0].text}"
            for each, answer in zip(few, told, strict=True)
        )

    def predict(
        self, network: nn.Module, tokenizer: Tokenizer, examples: Sequence[Example], block_size: int
    ) -> list[dict[str, Any]]:
        """Return the answers to questions about contexts, as the question-answering pipeline of transformers has them:
        the text, its probability (that it begins there, times that it ends there), and its place in characters.

        Raises:
            ConfigError: an example has no context, or more than one.
            DataError: a context holds nothing that could be an answer.
        """
        self.check_fields(examples)
        if empty := [number for number, each in enumerate(examples, start=1) if not each.text.strip()]:
            raise DataError(f"question {empty[0]} is empty: there is nothing to answer")
        windows = ContextWindows(tokenizer, examples, block_size, self.stride)
        bare_N = np.array([not each.pair.strip() for each in examples], dtype=bool)
        if len(empty := np.flatnonzero(bare_N | (windows.context_sizes_N == 0))):
            raise DataError(f"the context of question {empty[0] + 1} is empty: there is nothing to answer from")
        rows = measure_all(self.measure, network, WindowBatches(windows), device_of(network))["rows"]
        told = told_of(rows, examples)
        return [
            {"answer": answer.text, "score": score, "start": answer.start, "end": answer.start + len(answer.text)}
            for answer, score in (told[number] for number in range(len(examples)))
        ]

    def cut(self, tokenizer: Tokenizer, examples: Sequence[Example], block_size: int) -> int:
        """Return how many of these questions are read in part, as they are too long; contexts never are."""
        return int(ContextWindows(tokenizer, examples, block_size, self.stride).cut_N.sum())

    def check_fields(self, examples: Sequence[Example]) -> None:
        """Refuse examples that are no questions about a context.

        Raises:
            ConfigError: there is one.
        """
        for each in examples:
            if each.pair is None or each.choices or each.targets:
                raise ConfigError(
                    "task=span reads a question and its context (text and pair of a table): give these two alone"
                )

    def _examples(self, text: TokenizedCorpus) -> dict[str, list[Example]]:
        splits = text.corpus.examples() if hasattr(text.corpus, "examples") else {}
        bare = [split for split, examples in splits.items() if not any(each.answers for each in examples)]
        if not splits or bare:
            where = f"the {bare[0]} split of {text.corpus.name}" if bare else text.corpus.name
            raise ConfigError(
                f"task=span needs answers inside a text, and {where} has none: choose data=xquad_en, data=answers with "
                "a file of your own, or another that has some"
            )
        for examples in splits.values():
            self.check_fields(examples[:1])
        return splits

    def _read(self, text: TokenizedCorpus, split: str, block_size: int) -> ContextWindows:
        key = text.digest, split, block_size
        if key not in self._windows:
            examples = _answered(self._examples(text)[split])
            self._windows[key] = ContextWindows(text.tokenizer, examples, block_size, self.stride)
        return self._windows[key]


def told_of(rows_WK: np.ndarray, examples: Sequence[Example]) -> dict[int, tuple[Answer, float]]:
    """Return by the number of each example its best answer in all windows, and the probability of that.

    Args:
        rows_WK: of the windows, in any order, as `Span.measure` has them.
    """
    # Of equally likely ones the first in the context.
    ordered = rows_WK[np.lexsort((rows_WK[:, 4], rows_WK[:, 3], -rows_WK[:, 2], rows_WK[:, 0]))]
    found = {}
    for number, _, log_p, start, end in ordered:
        if int(number) not in found:
            found[int(number)] = answer_at(examples[int(number)].pair, int(start), int(end)), math.exp(log_p)
    return found


def _answered(examples: Sequence[Example]) -> list[Example]:
    """Return the questions whose answers somebody has said."""
    return [each for each in examples if each.answers]


def _language(text: TokenizedCorpus) -> str:
    return getattr(text.corpus, "language", ENGLISH)
