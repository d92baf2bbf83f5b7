"""What a run says of itself when it starts and when it ends."""

import shlex
from pathlib import Path
from typing import Any

from molino.base.console import say, show_facts
from molino.data.module import TextDataModule
from molino.evaluation.floors import describe_floors
from molino.evaluation.loss import perplexity
from molino.machine.hardware import Hardware
from molino.models.cost import count_parameters
from molino.training.checkpoints import Checkpoints
from molino.training.module import LanguageModel


def introduce(
    run: Path,
    data: TextDataModule,
    module: LanguageModel,
    hardware: Hardware,
    floors: dict[str, float],
    first_step: int,
) -> None:
    """Print what was composed, before the first step."""
    train, val, per_step = data.splits["train"], data.splits["val"], data.tokens_per_step
    model, max_steps = module.model, module.max_steps
    epochs = max_steps * per_step / len(train.tokens)
    facts = {
        "corpus": f"{data.corpus.name} ({data.corpus.licence}), sha256 {data.text.sha256[:12]}",
        "text": f"{train.characters:,} + {val.characters:,} characters, train + held out",
        "tokens": f"{len(train.tokens):,} + {len(val.tokens):,}, vocabulary {data.tokenizer.size:,}",
        "model": f"{type(model).__name__}, {count_parameters(model):,} parameters, context {data.block_size} tokens",
        "training": f"{max_steps:,} steps of {per_step:,} tokens: {epochs:.1f} epochs",
        "device": hardware.describe(),
        **describe_floors(floors),
        "run": run,
    }
    warmup_steps = module.schedule.keywords.get("warmup_steps", 0)
    if warmup_steps > max_steps:
        facts["warm-up"] = f"{warmup_steps:,} steps, longer than the run: the rate stays below optimizer.lr"
    if first_step:
        facts["resumed"] = f"after step {first_step:,}"
    show_facts("molino", facts)


def summarise(
    module: LanguageModel, data: TextDataModule, checkpoints: Checkpoints, floors: dict[str, float]
) -> dict[str, Any]:
    """Return the flat summary of a run, with TensorBoard's tags as keys."""
    steps, rate = module.trainer.global_step, module.train_metrics.get("train/tokens_per_second")
    return {
        **module.val_metrics,
        "val/best_loss": checkpoints.best_loss,
        "val/best_perplexity": perplexity(checkpoints.best_loss),
        "best_step": checkpoints.best_step,
        **module.train_metrics,
        **floors,
        "steps": steps,
        "tokens": steps * data.tokens_per_step,
        **({"tokens_per_second": rate} if rate else {}),
        "seconds": checkpoints.seconds,
        "parameters": count_parameters(module.model),
        "corpus": data.corpus.name,
        "corpus_sha256": data.text.sha256,
    }


def conclude(run: Path, outputs: str, summary: dict[str, Any], has_test: bool) -> None:
    """Print what came out, the last sample and what to type next."""
    loss, rate = summary["val/loss"], summary.get("tokens_per_second")
    facts = {
        "held-out loss": f"{loss:.4f} nats a token after step {summary['steps']:,}",
        "perplexity": f"{summary['val/perplexity']:.4f}",
        "bits per character": f"{summary['val/bits_per_character']:.4f}",
        "best held-out loss": f"{summary['val/best_loss']:.4f} after step {summary['best_step']:,}",
        "train loss": f"{summary['train/loss']:.4f}, mean of the last steps",
        **describe_floors(summary, loss),
        "time": f"{summary['seconds']:.1f} s" + (f"; {rate:,.0f} tokens/s in training" if rate else ""),
        "run": run,
    }
    show_facts("result", facts)
    samples = run / "samples.txt"
    if samples.is_file():
        say("--- step " + samples.read_text("utf-8").rsplit("--- step ", 1)[-1].rstrip("\n") + "\n")
    named = shlex.quote(f"run={run}")
    say(f'next: python scripts/generate.py {named} prompt="..."')
    say(f"      python scripts/evaluate.py {named} split={'test' if has_test else 'val'}")
    say(f"      tensorboard --logdir {shlex.quote(outputs)}")
