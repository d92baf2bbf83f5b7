"""Weights, gradients and what an optimizer keeps of them, cut into pieces over the processes of a run (FSDP2).

Each list of layers in a network is a unit: its weights are gathered when a layer is entered, and dropped behind it.
Checkpoints are whole: what several processes have saved one process loads, and the other way round.
"""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from molino.base.errors import ConfigError

# Under which names training enters a network, beside its forward.
ENTRIES = ("loss", "losses")


class ShardedStrategy(DDPStrategy):
    """Data parallel as DDP is, with `module.model` in pieces."""

    def configure_ddp(self) -> None:
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        shard(self.lightning_module.model, mesh)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return {name: whole(tensor) for name, tensor in self.lightning_module.state_dict().items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        own = self.lightning_module.state_dict()
        state = {name: in_pieces(tensor, own.get(name)) for name, tensor in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        found = super().optimizer_state(optimizer)
        state = {
            number: {name: whole(value) for name, value in each.items()} for number, each in found["state"].items()
        }
        return {**found, "state": state}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, found in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state = {
                number: {name: in_pieces(value, parameters[number]) for name, value in each.items()}
                for number, each in found["state"].items()
            }
            optimizer.load_state_dict({**found, "state": state})

    def teardown(self) -> None:
        # Pieces stay on the devices that they are of; Lightning would move them to the CPU.
        for part in (self.cluster_environment, self.precision_plugin, self.accelerator, self.checkpoint_io):
            part.teardown()


def check_pieces(network: nn.Module) -> None:
    """Refuse a network of which something cannot be cut into pieces.

    Raises:
        ConfigError: it has parameters that are single numbers.
    """
    if single := [name for name, parameter in network.named_parameters() if parameter.dim() == 0]:
        raise ConfigError(
            f"hardware=fsdp cuts weights into pieces, and {type(network).__name__}.{single[0]} is a single number: "
            "choose hardware=ddp"
        )


def shard(network: nn.Module, mesh: Any) -> None:
    """Cut the weights of a network into pieces, in place."""
    for layers in [module for module in network.modules() if isinstance(module, nn.ModuleList)]:
        for layer in layers:
            if next(layer.parameters(), None) is not None:
                fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    for name in ENTRIES:
        if hasattr(network, name):
            register_fsdp_forward_method(network, name)


def whole(value: Any) -> Any:
    """Return a tensor that is in pieces as one, on the CPU; all processes have to ask. Anything else stays as it is."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def in_pieces(value: Any, like: Any) -> Any:
    """Return a whole tensor in pieces as another of its shape is; anything else stays as it is."""
    if not (isinstance(like, DTensor) and isinstance(value, torch.Tensor) and value.shape == like.shape):
        return value
    return distribute_tensor(value.to(like.device, like.dtype), like.device_mesh, like.placements)


def gather(module: nn.Module) -> None:
    """Have each process hold all weights of a network that is in pieces, so that each can use it as often, and in what
    way, it likes; of any other nothing happens.

    The memory of each has to hold them.
    """
    for part in _pieces(module):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


def scatter(module: nn.Module) -> None:
    """Have each process hold its own pieces alone again."""
    for number, part in enumerate(_pieces(module)):
        # What the outermost one has gathered its backward pass needs at once.
        part.set_reshard_after_forward(number > 0, recurse=False)
        part.reshard()


def _pieces(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]
