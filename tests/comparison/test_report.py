"""Curves, pictures and the page: what is drawn, where it may be written, and that it needs nothing else."""

import base64
import re
from html.parser import HTMLParser

import pytest
from comparison.tree import make_run

from molino.base.errors import ConfigError
from molino.comparison import pictures
from molino.comparison.collect import find_runs, read_runs
from molino.comparison.curves import average, read_validations
from molino.comparison.pictures import draw_curves, draw_setting, numeric_settings
from molino.comparison.report import check_target, draw, write_report
from molino.comparison.rows import make_rows
from molino.comparison.tables import table
from molino.runs.measures import MAXIMIZE, Floor, Metric, measures_of, write_measures
from molino.tasks.earlier import measures

PNG = b"\x89PNG\r\n\x1a\n"


def make(path, *metrics, group_by=None):
    return make_rows(read_runs(find_runs([path]), measures), list(metrics) or ["val/loss"], group_by)


@pytest.fixture
def sweep(tmp_path):
    """Two corpora, two models, three rates, two seeds."""
    for data in ("pydocs", "quijote"):
        for model in ("gpt", "bigram"):
            for number, lr in enumerate(("1e-3", "1e-2", "1e-1")):
                for seed in (0, 1):
                    loss = 1.4 + (model == "bigram") + 0.1 * number + 0.02 * seed
                    typed = (f"data={data}", f"model={model}", f"optimizer.lr={lr}", f"seed={seed}")
                    curve = [(250, loss + 1, 10.0 + seed), (500, loss, 20.0 + 3 * seed)]
                    make_run(tmp_path / ",".join(typed), *typed, loss=loss, curve=curve)
    return tmp_path


def test_validations_are_the_rows_with_a_held_out_loss(tmp_path):
    run = make_run(tmp_path / "run", curve=[(250, 2.0, 10.5), (500, 1.5, None)], loss=1.5)
    assert read_validations(run, "val/loss") == {250: (2.0, 10.5), 500: (1.5, None)}
    (run / "metrics.csv").write_text("step,train/loss,val/loss\n5,1.0,\n10,,nan\n15,,1.0\n")
    assert read_validations(run, "val/loss") == {15: (1.0, None)}
    for damage in ("", "a,b\n1,2\n", "step,val/loss\nx,1.0\n", "\0"):
        (run / "metrics.csv").write_text(damage)
        assert read_validations(run, "val/loss") == {}
    assert read_validations(tmp_path, "val/loss") == {}


def test_a_curve_is_the_mean_over_seeds(tmp_path):
    make_run(tmp_path / "0", "seed=0", loss=1.0, curve=[(100, 3.0, 10.0), (200, 1.0, 20.0)])
    make_run(tmp_path / "1", "seed=1", loss=2.0, curve=[(100, 5.0, 14.0), (200, 2.0, 30.0), (300, 9.0, 40.0)])
    make_run(tmp_path / "old", "seed=2", loss=3.0, curve=[(100, 4.0, None), (200, 3.0, None)])
    runs = read_runs(find_runs([tmp_path]), measures)
    steps = average(runs, "val/loss", "steps")
    assert (steps.x, steps.mean, steps.low, steps.high) == ([100, 200], [4.0, 2.0], [3.0, 1.0], [5.0, 3.0])
    seconds = average(runs, "val/loss", "seconds")
    assert (seconds.x, seconds.mean, seconds.runs) == ([12.0, 25.0], [4.0, 1.5], 2)
    assert average(runs[2:], "val/loss", "seconds") is None and average([], "val/loss", "steps") is None


def test_runs_without_a_step_in_common_have_no_mean(tmp_path):
    make_run(tmp_path / "0", "seed=0", loss=1.0, curve=[(100, 3.0, 1.0)])
    make_run(tmp_path / "1", "seed=1", loss=1.0, curve=[(150, 5.0, 1.0)])
    curve = average(read_runs(find_runs([tmp_path]), measures), "val/loss", "steps")
    assert (curve.x, curve.mean, curve.runs) == ([100], [3.0], 1)


def test_curves_are_drawn_a_panel_a_corpus(sweep):
    figure = draw_curves(make(sweep), "val/loss", "seconds")
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["pydocs, char tokens", "quijote, char tokens"]
    best = next(line for line in figure.axes[0].get_lines() if line.get_label() == "gpt, 0.001")
    assert best.get_xdata().tolist() == [10.5, 21.5] and best.get_ydata() == pytest.approx([2.41, 1.41])
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == [f"{model}, {lr}" for model in ("gpt", "bigram") for lr in (0.001, 0.01, 0.1)]
    floors = [text.get_text() for text in figure.axes[0].texts]
    assert floors == ["unigram floor 3.1000", "bigram floor 2.2400", "5-gram floor 1.4300"]


