"""Where networks run: the device, and the cores and processes of this machine.

Importing this module does not load torch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

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
