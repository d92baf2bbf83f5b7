"""How the rooms of src/molino stand on each other, read from their imports: one way down, few, and none hidden."""

import ast
import graphlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

SOURCE = ROOT / "src"
PACKAGE = SOURCE / "molino"
# From the ground up. A room imports itself and rooms of lower floors.
FLOORS = [
    ["base"],
    ["models", "runs"],
    ["configuration", "hub", "machine", "generation", "evaluation"],
    ["data", "sweeps", "comparison"],
    ["tasks", "inspection", "search"],
    ["trained"],
    ["training"],
    ["verbs", "command"],
    ["api"],
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Pairs of rooms of which one imports the other. Fewer are better: think before this grows.
MOST_ARROWS = 81
# Other people's packages that cost much at start-up, or are optional: all that a function may import.
HEAVY = {
    "absl", "huggingface_hub", "hydra", "jinja2", "lightning", "lightning_utilities", "matplotlib", "mlflow",
    "omegaconf", "optuna", "pyarrow", "rouge_score", "sacrebleu", "scipy", "torch", "wandb", "yaml",
}  # fmt: skip
TRAINING = {"torch", "lightning", "lightning_utilities", "torchmetrics"}
WITHOUT = {
    "base": TRAINING,
    "runs": TRAINING,
    "configuration": TRAINING,
    "command": TRAINING,
    "sweeps": TRAINING,
    "comparison": TRAINING,
}


@dataclass(frozen=True)
class Import:
    """A name that a file imports: `molino.base.files.write_text` of `from molino.base.files import write_text`."""

    file: Path
    line: int
    name: str
    nested: bool

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @property
    def room(self) -> str:
        """What of molino is imported: a room, if all is well."""
        return self.name.split(".")[1] if "." in self.name else self.name

    @property
    def importer(self) -> str:
        return self.file.relative_to(PACKAGE).parts[0]

    def __str__(self) -> str:
        return f"{self.file.relative_to(SOURCE)}:{self.line} imports {self.name}"


def read(file: Path) -> Iterator[Import]:
    """Yield all imports of a file; those in functions and classes are nested."""

    def visit(node: ast.AST, nested: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, nested)
        elif isinstance(node, ast.ImportFrom):
            above = file.relative_to(SOURCE).parts[: -node.level] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            for alias in node.names:
                yield Import(file, node.lineno, f"{base}.{alias.name}", nested)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return  # for readers and editors; nothing is imported
        inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, nested or inner)

    yield from visit(ast.parse(file.read_text("utf-8")), False)


@cache
def imports() -> tuple[Import, ...]:
    """All imports of the rooms."""
    return tuple(each for room in rooms() for file in sorted((PACKAGE / room).rglob("*.py")) for each in read(file))


def rooms() -> list[str]:
    """The folders of the package that hold code."""
    return sorted({file.relative_to(PACKAGE).parts[0] for file in PACKAGE.glob("*/**/*.py")})


def arrows() -> dict[tuple[str, str], Import]:
    """An import for each pair of rooms of which one imports the other."""
    ours = [each for each in imports() if each.package == "molino" and each.room != each.importer]
    return {(each.importer, each.room): each for each in ours}


def reached(room: str) -> dict[str, str]:
    """Other people's packages that importing a room imports, each with the import that does it."""
    found: dict[str, str] = {}
    seen: set[Path] = set()
    todo = sorted((PACKAGE / room).rglob("*.py"))
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        for each in read(file):
            if each.nested:
                continue
            if each.package == "molino":
                todo += files_of(each.name)
            else:
                found.setdefault(each.package, str(each))
    return found


def files_of(name: str) -> list[Path]:
    """The files that run when a name is imported: those of all packages around it, and its own if it is a module."""
    parts = name.split(".")
    paths = [SOURCE.joinpath(*parts[: length + 1]) for length in range(len(parts))]
    return [file for path in paths for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()]


def assert_none(wrong: list, rule: str) -> None:
    if wrong:
        pytest.fail(f"{rule}:\n  " + "\n  ".join(map(str, wrong)), pytrace=False)


def test_there_are_these_rooms_and_nothing_beside_them():
    assert rooms() == sorted(FLOOR)
    assert {file.name for file in PACKAGE.glob("*.py")} <= {"__init__.py", "__main__.py"}


def test_rooms_import_only_rooms_of_lower_floors():
    unknown = [each for (_, room), each in arrows().items() if room not in FLOOR]
    assert_none(unknown, "rooms import rooms")
    wrong = [each for (room, other), each in arrows().items() if FLOOR[other] >= FLOOR[room]]
    assert_none(wrong, "imports go down only")


def test_rooms_stand_in_no_circle():
    graph: dict[str, set[str]] = {}
    for room, other in arrows():
        graph.setdefault(room, set()).add(other)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]), pytrace=False)


def test_arrows_between_rooms_are_few():
    count = len(arrows())
    print(f"{count} arrows between {len(rooms())} rooms")
    assert count <= MOST_ARROWS, f"{count} arrows: " + ", ".join(f"{room} -> {other}" for room, other in arrows())


@pytest.mark.parametrize(("room", "ground"), [("base", {"base"}), ("models", {"models", "base"})])
def test_some_rooms_stand_on_nothing_else(room, ground):
    own = [each for each in imports() if each.importer == room and each.package == "molino"]
    assert_none([each for each in own if each.room not in ground], f"{room} imports of molino only {ground}")


def test_only_tasks_name_what_they_measure():
    own = re.compile(r"(val|train|test)/(loss|perplexity|bits)|best_loss|bits_per_")
    files = [file for file in sorted(PACKAGE.rglob("*.py")) if "tasks" not in file.parts]
    lines = [(file, line) for file in files for line in file.read_text("utf-8").splitlines() if own.search(line)]
    # The training loss is a figure of every task; a docstring tells of it.
    wrong = [f"{file.relative_to(SOURCE)}: {line}" for file, line in lines if "`train/loss`" not in line]
    assert_none(wrong, "tasks/ alone knows it")


def test_command_imports_verbs_by_name_only():
    wrong = [each for each in imports() if each.importer == "command" and each.name.startswith("molino.verbs")]
    assert_none(wrong, "a verb is imported when it is called")


def test_nothing_of_molino_is_imported_in_a_function_or_class():
    assert_none([each for each in imports() if each.nested and each.package == "molino"], "imports stand at the top")


def test_functions_import_only_what_is_heavy():
    nested = [each for each in imports() if each.nested and each.package != "molino"]
    assert_none([each for each in nested if each.package not in HEAVY], "imports stand at the top")
    assert {each.package for each in nested} >= HEAVY, "what no function imports need not be listed"


@pytest.mark.parametrize("room", WITHOUT)
def test_some_rooms_are_imported_without_torch(room):
    found = reached(room)
    assert_none([where for package, where in found.items() if package in WITHOUT[room]], f"{room} is light")


def test_runs_of_before_there_were_tasks_are_compared_without_torch():
    todo, seen = files_of("molino.tasks.earlier"), set()
    while todo:
        if (file := todo.pop()) not in seen:
            seen.add(file)
            top = [each for each in read(file) if not each.nested]
            assert_none([each for each in top if each.package in TRAINING], "results.py is light")
            todo += [other for each in top if each.package == "molino" for other in files_of(each.name)]