def test_runs_of_every_kind_are_drawn(tmp_path):
    make_run(tmp_path / "old", "model=bigram", loss=2.0, curve=[(100, 3.0, None), (200, 2.0, None)])
    make_run(tmp_path / "resumed", "model=gpt", loss=1.0, curve=[(100, 3.0, None), (200, 1.0, 5.0)])
    make_run(tmp_path / "cut", "model=custom_gpt", status={"state": "cut off"}, curve=[(100, 2.0, 4.0)])
    make_run(tmp_path / "pruned", "model=gpt", "seed=1", loss=2.5, summary={"pruned": True}, curve=[(100, 2.5, 1.0)])
    make_run(tmp_path / "silent", "model=gpt", "data=quijote", loss=1.0)
    rows = make(tmp_path)
    (panel,) = draw_curves(rows, "val/loss", "steps").axes
    assert panel.get_title(loc="right") == "dashed: not finished; dotted: pruned"
    assert len(panel.get_legend().get_texts()) == 4
    assert len(draw_curves(rows, "val/loss", "seconds").axes[0].get_legend().get_texts()) == 3
    (tmp_path / "none").mkdir()
    make_run(tmp_path / "none" / "run", loss=1.0)
    assert draw_curves(make(tmp_path / "none"), "val/loss", "steps") is None


def test_many_curves_are_grey_but_for_the_best_ten(tmp_path):
    for number in range(25):
        loss = 1.5 + 0.01 * number
        make_run(
            tmp_path / str(number),
            f"optimizer.lr={number + 1}e-4",
            loss=loss,
            curve=[(100, 3.0, 1.0), (200, loss, 2.0)],
        )
    (panel,) = draw_curves(make(tmp_path), "val/loss", "steps").axes
    names = [text.get_text() for text in panel.get_legend().get_texts()]
    assert names[0] == "0.0001" and len(names) == 11 and names[-1] == "15 more"
    colours = [line.get_color() for line in panel.get_lines() if line.get_label() in names]
    assert set(colours) == {f"C{number}" for number in range(10)}


def test_training_is_a_thin_line_of_the_same_colour(sweep, tmp_path):
    rows = make(sweep)
    for axis, points in (
        ("steps", ([200, 250, 450, 500], [2.61, 2.51, 1.61, 1.51])),
        ("seconds", ([10.5, 21.5], [2.51, 1.51])),
    ):
        panel = draw_curves(rows, "val/loss", axis).axes[0]
        thick = {line.get_color(): line for line in panel.get_lines() if line.get_linewidth() == 1.6}
        thin = {line.get_color(): line for line in panel.get_lines() if line.get_linewidth() == 0.7}
        assert len(thick) == 6 and list(thin) == [f"C{number}" for number in reversed(range(5))]
        assert thin["C0"].get_xdata().tolist() == points[0]
        assert thin["C0"].get_ydata() == pytest.approx(points[1]) and thick["C0"].get_label() == "gpt, 0.001"
        assert panel.get_ylabel() == "held-out loss, nats a token\nthin: in training, of the best 5"
    two = draw_curves(rows[:2], "val/loss", "steps").axes[0]
    assert two.get_ylabel() == "held-out loss, nats a token\nthin: in training"
    assert len(two.get_legend().get_texts()) == 2


def test_what_is_not_learnt_by_has_no_line_of_training(tmp_path):
    run = make_run(tmp_path / "run", loss=1.0)
    (run / "metrics.csv").write_text("step,train/loss,val/bits_per_byte,val/loss,seconds\n9,1,2,3,4\n10,1,2,3,4\n")
    rows = make(tmp_path, "val/bits_per_byte")
    (panel,) = draw_curves(rows, "val/bits_per_byte", "steps").axes
    assert len([line for line in panel.get_lines() if len(line.get_xdata()) and line.get_linewidth() == 0.7]) == 0
    assert panel.get_ylabel() == "held-out bits per byte"


