"""Imports run one way, function-level imports included: a room knows only the rooms below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[2] / "clrkit"
LAYERS = (  # from the bottom; rooms of one layer do not know each other
    {"errors", "processes"},
    {"config"},
    {"device", "experiments"},
    {"fast"},
    {"data"},
    {"augment", "evaluate", "losses", "model", "momentum_queue", "optim", "resnet", "stages"} | {"training"},
    {"scale"},
    {"runs"},
    {"results"},
    {"weights"},
    {"export"},
    {"own_images"},
    {"notebook"},
    {"cli", "official"},
)
METHOD = LAYERS[5]
MOST_LINES = {"top": 2299, "all": 19100}  # on the way to 13,000; they only ever fall
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}


def room_of(path: Path) -> str:
    return path.relative_to(LIBRARY).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """The rooms that a module imports from, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "clrkit":
            _, *parts = (node.module or "").split(".")
            yield from parts[:1] or [alias.name for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("clrkit."))


MODULES = sorted(path for path in LIBRARY.rglob("*.py") if path.name not in ("__main__.py",))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_a_module_imports_only_from_rooms_below(path: Path) -> None:
    if path == LIBRARY / "__init__.py":
        return  # the public API, loaded on first use
    room = room_of(path)
    above = [
        other
        for other in imports(path)
        if other != room and (RANK[other] > RANK[room] or (RANK[other] == RANK[room] and room not in METHOD))
    ]
    assert above == []


def test_the_method_asks_the_fast_room_through_one_function() -> None:
    asked = {
        (node.module, alias.name)
        for path in MODULES
        if room_of(path) in METHOD
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clrkit.fast")
        for alias in node.names
    }
    assert asked == {("clrkit.fast", "quick_version")}


def test_the_house_is_small() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in LIBRARY.rglob("*.py")}
    assert len(lines) > 50
    assert sum(count for path, count in lines.items() if path.parent == LIBRARY) <= MOST_LINES["top"]
    assert sum(lines.values()) <= MOST_LINES["all"]
