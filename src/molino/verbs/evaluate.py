"""python scripts/evaluate.py: a run's loss on a whole split, exactly, beside what counting alone achieves."""

from pathlib import Path
from typing import Any

from molino.base.console import progress, show_facts
from molino.base.errors import ConfigError, DataError
from molino.configuration.build import build, construct_arguments
from molino.configuration.request import Request
from molino.configuration.settings import relocate
from molino.data.batches import evaluation_windows
from molino.data.corpus import Corpus
from molino.data.tokens import Split, prepare_tokens
from molino.evaluation.floors import describe_floors, split_floors
from molino.evaluation.loss import exact_loss, loss_units, perplexity
from molino.machine.hardware import Hardware
from molino.trained.load import LoadedRun, load


def run(request: Request) -> float:
    """Check the settings and evaluate."""
    settings = dict(request.settings)
    for override in request.overrides:
        if override.lstrip("+~").startswith(("data/tokenizer", "data.tokenizer")):
            raise ConfigError(f"{override} has no use here: a run is evaluated with its own tokenizer")
    # data=... names another corpus; how it would be tokenized and batched in training has no meaning here.
    data = settings.pop("data", None)
    arguments = construct_arguments(evaluate, settings)
    return evaluate(**arguments, corpus=build(data["corpus"], "data.corpus", Corpus) if data else None)


def evaluate(
    run: str | None,
    source: str | None,
    checkpoint: str,
    split: str,
    stride: int | None,
    floors: bool,
    hardware: Hardware,
    paths: dict[str, Any],
    corpus: Corpus | None = None,
) -> float:
    """Print exact figures of a run on one split; return the loss in nats per token.

    Args:
        run, checkpoint: which run, and which of its checkpoints.
        source: in place of a run, a Hugging Face folder or hub id.
        split: `train`, `val` or `test`.
        stride: tokens between the starts of two windows; None for windows that do not overlap.
        floors: count n-grams on the training split for comparison.
        corpus: another corpus than the run's; it is encoded by the run's tokenizer.
    """
    hardware.apply()
    if source and corpus is None:
        raise ConfigError(f"source={source} does not say what text to read: add data=..., such as data=shakespeare")
    loaded = load(run, source, checkpoint, paths["outputs"], hardware.device, hardware.dtype)
    if corpus is None:
        corpus = build(relocate(loaded.settings, paths)["data"]["corpus"], "data.corpus", Corpus)
    text = prepare_tokens(corpus, loaded.tokenizer, Path(paths["cache"]))
    if split not in ("train", "val", "test"):
        raise ConfigError(f"split={split} is unknown: choose train, val or test")
    if split not in text.splits:
        raise DataError(f"{corpus.name} has no {split} split: choose split={', split='.join(text.splits)}")
    chosen, block_size = text.splits[split], loaded.model.block_size
    stride = block_size if stride is None else stride
    windows = evaluation_windows(chosen, block_size, stride, loaded.tokenizer.size)
    with hardware.autocast():
        loss, count = exact_loss(loaded.model, progress(windows, f"evaluating {corpus.name}"), hardware.device)
    facts = {
        **_describe_model(loaded, checkpoint),
        "corpus": f"{corpus.name}, {split} split, read whole and in order",
        "context": _describe_context(block_size, stride),
        **_describe_tokens(chosen, count),
        "loss": f"{loss:.4f} nats a token",
        "perplexity": f"{perplexity(loss):.4f}",
        **{unit.replace("_", " "): f"{loss * factor:.4f}" for unit, factor in loss_units(chosen).items()},
    }
    if floors:
        facts |= describe_floors(split_floors(text, split, Path(paths["cache"])), loss)
    show_facts("evaluation", facts)
    return loss


def _describe_model(loaded: LoadedRun, checkpoint: str) -> dict[str, str]:
    if loaded.step is None:
        return {"source": str(loaded.path)}
    return {"run": f"{loaded.path.name}, {checkpoint} checkpoint, after step {loaded.step:,}"}


def _describe_context(block_size: int, stride: int) -> str:
    if stride == block_size:
        return f"windows of {block_size} tokens that do not overlap: up to {block_size - 1} tokens before each"
    return (
        f"windows of {block_size} tokens every {stride}: {block_size - stride} or more tokens before each that has them"
    )


def _describe_tokens(split: Split, count: int) -> dict[str, str]:
    unknown = f"{split.unknown:,} of {len(split.tokens):,} ({split.unknown / len(split.tokens):.2%})"
    size = f"{split.characters:,} characters, {split.bytes:,} bytes"
    return {"text": size, "tokens predicted": f"{count:,}", "unknown tokens": unknown}
