"""A notebook's parameters: a misspelt name or a wrong type is refused in one sentence."""

from __future__ import annotations

import re
from typing import Any

import pytest

from clrkit.errors import ConfigError
from clrkit.notebook.parameters import check

OWN = "preset = 'mini'\ntemperature = None"
CALL = "check(globals())"


def names(*cells: str, **values: Any) -> dict[str, Any]:
    """The globals of a notebook after these cells; the present cell is the last one."""
    return {"In": ["", *cells, CALL], "preset": "mini", "temperature": None, **values}


def injected(**values: Any) -> dict[str, Any]:
    """The same after Papermill has set these values."""
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    return names(OWN, "\n".join(["# Parameters", *lines, ""]), **values)


KINDS: dict[str, Any] = {"preset": str, "temperature": float | None}


def test_the_notebooks_own_values_are_accepted() -> None:
    check(names(OWN), **KINDS)
    check({"preset": "mini", "temperature": None}, **KINDS)  # without IPython


def test_an_unknown_name_set_by_papermill_is_refused_and_the_nearest_is_suggested() -> None:
    with pytest.raises(ConfigError, match=r"^Unknown parameter 'temprature'; did you mean temperature\?$"):
        check(injected(preset="smoke", temprature=0.1), **KINDS)


@pytest.mark.parametrize("cell", ["scratch = 3", "# a note\nscratch = 3", "import os\n%matplotlib inline"])
def test_other_names_and_cells_are_ignored(cell: str) -> None:
    check(names(OWN, cell, scratch=3), **KINDS)
    check(names(OWN, "# Parameters\nscratch = 3", "another = 4", scratch=3, another=4), **KINDS)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (float, 1),
        (float | None, None),
        (float | None, 0.5),
        (int, 3),
        (bool, False),
        (str, ""),
        (list[str], []),
        (list[str], ["cat", "dog"]),
    ],
)
def test_values_of_the_right_type_are_accepted(kind: Any, value: Any) -> None:
    check(injected(value=value), preset=str, temperature=float | None, value=kind)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (int, 1.0, "a whole number, not 1.0"),
        (int, True, "a whole number, not True"),
        (int, "3", "a whole number, not '3'"),
        (int | None, 1.5, "a whole number or None, not 1.5"),
        (float, True, "a number, not True"),
        (float | None, "0,1", "a number or None, not '0,1'"),
        (float, None, "a number, not None"),
        (bool, "false", "True or False, not 'false'"),
        (bool, 0, "True or False, not 0"),
        (str, None, "a text, not None"),
        (str | None, 2024, "a text or None, not 2024"),
        (list[str], "cat,dog", "a list of texts, not 'cat,dog'"),
        (list[str], [0, 1, 2], "a list of texts, not [0, 1, 2]"),
        (list[str], ("cat",), "a list of texts, not ('cat',)"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_in_one_sentence(kind: Any, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^value must be {re.escape(words)}\.$"):
        check(names(OWN, value=value), **KINDS, value=kind)


@pytest.mark.parametrize(
    ("kind", "value", "hint"),
    [
        (str | None, 2024, "; with Papermill, pass a text by -r instead of -p."),
        (list[str], "cat,dog", "; with Papermill, pass one by -y 'value: [one, two]'."),
        (int, "x", "not 'x'."),
    ],
)
def test_for_a_value_from_papermill_the_sentence_explains_how_to_pass_the_type(
    kind: Any, value: Any, hint: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{re.escape(hint)}$"):
        check(injected(value=value), **KINDS, value=kind)
