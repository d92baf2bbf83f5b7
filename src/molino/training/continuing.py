"""A finished run that is trained for longer: what its new directory takes over, and whether that makes a difference."""

import shutil
from pathlib import Path
from typing import Any

import torch

from molino.base.errors import CheckpointError
from molino.base.files import atomic_write, make_directory
from molino.base.messages import typed
from molino.configuration.build import build
from molino.configuration.identity import differences
from molino.runs import directory
from molino.trained.load import load_checkpoint
from molino.training.checkpoints import Checkpoints
from molino.training.schedules import Schedule

HISTORY = ("metrics.csv", "samples.txt")
# What is not what makes a difference: how long it is, where it lies, and the schedule, which is compared by its rates.
ASIDE = ("trainer.max_steps", "trainer.epochs", "trainer.flops", "scheduler", "continue")


def check_parent(parent: Path) -> None:
    """Refuse to continue a run that has not come to the end of its steps.

    Raises:
        CheckpointError: as above.
    """
    if not directory.is_done(parent):
        go_on = typed("train", f"resume={parent}")
        raise CheckpointError(f"{parent.name} has not finished, so there is nothing to continue: go on with {go_on}")
    load_checkpoint(parent / directory.BEST)  # it may never be surpassed
    if directory.read_summary(parent).get("parameters") == 0:
        raise CheckpointError(f"{parent.name} has nothing that steps could train: there is nothing to continue")
    steps, length = directory.read_summary(parent).get("steps"), directory.read_config(parent)["trainer"]["max_steps"]
    if steps != length:
        raise CheckpointError(
            f"{parent.name} was stopped early, at step {steps} of {length}, and would be again: "
            "start a new run without what stopped it"
        )


def take_over(parent: Path, run: Path, steps_per_block: int) -> None:
    """Put into a new directory what a run would have left there that had been killed at the parent's last step.

    Args:
        steps_per_block: of the new run. Lightning counts blocks, and validates by that count.
    """
    make_directory(run / "checkpoints")
    content = load_checkpoint(parent / directory.LAST)
    _count_blocks(content, content["global_step"] // steps_per_block)
    content["callbacks"][Checkpoints.__name__]["stopped"] = False
    with atomic_write(run / directory.LAST) as file:
        torch.save(content, file)
    shutil.copyfile(parent / directory.BEST, run / directory.BEST)
    for name in HISTORY:
        if (parent / name).is_file():
            shutil.copyfile(parent / name, run / name)


def _count_blocks(content: dict[str, Any], blocks: int) -> None:
    progress = content["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for count in (progress["total"], progress["current"]):
        count |= dict.fromkeys(count, blocks)
    progress["is_last_batch"] = False


def differs(parent: Path, settings: dict[str, Any], step: int, max_steps: int) -> list[str]:
    """Return in what a run that is continued differs from one that had been as long from the start; mostly in nothing.

    Args:
        parent: the run that it continues, which has trained for `step` steps.
        settings: of the run that continues it.
    """
    recorded = directory.read_config(parent)
    changed = {
        key: pair
        for key, pair in differences(recorded, settings).items()
        if key not in ASIDE and not key.startswith("scheduler.")
    }
    said = [f"{key} was {old} and is {new}" for key, (old, new) in changed.items()]
    before, after = (build(each["scheduler"], "scheduler", Schedule) for each in (recorded, settings))
    length = recorded["trainer"]["max_steps"]
    # The last step that tells: where both have come down, or warmed up, they may be equal again.
    other = (at for at in reversed(range(step)) if before(at, length) != after(at, max_steps))
    if (at := next(other, None)) is not None:
        said.append(
            f"the schedule was at {before(at, length):.3g} of optimizer.lr in step {at + 1:,}, not at "
            f"{after(at, max_steps):.3g}"
        )
    return said
