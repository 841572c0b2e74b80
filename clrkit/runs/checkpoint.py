"""The state of an unfinished run: written in the background, whole or not at all; checked when it is read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clrkit.files import write_atomically
from clrkit.runs.store import RunError

DIGEST = 64  # hexadecimal digits of SHA-256, the first line of the file


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state behind its SHA-256, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    write_atomically(path, f"{hashlib.sha256(content).hexdigest()}\n".encode(), content)


def read_state(path: Path) -> bytes:
    """The content of a state, for `torch.load`; empty where there is none.

    Raises:
        RunError: where it is not what was written.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return b""
    digest, state = content[:DIGEST], memoryview(content)[DIGEST + 1 :]
    if hashlib.sha256(state).hexdigest().encode() != digest:
        raise RunError(f"{path} is damaged; delete {path.parent} and the run begins anew.")
    return bytes(state)


class CheckpointWriter:
    """Writes states in a thread of its own, one at a time; training waits for a copy in memory alone.

    Args:
        path: of the file, which always holds the last state that was written whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        self.writing: Future[None] | None = None

    def write(self, state: Mapping[str, Any]) -> None:
        """Begin to write a state as it is now. Raises what went wrong with the one before."""
        self.wait()
        self.writing = self.thread.submit(write_state, self.path, on_host(state))

    def wait(self) -> None:
        """Until the last state is written. Raises OSError where it could not be."""
        writing, self.writing = self.writing, None
        if writing:
            writing.result()


def on_host(value: Any) -> Any:
    """A copy in the CPU's memory of a state, whose tensors lie in dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {name: on_host(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_host(each) for each in value)
    return value
