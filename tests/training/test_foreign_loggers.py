"""MLflow and Weights & Biases, read back by their client and from their file; Lightning's own loggers are refused."""

import json
import struct
from pathlib import Path

import pytest
from running import finish, only_run, start, wait_for_step

from molino.base.errors import ConfigError, ResourceError
from molino.configuration.request import Request
from molino.runs.directory import read_summary
from molino.training.loggers import WeightsAndBiases
from molino.training.loggers.start import given_to

SMALL = (
    "debug=fast", "hardware=cpu", "hardware.threads=1", "model=bigram", "trainer.max_steps=20", "trainer.val_every=10",
    "trainer.log_every=10", "trainer.checkpoint_every=10", "optimizer.lr=0.01",
)  # fmt: skip


@pytest.fixture(autouse=True)
def nobody_says_elsewhere(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def home(molino, tmp_path_factory):
    """A run that was logged everywhere."""
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("wandb", reason="wandb is not installed")
    home = tmp_path_factory.mktemp("logged")
    places = (f"paths.outputs={home / 'outputs'}", f"paths.cache={home / 'cache'}")
    done = molino("train", *SMALL, *places, "logger=[csv,mlflow,wandb]")
    assert done.status == 0, done.err
    return home


def client_of(home: Path):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{home / 'outputs' / 'mlflow.db'}")


def history_of(run: Path) -> list[dict]:
    """Return what was logged to Weights & Biases, from the files that `wandb sync` would send."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted((run / "wandb").glob("offline-run-*/run-*.wandb")):
        for data in records(path.read_bytes()):
            record = Record.FromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "history":
                items = record.history.item
                found.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
            elif kind == "run":
                config = record.run.config.update
                settings = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in config}
                found.append({"run": record.run.run_id, "settings": settings})
            elif kind == "config":
                settings = {item.key or ".".join(item.nested_key): json.loads(item.value_json)
                            for item in record.config.update}  # fmt: skip
                found.append({"settings": settings})
    return found


def records(content: bytes) -> list[bytes]:
    """Return the records of a log in LevelDB's format, which begins with seven bytes of its own."""
    found, pieces, at = [], b"", 7
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        pieces += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            found.append(pieces)
            pieces = b""
    return found


def test_mlflow_has_what_the_run_has(home):
    client, run = client_of(home), only_run(home)
    number = client.get_experiment_by_name("molino").experiment_id
    (found,) = client.search_runs([number])
    assert found.info.run_name == run.name and found.info.status == "FINISHED"
    assert found.data.params["model"] == "bigram" and found.data.params["optimizer.lr"] == "0.01"
    points = client.get_metric_history(found.info.run_id, "val/loss")
    assert [point.step for point in points] == [10, 20]
    summary = read_summary(run)
    assert points[-1].value == summary["val/loss"]
    floors = client.get_metric_history(found.info.run_id, "floor/bigram")
    assert [(point.step, point.value) for point in floors] == [(step, summary["floor/bigram"]) for step in (0, 20)]
    files = [file.path for file in client.list_artifacts(found.info.run_id, "samples")]
    assert files == ["samples/00000010.txt", "samples/00000020.txt"]
    where = Path(found.info.artifact_uri.removeprefix("file://"))
    sampled = (run / "samples.txt").read_text()
    assert (where / files[-1]).read_text() in sampled and where.is_relative_to(home / "outputs")


def test_weights_and_biases_has_what_the_run_has(home):
    run = only_run(home)
    found, summary = history_of(run), read_summary(run)
    curve = {row["step"]: row["val/loss"] for row in found if "val/loss" in row}
    assert list(curve) == [10, 20] and curve[20] == pytest.approx(summary["val/loss"], rel=1e-12)
    floors = [(row["step"], row["floor/bigram"]) for row in found if "floor/bigram" in row]
    assert floors == [(step, pytest.approx(summary["floor/bigram"])) for step in (0, 20)]
    assert len([row for row in found if "samples" in row or any(key.startswith("samples/") for key in row)]) == 2
    settings = {key: value for row in found for key, value in row.get("settings", {}).items()}
    assert settings["model"] == "bigram" and settings["optimizer.lr"] == 0.01


def test_nothing_lies_elsewhere(home):
    beside = {path.name for path in (home / "outputs").iterdir()} - {only_run(home).name}
    assert beside == {"mlflow.db", "mlflow-files", ".mlflow.lock"}


def test_a_run_that_goes_on_is_the_same_run_there(tmp_path):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("wandb", reason="wandb is not installed")
    long = (*SMALL, "trainer.max_steps=600", "logger=[mlflow,wandb]")
    process = start(tmp_path / "x", *long)
    wait_for_step(process, tmp_path / "x", 3)
    process.kill()
    process.wait()
    process.communicate()
    finish(start(tmp_path / "x", "resume=latest"))
    run, client = only_run(tmp_path / "x"), client_of(tmp_path / "x")
    (found,) = client.search_runs([client.get_experiment_by_name("molino").experiment_id])
    assert found.info.status == "FINISHED"
    steps = {point.step for point in client.get_metric_history(found.info.run_id, "val/loss")}
    assert steps == set(range(10, 601, 10))
    assert len({row["run"] for row in history_of(run) if "run" in row}) == 1


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("CSVLogger", "use logger=csv"),
        ("TensorBoardLogger", "use logger=tensorboard"),
        ("MLFlowLogger", "use logger=mlflow"),
        ("WandbLogger", "use logger=wandb"),
        ("CometLogger", "use a class of your own"),
    ],
)
def test_lightnings_own_are_refused_before_there_is_a_directory(name, instead, molino, tmp_path):
    target = f"lightning.pytorch.loggers.{name}"
    with pytest.raises(ConfigError, match=instead):
        given_to({"_target_": target}, "logger.x")
    done = molino("train", *SMALL, f"paths.outputs={tmp_path / 'outputs'}", f"+logger.x._target_={target}")
    assert done.status == 2 and instead in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_a_package_that_is_missing_is_named_before_there_is_a_directory(monkeypatch):
    monkeypatch.setattr(WeightsAndBiases, "needs", "no_such_package")
    with pytest.raises(ResourceError, match=r"logger\.wandb needs no_such_package: pip install no_such_package"):
        given_to({"_target_": "molino.training.loggers.WeightsAndBiases"}, "logger.wandb")


def test_a_request_says_what_tells_it_from_others():
    assert Request({}, ["a=1"], {}).varied is None
    asked = Request({}, ["a=1", "b=2"], {}, varied=["b=2"])
    assert Request.from_text(asked.to_text()).varied == ["b=2"]
