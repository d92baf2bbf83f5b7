"""How large settings from elsewhere may be."""

from typing import Any

DEEPEST, MOST_VALUES = 50, 100_000


def check_extent(content: Any) -> None:
    """Refuse settings that are nested without end, as YAML's references allow.

    Raises:
        ValueError: they are.
    """
    left, count = [(content, 0)], 0
    while left:
        node, depth = left.pop()
        count += 1
        if depth > DEEPEST or count > MOST_VALUES:
            raise ValueError("its settings are nested without end")
        if isinstance(node, dict | list):
            left += [(child, depth + 1) for child in (node.values() if isinstance(node, dict) else node)]
