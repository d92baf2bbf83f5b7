"""molino explain: what a trained model is made of, expects, and looks at."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from molino.base.console import console, say, show_facts, show_rows, working
from molino.base.errors import ConfigError, DataError
from molino.base.files import whole_folder
from molino.configuration.build import construct_arguments
from molino.configuration.request import Request
from molino.data.prompt import ask_prompt
from molino.data.tokenizers import Tokenizer
from molino.inspection import pictures, tree
from molino.inspection.lens import read_depths, table_of_layers
from molino.inspection.predictions import label, predict, read_counts, table, table_beside
from molino.inspection.projector import MOST_TOKENS, write_embeddings
from molino.machine.hardware import Hardware
from molino.models.capabilities import capabilities_of, tensor_of
from molino.models.cost import cache_bytes_per_token, count_parameters, flops_per_token
from molino.runs.pictures import INSIDE
from molino.trained.load import load
from molino.trained.looking import Looked, look


def run(request: Request) -> None:
    """Check the settings and explain."""
    settings = dict(request.settings)
    for name in ("prompt", "target"):
        if settings[name] is not None:
            settings[name] = str(settings[name])  # prompt=1605 is text too
    explain(**construct_arguments(explain, settings))


def explain(
    run: str | None,
    source: str | None,
    checkpoint: str,
    prompt: str | None,
    target: str | None,
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
        target: what is written about it, by a model that writes about a source; None for what it writes itself.
        top: how many of the likeliest tokens are shown.

    Raises:
        ConfigError: `top` is below 1, there is no one to ask for a prompt, or it is a model that tells no tokens.
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
    if top > loaded.model.vocab_size:
        raise ConfigError(f"top={top} is too large: the model knows {loaded.model.vocab_size} tokens")
    with hardware.autocast():
        looked = look(loaded, "explain", prompt, target)
        depths_LMV = read_depths(looked.model, looked.ids, looked.hidden) if looked.hidden else None
    show_architecture(looked.model)
    show_guesses(looked, depths_LMV, loaded.tokenizer, top)
    pictures.require_matplotlib()
    place = Path(paths["outputs"]) / INSIDE / Path(source).resolve().name if source else loaded.path / INSIDE
    with working("drawing"), whole_folder(place, "; set paths.outputs", replaces=True) as folder:
        drawn = draw(folder, loaded.tokenizer, looked, depths_LMV, top)
    if not looked.looks:
        say("it has no attention to draw")
    say(f"pictures: {place} ({', '.join(drawn)})")
    say(f"next: tensorboard --logdir {shlex.quote(str(place))}")


def show_architecture(model: nn.Module) -> None:
    """Print the tree of modules and what the model costs."""
    console.print(tree.draw(tree.describe(model)))
    can, context = capabilities_of(model), model.block_size
    facts = {
        "parameters": f"{count_parameters(model):,}",
        "FLOPs per token": f"{flops_per_token(model, context):,} (forward, the last of {context:,} tokens"
        + (" of a source and of its target)" if can.source else ")"),
    }
    if can.cache is not None:
        facts["KV cache per token"] = f"{cache_bytes_per_token(model):,} bytes"
    show_facts("\ncost", facts)


def show_guesses(looked: Looked, depths_LMV: Tensor | None, tokenizer: Tokenizer, top: int) -> None:
    """Print what the model expects after each token; of one that sees both ways, what each layer puts in for what is
    hidden."""
    ids = looked.ids
    if capabilities_of(looked.model).both_ways:
        for number, place in enumerate(looked.hidden if depths_LMV is not None else []):
            header, rows = table_of_layers(depths_LMV[:, number], top, tokenizer)
            show_rows(f"what each layer puts in at token {place}", header, rows)
        return
    if looked.told is not None:
        say(f"what is written: {looked.told}")
    header, rows = table(list(predict(ids, looked.logits_TV, top)), tokenizer)
    show_rows("what it expects after each token", header, rows)
    if (counted_TV := read_counts(looked.model, ids)) is not None:
        beside = (list(predict(ids, each_TV, 1)) for each_TV in (looked.logits_TV, counted_TV))
        show_rows("what counting says, and what the network makes of it", *table_beside(*beside, tokenizer))


def draw(folder: Path, tokenizer: Tokenizer, looked: Looked, depths_LMV: Tensor | None, top: int) -> list[str]:
    """Write all pictures of a model, as PNG and for TensorBoard; return what there is."""
    from torch.utils.tensorboard import SummaryWriter

    model = looked.model
    can, drawn = capabilities_of(model), []
    with SummaryWriter(str(folder)) as writer:
        for name, tag, figure in figures(tokenizer, looked, depths_LMV, top):
            writer.add_image(tag, pictures.save(figure, folder / f"{name}.png"), dataformats="HWC")
            drawn.append(f"{name}.png")
        if can.embedding is not None:
            write_embeddings(writer, tensor_of(model, can.embedding), first_labels(tokenizer))
    return drawn or ["the embeddings, for TensorBoard" if can.embedding else "none, for it declares nothing to draw"]


def figures(
    tokenizer: Tokenizer, looked: Looked, depths_LMV: Tensor | None, top: int
) -> Iterator[tuple[str, str, Any]]:
    """Yield each picture with its name and its tag in TensorBoard."""
    for kind, layers, tokens, seen in looked.looks:
        for number, layer in enumerate(layers):
            figure = pictures.draw_attention(layer.weights(), tokens, f"{kind}, layer {number}", seen)
            yield f"{kind}-layer-{number}", f"{kind}/layer-{number}", figure
        if kind == "cross":
            title = f"cross-attention of layer {len(layers) - 1}, mean over its heads"
            mean_TS = layers[-1].weights().mean(0)
            yield "alignment", "alignment", pictures.draw_alignment(mean_TS, looked.written, seen, title)
    if depths_LMV is not None:
        guesses = []
        for number, place in enumerate(looked.hidden):
            best_N = depths_LMV[-1, number].topk(top).indices
            p_LN = depths_LMV[:, number].softmax(-1)[:, best_N]
            labels = [label(tokenizer, token) for token in best_N.tolist()]
            guesses.append((f"token {place}", labels, p_LN))
        yield "layers", "layers", pictures.draw_layers(guesses)
    if tables := pictures.position_tables(looked.model):
        yield "positions", "positions", pictures.draw_positions(tables)
    if biases := pictures.relative_biases(looked.model):
        yield "relative", "relative", pictures.draw_relative(biases)
    if (bigrams := capabilities_of(looked.model).bigrams) is not None:
        table_VV = tensor_of(looked.model, bigrams)
        yield "bigrams", "bigrams", pictures.draw_bigrams(table_VV, first_labels(tokenizer))


def first_labels(tokenizer: Tokenizer) -> list[str]:
    """Return the labels of the vocabulary's tokens, as many as are shown."""
    return [label(tokenizer, token) for token in range(min(tokenizer.size, MOST_TOKENS))]
