"""Where networks run: the device, its precision, its threads, and whether networks are compiled for it.

Importing this module does not load torch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, cast

from clrkit.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def available_cores() -> int:
    """Cores that this process may use; in a container these are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def under_torchrun() -> bool:
    """True if `torchrun` started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_rank() -> int:
    """Number of this process among those of its machine; process i uses GPU i."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_processes() -> int:
    """Processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if under_torchrun() else 1


def choose_device(name: str = "auto") -> torch.device:
    """Return the named device; "auto" takes cuda, then mps, then cpu. Under torchrun, process i takes GPU i.

    Raises:
        ConfigError: for a device that this machine does not have.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    names = [kind for kind, available in there.items() if available]
    if name != "auto" and name not in names:
        raise ConfigError(f"device must be one of auto, {', '.join(names)} on this machine, not {name!r}.")
    device = torch.device(names[0] if name == "auto" else name)
    if not under_torchrun() or device.type == "cpu":
        return device
    if device.type == "mps":
        raise ConfigError("Several processes cannot share an MPS device; use --device cpu.")
    return torch.device("cuda", local_rank())


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to a device without waiting for the work under way there."""
    values = values.pin_memory() if device.type == "cuda" else values
    # MPS would read the source after it is gone (pytorch/pytorch#139550).
    return values.to(device, non_blocking=device.type != "mps")


def compiled(function: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    """Compile a network's function with `torch.compile` if CLRKIT_COMPILE=1; otherwise return it as it is.

    Compiling takes up to a minute and changes results in their last bits, so the record notes it. On a
    machine that cannot compile (no C++ compiler, for example) a warning says so and the run goes on.
    """
    if not compiling(device):
        return function
    import torch

    torch.compiler.reset()  # networks of earlier runs count towards a limit, beyond which nothing compiles
    return cast("Callable[[Tensor], Tensor]", torch.compile(function))


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
    import torch

    if under_torchrun():
        return "batch norm that several processes share is not compiled"
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:  # compilers fail with errors of any kind
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return ""
