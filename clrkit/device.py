"""Where networks run: the device, its precision, and whether networks are compiled for it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import cast

import torch
from torch import Tensor

from clrkit.config import ConfigError, Stage
from clrkit.runs.provenance import launched
from clrkit.scale import distributed

MOST_THREADS = 1024


def choose_device(name: str = "auto") -> torch.device:
    """The named device, or the best there is: cuda, then mps, then cpu.

    Of several processes on a machine each has a GPU of its own.

    Raises:
        ConfigError: for a device that this machine does not have.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    names = [kind for kind, available in there.items() if available]
    if name != "auto" and name not in names:
        raise ConfigError(f"device must be one of auto, {', '.join(names)} on this machine, not {name!r}.")
    device = torch.device(names[0] if name == "auto" else name)
    if not launched() or device.type == "cpu":
        return device
    if device.type == "mps":
        raise ConfigError("Several processes cannot share an MPS device; use --device cpu.")
    return torch.device("cuda", distributed.local_rank())


@contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """Within, PyTorch computes on a CPU with the threads of a run, in this thread; afterwards as before.

    On more threads sums are rounded otherwise: a key would have other numbers on another machine, in a sweep
    and in a notebook. Other devices are left alone.

    Raises:
        ConfigError: where CLRKIT_THREADS is no number of threads.
    """
    if device.type != "cpu":
        yield
        return
    wanted, before = threads_of_a_run(), torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_of_a_run() -> int:
    """One, or as many as CLRKIT_THREADS says. Raises ConfigError where that is no number of threads."""
    text = os.environ.get("CLRKIT_THREADS", "1")
    if not text.isdecimal() or not 1 <= int(text) <= MOST_THREADS:
        raise ConfigError(f"CLRKIT_THREADS must be a whole number from 1 to {MOST_THREADS}, not {text!r}.")
    return int(text)


def check_precision(config: Stage, device: torch.device) -> None:
    """Whether the device computes in the precision of every stage of the chain. Raises ConfigError."""
    low = any(stage.precision == "bfloat16" for stage in config.chain)
    if low and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        name = torch.cuda.get_device_name(device)
        raise ConfigError(f"{name} does not compute in bfloat16; set precision to float32.")


def compiled(function: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    """A network's function by `torch.compile` where CLRKIT_COMPILE=1 asks for it, else as it is.

    It takes up to a minute at the start of a run and changes results in their last bits, so the record notes
    it. Where this machine cannot compile (no C++ compiler, say), a warning says so and the run goes on
    uncompiled. A memory's network, and measuring, are never compiled.
    """
    if not compiling(device):
        return function
    torch.compiler.reset()  # networks of earlier runs count towards a limit, beyond which nothing compiles
    return cast(Callable[[Tensor], Tensor], torch.compile(function))


def compiling(device: torch.device) -> bool:
    """Whether compiled networks are asked for and the device has them; a warning where it has not."""
    if os.environ.get("CLRKIT_COMPILE", "0") != "1":
        return False
    if reason := why_not_compiled(device.type):
        warnings.warn(f"Networks run uncompiled on this machine: {reason}", stacklevel=3)
    return not reason


@cache
def why_not_compiled(device: str) -> str:
    """Tries a function of one operation; "" if it compiles, else the reason."""
    if distributed.world_size() > 1:
        return "batch norm that several processes share is not compiled"
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:  # of whatever kind the compilers' failures are
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return ""
