"""molino train: from settings to a trained model, its held-out figures and its run directory."""

import math
import time
from contextlib import suppress
from pathlib import Path

import torch

from molino.base.console import progress, say
from molino.base.errors import MolinoError
from molino.base.files import make_directory
from molino.base.messages import typed
from molino.base.processes import is_main_process
from molino.configuration.identity import canonical, changes
from molino.configuration.request import Request
from molino.configuration.settings import begin_from, check_sections, restore
from molino.configuration.started import check_started
from molino.data.line_ends import only_line_end
from molino.data.module import TextDataModule
from molino.data.start import start_token
from molino.machine.policy import training_flops
from molino.models.model import check_model_by_use, is_ours
from molino.runs import directory
from molino.runs.measures import HELDOUT
from molino.runs.status import Busy
from molino.search.pruning import pruning_of, verdict
from molino.tasks.check import check_task_by_use
from molino.tasks.floors import count_floors
from molino.tasks.task import Task
from molino.trained.building import build_model, build_network, build_task
from molino.trained.load import begin_weights
from molino.training.average import measured_aside
from molino.training.checkpoints import Checkpoints, resume_step
from molino.training.counting import begin_beside, facts_of, keep_counts, plan_of, stand_on_counts
from molino.training.floors import Floors
from molino.training.jobs import requeuing
from molino.training.loggers.start import draw_floors, start_loggers
from molino.training.meeting import Meeting, meet
from molino.training.module import TrainingModule
from molino.training.outcomes import example_outcomes
from molino.training.parts import build_parts, for_elsewhere
from molino.training.report import conclude, introduce, summarise
from molino.training.run import Run, open_run
from molino.training.samples import sampling
from molino.training.sharding import check_pieces
from molino.training.trainer import fit, make_trainer
from molino.training.whole import WholeSplit
from molino.training.zero_shot import zero_shot

WAIT = 1.0  # seconds between two looks at a run that another process trains


def run(request: Request) -> float:
    """Train, or go on training; return the figure of the held-out split that decides, such as the loss.

    Of several processes that somebody has started the first does so, and the others train what it hands them.
    """
    with requeuing(request), meet(request) as meeting:
        if meeting is None or meeting.is_first:
            return run_here(request, meeting)
        figure = math.nan
        for told in meeting.follow():
            started = time.perf_counter()
            with open_run(told) as found:
                figure = train(found, started, meeting)
        return figure


def run_here(request: Request, meeting: Meeting | None) -> float:
    """As `run`, of the process that is asked."""
    if request.origin is not None:
        train_origin(request.origin, meeting)
    started = time.perf_counter()
    with open_run(request) as found:
        if found.summary is None:
            return train(found, started, meeting)
        if request.path is None:
            say(f"{found.path} is done: this job has trained it before it was queued again")
        return found.summary[build_task(found.settings).monitor]


def prepare(requests: list[Request]) -> None:
    """Check runs that another machine is to train as far as this one can, and prepare each text once: corpus, tokenizer
    and tokens.

    Raises:
        ConfigError, DataError, CheckpointError, ResourceError: something is wrong with one of them.
    """
    prepared: set[str] = set()
    for request in progress([each for run in requests for each in _with_origins(run)], "checking the runs"):
        try:
            _prepare(request, prepared)
        except MolinoError as error:
            raise type(error)(f"{request.name}: {error}") from error


def _prepare(request: Request, prepared: set[str]) -> None:
    if request.path is not None and (request.path / directory.CONFIG).is_file():
        settings = restore(request.path, request.settings["paths"])
    else:
        check_sections(request.settings)
        settings = begin_from(request.settings)
    parts = build_parts(for_elsewhere(settings))
    if (text := canonical([settings["data"], settings["task"]])) not in prepared:
        parts.data.setup()
        prepared.add(text)


def _with_origins(request: Request | None) -> list[Request]:
    return [] if request is None else [*_with_origins(request.origin), request]


def train_origin(request: Request, meeting: Meeting | None = None) -> None:
    """Have the run that another one begins from: it is done, here or elsewhere; or is trained now, by whoever comes
    first."""
    waiting = False
    while not directory.is_done(request.path):
        if is_main_process():
            if link_to_same(request):
                return
            if meeting is not None and request.processes > 1:
                check_started(request)
            make_directory(request.path)
            try:
                run_here(request, meeting)
                return
            except Busy:
                pass
        if not waiting:
            say(f"{request.path} is being trained by another process: its weights are waited for")
        waiting = True
        time.sleep(WAIT)


def link_to_same(request: Request) -> bool:
    """Have the place of a run that nobody has begun lead to one of the same settings that is done elsewhere; tell
    whether there is one."""
    if request.path.exists():
        return False
    for other in directory.list_runs(Path(request.settings["paths"]["outputs"]))[::-1]:
        if directory.is_done(other) and (other / directory.BEST).is_file() and not changes(other, request.settings):
            make_directory(request.path.parent)
            with suppress(FileExistsError):
                request.path.symlink_to(other.absolute(), target_is_directory=True)
            return True
    return False


