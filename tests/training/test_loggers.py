"""Logged metrics, read back from the files: with csv, and with TensorBoard's own reader."""

import csv
import html
import math
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import plugin_data_pb2

from molino.base.errors import CheckpointError, ResourceError
from molino.comparison.curves import read_validations
from molino.runs.measures import Floor
from molino.tasks.language_model import LanguageModel
from molino.training.loggers import MetricsFile, TensorBoard, metrics_file
from molino.training.loggers.tensorboard import as_markup, write_floors


def rows_of(directory: Path) -> list[dict[str, str]]:
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def events(directory: Path) -> EventAccumulator:
    return EventAccumulator(str(directory)).Reload()


def scalars(directory: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(directory).Scalars(tag)]


# metrics.csv


def test_one_row_a_step_and_one_column_a_metric_in_order_of_appearance(tmp_path):
    file = MetricsFile(tmp_path, None)
    file.log_metrics({"train/loss": 2.5, "train/perplexity": math.exp(2.5)}, step=10)
    file.log_metrics({"train/loss": 0.1 + 0.2, "train/perplexity": 1.25}, step=20)
    file.log_metrics({"val/loss": 1e-30}, step=20)
    file.log_metrics({"val/loss": math.inf}, step=30)
    assert not (tmp_path / "metrics.csv").exists()
    file.save()
    text = (tmp_path / "metrics.csv").read_text()
    assert text.splitlines()[0] == "step,train/loss,train/perplexity,val/loss"
    assert text.splitlines()[3] == "30,,,inf" and "\r" not in text
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == ["10", "20", "30"]
    # As exact as the number that was logged.
    assert float(rows[0]["train/perplexity"]) == math.exp(2.5)
    assert float(rows[1]["train/loss"]) == 0.1 + 0.2 and float(rows[1]["val/loss"]) == 1e-30


def test_the_end_of_a_run_writes_what_is_left(tmp_path):
    file = MetricsFile(tmp_path, None)
    file.log_metrics({"val/loss": 1.5}, step=1)
    file.log_hyperparams({"lr": 0.1})
    file.finalize("failed")
    assert rows_of(tmp_path) == [{"step": "1", "val/loss": "1.5"}]


def test_a_resumed_run_drops_later_rows_and_ends_as_if_never_stopped(tmp_path):
    def log(file: MetricsFile, steps: range) -> None:
        for step in steps:
            file.log_metrics({"train/loss": 1 / step}, step)
            if step % 20 == 0:
                file.log_metrics({"val/loss": 2 / step}, step)
        file.save()

    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    log(MetricsFile(tmp_path / "whole", None), range(10, 101, 10))
    log(MetricsFile(tmp_path / "killed", None), range(10, 81, 10))
    resumed = MetricsFile(tmp_path / "killed", 50)
    resumed.save()
    assert [row["step"] for row in rows_of(tmp_path / "killed")] == ["10", "20", "30", "40", "50"]
    log(resumed, range(60, 101, 10))
    one, other = (tmp_path / name / "metrics.csv" for name in ("whole", "killed"))
    assert one.read_bytes() == other.read_bytes()


def test_a_run_resumed_before_its_first_line_and_a_new_one_start_empty(tmp_path):
    file = MetricsFile(tmp_path, 0)
    file.log_metrics({"train/loss": 1.0}, 10)
    file.save()
    for first_step in (0, None):
        assert MetricsFile(tmp_path, first_step).rows == {}
    assert list(MetricsFile(tmp_path, 10).rows) == [10]


def test_rows_are_appended_and_are_what_one_writing_makes(tmp_path):
    file, written = MetricsFile(tmp_path, None), []
    for step in range(1, 40):
        file.log_metrics({"train/loss": 1 / step} | ({"val/loss": 2 / step} if step % 5 == 0 else {}), step)
        if step % 3 == 0:
            file.save()
            written.append((tmp_path / "metrics.csv").stat().st_ino)
        assert len(file.rows) <= 4
    # A file of its own for the first rows, one for the column of the first validation, and that is appended to.
    assert len(set(written)) == 2 and len(set(written[1:])) == 1
    expected = [
        f"{step},{1 / step!r},{2 / step!r}" if step % 5 == 0 else f"{step},{1 / step!r}," for step in range(1, 40)
    ]
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,train/loss,val/loss", *expected]


