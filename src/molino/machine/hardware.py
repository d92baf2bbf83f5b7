"""The machine a run uses: the `hardware` section of the configuration."""

import contextlib
import shutil
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from molino.base.errors import ConfigError, ResourceError
from molino.base.processes import started
from molino.machine import policy
from molino.machine.memory import keep_freed_memory
from molino.machine.peaks import dense_peak
from molino.machine.threads import threads_of_each
from molino.models.attention import PATHS, choose_path, faster_path

# Lightning's names; the value is what autocast computes matrix products in.
PRECISIONS = {
    "auto": None,
    "32-true": None,
    "bf16-mixed": torch.bfloat16,
    "bf16-true": None,
    "16-mixed": torch.float16,
}
STRATEGIES = ("auto", "ddp", "fsdp")
MATMUL = ("highest", "high", "medium")
MOST_THREADS = 1024  # more than a machine has cores


@dataclass(frozen=True)
class Hardware:
    """Which devices compute, and how exactly.

    Attributes:
        accelerator: `auto` (CUDA, else Apple's GPU, else CPU), `cpu`, `gpu`.
        devices: how many, on one node.
        num_nodes: machines.
        strategy: Lightning's name: `auto`, `ddp`, `fsdp`.
        precision: Lightning's name, or `auto`: bf16-mixed on GPUs that compute in bf16 and to train on CPUs that do,
            else 32-true. bf16-true keeps the weights themselves in bf16, which halves them: enough to sample from, too
            coarse to train well.
        matmul_precision: of fp32 matrix products on GPUs: `highest`, `high` (TF32), `medium`.
        attention: how training computes it, one of molino.models.attention.PATHS.
        compile: torch.compile what trains or generates, in place; or `auto`, for long training on GPUs.
        threads: CPU threads a process; None for what the environment says, else for torch's choice, to train a tiny
            model for one.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    matmul_precision: str = "high"
    attention: str = "auto"
    compile: bool | str = "auto"
    threads: int | None = None

    def __post_init__(self):
        known = {
            "precision": PRECISIONS,
            "matmul_precision": MATMUL,
            "strategy": STRATEGIES,
            "attention": PATHS,
            "compile": ("auto", True, False),
        }
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"hardware.{name}={getattr(self, name)} is unknown: choose {', '.join(map(str, choices)).lower()}"
                )
        if self.accelerator not in ("auto", "cpu", "gpu"):
            raise ConfigError(f"hardware.accelerator={self.accelerator} is unknown: choose auto, cpu or gpu")
        for name in ("devices", "num_nodes", "threads"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"hardware.{name}={getattr(self, name)} must be at least 1")
        if self.threads is not None and self.threads > MOST_THREADS:
            raise ConfigError(f"hardware.threads={self.threads} must be at most {MOST_THREADS}")
        if self.accelerator == "gpu" and self.kind == "cpu":
            raise ResourceError("hardware asks for a GPU, but torch finds none here: choose hardware=cpu or auto")
        if self.kind == "cuda" and self.devices > torch.cuda.device_count():
            # Tasks of Slurm's may see one each, where every process has to see those of all of its node.
            advice = (
                ": ask Slurm for --gpus-per-node, not for GPUs of each task"
                if (place := started()) and place.by == "srun"
                else ""
            )
            raise ResourceError(
                f"hardware.devices={self.devices}, but there are {torch.cuda.device_count()} GPUs here{advice}"
            )
        if self.kind == "cpu" and self.precision == "16-mixed":
            raise ConfigError("hardware.precision=16-mixed needs a GPU: choose 32-true or bf16-mixed on a CPU")
        if self.strategy == "fsdp" and self.kind == "mps":
            raise ResourceError("hardware=fsdp needs CUDA's GPUs, or CPUs: add hardware.accelerator=cpu")
        if self.strategy == "fsdp" and self.precision == "16-mixed":
            raise ConfigError("hardware.precision=16-mixed is not for hardware=fsdp: choose bf16-mixed, or 32-true")
        if self.kind == "cpu" and self.compile is True and not (shutil.which("g++") or shutil.which("clang++")):
            raise ResourceError("hardware.compile=true needs a C++ compiler (g++) to compile for a CPU: install one")

    @property
    def processes(self) -> int:
        """How many processes train."""
        return self.devices * self.num_nodes

    @property
    def kind(self) -> str:
        """`cuda`, `mps` or `cpu`: what the run computes on."""
        if self.accelerator == "cpu":
            return "cpu"
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    def settle(self, model: nn.Module, block_size: int, tokens_per_step: int, max_steps: int) -> "Hardware":
        """Return what training `model` for so long is fastest on, with nothing left to `auto` but the accelerator.

        It follows from the machine and from these arguments, so that a run that is given again chooses alike.
        """
        precision = self.resolved_precision
        if self.precision == "auto" and self.kind == "cpu" and policy.gains_from_bf16(model, tokens_per_step):
            precision = "bf16-mixed"
        attention = self.attention
        if attention == "auto":
            dropout = max((getattr(module, "attn_dropout", 0.0) for module in model.modules()), default=0.0)
            dtype = PRECISIONS[precision] or self.dtype
            attention = faster_path(torch.device(self.kind), dtype, block_size, dropout)
        compiled = self.compile
        if compiled == "auto":
            compiled = self.kind == "cuda" and policy.is_long(model, block_size, tokens_per_step, max_steps)
            compiled &= self.strategy != "fsdp"  # weights come and go between layers
        threads = self.threads
        if threads is None and self.kind == "cpu" and policy.is_tiny(model, tokens_per_step):
            threads = 1
        return replace(self, precision=precision, attention=attention, compile=compiled, threads=threads)

    @property
    def settled(self) -> dict[str, Any]:
        """What `settle` decides, by the names of the settings."""
        return {name: getattr(self, name) for name in ("precision", "attention", "compile", "threads")}

    def prepare(self, model: nn.Module) -> None:
        """Have what was settled for a model: its attention, threads, its loss compiled.

        It is compiled in place: no key of a checkpoint tells that it was. Validation is not compiled: it takes too few
        passes to repay that.
        """
        self.use_threads(self.devices)
        choose_path(model, self.attention)
        if self.compile is True:
            name = "losses" if hasattr(model, "losses") else "loss"
            setattr(model, name, torch.compile(getattr(model, name)))

    def token_peak(self, model: nn.Module, block_size: int) -> float | None:
        """Return how many tokens a second these GPUs could train `model` on at their dense peak; None where unknown."""
        peak = dense_peak(torch.cuda.get_device_name()) if self.kind == "cuda" else None
        each = policy.training_flops(model, block_size)
        return self.processes * peak / each if peak and each else None

    @property
    def resolved_precision(self) -> str:
        """The precision of what does not train; see `settle`."""
        if self.precision != "auto":
            return self.precision
        return "bf16-mixed" if self.kind == "cuda" and torch.cuda.is_bf16_supported() else "32-true"

    @property
    def device(self) -> torch.device:
        """The device of what takes one process, such as evaluation or sampling."""
        return torch.device(self.kind)

    @property
    def dtype(self) -> torch.dtype:
        """What weights are kept in."""
        return torch.bfloat16 if self.precision == "bf16-true" else torch.float32

    def apply(self) -> None:
        """Set what holds for the whole process, and give back memory that is free."""
        keep_freed_memory()
        torch.set_float32_matmul_precision(self.matmul_precision)
        # Denormal numbers make some CPU kernels several times slower, and only threads made after this call see it.
        torch.set_flush_denormal(True)
        self.use_threads()

    def use_threads(self, processes: int = 1) -> None:
        """Set how many threads compute in each of so many processes of this machine."""
        # Also where nothing is asked for: an earlier run in this process may have had one thread.
        torch.set_num_threads(self.threads or threads_of_each(processes))

    def autocast(self) -> contextlib.AbstractContextManager:
        """The precision of what takes one process."""
        dtype = PRECISIONS[self.resolved_precision]
        return torch.autocast(self.kind, dtype) if dtype else contextlib.nullcontext()

    def trainer_arguments(self) -> dict[str, Any]:
        """Keyword arguments for lightning.pytorch.Trainer."""
        return {
            "accelerator": {"cuda": "gpu"}.get(self.kind, self.kind),
            "devices": self.devices,
            "num_nodes": self.num_nodes,
            "strategy": self.strategy,
            "precision": self.resolved_precision,
        }

    def describe(self) -> str:
        count = torch.get_num_threads()
        threads = f"{self.kind} ({count} thread{'s' if count > 1 else ''})"
        name = torch.cuda.get_device_name() if self.kind == "cuda" else threads
        many = f"{self.processes} x " if self.processes > 1 else ""
        parts = [f"{many}{name}", self.resolved_precision, self.strategy if self.strategy != "auto" else ""]
        if self.attention != "auto":
            parts.append(f"attention {self.attention}")
        parts.append("compiled" if self.compile is True else "")
        return ", ".join(filter(None, parts))
