"""One run by several processes under `torchrun`: what they share, gather and agree on.

Each process computes its share of every batch. Losses and gradients add up over processes; batch norm and
NT-Xent see all shares together. For a process that is alone every function here is the identity.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar, cast
from uuid import uuid4

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from clrkit import processes
from clrkit.device import local_processes, local_rank
from clrkit.errors import ConfigError
from clrkit.resnet import BatchNorm

T = TypeVar("T")

Rows = Float[Tensor, "_ dim"]
Maps = Float[Tensor, "batch channels height width"]
PerChannel = Float[Tensor, " channels"]

ANSWERED = 0.05  # seconds between looks for other processes
STALLED = timedelta(minutes=30)  # a collective of training that takes longer is an error
WAITING = timedelta(days=7)  # for what one process does for all, such as unpacking a data set
BUCKET = 2**25  # gradients in a message: 128 MiB


def world_size() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; only process 0 writes."""
    return dist.get_rank() if world_size() > 1 else 0


def is_first() -> bool:
    """True in the process that prints and writes."""
    return rank() == 0


LOST = "Another process of this run ended; saved work is kept, and the same command continues from it."


@contextmanager
def group(cuda: bool) -> Iterator[None]:
    """Join the processes that `torchrun` started into one run: NCCL between GPUs, gloo between CPUs.

    Raises:
        ConfigError: in the first process that fails, or that notices that another ended.
        SystemExit: in the others.
    """
    meet(cuda)
    try:
        with processes.use(TorchrunProcesses()):
            yield
    except ConfigError as error:
        raise error if is_first_to_tell() else SystemExit(1) from None
    except RuntimeError as error:
        if not lost(error):
            raise
        raise ConfigError(LOST) if is_first_to_tell() else SystemExit(1) from None
    finally:
        control.cache_clear()
        dist.destroy_process_group()


def meet(cuda: bool) -> None:
    """Join the other processes. Raises ConfigError in one process of a machine, SystemExit in the others."""
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        if cuda:
            choose_gpu()
        store, mine, size = next(rendezvous("env://", timeout=STALLED))
        own = PrefixStore(attempt(store, mine, size), store)
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, timeout=STALLED, store=own, rank=mine, world_size=size)
    except (ConfigError, RuntimeError, ValueError) as error:
        if local_rank() > 0:
            raise SystemExit(1) from None
        if isinstance(error, ConfigError):
            raise
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"The processes of this run do not find each other: {reason}") from None


def choose_gpu() -> None:
    """Take this process's GPU. Raises ConfigError if a machine has fewer GPUs than processes."""
    there = torch.cuda.device_count()
    if local_processes() > there:
        raise ConfigError(
            f"This machine has {there} GPUs for {local_processes()} processes; lower --nproc-per-node, "
            "or use --device cpu."
        )
    torch.cuda.set_device(local_rank())


def attempt(store: Any, mine: int, size: int) -> str:
    """Agree on a name for this attempt, the same in all processes.

    torchrun keeps one store for all attempts, with the addresses of dead processes (pytorch/pytorch#135712),
    and does not number attempts alike on all machines. So each process leaves a random mark, and process 0
    answers marks until all have confirmed the answer.
    """
    mark = uuid4().hex
    store.set(f"clrkit/mark/{mine}", mark)
    ready = "clrkit/ready/{}/{}".format
    if mine == 0:
        while not store.check([ready(mark, other) for other in range(1, size)]):
            for other in range(1, size):
                store.set(f"clrkit/answer/{store.get(f'clrkit/mark/{other}').decode()}", mark)
            time.sleep(ANSWERED)
        return mark
    name: str = store.get(f"clrkit/answer/{mark}").decode()
    store.set(ready(name, mine), "")
    return name