def test_a_row_that_is_written_may_get_more(tmp_path):
    file = MetricsFile(tmp_path, None)
    for step in (10, 20, 30):
        file.log_metrics({"a": step, "b": step}, step)
        file.save()
    file.log_metrics({"b": 31.0}, 30)
    file.log_metrics({"b": 21.0}, 20)
    file.log_metrics({"c": 40.0}, 40)
    file.log_metrics({"c": 15.0}, 15)
    file.save()
    lines = ["step,a,b,c", "10,10.0,10.0,", "15,,,15.0", "20,20.0,21.0,", "30,30.0,31.0,", "40,,,40.0"]
    assert (tmp_path / "metrics.csv").read_text().splitlines() == lines


def test_wherever_a_process_is_killed_what_goes_on_reads_its_rows(tmp_path):
    def log(file: MetricsFile, steps: range) -> None:
        for step in steps:
            file.log_metrics({"train/loss": 1 / step, "val/loss": 2 / step}, step)
            file.save()

    path = tmp_path / "metrics.csv"
    log(MetricsFile(tmp_path, None), range(6, 16))
    whole = path.read_bytes()
    for length in range(whole.index(b"\n11,") + 1, len(whole)):
        path.write_bytes(whole[:length])
        # The beginning of a number is another number.
        kept = read_validations(tmp_path, "val/loss")
        assert kept == {step: (2 / step, None) for step in range(6, 6 + len(kept))}
        log(MetricsFile(tmp_path, 10), range(11, 16))
        assert path.read_bytes() == whole


