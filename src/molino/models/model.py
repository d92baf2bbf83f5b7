"""What a model is: a torch.nn.Module with these methods, whoever wrote it.

Shape suffixes: B batch, T time (tokens), C channels, V vocabulary.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molino.base.errors import ConfigError
from molino.models.cache import CacheShape, KVCache
from molino.models.capabilities import Capabilities, tensor_of


class Model(Protocol):
    """What every model has. Its constructor takes `vocab_size`, and the settings under `model` by their names.

    A model may also have, and is then asked for it:

    - `block_size`: the longest text it reads, in tokens. Without, it is taken to read what it is trained on
      (data.block_size).
    - `capabilities`, a `molino.models.capabilities.Capabilities`: what else it can do, such as keep a cache. Without,
      it is trained, evaluated and sampled, and nothing else.
    """

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits_BTV of the token after each token."""
        ...

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean cross entropy in nats over the targets that are not IGNORE_INDEX, a scalar.

        `molino.models.next_token_loss(logits_BTV, targets_BT)` is that of logits. It is a pure function of parameters,
        buffers and inputs, and of the random numbers that dropout draws.
        """
        ...


# What belongs under `model`.
MODEL = (nn.Module, Model)


def is_ours(part: object) -> bool:
    """Tell whether a part is of molino's own, whose tests say what it returns."""
    return type(part).__module__.startswith("molino.")


@torch.no_grad()
def check_model_by_use(model: nn.Module) -> None:
    """Have a model of people's own, on the CPU, read two tokens; neither it nor the random state is changed.

    Raises:
        ConfigError: what it returns is not what `Model` says.
    """
    name, training = type(model).__name__, model.training
    tokens_BT = torch.zeros(1, min(2, model.block_size), dtype=torch.long)
    wanted = (*tokens_BT.shape, model.vocab_size)
    try:
        with torch.random.fork_rng(devices=[]):
            model.eval()
            # One that reads a source is given the same tokens as that.
            source, told = ((tokens_BT,), ", source_BS") if _reads_source(model) else ((), "")
            _check_logits(f"{name}.forward(tokens_BT{told})", model(tokens_BT, *source), wanted)
            loss = model.loss(tokens_BT, tokens_BT, *source)
            if not (isinstance(loss, Tensor) and loss.shape == () and loss.is_floating_point()):
                raise ConfigError(
                    f"{name}.loss(tokens_BT, targets_BT{told}) must be a scalar tensor, not {_shown(loss)}"
                )
            _check_capabilities(model, name, tokens_BT, wanted)
    finally:
        model.train(training)


def _check_capabilities(model: nn.Module, name: str, tokens_BT: Tensor, wanted: tuple[int, ...]) -> None:
    can = model.capabilities
    if not isinstance(can, Capabilities):
        raise ConfigError(f"{name}.capabilities must be Capabilities, but it is {_shown(can)}")
    if can.cache is not None:
        if not isinstance(can.cache, CacheShape):
            raise ConfigError(f"{name}.capabilities.cache must be a CacheShape, but it is {_shown(can.cache)}")
        call = f"{name}.decode(tokens_BT, memory, cache)" if can.source else f"{name}.forward(tokens_BT, cache)"
        cache = KVCache(can.cache, 1, len(tokens_BT[0]))
        try:
            logits_BTV = _written(model, tokens_BT, cache) if can.source else model(tokens_BT, cache)
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"{call} fails, which its capabilities promise: {error}") from error
        _check_logits(call, logits_BTV, wanted)
        if cache.length != len(tokens_BT[0]):
            raise ConfigError(f"{call} must call cache.advance(T) at its end")
    if can.hidden is not None:
        _check_hidden(model, name, tokens_BT, wanted)
    if can.depth is not None:
        _check_depth(model, name, tokens_BT)
    if can.beside:
        _check_beside(model, name, tokens_BT, can.hidden)
    names = dict(model.named_parameters(remove_duplicate=False))
    for part in (part for group in can.layers for part in group):
        if not any(parameter == part or parameter.startswith(f"{part}.") for parameter in names):
            raise ConfigError(f"{name}.capabilities.layers name {part}, in which there is no parameter of it")
    tensors = names.keys() | {buffer for buffer, _ in model.named_buffers()}
    for said in (can.head, can.embedding, can.bigrams, *can.positions):
        if said is not None and said not in tensors:
            raise ConfigError(f"{name}.capabilities name {said}, which is no tensor of it")
    modules = dict(model.named_modules())
    for part in can.relative:
        if not hasattr(modules.get(part), "by_distance"):
            raise ConfigError(f"{name}.capabilities.relative name {part}, which is no module with by_distance(longest)")
    if can.tied is not None and (can.tied[0] not in names or names[can.tied[0]] is not names.get(can.tied[1])):
        raise ConfigError(f"{name}.capabilities.tied: {' and '.join(can.tied)} are not one parameter")
    if can.head is not None and not _is_head(model, can.head, tokens_BT):
        raise ConfigError(f"{name}.capabilities.head: head(hidden_BTC) is not just a product with {can.head}")


