"""A learning-rate schedule."""


def inverse_sqrt(step: int, max_steps: int, warmup_steps: int = 100) -> float:
    """Linear warm-up, then falling with the square root of the step (Vaswani et al. 2017)."""
    warmup_steps = max(warmup_steps, 1)
    return min((step + 1) / warmup_steps, (warmup_steps / (step + 1)) ** 0.5)
