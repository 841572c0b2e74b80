"""Compile networks with `torch.compile`, on request."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import cast

import torch
from torch import Tensor

from clrkit.device import under_torchrun


def compiled(function: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    """Compile a network's function with `torch.compile` if CLRKIT_COMPILE=1; otherwise return it as it is.

    Compiling takes up to a minute and changes results in their last bits, so the record notes it. On a
    machine that cannot compile (no C++ compiler, for example) a warning says so and the run goes on.
    """
    if not compiling(device):
        return function
    torch.compiler.reset()  # networks of earlier runs count towards a limit, beyond which nothing compiles
    return cast(Callable[[Tensor], Tensor], torch.compile(function))


def compiling(device: torch.device) -> bool:
    """True if CLRKIT_COMPILE=1 and this machine can compile; warns if it cannot."""
    if os.environ.get("CLRKIT_COMPILE", "0") != "1":
        return False
    if reason := why_not_compiled(device.type):
        warnings.warn(f"Networks run uncompiled on this machine: {reason}", stacklevel=3)
    return not reason


@cache
def why_not_compiled(device: str) -> str:
    """Compile a function of one operation; return "" if that works, otherwise the reason."""
    if under_torchrun():
        return "batch norm that several processes share is not compiled"
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:  # compilers fail with errors of any kind
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return ""
