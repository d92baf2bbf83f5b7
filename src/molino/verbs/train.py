"""python scripts/train.py: from a configuration to a trained model, its held-out loss and its run directory."""

import logging
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger

from molino.base.errors import CheckpointError, ConfigError
from molino.configuration.build import build, check, check_names
from molino.configuration.settings import begin_from, flatten, resolve, restore, resume
from molino.data.module import TextDataModule
from molino.data.tokens import corpus_digest
from molino.evaluation.floors import split_floors
from molino.evaluation.loss import loss_units, perplexity
from molino.generation.start import start_token
from molino.hub.read import read_weights
from molino.machine.cluster import cluster_plugins
from molino.machine.hardware import Hardware
from molino.models.cost import count_parameters
from molino.models.shapes import shapes_only
from molino.runs import directory
from molino.runs.record import record
from molino.runs.status import claim
from molino.search.pruning import pruning_of, was_pruned
from molino.trained.load import build_model, load_checkpoint
from molino.training.callbacks import build_callbacks
from molino.training.checkpoints import AtomicCheckpointIO, Checkpoints
from molino.training.loggers import TensorBoard, log_floors
from molino.training.module import LanguageModel
from molino.training.plan import Plan
from molino.training.progress import ProgressDisplay, StatusReport
from molino.training.report import conclude, introduce
from molino.training.samples import Samples
from molino.training.schedules import check_schedule

# What a configuration consists of.
SECTIONS = {
    "name": str, "seed": int, "resume": str | None, "weights": str | None, "data": dict, "model": dict,
    "optimizer": dict, "scheduler": dict, "trainer": dict, "hardware": dict, "logger": dict, "callbacks": dict,
    "paths": dict,
}  # fmt: skip


def run(config: Any) -> float:
    """Train, or go on training; return the held-out loss in nats per token."""
    started = time.perf_counter()
    overrides = list(HydraConfig.get().overrides.task)
    settings, path = resolve(config), directory.assigned()
    check_sections(settings)
    # Whoever assigns a directory, a sweep or the first process of a distributed run, has claimed it as well.
    mine = path is None
    if path is not None and (path / directory.CONFIG).is_file():
        settings = going_on(path, restore(path, settings["paths"]))
    elif path is None and settings["resume"]:
        path = directory.find(settings["resume"], settings["paths"]["outputs"])
        if directory.is_done(path):
            raise CheckpointError(f"{path.name} is finished, there is nothing to resume: start a new run")
        settings = going_on(path, resume(path, settings, overrides))
    else:
        begin_from(settings)
    resumed = path is not None and (path / directory.CONFIG).is_file()
    parts = assemble(settings, fresh=not (resumed and (path / directory.LAST).is_file()))
    path = path or new_run(settings)
    with claim(path) if mine else nullcontext(), directory.announced(path):
        if directory.is_main_process() and not resumed:
            # A run that goes on elsewhere computes as it did here.
            settings["hardware"] |= parts.hardware.settled
            record(path, settings, overrides, chosen())
        checkpoints = fit(parts, settings, path, resumed, started)
        if directory.is_main_process():
            summary = summarise(parts, checkpoints)
            directory.write_summary(path, summary)
            conclude(path, settings["paths"]["outputs"], summary, "test" in parts.data.splits)
    return parts.module.val_metrics["val/loss"]


