"""molino results ... compare=windows: single runs compared on the held-out text, piece by piece."""

import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from molino.base.console import say, show_rows
from molino.base.errors import ConfigError
from molino.comparison.bootstrap import DRAWS, Resampled, resample
from molino.comparison.show import NOTHING, show_number
from molino.comparison.statistics import SIGNIFICANT
from molino.comparison.tables import pipes
from molino.data.tokens import TokenizedCorpus, prepare_tokens
from molino.machine.hardware import Hardware
from molino.runs.measures import HELDOUT
from molino.trained.load import LoadedRun, load_run
from molino.trained.measuring import corpus_of
from molino.trained.pieces import losses_of_tokens, pieces_of

HEADER = ("run", "loss", "95 % interval", "to the best", "its 95 % interval", "p", "", "better in")


def compare(runs: list[Path], format: str, paths: dict[str, Any]) -> None:
    """Print a table of runs, the best first.

    Args:
        runs: their directories; all read the same text in the same tokens.
        format: `table`, `csv`, `markdown` or `json`.
        paths: those of today.

    Raises:
        ConfigError: there is one run alone, or they do not compare.
    """
    if len(runs) < 2:
        raise ConfigError(f"compare=windows needs two runs or more, and this is {runs[0].name} alone: name another")
    hardware = Hardware()
    hardware.apply()
    loaded = [load_run(run, "best", hardware.device) for run in runs]
    text = _text(loaded, paths)
    begins, what = pieces_of(text, HELDOUT, max(each.model.block_size for each in loaded))
    losses = [losses_of_tokens(each, text, HELDOUT, hardware) for each in loaded]
    units_P = np.diff(np.append(begins, len(losses[0]))).astype(np.float64)
    found = resample(np.stack([np.add.reduceat(each, begins) for each in losses]), units_P)
    ranked = sorted(zip(runs, found, strict=True), key=lambda pair: pair[1].loss)
    show(ranked, format, f"{text.corpus.name}, {HELDOUT} split: {what}")


def show(ranked: list[tuple[Path, Resampled]], format: str, title: str) -> None:
    """Write runs and what they came to."""
    if format == "json":
        print(json.dumps([{"run": str(run), **asdict(each)} for run, each in ranked], indent=2))
    elif format == "csv":
        writer = csv.DictWriter(sys.stdout, ["run", *asdict(ranked[0][1])], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"run": str(run), **asdict(each)} for run, each in ranked)
    else:
        cells = [_cells(run, each) for run, each in ranked]
        note = (
            f"p: paired bootstrap of {DRAWS:,} draws against the best run, corrected for all pairs (Holm); it knows "
            "nothing of other seeds"
        )
        if format == "markdown":
            print(f"{pipes(HEADER, cells, right=1)}\n\n{title}. {note}")
        else:
            show_rows(title, HEADER, cells, words={""})
            say(note)


def _cells(run: Path, each: Resampled) -> list[str]:
    own = [run.name, show_number(each.loss), f"{show_number(each.low)} .. {show_number(each.high)}"]
    if each.difference is None:
        return [*own, NOTHING, NOTHING, NOTHING, "best", NOTHING]
    interval = f"{each.difference_low:+.4f} .. {each.difference_high:+.4f}"
    verdict = "worse" if each.p < SIGNIFICANT else "unclear"
    return [*own, f"{each.difference:+.4f}", interval, f"{each.p:.4f}", verdict, f"{each.better:.0%}"]


def _text(loaded: list[LoadedRun], paths: dict[str, Any]) -> TokenizedCorpus:
    """Return the text that all runs read.

    Raises:
        ConfigError: it is not the same.
    """
    texts = [prepare_tokens(corpus_of(each, None, paths), each.tokenizer, Path(paths["cache"])) for each in loaded]
    for each, text in zip(loaded, texts, strict=True):
        if text.digest != texts[0].digest:
            raise ConfigError(
                f"compare=windows needs the same text in the same tokens, and {each.path.name} has others than "
                f"{loaded[0].path.name}: results without it ranks them by bits per byte"
            )
    return texts[0]