def test_rows_that_a_full_disk_took_half_of_are_written_whole_later(tmp_path, monkeypatch):
    def take_half(path: Path, text: str) -> None:
        with path.open("a") as file:
            file.write(text[: len(text) * 3 // 4])
        raise ResourceError("no space left")

    file = MetricsFile(tmp_path, None)
    file.log_metrics({"a": 1.0}, 1)
    file.save()
    file.log_metrics({"a": 2.0}, 2)
    file.log_metrics({"a": 3.0}, 3)
    with monkeypatch.context() as patch, pytest.raises(ResourceError):
        patch.setattr(metrics_file, "append_text", take_half)
        file.save()
    assert not (tmp_path / "metrics.csv").read_text().endswith("\n")
    file.finalize("failed")
    assert (tmp_path / "metrics.csv").read_text() == "step,a\n1,1.0\n2,2.0\n3,3.0\n"


def test_a_file_that_somebody_takes_away_begins_again_and_a_spoilt_one_is_told_of(tmp_path):
    file = MetricsFile(tmp_path, None)
    file.log_metrics({"a": 1.0}, 1)
    file.save()
    (tmp_path / "metrics.csv").unlink()
    file.log_metrics({"a": 2.0}, 2)
    file.save()
    assert (tmp_path / "metrics.csv").read_text().splitlines()[::2] == ["step,a", "2,2.0"]
    (tmp_path / "metrics.csv").write_text("step;a\n1;1,0\n")
    file.log_metrics({"b": 3.0}, 3)
    with pytest.raises(CheckpointError, match="is damaged"):
        file.save()


# TensorBoard


def test_event_files_lie_right_in_the_run(tmp_path):
    logger = TensorBoard(tmp_path / "run", None)
    logger.log_metrics({"train/loss": 2.5, "val/loss": 2.25}, step=10)
    logger.log_metrics({"train/loss": 1.5}, step=20)
    logger.finalize("success")
    assert [path.name for path in (tmp_path / "run").rglob("*") if path.is_dir()] == ["training"]
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1
    # TensorBoard names a run after its folder.
    assert set(EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload().Runs()) == {"run", "run/training"}
    assert sorted(events(tmp_path / "run").Tags()["scalars"]) == ["loss", "train/loss", "val/loss"]
    # One chart, the first, has the held-out loss and that of training: they share a tag.
    assert scalars(tmp_path / "run", "loss") == [(10, 2.25)]
    assert scalars(tmp_path / "run" / "training", "loss") == [(10, 2.5), (20, 1.5)]
    assert events(tmp_path / "run" / "training").Tags()["scalars"] == ["loss"]
    assert scalars(tmp_path / "run", "train/loss") == [(10, 2.5), (20, 1.5)]


@pytest.mark.parametrize("first_step", [0, 20, 30])
def test_a_resumed_run_shows_each_step_once(first_step, tmp_path):
    steps = [10, 20, 30, 40]
    killed = TensorBoard(tmp_path, None)
    for step in steps:
        killed.log_metrics({"train/loss": 1.0}, step)
    killed.finalize("failed")
    # TensorBoard reads files in the order of their names, which hold the second they were made in.
    for folder in (tmp_path, tmp_path / "training"):
        for file in folder.glob("events.*"):
            file.rename(folder / "events.out.tfevents.0000000001.killed")
    resumed = TensorBoard(tmp_path, first_step)
    for step in range(first_step + 10, 61, 10):
        resumed.log_metrics({"train/loss": 2.0}, step)
    resumed.finalize("success")
    expected = [(step, 1.0 if step <= first_step else 2.0) for step in range(10, 61, 10)]
    assert scalars(tmp_path, "train/loss") == scalars(tmp_path / "training", "loss") == expected


def test_hyperparameters_stand_beside_the_metrics_and_add_no_point(tmp_path):
    settings = {"optimizer.lr": 0.1, "model": "GPT", "model.bias": True, "seed": 3, "path": None, "betas": [0.9, 0.95]}
    logger = TensorBoard(tmp_path, None)
    logger.log_settings(settings, LanguageModel.metrics)
    # On disk at once: a run that is killed and resumed does not log them again.
    found = events(tmp_path).summary_metadata
    content = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
        for tag, metadata in found.items()
        if metadata.plugin_data.plugin_name == "hparams"
    }
    values = content["_hparams_/session_start_info"].session_start_info.hparams
    assert values["optimizer.lr"].number_value == 0.1 and values["seed"].number_value == 3
    assert values["model"].string_value == "GPT" and values["model.bias"].number_value == 1
    assert values["path"].string_value == "None" and values["betas"].string_value == "[0.9, 0.95]"
    metrics = content["_hparams_/experiment"].experiment.metric_infos
    assert {metric.name.tag for metric in metrics} == {"val/loss", "val/perplexity", "train/loss"}

    logger.log_metrics({"val/loss": 2.25}, 10)
    logger.finalize("success")
    assert sorted(events(tmp_path).Tags()["scalars"]) == ["loss", "val/loss"]
    assert scalars(tmp_path, "val/loss") == [(10, 2.25)]


def test_floors_are_level_lines_in_the_chart_of_the_loss(tmp_path):
    floors = {"floor/unigram": 3.25, "floor/bigram": 2.5, "floor/ngram": 1.75}
    told = [Floor(tag, level, "", "", {"loss": level, "perplexity": math.exp(level)}) for tag, level in floors.items()]
    write_floors(tmp_path / "floors", [*told, Floor("floor/bigram_train", 2.375, "", "")], last_step=1000)
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    assert set(runs.Runs()) == {"floors/unigram", "floors/bigram", "floors/ngram"}
    for run in runs.Runs():
        level = floors[run.replace("floors", "floor")]
        assert sorted(runs.Runs()[run]["scalars"]) == ["loss", "val/loss", "val/perplexity"]
        for tag in ("loss", "val/loss"):
            assert [(event.step, event.value) for event in runs.Scalars(run, tag)] == [(0, level), (1000, level)]
        assert [event.value for event in runs.Scalars(run, "val/perplexity")] == pytest.approx([math.exp(level)] * 2)


def test_a_floor_of_another_metric_is_in_its_chart(tmp_path):
    write_floors(tmp_path, [Floor("floor/majority", 0.5, "", "", {"accuracy": 0.5})], 10)
    assert scalars(tmp_path / "majority", "val/accuracy") == [(0, 0.5), (10, 0.5)]
    write_floors(tmp_path / "none", [], 10)
    assert not (tmp_path / "none").exists()


def test_a_sample_is_shown_character_by_character_by_tensorboards_own_cleaner():
    from tensorboard.plugin_util import markdowns_to_safe_html

    text = "# no *heading*\n\n  <b>&amp;</b>  ![x](http://e.vil/a.png)\n" + "long " * 60
    shown = markdowns_to_safe_html([as_markup(text)], lambda parts: "".join(parts))
    assert "<img" not in shown and "<h1>" not in shown and "<b>" not in shown and "<pre" not in shown
    body = shown.strip().removeprefix("<p>").removesuffix("</p>")
    back = html.unescape(re.sub("<br ?/?>", "\n", body)).replace("\N{NO-BREAK SPACE}", " ")
    assert back == text
