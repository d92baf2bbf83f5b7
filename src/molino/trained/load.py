"""A run loaded back: its model with trained weights, its tokenizer, its settings; or a Hugging Face folder like one."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from molino.base.errors import CheckpointError, ConfigError, DataError
from molino.data.counts import digest_of_counts
from molino.data.line_ends import LINE_ENDS
from molino.data.prompt import remark
from molino.data.tokenizers import Tokenizer, digest_of
from molino.hub.own import is_own
from molino.hub.read import find_folder, read_head, read_weights
from molino.models.capabilities import capabilities_of
from molino.models.trained_head import Head
from molino.runs import directory
from molino.trained.building import build_model, build_network, build_task, give_counts
from molino.trained.folder import load_source, remark_own_head
from molino.trained.loaded import LoadedRun
from molino.trained.own import load_own


def load(
    run: str | None,
    source: str | None,
    checkpoint: str,
    outputs: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> LoadedRun:
    """Load what a verb was asked for: the run `run` below `outputs`, or the Hugging Face folder or hub id `source`.

    Raises:
        ConfigError: neither was named, or both.
        CheckpointError, DataError: it is missing, damaged or does not fit together.
    """
    if run and source:
        raise ConfigError(f"run={run} and source={source} name two models: give one of them")
    if source:
        return load_source(source, device, dtype)
    return load_run(find_trained(run, outputs), checkpoint, device, dtype)


def find_trained(run: str | None, outputs: str) -> Path:
    """Return the run that `run` names below `outputs`, and say which it is where several may bear the name.

    Raises:
        ConfigError: none was named.
        CheckpointError: there is no such run.
    """
    found = directory.find(run, Path(outputs), trained=True)
    if directory.is_short_for(run, found):
        remark(f"run={run}: the latest of this name is {found.name}")
    return found


def load_run(run: Path, checkpoint: str, device: torch.device, dtype: torch.dtype = torch.float32) -> LoadedRun:
    """Load `run` from its `best` or `last` checkpoint.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or does not fit the run's settings.
    """
    return _load_run(run, checkpoint, device, dtype)[0]


def begin_weights(model: torch.nn.Module, source: str, tokenizer: Tokenizer) -> torch.nn.Module | Head | None:
    """Give a model the weights that it begins from: those of a run, of a Hugging Face folder or of a hub id.

    Of a run a model may have more rows than its vocabulary has tokens: those of special tokens that came after it keep
    the values they have. Returned is the whole network of the run's task; of a folder its head for something else than
    the next token, None if there is none.

    Raises:
        CheckpointError, DataError: they are missing, damaged, or do not fit.
    """
    run = Path(source)
    if (run / directory.CONFIG).is_file():
        loaded, trained = _load_run(run, "best", torch.device("cpu"), torch.float32)
    else:
        try:
            run = find_folder(source)
        except DataError as error:
            raise DataError(f"weights={source} names no run, and {error}") from error
        if not is_own(run):
            read_weights(model, source)
            remark_own_head(model, source)
            return read_head(source)
        loaded, trained = load_own(run, torch.device("cpu"), torch.float32)
    if next(loaded.model.parameters(), None) is None:
        raise ConfigError(f"weights={source} was trained by counting and has no weights: train such a model anew")
    _check_extension(loaded.tokenizer, tokenizer, run)
    ours, theirs = model.state_dict(), trained.state_dict()
    for name, tensor in ours.items():
        # A dimension of the vocabulary may be longer.
        grown = (trained.vocab_size, model.vocab_size)
        fits = name in theirs and theirs[name].dim() == tensor.dim()
        pairs = list(zip(theirs[name].shape, tensor.shape, strict=True)) if fits else []
        if not fits or not all(old == new or (old, new) == grown for old, new in pairs):
            had = f"{list(theirs[name].shape)}" if name in theirs else "nothing"
            raise CheckpointError(f"weights={source} do not fit: of {name}, {list(tensor.shape)}, they have {had}")
        tensor[tuple(slice(old) for old, _ in pairs)] = theirs[name]
    return loaded.model


def _check_extension(own: Tokenizer, tokenizer: Tokenizer, run: Path) -> None:
    """Refuse a tokenizer that names other tokens by the ids of a run's own."""
    for token in range(own.size):
        if token >= tokenizer.size or tokenizer.token(token) != own.token(token):
            theirs = repr(tokenizer.token(token)) if token < tokenizer.size else "nothing"
            raise CheckpointError(
                f"data.tokenizer does not go with weights={run}: token {token} is {own.token(token)!r} there and "
                f"{theirs} here; leave data.tokenizer out, or name one that only adds tokens"
            )