def test_training_is_in_sight_from_the_first_validation_on(tmp_path):
    run = make_run(tmp_path / "run", loss=1.4)
    (run / "metrics.csv").write_text(
        "step,train/loss,val/loss,seconds\n1,9.0,,\n50,1.8,1.9,1\n100,0.9,1.5,2\n150,0.2,1.6,3\n"
    )
    (panel,) = draw_curves(make(tmp_path), "val/loss", "steps").axes
    low, high = panel.get_ylim()
    assert low < 0.2 and 1.9 < high < 3.5  # as high as the floor that is drawn


def test_trials_that_were_pruned_are_no_line(tmp_path):
    for number in (1, 2, 3):
        pruned = {"summary": {"pruned": True}} if number > 1 else {}
        make_run(tmp_path / str(number), f"model.n_layer={number}", loss=1.0 + number, **pruned)
    make_run(tmp_path / "4", "model.n_layer=4", loss=1.1)
    (panel,) = draw_setting(make(tmp_path), "val/loss", "model.n_layer").axes
    styles = {line.get_marker(): line.get_linestyle() for line in panel.get_lines() if line.get_marker() in ("x", "o")}
    assert styles == {"x": "None", "o": "-"} and panel.get_title(loc="right") == "x: pruned"


def test_what_went_astray_leaves_the_picture_to_the_others(tmp_path):
    for number, loss in enumerate((1.3, 1.31, 1.32, 1.33, 1.34, 90.0)):
        make_run(
            tmp_path / str(number), f"model.n_layer={number}", loss=loss, curve=[(100, 2.0, 1.0), (200, loss, 2.0)]
        )
    rows = make(tmp_path)
    for figure in (draw_curves(rows, "val/loss", "steps"), draw_setting(rows, "val/loss", "model.n_layer")):
        (panel,) = figure.axes
        assert panel.get_ylim()[1] < 3 and panel.get_title(loc="right") == "1 beyond the top"


def test_a_metric_by_a_setting(sweep):
    rows = make(sweep)
    assert numeric_settings(rows) == ["optimizer.lr"]
    figure = draw_setting(rows, "val/loss", "optimizer.lr")
    assert len(figure.axes) == 2
    panel = figure.axes[0]
    assert panel.get_xscale() == "log"
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0.001", "0.01", "0.1"]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["gpt", "bigram"]
    bars = {container.get_label(): container for container in panel.containers}
    assert bars["gpt"][0].get_xdata().tolist() == [0.001, 0.01, 0.1]
    assert bars["gpt"][0].get_ydata() == pytest.approx([1.41, 1.51, 1.61])
    # One sd each way: 0.02 / sqrt(2).
    (low, high) = bars["gpt"][2][0].get_segments()[0][:, 1]
    assert high - low == pytest.approx(2 * 0.02 / 2**0.5)


def test_settings_that_are_no_axis(tmp_path):
    make_run(tmp_path / "a", "model=gpt", "model.bias=true", "model.n_layer=2", "seed=0", loss=1.0)
    make_run(tmp_path / "b", "model=bigram", "model.bias=false", "seed=1", loss=2.0)
    rows = make(tmp_path)
    assert numeric_settings(rows) == [] and draw_setting(rows, "val/loss", "model.n_layer") is None
    assert numeric_settings(make(tmp_path, group_by=["seed"])) == []


def test_small_spans_are_not_logarithmic(tmp_path):
    for layers in (0, 2, 30):
        make_run(tmp_path / str(layers), f"model.n_layer={layers}", loss=1.0 + layers)
    assert draw_setting(make(tmp_path), "val/loss", "model.n_layer").axes[0].get_xscale() == "linear"


def test_labels_are_no_mathematics(tmp_path):
    for number, name in enumerate(("$a_{$", "_b")):
        make_run(tmp_path / str(number), f"model.norm={name}", loss=1.0, curve=[(100, 2.0, 1.0)])
    figure = draw_curves(make(tmp_path), "val/loss", "steps")
    assert pictures.render(figure).startswith(PNG)
    assert {text.get_text() for text in figure.axes[0].get_legend().get_texts()} == {"$a_{$", " _b"}


