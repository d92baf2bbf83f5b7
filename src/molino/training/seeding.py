"""Random numbers of a step, decided by the seed, the step and the process alone."""

import torch


def seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed torch's generator of `device` by (seed, step, rank), so that dropout needs no saved state."""
    mixed = _mix(_mix(_mix(seed) + step) + rank)
    torch.default_generator.manual_seed(mixed)
    if device.type == "cuda":
        torch.cuda.manual_seed(mixed)
    elif device.type == "mps":
        torch.mps.manual_seed(mixed)


def _mix(z: int) -> int:
    """One round of splitmix64: neighbouring numbers become unrelated ones."""
    z = (z + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)