def going_on(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that exists, checked."""
    try:
        check_sections(settings)
    except ConfigError as error:
        raise CheckpointError(f"{path / directory.CONFIG} is damaged: {error}") from error
    return settings


def chosen() -> dict[str, str | None]:
    """Return the choice taken of each group of the configuration: {"model": "gpt", ...}."""
    choices = HydraConfig.get().runtime.choices
    return {group: choice for group, choice in choices.items() if not group.startswith("hydra/")}


def check_sections(settings: dict[str, Any]) -> None:
    """Refuse a configuration with a section too many, too few or of the wrong kind, and a seed out of range."""
    check_names(settings, SECTIONS)
    seed = settings.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed={seed} must be a whole number from 0 to 2**32 - 1")
    for name, kind in SECTIONS.items():
        if not isinstance(settings.get(name), kind):
            raise ConfigError(f"{name}={settings.get(name)} must be {getattr(kind, '__name__', kind)}")
    if not settings["name"]:
        raise ConfigError("name is empty: a run's directory begins with it")


@dataclass(frozen=True)
class Parts:
    """What a run is made of, built and checked before its directory exists."""

    hardware: Hardware
    plan: Plan
    data: TextDataModule
    module: LanguageModel
    callbacks: list[Callback]
    floors: dict[str, float]


def assemble(settings: dict[str, Any], fresh: bool) -> Parts:
    """Build every part, cheapest first, so that a mistake shows before anything is downloaded or counted.

    Args:
        fresh: no checkpoint of the run will replace the weights it begins with.
    """
    seed = settings["seed"]
    callbacks = build_callbacks(settings["callbacks"])
    for name, node in settings["logger"].items():
        check(node, f"logger.{name}", ("directory", "first_step"))
    hardware: Hardware = build(settings["hardware"], "hardware")
    hardware.apply()
    plan: Plan = build(settings["trainer"], "trainer")
    optimizer, schedule = build(settings["optimizer"], "optimizer"), build(settings["scheduler"], "scheduler")
    check_schedule(schedule)
    data: TextDataModule = build(
        settings["data"],
        "data",
        accumulate=plan.accumulate,
        max_steps=plan.max_steps,
        steps_per_block=plan.steps_per_block,
        seed=seed,
    )
    data.check_processes(hardware.devices * hardware.num_nodes)
    # Nothing is allocated: it only asks whether the settings make a model, of whatever vocabulary, and an optimizer.
    with shapes_only():
        trial = build_model(settings, vocab_size=8)
        LanguageModel(trial, optimizer, schedule, max_steps=1, log_every=1).configure_optimizers()
    if trial.block_size < data.block_size:
        raise ConfigError(
            f"data.block_size={data.block_size} is beyond the model's context of {trial.block_size}: "
            f"add data.block_size={trial.block_size} or less"
        )
    data.prepare_data()
    data.setup()
    # The same seed gives the same weights, whatever was drawn before.
    torch.manual_seed(seed)
    model = build_model(settings, data.tokenizer.size)
    # Runs of before there was this setting do not have it.
    if fresh and (source := settings.get("weights")):
        read_weights(model, source)
    hardware = hardware.settle(model, data.block_size, data.tokens_per_step, plan.max_steps)
    hardware.apply()
    hardware.prepare(model)
    module = LanguageModel(
        model,
        optimizer,
        schedule,
        max_steps=plan.max_steps,
        log_every=plan.log_every,
        clip=plan.clip,
        seed=seed,
        loss_units=loss_units(data.splits["val"]),
        token_peak=hardware.token_peak(model, data.block_size),
    )
    floors = {}
    if directory.is_main_process():
        floors = split_floors(data.corpus, data.tokenizer, data.splits, "val", data.cache)
    return Parts(hardware, plan, data, module, callbacks, floors)


def fit(parts: Parts, settings: dict[str, Any], path: Path, resumed: bool, started: float) -> Checkpoints:
    """Train in the run directory `path`, from its last checkpoint where it is resumed and has one.

    After a checkpoint of the last step nothing is trained; the metrics are those it holds.
    """
    plan, data = parts.plan, parts.data
    start_id = start_token(data.tokenizer, data.corpus.documents)
    facts = {"start_id": start_id, "data": corpus_digest(data.corpus, data.tokenizer)}
    checkpoint = path / directory.LAST if resumed and (path / directory.LAST).is_file() else None
    first_step = resume_step(checkpoint, facts["data"], plan.max_steps) if checkpoint else 0
    loggers: list[Logger] = []
    if directory.is_main_process():
        data.tokenizer.save(path / directory.TOKENIZER)
        introduce(path, data, parts.module, parts.hardware, parts.floors, first_step)
        loggers = start_loggers(parts, settings, path, first_step if resumed else None)

    def validation_due(step: int) -> bool:
        return step % plan.val_every == 0 or step >= plan.max_steps

    checkpoints = Checkpoints(path, plan.checkpoint_every, facts, validation_due, started)
    callbacks = [*parts.callbacks, StatusReport(path), *pruning_of(path)]
    if plan.sample_tokens and parts.hardware.strategy != "fsdp":  # no process holds all the weights to sample with
        callbacks.append(Samples(path, data.tokenizer, start_id, plan.sample_tokens, settings["seed"]))
    quiet_lightning()
    trainer = Trainer(
        max_epochs=1,
        max_steps=plan.max_steps,
        # In blocks. A validation also follows the last one; see LanguageModel.training_step.
        val_check_interval=min(plan.val_every // plan.steps_per_block, -(-plan.max_steps // plan.steps_per_block)),
        # Else early stopping would wait for the end of the epoch where the interval is 1, which it reads as a fraction.
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=loggers,
        # Checkpoints come last: they save when all else that belongs to a step has happened.
        callbacks=[ProgressDisplay(), *callbacks, checkpoints],
        plugins=[AtomicCheckpointIO(), *cluster_plugins(parts.hardware.devices * parts.hardware.num_nodes)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=path,
        **parts.hardware.trainer_arguments(),
    )
    trainer.fit(parts.module, data, ckpt_path=checkpoint)
    return checkpoints


def resume_step(checkpoint: Path, data: str, max_steps: int) -> int:
    """Return the step a checkpoint stands at.

    Raises:
        CheckpointError: it was trained on other data than are there now, or is from beyond the end of the run.
    """
    content = load_checkpoint(checkpoint)
    if content.get("data") != data:
        raise CheckpointError(
            f"{checkpoint} was trained on a text or with a tokenizer that has changed since: bring that back, or start "
            "a new run"
        )
    if content["global_step"] > max_steps:
        raise CheckpointError(
            f"{checkpoint} stands at step {content['global_step']}, but trainer.max_steps={max_steps}: config.yaml was "
            "changed; start a new run"
        )
    return content["global_step"]


def summarise(parts: Parts, checkpoints: Checkpoints) -> dict[str, Any]:
    """Return the flat summary of a run, with TensorBoard's tags as keys."""
    steps = parts.module.trainer.global_step
    return {
        **parts.module.val_metrics,
        "val/best_loss": checkpoints.best_loss,
        "val/best_perplexity": perplexity(checkpoints.best_loss),
        "best_step": checkpoints.best_step,
        **parts.module.train_metrics,
        **parts.floors,
        "steps": steps,
        "tokens": steps * parts.data.tokens_per_step,
        "tokens_per_second": parts.module.train_metrics["train/tokens_per_second"],
        "seconds": checkpoints.seconds,
        "parameters": count_parameters(parts.module.model),
        "corpus": parts.data.corpus.name,
        "corpus_sha256": parts.data.corpus.fingerprint(),
        **({"pruned": True} if was_pruned(parts.module.trainer) else {}),
    }


def start_loggers(parts: Parts, settings: dict[str, Any], path: Path, first_step: int | None) -> list[Logger]:
    """Build the loggers; for a new run (`first_step` None) fill the HParams tab and draw the floors."""
    nodes = {name: node for name, node in settings["logger"].items() if node}
    loggers = [build(node, f"logger.{name}", directory=path, first_step=first_step) for name, node in nodes.items()]
    for logger in loggers:
        if isinstance(logger, TensorBoard) and first_step is None:
            logger.log_settings(compared(settings, chosen(), list(HydraConfig.get().overrides.task)))
            log_floors(path / "floors", parts.floors, parts.plan.max_steps)
    return loggers


def compared(settings: dict[str, Any], choices: dict[str, Any], typed: list[str]) -> dict[str, Any]:
    """Return what the HParams tab compares: what changes results, without where things lie and how often one looks.

    Args:
        choices: of groups; model=gpt says more than the name of its class.
        typed: overrides; whatever else a sweep varies is among them.
    """
    data, trainer = settings["data"], settings["trainer"]
    shown = {
        "data": data["corpus"].get("name") or data["corpus"]["_target_"].rsplit(".", 1)[-1],
        **flatten({name: data[name] for name in ("tokenizer", "batches", "batch_size", "block_size")}),
        **flatten({name: settings[name] for name in ("model", "optimizer", "scheduler")}),
        **{name: choices[name] for name in ("model", "optimizer", "scheduler", "hardware") if choices.get(name)},
        **{name: trainer[name] for name in ("max_steps", "accumulate", "clip")},
        "seed": settings["seed"],
    }
    others = dict(override.lstrip("+").split("=", 1) for override in typed if "=" in override)
    ours = ("paths.", "trainer.", "sweep", "debug", "name")
    return shown | {k: v for k, v in others.items() if k not in shown and not k.startswith(ours)}


def new_run(settings: dict[str, Any]) -> Path:
    """Make the directory of a run that no sweep has one for."""
    return directory.create(settings["paths"]["outputs"], f"{settings['name']}_{datetime.now():%Y%m%d-%H%M%S}")


def quiet_lightning() -> None:
    """Silence advice that does not apply: its tips, and what it says of loaders that are not DataLoaders."""
    for package in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(package).setLevel(logging.WARNING)
    for message in (
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*does not have many workers.*",
        r".*dataloader is not resumable.*",
        r".*`srun` command is available.*",
    ):
        warnings.filterwarnings("ignore", message)
