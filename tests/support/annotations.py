"""Types of the fixtures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Golden = Callable[[str], dict[str, Any]]


class Exact(Protocol):
    def __call__(self, part: str, ours: Any, official: Any, bound: float, remark: str = "") -> None: ...


class Record(Protocol):
    def __call__(self, name: str, injected: str, lost: str, times: int = 1) -> None: ...
