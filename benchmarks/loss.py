"""NT-Xent, forward and backward: time, extra peak memory and exactness, beside the peers.

    python -m benchmarks.loss --json

Everyone gets the same float32 projections (128 wide, two views that resemble each other) and temperature.
Memory is that of one step above what is there before it (weights, inputs), in a fresh process each.
pytorch-metric-learning has two forms: its NTXentLoss makes a row of all negative pairs for every positive
pair, (2N)^3 numbers; its SupConLoss is the same function by the matrix. A contestant that does not fit into
the memory allowed (benchmarks/memory.py) is said to fail and takes no part in the timing.

`ratio_to` is a contestant's time over ours, `memory_over_plain` a contestant's extra memory over the plain
version's. Not equal: lightly's memory bank leaves out the negatives within the batch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import peers
from benchmarks.memory import LIMIT, extra_megabytes, in_child
from benchmarks.peers import Loss
from benchmarks.timing import contestant, interleaved, machine, ratio, report, summary
from clrkit.losses import nt_xent

DIM, TEMPERATURE = 128, 0.1
SIZES = (512, 2048, 8192)  # anchors, 2N
LARGEST = 65_536
QUEUE = (2048, 65_536)  # anchors, negatives of a memory
GATHERED = (1024, 7168)  # anchors, negatives that get a gradient: a batch of 4,096 images on 8 processes
SET_UP = 64  # anchors of a first step, in which libraries set themselves up
ROWS = 1024  # of the exact matrix at a time

Make = Callable[[], Loss]


def ours(negatives: Tensor | None = None) -> Loss:
    return lambda z1, z2: nt_xent(z1, z2, TEMPERATURE, negatives)


BATCH: dict[str, Make] = {
    "ours": ours,
    "plain": partial(peers.plain_nt_xent, TEMPERATURE),
    "lightly": partial(peers.lightly_loss, TEMPERATURE),
    "pytorch-metric-learning": partial(peers.metric_learning_loss, TEMPERATURE),
    "pytorch-metric-learning SupCon": partial(peers.supervised_contrastive_loss, TEMPERATURE),
}
WITH_QUEUE: dict[str, Callable[[Tensor], Loss]] = {
    "ours": ours,
    "plain": partial(peers.plain_nt_xent, TEMPERATURE),
    "lightly memory bank": partial(peers.lightly_memory_loss, TEMPERATURE),
}
WITH_GATHERED = {name: WITH_QUEUE[name] for name in ("ours", "plain")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="least length of a contestant's turn")
    parser.add_argument("--quick", action="store_true", help="batches of up to 2N = 2,048 alone")
    parser.add_argument("--json", action="store_true", help="print the result and keep nothing")
    options = parser.parse_args()
    torch.manual_seed(0)
    report("loss", measure(options.seconds, options.quick), options.json)


def measure(seconds: float, quick: bool) -> dict[str, Any]:
    """The record: by number of anchors, then with negatives from elsewhere, then the largest batch."""
    sizes = SIZES[:2] if quick else SIZES
    result: dict[str, Any] = {
        "dim": DIM,
        "temperature": TEMPERATURE,
        "memory_limit_mb": round(LIMIT / 1e6),
        "batch": {str(size): compared(list(BATCH), size, 0, False, seconds) for size in sizes},
    }
    if not quick:
        fitting = list(result["batch"][str(SIZES[-1])]["seconds"])
        result["deviation_from_float64"] = {str(SIZES[-1]): deviations(fitting, SIZES[-1])}
        result["queue"] = named(QUEUE) | compared(list(WITH_QUEUE), *QUEUE, False, seconds)
        result["gathered"] = named(GATHERED) | compared(list(WITH_GATHERED), *GATHERED, True, seconds)
        result["largest"] = in_child(largest, LARGEST)
    return result | {"machine": machine(torch.device("cpu"))}


def named(sizes: tuple[int, int]) -> dict[str, int]:
    return dict(zip(("anchors", "negatives"), sizes, strict=True))


# What is compared


def projections(anchors: int) -> Tensor:
    """Two views of anchors / 2 images, one after the other, cosine similarity about 0.8."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(anchors // 2, DIM, generator=rng).repeat(2, 1)
    return (images + torch.randn(anchors, DIM, generator=rng) / 2).requires_grad_()


def further(count: int, gathered: bool) -> Tensor:
    """Normalised negatives; those of other processes get a gradient."""
    negatives = torch.randn(count, DIM, generator=torch.Generator().manual_seed(1))
    return F.normalize(negatives).requires_grad_(gathered)


