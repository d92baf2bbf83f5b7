"""What a language model tells of labelled examples while it is being trained on text: curves as GPT-1's Figure 2."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from molino.base.errors import ConfigError
from molino.configuration.build import build
from molino.configuration.composer import compose
from molino.configuration.overrides import quote_value
from molino.data.corpus import Corpus
from molino.data.start import start_token
from molino.data.tokens import TokenizedCorpus
from molino.models.capabilities import capabilities_of
from molino.tasks.zero_shot import Probe, measure_probe, probe_of, reader_of

SPLIT = "val"


class ZeroShot(Callback):
    """Measures corpora at each validation; see molino.tasks.zero_shot.

    Logs `zero_shot/<corpus>`, the accuracy, or of acceptability the Matthews correlation, and
    `zero_shot/<corpus>_above_chance`, the same between chance (0) and the best there can be (1).

    Args:
        corpora: by name.
        text: what the model is trained on.

    Attributes:
        found: what was last measured, by tag.
    """

    def __init__(self, corpora: dict[str, Corpus], text: TokenizedCorpus):
        self.text, self.found = text, {}
        self.asked: dict[str, tuple[Probe, Any, Any]] = {}
        for name, corpus in corpora.items():
            splits = corpus.examples()
            self.asked[name] = (probe_of(splits[SPLIT], None), splits[SPLIT], splits.get("train", ()))

    @torch.no_grad()
    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        tokenizer, training = self.text.tokenizer, module.model.training
        reader = reader_of(module.model, tokenizer, start_token(tokenizer, self.text.corpus.documents), ())
        module.model.eval()
        for name, (probe, examples, train) in self.asked.items():
            figures = measure_probe(reader, probe, examples, train, {})
            value, chance = figures.get("matthews", figures["accuracy"]), figures["chance"]
            self.found |= {
                f"zero_shot/{name}": value,
                f"zero_shot/{name}_above_chance": (value - chance) / (1 - chance),
            }
        module.model.train(training)
        for logger in trainer.loggers:
            logger.log_metrics(self.found, step=trainer.global_step)


def zero_shot_corpora(names: Sequence[str] | None, paths: dict[str, Any]) -> dict[str, Corpus]:
    """Return the corpora of these choices of `data`.

    Raises:
        ConfigError: there is no such choice, or it has no labels.
    """
    found = {}
    places = [f"paths.{name}={quote_value(str(path))}" for name, path in paths.items() if path is not None]
    for name in names or ():
        node = compose("score", [f"data={name}", *places]).settings["data"]
        found[name] = build(node["corpus"], "data.corpus", Corpus)
        if not hasattr(found[name], "examples"):
            raise ConfigError(f"zero_shot={list(names)}: {name} is text alone, and has nothing to be told")
    return found


def zero_shot(corpora: dict[str, Corpus], text: TokenizedCorpus, network: torch.nn.Module) -> list[ZeroShot]:
    """Return what measures these corpora; nothing where there are none.

    Raises:
        ConfigError: the network is no language model.
    """
    if corpora and not capabilities_of(network).next_token:
        raise ConfigError("zero_shot asks a language model, and this task has none: leave it out")
    return [ZeroShot(corpora, text)] if corpora else []
