"""Pictures of a run: what became of held-out examples, and the one of `molino explain` that shows most at a glance."""

from pathlib import Path
from typing import Any

from molino.base.files import explain_os_errors
from molino.runs.examples import Outcomes

SIDE = 4.2  # of a panel, in inches
MOST_NUMBERS = 12  # classes in whose cells numbers can be read
INSIDE = "explain"  # the folder of a run with what `molino explain` draws
AT_A_GLANCE = ("alignment", "layers", "attention-layer-0", "bigrams", "relative")
PNG = b"\x89PNG\r\n\x1a\n"


def draw_outcomes(outcomes: Outcomes, title: str) -> Any | None:
    """Draw a figure of the examples of a run; None where there is nothing to draw."""
    panels = [
        (_draw_confusion, outcomes.confusion),
        (_draw_calibration, outcomes.calibration),
        (_draw_scores, outcomes.scores),
    ]
    panels = [draw for draw, content in panels if content]
    if not panels:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIDE * len(panels) + 1, SIDE + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)
    for number, draw in enumerate(panels, start=1):
        draw(figure.add_subplot(1, len(panels), number), outcomes)
    return figure


def read_look(run: Path) -> tuple[str, bytes] | None:
    """Return name and PNG of what was drawn last of the inside of a run; None where nothing was.

    Raises:
        ResourceError: it cannot be read.
    """
    for name in AT_A_GLANCE:
        path = run / INSIDE / f"{name}.png"
        with explain_os_errors(path):
            if path.is_file() and (png := path.read_bytes()).startswith(PNG):
                return name, png
    return None


def _draw_confusion(place: Any, outcomes: Outcomes) -> None:
    shares = [[n / max(sum(row), 1) for n in row] for row in outcomes.confusion]
    place.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names, count = outcomes.classes, len(outcomes.classes)
    place.set_xticks(range(count), names, rotation=45, ha="right", fontsize=8, parse_math=False)
    place.set_yticks(range(count), names, fontsize=8, parse_math=False)
    if count <= MOST_NUMBERS:
        for row, numbers in enumerate(outcomes.confusion):
            for column, n in enumerate(numbers):
                colour = "white" if shares[row][column] > 0.6 else "black"
                place.text(column, row, f"{n:,}", ha="center", va="center", fontsize=8, color=colour)
    place.set_xlabel("told")
    place.set_ylabel("wanted")


def _draw_calibration(place: Any, outcomes: Outcomes) -> None:
    filled = [(n, p / n, right / n) for n, p, right in outcomes.calibration if n > 0]
    most = max(n for n, _, _ in filled)
    place.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls=(0, (4, 3)))
    place.plot([p for _, p, _ in filled], [right for _, _, right in filled], color="C0", lw=1)
    sizes = [10 + 150 * n / most for n, _, _ in filled]
    place.scatter([p for _, p, _ in filled], [right for _, _, right in filled], s=sizes, color="C0", alpha=0.6, lw=0)
    place.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="probability of what was told", ylabel="share that was right")
    place.set_title("size: examples; below the line: too sure", fontsize=8, color="0.35")


def _draw_scores(place: Any, outcomes: Outcomes) -> None:
    wanted, told = zip(*outcomes.scores, strict=True)
    place.scatter(wanted, told, s=6, alpha=0.4, lw=0)
    low, high = min(*wanted, *told), max(*wanted, *told)
    place.plot([low, high], [low, high], color="0.6", lw=0.8, ls=(0, (4, 3)))
    place.set(xlabel="wanted", ylabel="told")
