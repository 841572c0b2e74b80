"""Check a notebook's parameters in the notebook itself, so that this works with and without Papermill.

Papermill only warns of an unknown name, and accepts a value of any type.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, get_args, get_origin

from clrkit.config import KINDS
from clrkit.errors import ConfigError, known

INJECTED = "# Parameters\n"  # first line of the cell that Papermill adds after the notebook's own
WORDS = {**KINDS, bool: "True or False", NoneType: "None"}
HINTS = {
    str: "; with Papermill, pass a text by -r instead of -p",
    list: "; with Papermill, pass one by -y '{name}: [one, two]'",
}


def check(names: Mapping[str, Any], /, **kinds: Any) -> None:
    """Refuse an unknown parameter, and a value of the wrong type.

    Args:
        names: `globals()` of the notebook. The names that Papermill set are read from the cell before the
            present one, if Papermill added it.
        kinds: type of each parameter, such as `int`, `float | None` or `list[str]`. A float may be given as a
            whole number. True and False are not numbers.

    Raises:
        ConfigError: naming the parameter.
    """
    injected = names_injected(names.get("In", []))
    for name in injected:
        known(name, list(kinds), "parameter")
    for name, kind in kinds.items():
        if not fits(names[name], kind):
            hint = hint_of(kind).format(name=name) if name in injected else ""
            raise ConfigError(f"{name} must be {in_words(kind)}, not {names[name]!r}{hint}.")


def names_injected(inputs: Sequence[str]) -> list[str]:
    """The names that Papermill's cell sets, if it is the last but one of the executed cells."""
    before = inputs[-2] if len(inputs) > 1 else ""
    lines = ast.parse(before).body if before.startswith(INJECTED) else []
    targets = [target for line in lines if isinstance(line, ast.Assign) for target in line.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def fits(value: Any, kind: Any) -> bool:
    """Whether a value has a type; a type may be a union or a list of one type."""
    if get_origin(kind) is list:
        return type(value) is list and all(fits(each, get_args(kind)[0]) for each in value)
    if get_args(kind):
        return any(fits(value, each) for each in get_args(kind))
    return type(value) in ((int, float) if kind is float else (kind,))


def in_words(kind: Any) -> str:
    """A type in words, such as "a number or None"."""
    if get_origin(kind) is list:
        return f"a list of {in_words(get_args(kind)[0]).removeprefix('a ')}s"
    return " or ".join(map(in_words, get_args(kind))) or WORDS[kind]


def hint_of(kind: Any) -> str:
    """How to pass a type for which Papermill's -p is not suitable."""
    kinds = [list] if get_origin(kind) is list else [kind, *get_args(kind)]
    return next((HINTS[each] for each in kinds if each in HINTS), "")