def train(run: Run, started: float, meeting: Meeting | None = None) -> float:
    """The story of a run, from its settings to its summary.

    A run of its own has a directory only when all of it has been built.

    Args:
        started: when this process took up the run, by time.perf_counter.
        meeting: of the processes that train it, where somebody else has started them.
    """
    seed, main = run.settings["seed"], is_main_process()
    parts = build_parts(run.settings)
    task, plan, hardware, data = parts.task, parts.plan, parts.hardware, parts.data

    data.setup()
    hardware.apply()  # not sooner: it gives back what the preparation of the text has left
    torch.manual_seed(seed)  # the same seed gives the same weights, whatever was drawn before
    network = begin_network(run, task, data)
    if hardware.strategy == "fsdp":
        check_pieces(network)
    counts = stand_on_counts(task, network, data.text)
    each_step = training_flops(network, data.block_size) * data.tokens_per_step
    asked = plan.settle(data.steps_per_epoch, each_step)
    plan = plan_of(network, asked, [] if run.request.path else run.request.overrides)
    hardware = hardware.settle(network, data.block_size, data.tokens_per_step, plan.max_steps)
    hardware.prepare(network)
    module = TrainingModule(
        task,
        network,
        parts.optimizer,
        parts.schedule,
        max_steps=plan.max_steps,
        log_every=plan.log_every,
        clip=plan.clip,
        ema=plan.ema,
        partial=data.val_windows is not None,
        each_step=bool(parts.each_step),
        seed=seed,
        heldout=data.splits[HELDOUT],
        token_peak=hardware.token_peak(network, data.block_size),
    )

    asking = zero_shot(parts.asked, data.text, network)
    first_step = resume_step(run.checkpoint, data.text.digest, plan.max_steps, run.parent is not None)
    metrics = [*task.metrics, *(measured_aside(task).values() if plan.ema is not None else ())]
    floors = Floors(run, task, metrics, data.text, data.block_size)
    run.begin(asked, data.steps_per_block, hardware, floors.measures, data.settled)
    loggers = []
    if main:
        data.tokenizer.save(run.tokenizer)
        keep_counts(counts, run.counts)
        introduce(run, data, module, hardware, floors.found or [], first_step, parts.each_step)
        loggers = start_loggers(run, task.metrics, first_step)
        draw_floors(loggers, floors.found or [], plan.max_steps)
    start_id = (
        task.start(data.tokenizer) if hasattr(task, "start") else start_token(data.tokenizer, data.corpus.documents)
    )
    facts = {"start_id": start_id, "data": data.text.digest, "tokenizer": data.tokenizer.digest, **facts_of(counts)}
    facts["line_end"] = only_line_end(data.text.line_ends or {})
    whole = WholeSplit(run.path, data.heldout) if module.partial else None
    again = typed("train", f"resume={run.path}") if run.request.path is None else "the command of its sweep"
    checkpoints = Checkpoints(run.path, plan.checkpoint_every, facts, plan.validation_due, started, whole, again)
    watching = [
        *pruning_of(run.path, task.metrics),
        *sampling(run.path, data.text, plan, hardware, seed),
        *asking,
        *example_outcomes(task, run.path, data.text),
    ]
    callbacks = [*parts.callbacks.values(), floors, *watching, checkpoints]
    trainer = make_trainer(run.path, plan, data.steps_per_block, hardware, loggers, callbacks)
    with run.handed_over(hardware.processes, torch.get_num_threads(), meeting):
        fit(trainer, module, data, run.checkpoint)

    if main:
        found = floors.found or []
        summary = summarise(module, data, checkpoints, found) | verdict(trainer)
        summary |= {tag: value for each in asking for tag, value in each.found.items()}
        run.end(summary)
        conclude(run, summary, module, found)
    return module.val_metrics[task.monitor]


def begin_network(run: Run, task: Task, data: TextDataModule) -> torch.nn.Module:
    """Return what the task trains, with the weights that it begins from."""
    source = None if data.tokenizer.is_joint else data.tokenizer.source.size
    model = build_model(run.settings, data.tokenizer.size, source)
    if not is_ours(model):
        check_model_by_use(model)
    fresh, source = run.checkpoint is None, run.settings["weights"]
    trained = begin_weights(model, source, data.tokenizer) if fresh and source else None
    network = build_network(task, model)
    data.check_context(network.block_size, shared=network.block_size < model.block_size)
    if fresh:
        begin_beside(task, network, trained)
    if not is_ours(task):
        check_task_by_use(task, network, data.text, data.batches, data.block_size)
        if is_main_process():
            count_floors(task, data.text, HELDOUT, data.block_size)  # what is wrong with them shows at once
    return network
