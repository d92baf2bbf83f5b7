"""What a run says of itself when it starts and when it ends."""

import math
import shlex
from typing import Any

from molino.base.console import say, show_facts
from molino.base.messages import typed
from molino.configuration.overrides import as_typed, describe_overruled
from molino.data.line_ends import remark_on_returns
from molino.data.lost import lost_of
from molino.data.module import TextDataModule
from molino.data.tokens import advice_on_words
from molino.machine.hardware import Hardware
from molino.models.capabilities import capabilities_of
from molino.models.cost import count_parameters
from molino.runs.describe import describe_figures, describe_floors
from molino.runs.measures import HELDOUT, LEARNT, LOST, Floor, metric_name, spoken
from molino.training.checkpoints import Checkpoints
from molino.training.continuing import differs
from molino.training.counting import name_of
from molino.training.module import TrainingModule
from molino.training.run import Run


def introduce(
    run: Run,
    data: TextDataModule,
    module: TrainingModule,
    hardware: Hardware,
    floors: list[Floor],
    first_step: int,
    each_step: list[str],
) -> None:
    """Print what was composed, before the first step.

    Args:
        each_step: names of the callbacks that are called at every step.
    """
    train, val, per_step = data.splits["train"], data.splits["val"], data.tokens_per_step
    model, max_steps = module.model, module.max_steps
    steps = f"{max_steps:,} steps of {per_step:,} tokens: {max_steps / data.steps_per_epoch:.1f} epochs"
    facts = {
        "corpus": f"{data.corpus.name} ({data.corpus.licence}), sha256 {data.text.sha256[:12]}",
        "text": f"{train.characters:,} + {val.characters:,} characters, train + held out",
        "tokens": f"{len(train.tokens):,} + {len(val.tokens):,}, vocabulary {data.tokenizer.size:,}",
        "model": f"{name_of(model)}, {count_parameters(model):,} parameters, context {data.block_size} tokens",
        "training": "by counting" if next(model.parameters(), None) is None else steps,
        "device": hardware.describe(),
        **describe_floors(floors),
        "run": run.path,
    }
    if said := remark_on_returns(data.text.line_ends or {}, data.tokenizer.source, data.corpus):
        facts["line ends"] = said
    if said := advice_on_words(train.characters, len(train.tokens)):
        facts["words"] = said
    if hasattr(module.task, "remarks"):
        facts |= module.task.remarks(data.text, data.block_size)
    warmup_steps = module.schedule.keywords.get("warmup_steps", 0)
    if warmup_steps > max_steps > 0:
        facts["warm-up"] = f"{warmup_steps:,} steps, longer than the run: the rate stays below optimizer.lr"
    if run.settings["weights"]:
        facts["begins from"] = run.settings["weights"]
    if said := describe_overruled(run.request.overrides):
        facts["typed twice"] = said
    if each_step:
        facts["each step"] = (
            f"asked for by {', '.join(f'callbacks.{name}' for name in each_step)}: a block is one step, by Lightning's "
            "optimizer, which costs each about a millisecond"
        )
    if run.parent:
        facts["continued"] = f"{run.parent.name}, after step {first_step:,}"
        said = differs(run.parent, run.settings, first_step, max_steps)
        facts["as from the start"] = f"no: {'; '.join(said)}" if said else "yes, exactly"
    elif first_step:
        facts["resumed"] = f"after step {first_step:,}"
    show_facts("molino", facts)


def summarise(
    module: TrainingModule, data: TextDataModule, checkpoints: Checkpoints, floors: list[Floor]
) -> dict[str, Any]:
    """Return the flat summary of a run, with TensorBoard's tags as keys."""
    steps, rate = module.trainer.global_step, module.train_metrics.get("train/tokens_per_second")
    lost = {f"{LOST}{name}": share for name, share in lost_of(data.text, HELDOUT).items()}
    kept = [metric for metric in module.task.metrics if metric.shown or metric.tag == module.task.monitor]
    return {
        **module.val_metrics,
        **{metric.best_tag: checkpoints.best[metric.tag] for metric in kept},
        "best_step": checkpoints.best_step,
        **module.train_metrics,
        **{tag: value for floor in floors for tag, value in ({floor.tag: floor.value} | dict(floor.facts)).items()},
        "steps": steps,
        "tokens": steps * data.tokens_per_step,
        **({"tokens_per_second": rate} if rate else {}),
        "seconds": checkpoints.seconds,
        "parameters": count_parameters(module.model),
        **(lost if any(metric.across for metric in module.task.metrics) else {}),
        "corpus": data.corpus.name,
        "corpus_sha256": data.text.sha256,
    }


def conclude(run: Run, summary: dict[str, Any], module: TrainingModule, floors: list[Floor]) -> None:
    """Print what came out, the last sample and what to type next."""
    task, rate = module.task, summary.get("tokens_per_second")
    figures = {metric.name: summary[metric.tag] for metric in task.metrics}
    best = summary[next(metric.best_tag for metric in task.metrics if metric.tag == task.monitor)]
    told = describe_figures(task.metrics, figures)
    first = next(iter(told))
    facts = {
        f"held-out {first}": f"{told.pop(first)} after step {summary['steps']:,}",
        **told,
        f"best {spoken(task.monitor)}": f"{best:.4f} after step {summary['best_step']:,}",
        **({"train loss": f"{summary[LEARNT]:.4f}, mean of the last steps"} if LEARNT in summary else {}),
        **describe_floors(floors, figures),
        "time": f"{summary['seconds']:.1f} s" + (f"; {rate:,.0f} tokens/s in training" if rate else ""),
        "run": run.path,
    }
    show_facts("result", facts)
    samples = run.path / "samples.txt"
    if samples.is_file():
        say("--- step " + samples.read_text("utf-8").rsplit("--- step ", 1)[-1].rstrip("\n") + "\n")
    commands = [typed("evaluate", f"run={run.path}")]
    if run.settings["logger"].get("tensorboard"):
        commands.append(f"tensorboard --logdir {shlex.quote(run.settings['paths']['outputs'])}")
    if capabilities_of(module.model).next_token:
        commands.insert(0, typed("generate", f"run={run.path}") + ' prompt="..."')
    if hasattr(task, "predict"):
        shown = f"... {task.hole} ..." if hasattr(task, "hole") else "..."
        asked = " ".join(f'{field}="{shown}"' for field in task.fields)
        commands.insert(0, f"{typed('predict', f'run={run.path}')} {asked}")
    decides = metric_name(task.monitor)
    plain = getattr(task, "on_floor", None) is False and not (run.exists or capabilities_of(module.model).counts)
    plain = plain and not run.settings["continue"] and run.settings["hardware"].get("strategy") != "fsdp"
    if plain and _is_above(figures[decides], decides, floors):
        same = [
            as_typed(override) for override in run.request.overrides if not override.startswith(("sweep=", "case="))
        ]
        commands.append(typed("train", *same, "task.on_floor=true") + "   # stands on counting")
    for number, command in enumerate(commands):
        say(f"{'' if number else 'next:':5} {command}")


def _is_above(value: float, name: str, floors: list[Floor]) -> bool:
    """Tell whether counting has come lower than a figure."""
    return any(floor.levels.get(name, math.inf) < value for floor in floors if floor.beatable)
