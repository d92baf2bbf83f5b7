"""The architecture as a tree: modules, the shapes of their parameters, and counts that add up."""

from dataclasses import dataclass, field

from rich.text import Text
from rich.tree import Tree
from torch import nn


@dataclass
class Node:
    """A module.

    Attributes:
        name: its name in its parent.
        kind: its class.
        shapes: its own parameters, by name.
        tied: those of them that another module above in the tree has counted, and that parameter's full name.
        count: parameters of the module and all below it, each counted where it appears first.
    """

    name: str
    kind: str
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    count: int = 0
    children: list["Node"] = field(default_factory=list)


def describe(model: nn.Module) -> Node:
    """Return a model's modules as nodes; the root's count is that of all parameters."""
    return _describe(type(model).__name__, "", model, {})


def _describe(name: str, path: str, module: nn.Module, owners: dict[int, str]) -> Node:
    node = Node(name, type(module).__name__)
    for own, parameter in module.named_parameters(recurse=False):
        node.shapes[own] = tuple(parameter.shape)
        full = f"{path}{own}"
        if (owner := owners.setdefault(id(parameter), full)) != full:
            node.tied[own] = owner
        else:
            node.count += parameter.numel()
    for child_name, child in module.named_children():
        node.children.append(_describe(child_name, f"{path}{child_name}.", child, owners))
        node.count += node.children[-1].count
    return node


def draw(node: Node) -> Tree:
    """Return the tree to print. Of neighbours that are alike (the blocks of a transformer) the first stands for all."""
    tree = Tree(_label(node), guide_style="dim")
    _grow(tree, node)
    return tree


def _grow(tree: Tree, node: Node) -> None:
    first = 0
    while first < len(node.children):
        child, end = node.children[first], first + 1
        while child.children and end < len(node.children) and _alike(child, node.children[end]):
            end += 1
        _grow(tree.add(_label(child)), child)
        if more := node.children[first + 1 : end]:
            names = more[0].name if len(more) == 1 else f"{more[0].name} to {more[-1].name}"
            alike = f"like {child.name}, {child.count:,} each" if len(more) > 1 else f"like {child.name}"
            total = sum(other.count for other in more)
            tree.add(Text.assemble((names, "bold"), f"  {child.kind}, {alike}", (f"  {total:,}", "cyan")))
        first = end


def _label(node: Node) -> Text:
    label = Text.assemble((node.name, "bold"))
    if node.name != node.kind:
        label.append(f"  {node.kind}")
    for name, shape in node.shapes.items():
        label.append(f"  {name} {' × '.join(map(str, shape))}")
        if name in node.tied:
            label.append(f" (tied: it is {node.tied[name]}, counted there)", "italic")
    if node.count:
        label.append(f"  {node.count:,}", "cyan")
    return label


def _alike(one: Node, other: Node) -> bool:
    """Tell whether two modules differ in nothing but their names."""
    same = (one.kind, one.shapes, one.tied, one.count) == (other.kind, other.shapes, other.tied, other.count)
    return (
        same
        and len(one.children) == len(other.children)
        and all(a.name == b.name and _alike(a, b) for a, b in zip(one.children, other.children, strict=True))
    )