def lost(error: RuntimeError) -> bool:
    """True if a collective failed because another process is gone or stuck."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def is_first_to_tell() -> bool:
    """True in the first process that reports an error."""
    try:
        return int(dist.distributed_c10d._get_default_store().add("clrkit/told", 1)) == 1
    except RuntimeError:  # the machine with the store is gone: one process of each other machine reports
        return local_rank() == 0


@cache
def control() -> Any:
    """Gloo group for setup and teardown, with a long timeout."""
    return dist.new_group(backend="gloo", timeout=WAITING)


# What the processes agree on


def any_of(flag: bool) -> bool:
    """True in all processes if the flag is set in any."""
    if world_size() == 1:
        return flag
    flags = torch.tensor([int(flag)])
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def together(make: Callable[[], T]) -> T:
    """Call `make` in every process; if it fails in one, it fails in all, with the same message.

    Raises:
        ConfigError: the first process's that had one.
    """
    if world_size() == 1:
        return make()
    failure, made = "", None
    try:
        made = make()
    except ConfigError as error:
        failure = str(error)
    failed = torch.tensor([rank() if failure else world_size()])
    dist.all_reduce(failed, dist.ReduceOp.MIN, group=control())
    if int(failed) < world_size():
        raise ConfigError(broadcast(failure.encode(), int(failed)).decode())
    return made  # type: ignore[return-value]


def broadcast(content: bytes, source: int = 0) -> bytes:
    """Return the bytes of process `source` in all processes."""
    length = torch.tensor([len(content)])
    dist.broadcast(length, source, group=control())
    buffer = bytearray(content if rank() == source else int(length))
    if buffer:
        dist.broadcast(torch.frombuffer(buffer, dtype=torch.uint8), source, group=control())
    return bytes(buffer)


def from_first(make: Callable[[], bytes]) -> bytes:
    """Call `make` in process 0 and return its result, or raise its ConfigError, in all processes."""
    if world_size() == 1:
        return make()
    return broadcast(together(make if is_first() else bytes))


def in_turn(make: Callable[[], T]) -> T:
    """Call `make` in the first process of each machine, then in the others, which find its files."""
    if world_size() == 1:
        return make()
    made: list[T] = []
    for first in (True, False):
        mine = (local_rank() == 0) == first
        made += together(lambda: [make()]) if mine else together(list)
    return made[0]


# What a run asks of its processes


class Gather(torch.autograd.Function):
    """The rows of every process, one after the other; the gradient of a row is the sum over processes."""

    @staticmethod
    def forward(ctx: Any, mine: Rows, counts: Sequence[int]) -> Rows:
        start = sum(counts[: rank()])
        ctx.mine = slice(start, start + counts[rank()])
        # All send equally many rows; the padding is cut off.
        padded = mine.new_zeros(max(counts), *mine.shape[1:])
        padded[: len(mine)] = mine
        received = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(received, padded)
        return torch.cat([rows[:count] for rows, count in zip(received, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Rows) -> tuple[Rows, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.mine], None


class TorchrunProcesses(processes.Processes):
    """The processes that `torchrun` started, each with its share of every batch."""

    def __init__(self) -> None:
        self.rank, self.size = rank(), world_size()

    def gather(self, rows: Rows, counts: Sequence[int]) -> Rows:
        gathered: Rows = rows if self.size == 1 else Gather.apply(rows, counts)
        return gathered

    def add_up(self, loss: Float[Tensor, ""], parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
        """Sum gradients in place, and the losses, in few large messages."""
        total = loss.clone()
        for bucket in buckets([total, *(p.grad for p in parameters if p.grad is not None)]):
            flat = torch.cat([values.flatten() for values in bucket])
            dist.all_reduce(flat)
            summed = flat.split_with_sizes([values.numel() for values in bucket])
            for values, new in zip(bucket, summed, strict=True):
                values.copy_(new.view(values.shape))
        return total

    def prepare(self, model: nn.Module) -> None:
        for module in model.modules():
            if self.size > 1 and type(module) is BatchNorm:
                module.__class__ = GlobalBatchNorm

    def make_optimizer(
        self, kind: type[Optimizer], groups: list[dict[str, Any]], **settings: Any
    ) -> Optimizer:
        """With CLRKIT_SHARD=1 every process keeps the state of a part of the parameters (ZeRO stage 1).

        It updates these and sends them to the others. Results are the same.
        """
        if self.size == 1 or os.environ.get("CLRKIT_SHARD", "0") != "1":
            return super().make_optimizer(kind, groups, **settings)
        from torch.distributed.optim import ZeroRedundancyOptimizer

        return ZeroRedundancyOptimizer(groups, kind, **settings)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        if hasattr(optimizer, "consolidate_state_dict"):
            optimizer.consolidate_state_dict(to=0)
            return optimizer.state_dict() if self.rank == 0 else {}
        return super().optimizer_state(optimizer)


def buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Group tensors into about BUCKET numbers, so that the copy that is sent stays small."""
    bucket: list[Tensor] = []
    for values in tensors:
        bucket.append(values)
        if sum(each.numel() for each in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def copy_from_first(model: nn.Module) -> None:
    """Give every process the weights and statistics of process 0."""
    if world_size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)