def step(name: str, anchors: int, negatives: int, gathered: bool) -> Callable[[], None]:
    """A contestant's forward and backward pass, inputs at hand."""
    elsewhere = further(negatives, gathered)
    loss = WITH_QUEUE[name](elsewhere) if negatives else BATCH[name]()
    z = projections(anchors)

    def forward_backward() -> None:
        z.grad = elsewhere.grad = None
        torch.autograd.backward(loss(*z.chunk(2)))

    return forward_backward


def compared(
    names: list[str], anchors: int, negatives: int, gathered: bool, seconds: float
) -> dict[str, Any]:
    """Memory of each contestant, then time of those that fit."""
    memory = {name: in_child(memory_of_step, name, anchors, negatives, gathered) for name in names}
    fitting = [name for name, extra in memory.items() if not isinstance(extra, str)]
    contestants = {name: contestant(step(name, anchors, negatives, gathered)) for name in fitting}
    taken = interleaved(contestants, seconds, warmup=1 if anchors < SIZES[-1] else 0)
    return {
        "ratio_to": {name: ratio(taken, name, "ours") for name in fitting if name != "ours"},
        "memory_over_plain": over_plain(memory),
        "seconds": {name: summary(rounds) for name, rounds in taken.items()},
        "extra_mb": memory,
    }


def over_plain(memory: dict[str, float | str]) -> dict[str, float]:
    plain = memory["plain"]
    assert not isinstance(plain, str)
    return {
        name: float(f"{extra / plain:.3g}") for name, extra in memory.items() if not isinstance(extra, str)
    }


def memory_of_step(name: str, anchors: int, negatives: int, gathered: bool) -> float | str:
    """Extra MB of one step, or why it could not be made."""
    step(name, SET_UP, SET_UP if negatives else 0, gathered)()
    work = step(name, anchors, negatives, gathered)
    try:
        return extra_megabytes(work)
    except (RuntimeError, MemoryError) as error:
        return f"failed: {str(error).splitlines()[0]}"


# Against float64


def deviations(names: list[str], anchors: int) -> dict[str, dict[str, float]]:
    """Error of each contestant's value, relative, and of its gradient, relative to the largest entry."""
    value, gradient = outcome(peers.plain_nt_xent(TEMPERATURE), projections(anchors).detach().double())
    results = {name: outcome(BATCH[name](), projections(anchors).detach()) for name in names}
    return {
        name: {
            "value": relative(abs(result - value) / value),
            "gradient": relative((each - gradient).abs().max() / gradient.abs().max()),
        }
        for name, (result, each) in results.items()
    }


def outcome(loss: Loss, z: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient."""
    z.requires_grad_()
    value = loss(*z.chunk(2))
    (gradient,) = torch.autograd.grad(value, z)
    return value.detach().double(), gradient.double()


def relative(error: Tensor) -> float:
    return float(f"{error.item():.2g}")


def exact_value(z: Tensor, rows: int = ROWS) -> Tensor:
    """NT-Xent of both views' projections in float64, some rows of the matrix at a time."""
    z = F.normalize(z.double())
    total = torch.zeros((), dtype=torch.double)
    for start in range(0, len(z), rows):
        anchor = torch.arange(start, min(start + rows, len(z)))
        similarity = z[anchor] @ z.T / TEMPERATURE
        similarity[anchor - start, anchor] = float("-inf")
        positive = similarity[anchor - start, (anchor + len(z) // 2) % len(z)]
        total += (similarity.logsumexp(1) - positive).sum()
    return total / len(z)


def largest(anchors: int) -> dict[str, float]:
    """Ours alone, one step at the largest batch: seconds, memory, and the value's relative error."""
    step("ours", SET_UP, 0, False)()
    z = projections(anchors)
    kept: list[Tensor] = []

    def forward_backward() -> None:
        kept.append(ours()(*z.chunk(2)))
        torch.autograd.backward(kept[0])

    start = time.perf_counter()
    extra = extra_megabytes(forward_backward)
    seconds = time.perf_counter() - start
    exact = exact_value(z.detach())
    return {
        "anchors": anchors,
        "seconds": float(f"{seconds:.4g}"),
        "extra_mb": extra,
        "value": relative((kept[0].detach().double() - exact).abs() / exact),
    }


if __name__ == "__main__":
    main()
