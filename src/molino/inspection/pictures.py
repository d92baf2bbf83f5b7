"""Pictures of a corpus and of a model's attention, layers, positions and bigram table: figures of matplotlib, which is
imported when one is drawn and never asked for a window.

Shape suffixes: T time (tokens; queries), S keys, L layers, N tokens or distances, H heads, C channels, V vocabulary.
"""

import math
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from molino.base.errors import ResourceError
from molino.models.capabilities import capabilities_of, tensor_of

MOST_LABELS = 40  # tokens on an axis; more would be too small to read
MOST_ROWS = 500  # of a bigram table: more than a picture has room for
MOST_BARS = 60  # of a histogram
COLUMNS = 4  # panels side by side, at most
DPI = 130


def require_matplotlib() -> None:
    """Raises ResourceError where matplotlib is missing: it is optional."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ResourceError("pictures need matplotlib: pip install matplotlib") from error


def draw_attention(weights_HTS: Tensor, labels: list[str], title: str, read: list[str] | None = None) -> Any:
    """Draw a panel a head: the row is the token that reads, the column the one it reads from.

    Colours follow the square root of the weight: in a longer text most weights are small.

    Args:
        labels: of the T tokens that read.
        read: of the S tokens that are read, where they are others.
    """
    from matplotlib.colors import PowerNorm

    H, T, S = weights_HTS.shape
    labelled = max(T, S) <= MOST_LABELS
    rows = math.ceil(H / COLUMNS)
    columns = math.ceil(H / rows)  # six heads as 3 + 3, not as 4 + 2
    width, height = (max(1.9, 0.145 * each) if labelled else 3.2 for each in (S, T))
    beside, below = (_room(each) if labelled else 0.0 for each in (labels, read or labels))
    figure = _figure(columns * (width + 0.25) + 1.4 + beside, rows * (height + 0.35) + 1.1 + below)
    figure.suptitle(title, parse_math=False)
    panels = []
    for head, weights_TS in enumerate(weights_HTS.numpy()):
        panel = figure.add_subplot(rows, columns, head + 1)
        seen_TS = np.ma.masked_equal(weights_TS, 0)  # what a token cannot see stays white
        image = panel.imshow(seen_TS, cmap="viridis", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
        panel.set_title(f"head {head}", fontsize=9)
        panel.tick_params(labelsize=7, length=2)
        if labelled:
            panel.set_xticks(range(S), read or labels, rotation=90, parse_math=False, family="monospace")
            panel.set_yticks(range(T), labels, parse_math=False, family="monospace")
        # Only the outer panels are labelled.
        panel.tick_params(labelleft=head % columns == 0, labelbottom=head + columns >= H)
        panels.append(panel)
    bar = figure.colorbar(image, ax=panels, ticks=(0, 0.01, 0.05, 0.1, 0.25, 0.5, 1), shrink=min(1.0, 0.4 + 0.6 / rows))
    bar.set_label("attention weight", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.supxlabel("token that is read", fontsize=9)
    figure.supylabel("token that reads", fontsize=9)
    return figure


def draw_alignment(weights_TS: Tensor, labels: list[str], read: list[str], title: str) -> Any:
    """Draw which tokens of a source (across) each token of a target (down) is written by.

    Args:
        labels: of the T tokens that are written.
        read: of the S tokens of the source.
    """
    from matplotlib.colors import PowerNorm

    T, S = weights_TS.shape
    labelled = max(T, S) <= 2 * MOST_LABELS
    width, height = (max(2.5, 0.21 * each) if labelled else 8.0 for each in (S, T))
    beside, below = (_room(each) if labelled else 0.0 for each in (labels, read))
    figure = _figure(width + 1.8 + beside, height + 1.0 + below)
    panel = figure.add_subplot()
    image = panel.imshow(weights_TS.numpy(), cmap="viridis", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    panel.set_title(title, fontsize=10)
    panel.set_xlabel("token of the source", fontsize=9)
    panel.set_ylabel("token that is written", fontsize=9)
    if labelled:
        text = {"fontsize": 8, "parse_math": False, "family": "monospace"}
        panel.set_xticks(range(S), read, rotation=90, **text)
        panel.set_yticks(range(T), labels, **text)
    bar = figure.colorbar(image, ax=panel, ticks=(0, 0.01, 0.05, 0.1, 0.25, 0.5, 1), shrink=0.7)
    bar.set_label("attention weight", fontsize=8)
    return figure


def draw_layers(guesses: list[tuple[str, list[str], Tensor]]) -> Any:
    """Draw what each layer gives the tokens that the last one finds likeliest, a panel for each place.

    Args:
        guesses: of each place a title, the N tokens, and their probabilities (layers, N).
    """
    from matplotlib.colors import PowerNorm

    rows, columns = guesses[0][2].shape
    figure = _figure(1.5 + len(guesses) * (0.75 * columns + 0.6), 2.0 + 0.4 * rows)
    figure.suptitle("what the last layer finds likeliest, as each layer has it", fontsize=10)
    for number, (title, labels, p_LN) in enumerate(guesses, start=1):
        panel = figure.add_subplot(1, len(guesses), number)
        panel.imshow(p_LN.numpy(), cmap="viridis", norm=PowerNorm(0.5, 0, 1), aspect="auto", interpolation="nearest")
        panel.set_title(title, fontsize=10, parse_math=False)
        panel.set_xticks(range(columns), labels, fontsize=8, parse_math=False, family="monospace")
        panel.set_yticks(range(rows))
        panel.set_ylabel("layer")
        for row, column in np.ndindex(rows, columns):
            p = float(p_LN[row, column])
            colour = "white" if p < 0.5 else "black"
            panel.text(column, row, f"{p:.1%}", ha="center", va="center", fontsize=7, color=colour)
    return figure


def draw_relative(biases: dict[str, tuple[Tensor, Tensor]]) -> Any:
    """Draw what is added to a score by how far apart two tokens are, a panel a stack and a line a head.

    Args:
        biases: of each stack its N distances, and what each head adds there, (H, N).
    """
    from matplotlib import colormaps

    figure = _figure(1.5 + 5.5 * len(biases), 4.2)
    panels = np.atleast_1d(figure.subplots(1, len(biases), sharey=True))
    for panel, (title, (distances_N, bias_HN)) in zip(panels, biases.items(), strict=True):
        for head, bias_N in enumerate(bias_HN):
            colour = colormaps["viridis"](head / len(bias_HN))
            panel.plot(distances_N.numpy(), bias_N.numpy(), label=f"head {head}", linewidth=1, color=colour)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("how far the token that is read stands behind the one that reads")
        panel.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    panels[0].set_ylabel("added to the score")
    panels[-1].legend(fontsize=7)
    return figure


def relative_biases(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what a model adds to scores by distance, as it declares it: see `draw_relative`."""
    found = {}
    for name, title in capabilities_of(model).relative.items():
        distances_N, bias_HN = model.get_submodule(name).by_distance(model.block_size - 1)
        found[title] = distances_N.cpu(), bias_HN.detach().float().cpu()
    return found