class Page(HTMLParser):
    """The cells of the tables, the attributes of all tags, and the text outside of tables."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.attributes, self.open = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1] += data


def test_what_explain_drew_is_on_the_page(tmp_path):
    for seed in (0, 1):
        run = make_run(tmp_path / "runs" / f"run-{seed}", f"seed={seed}", loss=1.0)
        (run / "explain").mkdir()
        for name in ("layers", "alignment", "cross-layer-0"):
            (run / "explain" / f"{name}.png").write_bytes(PNG + f"{name} of {seed}".encode())
    rows = make(tmp_path / "runs")
    text = write_report(tmp_path / "page", rows, ["val/loss"], "molino results").read_text("utf-8")
    images = {name: base64.b64decode(data) for name, data in re.findall(r'alt="([^"]+)" src="[^,]+,([^"]+)"', text)}
    assert images["inside run-0: alignment"] == PNG + b"alignment of 0" and "inside run-1" not in text
    # What is no picture is not shown.
    (tmp_path / "runs" / "run-0" / "explain" / "alignment.png").write_text("<script>")
    text = write_report(tmp_path / "page", rows, ["val/loss"], "molino results").read_text("utf-8")
    assert "inside run-0: layers" in text


def test_the_page_needs_nothing_else(sweep, tmp_path):
    make_run(sweep / "x", "model=gpt", status={"state": "failed", "error": "<script>alert(1)</script> & more"})
    rows, target = make(sweep), tmp_path / "page"
    index = write_report(target, rows, ["val/loss"], "molino results 'a<b'")
    names = ["held-out-loss-by-seconds.png", "held-out-loss-by-steps.png", "index.html", "val-loss-by-optimizer.lr.png"]
    assert sorted(path.name for path in target.iterdir()) == names and index == target / "index.html"
    text = index.read_text("utf-8")
    page = Page(text)
    assert not re.search(r"https?:|//|<script|<link|@import|url\(", re.sub(r"base64,[^\"]+", "", text))
    images = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    decoded = {base64.b64decode(value.removeprefix("data:image/png;base64,")) for value in images}
    assert decoded == {(target / name).read_bytes() for name in names if name.endswith(".png")}
    header, cells = table(rows, ["val/loss"])
    assert page.cells[: len(cells) + 1] == [header, *cells]
    assert page.cells[-1] == ["x", "failed", "-", "<script>alert(1)</script> & more"]
    assert [value for tag, name, value in page.attributes if (tag, name, value) == ("tr", "class", "best")] == [
        "best"
    ] * 2
    assert "prefers-color-scheme: dark" in text and "molino results &#x27;a&lt;b&#x27;" in text


def test_only_an_earlier_report_is_replaced(sweep, tmp_path):
    target = tmp_path / "page"
    check_target(target)
    write_report(target, make(sweep), ["val/loss"], "")
    (target / ".index.html.abc.tmp").write_text("a killed process left this")
    check_target(target)
    other = make(sweep, group_by=["model"])
    write_report(target, other, ["val/loss"], "")
    # A picture that the new report has not is gone.
    assert not (target / "val-loss-by-optimizer.lr.png").exists() and (target / "held-out-loss-by-steps.png").exists()
    for name, content in (("notes.txt", b""), ("mine.png", PNG), ("index.html", b"<html>")):
        kept = (target / name).read_bytes() if (target / name).exists() else None
        (target / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"holds {name}, which is of no earlier report: choose another folder"):
            check_target(target)
        (target / name).unlink() if kept is None else (target / name).write_bytes(kept)
    check_target(target)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        check_target(tmp_path / "file")


def test_a_figure_of_which_more_is_better_is_drawn_by_its_name(tmp_path):
    floor = Floor("floor/majority", 0.89, "majority floor", "majority", {"accuracy": 0.89})
    for number, accuracy in enumerate((0.9, 0.91, 0.92, 0.93, 0.94, 0.1)):
        summary = {"val/accuracy": accuracy, "floor/majority": 0.89}
        run = make_run(tmp_path / str(number), f"model.n_layer={number}", loss=1.0, summary=summary)
        write_measures(run, measures_of("val/accuracy", [Metric("accuracy", MAXIMIZE, "of 1")], [floor]))
        (run / "metrics.csv").write_text(f"step,val/accuracy,seconds\n100,0.9,1.0\n200,{accuracy},2.0\n")
    rows = make(tmp_path, "val/accuracy")
    for figure in (draw_curves(rows, "val/accuracy", "steps"), draw_setting(rows, "val/accuracy", "model.n_layer")):
        (panel,) = figure.axes
        assert panel.get_ylim()[0] > 0.8 and panel.get_title(loc="right") == "1 beyond the bottom"
        assert [text.get_text() for text in panel.texts] == ["majority floor 0.8900"]
    assert draw_curves(rows, "val/accuracy", "steps").axes[0].get_ylabel() == "held-out accuracy, of 1"
    assert draw_curves(rows, "val/loss", "steps") is None
    assert {"held-out accuracy by steps", "held-out accuracy by seconds"} < draw(rows, ["val/accuracy"]).keys()