# Batch norm over all processes


class GlobalBatchNorm(BatchNorm):
    """Batch norm with the statistics of all processes' images."""

    def forward(self, x: Maps) -> Maps:
        if not self.training:
            return super().forward(x)
        y, mean, variance = GlobalBatchNormFunction.apply(x, self.weight, self.bias, self.eps)
        if self.follows:
            self.follow(mean, variance)
        return cast(Tensor, y)

    @torch.no_grad()
    def follow(self, mean: PerChannel, variance: PerChannel) -> None:
        """Move the running averages towards a batch's mean and biased variance."""
        for running, latest in ((self.running_mean, mean), (self.running_var, variance)):
            cast(Tensor, running).lerp_(latest, cast(float, self.momentum))


class GlobalBatchNormFunction(torch.autograd.Function):
    """Batch norm on the statistics of all processes' images (official `global_bn`).

    Returns the normalised maps, and the mean and (biased) variance of all values of a channel.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Maps, weight: PerChannel, bias: PerChannel | None, eps: float
    ) -> tuple[Maps, PerChannel, PerChannel]:
        mean, variance, count = global_statistics(x)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.count, ctx.has_bias = count, bias is not None
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Maps, *_: Any) -> tuple[Maps, PerChannel, PerChannel | None, None]:
        x, weight, mean, inverse = ctx.saved_tensors
        slope = upstream.to(mean.dtype)
        normal = (x.to(mean.dtype) - of_channel(mean)) * of_channel(inverse)
        mine = torch.stack((slope.sum((0, 2, 3)), (slope * normal).sum((0, 2, 3))))
        everyones = mine.clone()
        dist.all_reduce(everyones)
        along, across = everyones / ctx.count
        slope = slope - of_channel(along) - normal * of_channel(across)
        gradient = slope * of_channel(inverse * weight)
        return gradient.to(x.dtype), mine[1], mine[0] if ctx.has_bias else None, None


def of_channel(values: PerChannel) -> Float[Tensor, "channels 1 1"]:
    return values[:, None, None]


def global_statistics(x: Maps) -> tuple[PerChannel, PerChannel, Float[Tensor, ""]]:
    """Mean and biased variance of each channel over all processes, and how many values they are of.

    From each process's own mean and variance: sums of squares would lose digits.
    """
    variance, mean = torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float)), (0, 2, 3), correction=0)
    count = mean.new_full((1,), x.numel() // x.shape[1])
    mine = torch.cat((mean, variance, count))
    received = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(received, mine)
    means, variances, counts = torch.stack(received).split_with_sizes([len(mean), len(mean), 1], 1)
    weights = counts / counts.sum()
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean).square())).sum(0), counts.sum()