def position_tables(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's tables of positions by what they are, as it declares them."""
    names = capabilities_of(model).positions
    return {title: tensor_of(model, name).detach().float().cpu() for name, title in names.items()}


def draw_positions(tables: dict[str, Tensor]) -> Any:
    """Draw a panel a table, the position from top to bottom, all in the same colours."""
    figure = _figure(1.5 + 5.5 * len(tables), 5.5)
    largest = max(float(table_TC.abs().max()) for table_TC in tables.values()) or 1.0
    panels = []
    for number, (title, table_TC) in enumerate(tables.items(), start=1):
        panel = figure.add_subplot(1, len(tables), number)
        image = panel.imshow(
            table_TC.numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest"
        )
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("dimension")
        panel.set_ylabel("position")
        _count_whole(panel)
        panels.append(panel)
    figure.colorbar(image, ax=panels).set_label("value", fontsize=9)
    return figure


def draw_bigrams(table_VV: Tensor, labels: list[str]) -> Any:
    """Draw the probabilities of the next token (column) after each token (row), from a table of logits.

    Of a large vocabulary only the first MOST_ROWS tokens are shown.
    """
    from matplotlib.colors import PowerNorm

    V = len(table_VV)
    shown = min(V, MOST_ROWS)
    probabilities_VV = torch.softmax(table_VV[:shown].detach().float().cpu(), dim=-1)[:, :shown]
    labelled = shown <= 3 * MOST_LABELS
    side = max(4.0, 0.13 * shown) if labelled else 9.0
    figure = _figure(side + 2.2, side + 1.0)
    panel = figure.add_subplot()
    image = panel.imshow(probabilities_VV.numpy(), cmap="viridis", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    panel.set_title("probability of the next token" + (f" (the first {shown} of {V:,} tokens)" if shown < V else ""))
    panel.set_xlabel("next token")
    panel.set_ylabel("token")
    _count_whole(panel)
    if labelled:
        text = {"fontsize": 7, "parse_math": False, "family": "monospace"}
        panel.set_xticks(range(shown), labels[:shown], rotation=90, **text)
        panel.set_yticks(range(shown), labels[:shown], **text)
    bar = figure.colorbar(image, ax=panel, ticks=(0, 0.01, 0.05, 0.1, 0.25, 0.5, 1), shrink=0.7)
    bar.set_label("probability", fontsize=9)
    return figure


def draw_corpus(title: str, counts: np.ndarray, unit: str, lengths: np.ndarray, weights: np.ndarray) -> Any:
    """Draw how often tokens occur, by rank, beside how long things are.

    Zipf's line gives each rank a share of 1 / rank of the same total.

    Args:
        counts: how often each token of the vocabulary occurs.
        unit: what the lengths are counted in, and of what.
        weights: how often each of the lengths counts.
    """
    figure = _figure(11.0, 4.6)
    figure.suptitle(title, parse_math=False)
    low, high = int(lengths.min()), int(lengths.max())
    # Of tokens that are all of one length, as characters are, there is nothing to see.
    left, *others = np.atleast_1d(figure.subplots(1, 2 if low < high else 1))
    falling = np.sort(counts[counts > 0])[::-1]
    ranks = np.arange(1, len(falling) + 1)
    left.loglog(ranks, falling, ".", markersize=4, label="tokens of the training split")
    left.loglog(ranks, falling.sum() / (ranks * (1 / ranks).sum()), "--", color="0.5", label="Zipf: 1 / rank")
    left.set_xlabel("rank")
    left.set_ylabel("how often it occurs")
    left.legend()
    for right in others:
        # A bar for each whole number where they are few.
        right.hist(lengths, np.linspace(low - 0.5, high + 0.5, min(high - low + 1, MOST_BARS) + 1), weights=weights)
        _count_whole(right)
        right.set_xlabel(unit)
        right.set_ylabel("how many")
    return figure


def save(figure: Any, path: Path | BinaryIO) -> np.ndarray:
    """Write a figure as PNG; return it as TensorBoard takes an image: (height, width, 3), uint8."""
    with warnings.catch_warnings():
        # A character that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path)
        return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def _figure(width: float, height: float) -> Any:
    """Return an empty figure, its size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _room(labels: list[str]) -> float:
    """Return the length of the longest label, in inches."""
    return 0.068 * max(map(len, labels))


def _count_whole(panel: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