def _load_run(
    run: Path, checkpoint: str, device: torch.device, dtype: torch.dtype
) -> tuple[LoadedRun, torch.nn.Module]:
    """Return a run, and the model that the network of its task stands on."""
    path, settings = directory.checkpoint_path(run, checkpoint), directory.read_config(run)
    if not isinstance(settings.get("model"), dict) or "_target_" not in settings["model"]:
        raise CheckpointError(f"{run / directory.CONFIG} is damaged: it says nothing of a model")
    if not (run / directory.TOKENIZER).is_file():
        raise CheckpointError(f"{run} is damaged: it has lost its {directory.TOKENIZER}")
    tokenizer = Tokenizer.load(run / directory.TOKENIZER)
    source = None if tokenizer.is_joint else tokenizer.source.size
    task, model = build_task(settings), build_model(settings, tokenizer.size, source)
    network = build_network(task, model).to(dtype)
    content = load_checkpoint(path)
    if missing := {"state_dict", "global_step", "start_id"} - content.keys():
        raise CheckpointError(f"{path} is no checkpoint of molino: it lacks {', '.join(sorted(missing))}")
    digest = digest_of((run / directory.TOKENIZER).read_text("utf-8")) if tokenizer.is_joint else tokenizer.digest
    if content.get("tokenizer", digest) != digest:  # checkpoints of before do not say it
        raise CheckpointError(
            f"{run / directory.TOKENIZER} is not the tokenizer that {path.name} was trained with: bring that back"
        )
    if content["start_id"] >= network.vocab_size:
        raise CheckpointError(f"{path} begins texts with token {content['start_id']}, which the model does not have")
    weights = {k.removeprefix("model."): v for k, v in content["state_dict"].items() if k.startswith("model.")}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise CheckpointError(f"{path} does not fit {run / directory.CONFIG}: {reason}") from error
    if capabilities_of(network).counts or content.get("counts"):
        give_counts(task, network, _checked_counts(run, content.get("counts"), path))
    step, start_id = content["global_step"], content["start_id"]
    network, line_end = network.to(device).eval(), content.get("line_end")  # which checkpoints of before do not say
    return LoadedRun(run, settings, task, tokenizer, network, step, start_id, line_end=line_end), model


def _checked_counts(run: Path, digest: str | None, checkpoint: Path) -> Path:
    """Return the file of counts that a run stands on.

    Raises:
        CheckpointError: they are missing, or are not those of its checkpoint.
    """
    path = run / directory.COUNTS
    if not path.is_file():
        raise CheckpointError(f"{run} is damaged: it has lost its {directory.COUNTS}")
    if digest_of_counts(path) != digest:
        raise CheckpointError(f"{path} is not what {checkpoint.name} was trained with: bring that back")
    return path


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Return a checkpoint's content: plain values and tensors, never code.

    Raises:
        CheckpointError: the file is missing, truncated, has a flipped bit or holds pickled code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.load reads tensors without looking at the checksums that the file carries.
            damaged = archive.testzip()
        if damaged is None:
            content = torch.load(path, map_location=map_location, weights_only=True)
            _check_content(content)
            return content
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged or no checkpoint of molino ({reason}): {_other(path)}") from error
    raise CheckpointError(f"{path} is damaged (checksum of {damaged}): {_other(path)}")


def _check_content(content: Any) -> None:
    """Refuse what molino has not written, whatever is lacking: that is for whoever needs it to say."""
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    weights = content.get("state_dict", {})
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise ValueError("its state_dict is none")
    for name in ("global_step", "start_id"):
        if name in content and not (isinstance(content[name], int) and content[name] >= 0):
            raise ValueError(f"its {name} is {content[name]!r}")
    if content.get("line_end") not in (None, *LINE_ENDS):
        raise ValueError(f"its line_end is {content['line_end']!r}")


def _other(path: Path) -> str:
    other = "best" if path.name == Path(directory.LAST).name else "last"
    if not path.with_name(f"{other}.ckpt").is_file():
        return "use another one"
    return f"copy {other}.ckpt over it, or where a checkpoint can be named use checkpoint={other}"