def _reads_source(model: nn.Module) -> bool:
    return isinstance(model.capabilities, Capabilities) and model.capabilities.source


def _written(model: nn.Module, tokens_BT: Tensor, cache: KVCache) -> Tensor:
    """Return the logits of a target, about itself."""
    return model.head(model.decode(tokens_BT, model.remember(model.encode(tokens_BT)), cache))


def _check_hidden(model: nn.Module, name: str, tokens_BT: Tensor, wanted: tuple[int, ...]) -> None:
    width = model.capabilities.hidden
    hidden_BTC = model.hidden(tokens_BT) if hasattr(model, "hidden") and hasattr(model, "head") else None
    shape = (*tokens_BT.shape, width)
    if not (isinstance(hidden_BTC, Tensor) and tuple(hidden_BTC.shape) == shape):
        raise ConfigError(
            f"{name} says that its hidden states are {width} wide: hidden(tokens_BT) must be of shape {shape}, and "
            "head(hidden_BTC) make logits of them"
        )
    _check_logits(f"{name}.head(hidden_BTC)", model.head(hidden_BTC), wanted)


def _check_depth(model: nn.Module, name: str, tokens_BT: Tensor) -> None:
    depth = model.capabilities.depth
    try:
        whole_BTC, all_BTC = model.hidden(tokens_BT), model.hidden(tokens_BT, depth=depth)
    except (TypeError, AttributeError) as error:
        raise ConfigError(
            f"{name}.hidden(tokens_BT, depth={depth}) fails, which its capabilities promise: {error}"
        ) from error
    if not torch.allclose(whole_BTC, all_BTC, atol=1e-5):
        raise ConfigError(f"{name}.capabilities.depth={depth}: after so many layers hidden(tokens_BT) is another")


def _is_head(model: nn.Module, weight: str, tokens_BT: Tensor) -> bool:
    """Tell whether the head of a model is a product with a parameter and nothing else."""
    weight_VC, width = tensor_of(model, weight), model.capabilities.hidden
    if width is None or tuple(weight_VC.shape) != (model.vocab_size, width):
        return False
    hidden_BTC = model.hidden(tokens_BT)
    return torch.allclose(model.head(hidden_BTC), F.linear(hidden_BTC, weight_VC), atol=1e-5)


def _check_beside(model: nn.Module, name: str, tokens_BT: Tensor, width: int | None) -> None:
    if width is None:
        raise ConfigError(f"{name}.capabilities.beside needs hidden, which tells how wide its embeddings are")
    try:
        plain_BTC = model.hidden(tokens_BT)
        other_BTC = model.hidden(tokens_BT, beside_BTC=torch.ones(*tokens_BT.shape, width))
    except TypeError as error:
        raise ConfigError(
            f"{name}.hidden(tokens_BT, beside_BTC=...) fails, which its capabilities promise: {error}"
        ) from error
    if torch.equal(plain_BTC, other_BTC):
        raise ConfigError(f"{name}.hidden(tokens_BT, beside_BTC=...) makes nothing of what is beside the embeddings")


def _check_logits(call: str, logits: object, wanted: tuple[int, ...]) -> None:
    if not (isinstance(logits, Tensor) and tuple(logits.shape) == wanted):
        raise ConfigError(f"{call} must be logits of shape {wanted} (B, T, vocab_size), but it is {_shown(logits)}")


def _shown(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
