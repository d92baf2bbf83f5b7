"""Settings and figures as they are read most easily."""

import math
from typing import Any

NOTHING = "-"


def show_value(value: Any) -> str:
    """Return a setting as one would type it."""
    if isinstance(value, float):
        return f"{value:g}"
    return NOTHING if value is None else str(plain(value))


def show_number(value: float | None) -> str:
    """Return a figure with as many digits as are worth reading: of losses four after the point, of large ones none."""
    if value is None or math.isinf(value):
        return NOTHING if value is None else "inf"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 20:
        return f"{value:.2f}"
    return f"{value:.1e}" if 0 < abs(value) < 0.00005 else f"{value:.4f}"


def plain(value: Any) -> Any:
    """Return a setting with booleans as they are typed."""
    return str(value).lower() if isinstance(value, bool) else value
