"""molino explain: what a trained model is made of, expects, and looks at."""

import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from molino.base.console import console, say, show_facts, show_rows, working
from molino.base.errors import ConfigError, DataError
from molino.base.files import explain_os_errors, make_directory
from molino.configuration.build import construct_arguments
from molino.configuration.request import Request
from molino.data.prompt import ask_prompt, encode_prompt
from molino.inspection import pictures, tree
from molino.inspection.attention import Attention, read
from molino.inspection.predictions import label, predict, read_counts, table, table_beside
from molino.inspection.projector import MOST_TOKENS, write_embeddings
from molino.machine.hardware import Hardware
from molino.models.capabilities import capabilities_of, require_next_token, tensor_of
from molino.models.cost import cache_bytes_per_token, count_parameters, flops_per_token
from molino.trained.load import LoadedRun, load


def run(request: Request) -> None:
    """Check the settings and explain."""
    settings = dict(request.settings)
    if settings["prompt"] is not None:
        settings["prompt"] = str(settings["prompt"])  # prompt=1605 is text too
    explain(**construct_arguments(explain, settings))


def explain(
    run: str | None,
    source: str | None,
    checkpoint: str,
    prompt: str | None,
    top: int,
    hardware: Hardware,
    paths: dict[str, Any],
) -> None:
    """Print architecture, cost and predictions of a model; draw its attention, positions and embeddings.

    The pictures go into the folder `explain` of the run; for a `source` into `explain/<its name>` below the outputs.

    Args:
        run, checkpoint: which run, and which of its checkpoints.
        source: in place of a run, a Hugging Face folder or hub id.
        prompt: the text that the model reads; None asks on a terminal.
        top: how many of the likeliest next tokens are shown.

    Raises:
        ConfigError: `top` is below 1, or there is no one to ask for a prompt.
        DataError: the prompt is empty or longer than the model's context.
        ResourceError: matplotlib is missing, which only the pictures need, or they cannot be written.
    """
    if top < 1:
        raise ConfigError(f"top={top} is too small: choose 1 or more")
    prompt = ask_prompt() if prompt is None else prompt
    if not prompt:
        raise DataError('prompt="" is no text to look at: add some, such as prompt="In the beginning"')
    hardware.apply()
    loaded = load(run, source, checkpoint, paths["outputs"], hardware.device, hardware.dtype)
    require_next_token(loaded.model, "explain")
    if top > loaded.model.vocab_size:
        raise ConfigError(f"top={top} is too large: the model knows {loaded.model.vocab_size} tokens")
    ids = encode(prompt, loaded)
    show_architecture(loaded.model)
    with hardware.autocast():
        logits_TV, layers = read(loaded.model, ids)
    header, rows = table(list(predict(ids, logits_TV, top)), loaded.tokenizer)
    show_rows("what it expects after each token", header, rows)
    if (counted_TV := read_counts(loaded.model, ids)) is not None:
        beside = (list(predict(ids, each_TV, 1)) for each_TV in (logits_TV, counted_TV))
        show_rows("what counting says, and what the network makes of it", *table_beside(*beside, loaded.tokenizer))
    pictures.require_matplotlib()
    target = Path(paths["outputs"]) / "explain" / Path(source).resolve().name if source else loaded.path / "explain"
    with working("drawing"), whole_folder(target) as folder:
        drawn = draw(folder, loaded, ids, layers)
    if not layers:
        say("it has no attention to draw")
    say(f"pictures: {target} ({', '.join(drawn)})")
    say(f"next: tensorboard --logdir {shlex.quote(str(target))}")


def encode(prompt: str, loaded: LoadedRun) -> list[int]:
    """Return a prompt's ids, at least one.

    Raises:
        DataError: there are none, or more than the context holds.
    """
    ids = encode_prompt(prompt, loaded.tokenizer, loaded.prefix)
    if len(ids) == len(loaded.prefix):
        raise DataError(f"prompt={prompt!r} holds no token of this model: add some text")
    if len(ids) > loaded.model.block_size:
        raise DataError(
            f"the prompt has {len(ids)} tokens, but the model's context is {loaded.model.block_size}: shorten it"
        )
    return ids


def show_architecture(model: nn.Module) -> None:
    """Print the tree of modules and what the model costs."""
    console.print(tree.draw(tree.describe(model)))
    context = model.block_size
    facts = {
        "parameters": f"{count_parameters(model):,}",
        "FLOPs per token": f"{flops_per_token(model, context):,} (forward, the last of {context:,} tokens)",
    }
    if capabilities_of(model).cache is not None:
        facts["KV cache per token"] = f"{cache_bytes_per_token(model):,} bytes"
    show_facts("\ncost", facts)


def draw(folder: Path, loaded: LoadedRun, ids: list[int], layers: list[Attention]) -> list[str]:
    """Write all pictures of a model, as PNG and for TensorBoard; return what there is."""
    from torch.utils.tensorboard import SummaryWriter

    model, tokenizer = loaded.model, loaded.tokenizer
    drawn = []
    with SummaryWriter(str(folder)) as writer:

        def keep(figure: Any, name: str, tag: str) -> None:
            writer.add_image(tag, pictures.save(figure, folder / f"{name}.png"), dataformats="HWC")
            drawn.append(f"{name}.png")

        names = [label(tokenizer, token) for token in ids]
        for number, layer in enumerate(layers):
            figure = pictures.draw_attention(layer.weights(), names, f"attention, layer {number}")
            keep(figure, f"attention-layer-{number}", f"attention/layer-{number}")
        if tables := pictures.position_tables(model):
            keep(pictures.draw_positions(tables), "positions", "positions")
        labels = [label(tokenizer, token) for token in range(min(tokenizer.size, MOST_TOKENS))]
        can = capabilities_of(model)
        if can.bigrams is not None:
            keep(pictures.draw_bigrams(tensor_of(model, can.bigrams), labels), "bigrams", "bigrams")
        if can.embedding is not None:
            write_embeddings(writer, tensor_of(model, can.embedding), labels)
    return drawn or ["the embeddings, for TensorBoard" if can.embedding else "none, for it declares nothing to draw"]


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target` that takes its place, and its name, once it has been filled.

    On any error the new one is removed and an earlier `target` stays as it was.

    Raises:
        ResourceError: the disk is full or the place cannot be written.
    """
    make_directory(target.parent, "; set paths.outputs")
    with explain_os_errors(target):
        workplace = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        new, old = workplace / "new", workplace / "old"
        try:
            new.mkdir()
            yield new
            if target.exists():
                target.rename(old)
            try:
                new.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise
        finally:
            shutil.rmtree(workplace, ignore_errors=True)
