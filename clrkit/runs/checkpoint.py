"""Checkpoints of an unfinished run: written in the background, atomically; verified when read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clrkit.data.files import write_atomically
from clrkit.runs.store import RunError

DIGEST = 64  # hexadecimal digits of SHA-256, the first line of the file


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state after its SHA-256, atomically."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    write_atomically(path, f"{hashlib.sha256(content).hexdigest()}\n".encode(), content)


def read_state(path: Path) -> bytes:
    """Read and verify a state for `torch.load`; b"" if there is none.

    Raises:
        RunError: if it was changed.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b""
    digest, state = content[:DIGEST], memoryview(content)[DIGEST + 1 :]
    if hashlib.sha256(state).hexdigest().encode() != digest:
        raise RunError(f"{path} is damaged; delete {path.parent} to start the run again.")
    return bytes(state)


class CheckpointWriter:
    """Writes states in a background thread, one at a time; training waits only for the copy in memory.

    Args:
        path: of the file, which always holds the last complete state.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        self.writing: Future[None] | None = None

    def write(self, state: Mapping[str, Any]) -> None:
        """Start writing a state as it is now. Raises the error of the previous write."""
        self.wait()
        self.writing = self.thread.submit(write_state, self.path, on_host(state))

    def wait(self) -> None:
        """Wait until the last state is written. Raises OSError if that failed."""
        writing, self.writing = self.writing, None
        if writing:
            writing.result()


def on_host(value: Any) -> Any:
    """Copy a state (tensors in dicts, lists and tuples) to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {name: on_host(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_host(each) for each in value)
    return value
