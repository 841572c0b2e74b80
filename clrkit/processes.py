"""What a run asks of the processes that share it; a process that is alone answers for itself.

`clrkit.scale.distributed` has the answers of several processes under `torchrun`. A loss is a process's share
of the batch's loss, so losses and gradients add up over processes to those of one process with the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

Rows = Float[Tensor, "_ dim"]


class Processes:
    """One process, alone.

    Attributes:
        rank: number of this process; only 0 writes and prints.
        size: number of processes.
    """

    rank = 0
    size = 1

    def gather(self, rows: Rows, counts: Sequence[int]) -> Rows:
        """Return the rows of all processes in their order, with gradient; process i has `counts[i]`."""
        return rows

    def add_up(self, loss: Float[Tensor, ""], parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
        """Sum gradients over processes, in place, and return the sum of the losses."""
        return loss

    def prepare(self, model: nn.Module) -> None:
        """Let batch norm take its statistics over the images of all processes."""

    def make_optimizer(
        self, kind: type[Optimizer], groups: list[dict[str, Any]], **settings: Any
    ) -> Optimizer:
        return kind(groups, **settings)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimiser's whole state in process 0."""
        return optimizer.state_dict()


_current = Processes()


def current() -> Processes:
    """The processes of the run under way."""
    return _current


@contextmanager
def use(processes: Processes) -> Iterator[None]:
    """Make these the processes of the runs inside the block."""
    global _current
    before, _current = _current, processes
    try:
        yield
    finally:
        _current = before


def shares(count: int, processes: int) -> list[slice]:
    """Divide `count` items in a row among processes; their numbers differ by at most one."""
    return [slice(count * i // processes, count * (i + 1) // processes) for i in range(processes)]
