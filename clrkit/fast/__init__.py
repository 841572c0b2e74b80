"""Quicker versions of the method's functions; without numba the method uses its own.

Results agree up to rounding. The method asks for a quick version by name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

QUICK = {
    "compiled": "compiling",
    "cut_views": "augment_numba",
    "nt_xent": "nt_xent_blocks",
}  # names and their modules


@cache
def quick_version(name: str) -> Callable[..., Any] | None:
    """Return the quick version of a function; None if a package that it needs (numba) is missing."""
    try:
        function: Callable[..., Any] = getattr(import_module(f"clrkit.fast.{QUICK[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("clrkit"):
            raise
        return None
    return function
