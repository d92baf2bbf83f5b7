"""python scripts/benchmark.py: what molino costs, measured beside others that do the same in the same run.

    training    tokens a second by scripts/train.py, with logging, checkpoints and progress, against a plain PyTorch
                loop, transformers' GPT-2 and Lightning's defaults; memory, and the share of the matrix peak
    recipe      seconds from the command to a held-out loss on Tiny Shakespeare, of experiment=shakespeare_fast and of
                nanoGPT's recipe for CPUs as a plain loop
    sweep       runs a second of a sweep of short runs, by two workers, by Hydra's basic launcher and by joblib's
    preparation MB of text a second from a file to vocabulary and tokens, and memory, against the tokenizers library
                line by line and against lists and dictionaries; with --gigabytes, whole runs on a large text
    start       seconds from the command to the first step of the default run, and for --help
    counting    seconds and memory from tokens to floors, and to what a network on counts is trained with
    classification
                examples a second in fine-tuning and predicting, against the Trainer and the pipeline of transformers
                and a plain PyTorch loop; needs accelerate
    translation tokens a second in training, against a plain loop around torch.nn.Transformer, and sentences a second in
                writing, against generate of transformers with the same weights
    growth      seconds of computing and memory at one size and at another: sweeps, by launcher, given again and with
                one seed more; results and their page; metrics.csv; texts without white space, and large ones; steps.
                An hour or more; --parts and --size take less
    generation  tokens a second with and without KV cache, and of transformers with the same weights; memory, and the
                share of the memory bandwidth that is used. CPU only, models of about 10 million random parameters

Contenders take turns, each in a process of its own, and medians are compared: machines are noisy.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.classification import classification
from benchmarks.counting import counting
from benchmarks.generation import CONTEXT, MODELS, PROMPT, generation
from benchmarks.growth import LAUNCHERS, PARTS, growth
from benchmarks.preparation import preparation
from benchmarks.recipe import recipe
from benchmarks.start import start
from benchmarks.sweep import KINDS, sweep
from benchmarks.training import CASES, training
from benchmarks.translation import translation
from molino.base.files import write_text
from molino.command.entry import share_cores
from molino.runs.record import environment


def main(script: str) -> None:
    """Parse the command line and run one benchmark."""
    chosen = _parse()
    # With all contenders, and before torch is imported.
    share_cores("generate" if chosen.benchmark == "generation" else "train")
    train = str(Path(script).resolve().parent / "train.py")
    with tempfile.TemporaryDirectory() as folder:
        if chosen.benchmark == "training":
            keep(chosen.json, training(train, Path(folder), chosen.rounds, chosen.cases))
        elif chosen.benchmark == "recipe":
            keep(chosen.json, recipe(train, Path(folder), chosen.rounds))
        elif chosen.benchmark == "sweep":
            sweep(train, Path(folder), chosen.rounds, chosen.runs, chosen.kind)
        elif chosen.benchmark == "preparation":
            keep(chosen.json, preparation(train, Path(folder), chosen.rounds, chosen.megabytes, chosen.gigabytes))
        elif chosen.benchmark == "counting":
            keep(chosen.json, counting(chosen.corpora))
        elif chosen.benchmark == "classification":
            keep(chosen.json, classification(train, Path(folder), chosen.rounds))
        elif chosen.benchmark == "translation":
            keep(chosen.json, translation(train, Path(folder), chosen.rounds))
        elif chosen.benchmark == "start":
            keep(chosen.json, start(train, Path(folder), chosen.rounds))
        elif chosen.benchmark == "growth":
            keep(chosen.json, growth(train, Path(folder), chosen.parts, chosen.size, chosen.launchers))
        else:
            generation(Path(folder), chosen.models, chosen.tokens, chosen.rounds, chosen.compile)


def keep(path: Path | None, figures: dict) -> None:
    """Write the figures of a benchmark as JSON, where a file is named."""
    if path is not None:
        facts = {key: value for key, value in environment(None, False).items() if key not in ("command", "git_changed")}
        write_text(path, json.dumps({"environment": facts, "figures": figures}, indent=2) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ["training", "recipe", "sweep", "preparation", "start", "counting", "classification", "translation"]
    kinds += ["growth", "generation"]
    parser.add_argument("benchmark", choices=kinds)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default: 5)")
    cases = "training: models (default: all)"
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help=cases)
    told = "all but sweep and generation: write figures there, too"
    parser.add_argument("--json", type=Path, metavar="FILE", help=told)
    parser.add_argument("--runs", type=int, default=16, help="sweep: runs of each turn (default: 16)")
    parser.add_argument(
        "--kind", choices=list(KINDS), default="bigram", help="sweep: what runs train (default: bigram)"
    )
    parser.add_argument("--megabytes", type=float, default=20.0, help="preparation: size of the text (default: 20)")
    parser.add_argument("--gigabytes", type=float, help="preparation: whole runs on a text of this size instead")
    corpora = "counting: choices of data= (default: shakespeare)"
    parser.add_argument("--corpora", nargs="+", default=["shakespeare"], metavar="DATA", help=corpora)
    _add_growth(parser)
    lengths = [100, 256, 1000]
    tokens = "generation: new tokens of a text (default: 100 256 1000)"
    parser.add_argument("--tokens", type=int, nargs="+", default=lengths, metavar="N", help=tokens)
    models = "generation: families (default: gpt llama)"
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help=models)
    parser.add_argument("--compile", action="store_true", help="generation: measure a compiled model too")
    chosen = parser.parse_args()
    most = CONTEXT - len(PROMPT)
    if not all(1 <= count <= most for count in chosen.tokens):
        parser.error(f"--tokens: a text has between 1 and {most} new tokens, so that it fits the context")
    if chosen.megabytes <= 0 or (chosen.gigabytes is not None and chosen.gigabytes <= 0):
        parser.error("--megabytes and --gigabytes: a text has a size above 0")
    if chosen.rounds < 1:
        parser.error("--rounds: medians need one round or more")
    try:
        chosen.size = {part: [float(size) for size in sizes] for part, *sizes in chosen.size}
    except ValueError as error:
        parser.error(f"--size: {error}")
    if unknown := chosen.size.keys() - PARTS.keys():
        parser.error(f"--size: {', '.join(unknown)} is no part; there are {', '.join(PARTS)}")
    if not all(size > 0 for sizes in chosen.size.values() for size in sizes):
        parser.error("--size: a size is above 0")
    return chosen


def _add_growth(parser: argparse.ArgumentParser) -> None:
    parts, launchers = list(PARTS), ["basic", "local"]
    told = f"growth: what is measured (default: {' '.join(parts)})"
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help=told)
    told = "growth: sizes of a part in place of its own: runs, rows, MB or steps; may be given for several"
    parser.add_argument("--size", nargs="+", action="append", default=[], metavar=("PART", "N"), help=told)
    told = f"growth: what trains the sweeps (default: {' '.join(launchers)})"
    parser.add_argument("--launchers", nargs="+", choices=list(LAUNCHERS), default=launchers, help=told)
