"""python scripts/benchmark.py: what molino costs, measured beside others that do the same in the same run.

    training    steps a second of experiment=quijote_bigram through scripts/train.py, with logging, checkpoints and
                progress, against a raw PyTorch loop that does the same work
    sweep       runs a second of a sweep of short runs, by two workers, by Hydra's basic launcher and by joblib's
    preparation MB of text a second from a file to vocabulary and tokens, and memory, against the tokenizers library
                line by line and against lists and dictionaries; with --gigabytes, whole runs on a large text
    start       seconds from the command to the first step of the default run, and for --help
    generation  tokens a second with and without KV cache, and of transformers with the same weights; memory, and the
                share of the memory bandwidth that is used. CPU only, models of about 10 million random parameters

Contenders take turns, each in a process of its own, and medians are compared: machines are noisy.
"""

import argparse
import tempfile
from pathlib import Path

from molino.benchmarks.generation import CONTEXT, MODELS, PROMPT, generation
from molino.benchmarks.preparation import preparation
from molino.benchmarks.start import start
from molino.benchmarks.sweep import KINDS, sweep
from molino.benchmarks.training import training
from molino.cli import share_cores


def main(script: str) -> None:
    """Parse the command line and run one benchmark."""
    chosen = _parse()
    # With all contenders, and before torch is imported.
    share_cores("generate" if chosen.benchmark == "generation" else "train")
    train = str(Path(script).resolve().parent / "train.py")
    with tempfile.TemporaryDirectory() as folder:
        if chosen.benchmark == "training":
            training(train, Path(folder), chosen.rounds, chosen.steps)
        elif chosen.benchmark == "sweep":
            sweep(train, Path(folder), chosen.rounds, chosen.runs, chosen.kind)
        elif chosen.benchmark == "preparation":
            preparation(train, Path(folder), chosen.rounds, chosen.megabytes, chosen.gigabytes)
        elif chosen.benchmark == "start":
            start(train, Path(folder), chosen.rounds)
        else:
            generation(Path(folder), chosen.models, chosen.tokens, chosen.rounds, chosen.compile)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=("training", "sweep", "preparation", "start", "generation"))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default: 5)")
    parser.add_argument("--steps", type=int, default=10_000, help="training: steps of each turn (default: 10000)")
    parser.add_argument("--runs", type=int, default=16, help="sweep: runs of each turn (default: 16)")
    parser.add_argument(
        "--kind", choices=list(KINDS), default="bigram", help="sweep: what runs train (default: bigram)"
    )
    parser.add_argument("--megabytes", type=float, default=20.0, help="preparation: size of the text (default: 20)")
    parser.add_argument("--gigabytes", type=float, help="preparation: whole runs on a text of this size instead")
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
    if chosen.rounds < 1:
        parser.error("--rounds: medians need one round or more")
    return chosen
