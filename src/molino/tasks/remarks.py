"""What is to be said of labelled examples before a model is trained on them."""

from collections import Counter
from collections.abc import Mapping, Sequence

from molino.base.messages import few
from molino.data.examples import Example
from molino.runs.measures import spoken
from molino.tasks.outcomes import Classes, Outcome

# A class with less than so much of the share it would have if all were equal is called rare.
RARE = 0.2
MOST_CLASSES = 12  # that are all told of


def remarks_on(splits: Mapping[str, Sequence[Example]], outcome: Outcome, cut: Mapping[str, int]) -> dict[str, str]:
    """Return rows of a table of facts.

    Args:
        cut: how many examples of each split are longer than the context.
    """
    counts = ", ".join(f"{_name(split)} {len(examples):,}" for split, examples in splits.items())
    found = {"examples": counts}
    if isinstance(outcome, Classes):
        found |= _of_classes(splits, outcome)
    for title, numbers in {
        "without a label": {k: sum(outcome.right(each) is None for each in v) for k, v in splits.items()},
        "with an empty text": {k: sum(not all(each.texts) for each in v) for k, v in splits.items()},
        "cut to the context": cut,
        "in train as well": _twice(splits),
    }.items():
        if any(numbers.values()):
            found[title] = ", ".join(f"{count:,} of {_name(split)}" for split, count in numbers.items() if count)
    return found


def _of_classes(splits: Mapping[str, Sequence[Example]], outcome: Classes) -> dict[str, str]:
    counts = {split: Counter(each.label for each in examples) for split, examples in splits.items()}
    train = counts["train"]
    many = outcome.outputs > MOST_CLASSES
    total = max(sum(train[name] for name in outcome.names), 1)
    shown = sorted(outcome.names, key=lambda name: -train[name])[:MOST_CLASSES] if many else outcome.names
    found = {"classes": ", ".join(f"{name} {train[name] / total:.0%}" for name in shown)}
    if many:
        found["classes"] += f", and {outcome.outputs - MOST_CLASSES} more"
    if rare := [name for name in outcome.names if 0 < train[name] / total * outcome.outputs < RARE]:
        found["rare"] = f"{few(rare)}: accuracy says little of them, task.monitor=val/macro_f1 more"
    unknown = [f"{name} ({counts[split][name]:,} of {_name(split)})" for name in outcome.names if not train[name]
               for split in counts if counts[split][name]]  # fmt: skip
    return found | ({"not in train": few(unknown)} if unknown else {})


def _twice(splits: Mapping[str, Sequence[Example]]) -> dict[str, int]:
    """Return how many examples of each other split have the texts of one to train on."""
    seen = {each.texts for each in splits["train"]}
    return {split: sum(each.texts in seen for each in v) for split, v in splits.items() if split != "train"}


def _name(split: str) -> str:
    return spoken(split)
