"""A notebook's parameters, checked where they are used: with and without Papermill.

Papermill only warns of a name that a notebook does not have, and takes a value of any type.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, get_args, get_origin

from clrkit.config import KINDS, known
from clrkit.errors import ConfigError

INJECTED = "# Parameters\n"  # how the cell begins that Papermill puts behind the parameters' own
WORDS = {**KINDS, bool: "True or False", NoneType: "None"}
HINTS = {
    str: "; Papermill passes a text with -r in place of -p",
    list: "; Papermill passes one with -y '{name}: [one, two]'",
}


def check(names: Mapping[str, Any], /, **kinds: Any) -> None:
    """Refuse a parameter that the notebook does not have, or of another type than it takes.

    Args:
        names: the notebook's own, `globals()`. Names that Papermill set are those of the cell before the
            present one, if Papermill put it there.
        kinds: what each parameter takes, such as `int`, `float | None` or `list[str]`. A float may be given
            as a whole number; True and False are no numbers.

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
    """What Papermill's cell sets, if that is the one before the last of the cells that were run."""
    before = inputs[-2] if len(inputs) > 1 else ""
    lines = ast.parse(before).body if before.startswith(INJECTED) else []
    targets = [target for line in lines if isinstance(line, ast.Assign) for target in line.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind: a type, a union of kinds, or a list of one."""
    if get_origin(kind) is list:
        return type(value) is list and all(fits(each, get_args(kind)[0]) for each in value)
    if get_args(kind):
        return any(fits(value, each) for each in get_args(kind))
    return type(value) in ((int, float) if kind is float else (kind,))


def in_words(kind: Any) -> str:
    """A kind as a sentence names it."""
    if get_origin(kind) is list:
        return f"a list of {in_words(get_args(kind)[0]).removeprefix('a ')}s"
    return " or ".join(map(in_words, get_args(kind))) or WORDS[kind]


def hint_of(kind: Any) -> str:
    """How Papermill passes a kind that -p does not give."""
    kinds = [list] if get_origin(kind) is list else [kind, *get_args(kind)]
    return next((HINTS[each] for each in kinds if each in HINTS), "")
