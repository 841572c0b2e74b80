"""A run under way, whatever its stage: batches, views, micro-batches, and the optimiser's step.

Everything random in step s is drawn from the seed and s alone, for the whole batch. So a run resumed at any
step goes on as if it had never stopped, and several processes see what one process would see.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from clrkit import processes
from clrkit.augment import apply_view, sample_view_params
from clrkit.config import Augmentation, Pretrain, Probe, Stage
from clrkit.data.splits import Split
from clrkit.device import to_device
from clrkit.fast import quick_version
from clrkit.losses import in_float
from clrkit.model import Model
from clrkit.momentum_queue import MomentumQueue
from clrkit.optim import learning_rate, make_optimizer
from clrkit.resnet import statistics_kept

Scalar = Float[Tensor, ""]
Images = Float[Tensor, "images ..."]
Views = Float[Tensor, "views 3 height width"]
Projections = Float[Tensor, "_ dim"]


@dataclass(frozen=True)
class Step:
    """One optimiser step.

    Attributes:
        step: steps done, this one included.
        total: steps of the whole run.
        loss: of the batch, a scalar tensor on the training device.
        learning_rate: of this step.
        metrics: what was monitored after this step, by name.
    """

    step: int
    total: int
    loss: Scalar
    learning_rate: float
    metrics: Mapping[str, float] = field(default_factory=dict)


class Batch(NamedTuple):
    """This process's images of a batch, on the device."""

    step: int  # counted from 0
    at: Int64[Tensor, " images"]  # indices in the split
    pixels: UInt8[Tensor, "images 3 side side"]
    aspects: Float[Tensor, " batch"] | None  # of the whole batch, on the CPU; None if all are square


class MicroBatch(NamedTuple):
    """This process's images that are computed at once."""

    images: Images
    targets: tuple[Tensor, ...]  # what belongs to them, such as labels
    counts: list[int]  # images of the micro-batch that each process has
    weight: float  # factor of this part's mean loss in the batch's loss


@dataclass(frozen=True)
class BatchPartition:
    """How a batch is divided: into micro-batches, computed in turn, and each of these over the processes.

    Attributes:
        size: images in the batch.
        micro_batch: images that all processes compute at once, at most; the sizes differ by one at most.
    """

    size: int
    micro_batch: int

    @cached_property
    def places(self) -> list[list[range]]:
        """For every micro-batch, the places in the batch that each process has."""
        number = math.ceil(self.size / self.micro_batch)
        ends = [self.size * i // number for i in range(number + 1)]
        blocks = [range(*each) for each in pairwise(ends)]
        count = processes.current().size
        return [[block[part] for part in processes.shares(len(block), count)] for block in blocks]

    @cached_property
    def counts(self) -> list[list[int]]:
        """For every micro-batch, how many images each process has."""
        return [[len(part) for part in block] for block in self.places]

    def rows(self, process: int) -> Int64[np.ndarray, " rows"]:
        """Places in the batch that a process has, one micro-batch after the other."""
        return np.concatenate([np.arange(block[process].start, block[process].stop) for block in self.places])

    @cached_property
    def mine(self) -> Int64[np.ndarray, " rows"]:
        return self.rows(processes.current().rank)

    def split(self, values: Tensor, copies: int = 1) -> list[Tensor]:
        """Split this process's rows by micro-batch; each part has its rows of every copy, copy by copy."""
        if len(self.counts) == 1:
            return [values]
        lengths = [counts[processes.current().rank] for counts in self.counts]
        parts = [copy.split_with_sizes(lengths) for copy in values.chunk(copies)]
        return [torch.cat(each) for each in zip(*parts, strict=True)]

    def whole(self, mine: Float[Tensor, "rows dim"]) -> Float[Tensor, "batch dim"]:
        """Gather the rows of all processes, in the order of the batch."""
        if processes.current().size == 1:
            return mine
        rows = [self.rows(process) for process in range(processes.current().size)]
        gathered = processes.current().gather(mine, [len(each) for each in rows])
        return gathered[to_device(torch.from_numpy(np.concatenate(rows).argsort()), mine.device)]


class Training:
    """A run under way: model, optimiser, queue and the number of steps done; all that a resumed run needs.

    Args:
        config: the stage's epochs, batch size and optimiser.
        model: is moved to the device and put in training mode.
        images: number of images in an epoch.
        device: where to train.

    Attributes:
        features: the frozen features that a probe trains on, once it has computed them.
        projections: normalised, of the latest step's first micro-batch in all processes; None without any.
    """

    def __init__(self, config: Stage, model: nn.Module, images: int, device: torch.device) -> None:
        self.config, self.images, self.device = config, images, device
        self.model = model.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        processes.current().prepare(self.model)
        self.optimizer = make_optimizer(config.optimizer, self.model)
        self.queue: MomentumQueue | None = None
        if isinstance(config, Pretrain) and config.memory:
            self.queue = MomentumQueue(cast(Model, self.model), config.memory_size, config.memory_momentum)
        self.partition = BatchPartition(config.batch_size, config.micro_batch or config.batch_size)
        # True: NT-Xent compares the whole batch, but the network sees one micro-batch at a time.
        self.two_pass = isinstance(config, Pretrain) and bool(config.micro_batch) and config.two_pass
        self.features: Float[Tensor, "images features"] | None = None
        self.projections: Projections | None = None
        self.losses: list[Scalar] = []
        self.steps_done = 0
        self.steps_per_epoch = images // config.batch_size
        self.total = config.epochs * self.steps_per_epoch

    def batches(self, split: Split) -> Iterator[Batch]:
        """Yield every batch still to be trained on, with this process's images of it."""
        squares = split.pixels.squares(self.order(len(split)))
        steps = range(self.steps_done, self.total)
        for step, indices, (pixels, mine) in zip(steps, self.order(len(split)), squares, strict=True):
            aspects = None if mine is None else self.partition.whole(mine[:, None])[:, 0]
            at = to_device(torch.from_numpy(indices), self.device)
            yield Batch(step, at, to_device(pixels, self.device), aspects)

    def order(self, images: int) -> Iterator[Int64[np.ndarray, " rows"]]:
        """Yield the indices of this process's images of every batch still to be trained on."""
        order = batch_order(self.config, images, self.steps_done)
        return (indices[self.partition.mine] for indices in order)

    def views(self, batch: Batch, augmentation: Augmentation, size: int, copies: int = 1) -> Views:
        """Return `copies` random views of side `size` of each of a batch's images, copy by copy."""
        count, rng = copies * self.config.batch_size, step_generator(self.config, batch.step)
        aspects = None if batch.aspects is None else batch.aspects.repeat(copies)
        params = sample_view_params(count, batch.pixels.shape[-1], augmentation, rng, aspects)
        if processes.current().size > 1:
            firsts = range(0, count, self.config.batch_size)
            params = params.of(torch.from_numpy(np.concatenate([self.partition.mine + i for i in firsts])))
        pixels = batch.pixels if copies == 1 else batch.pixels.repeat(copies, 1, 1, 1)
        views = apply_view(pixels, params, augmentation, size)
        return views.contiguous(memory_format=torch.channels_last)

    def micro_batches(self, images: Images, *targets: Tensor, copies: int = 1) -> Iterator[MicroBatch]:
        """Yield the parts that a loss is computed of; usually, and in two passes, there is one, the whole."""
        if self.two_pass:
            counts = [sum(each) for each in zip(*self.partition.counts, strict=True)]
            yield MicroBatch(images, targets, counts, len(images) / copies / self.partition.size)
            return
        split = [self.partition.split(images, copies), *map(self.partition.split, targets)]
        for counts, part, *rest in zip(self.partition.counts, *split, strict=True):
            yield MicroBatch(part, tuple(rest), counts, len(part) / copies / self.partition.size)

    @cached_property
    def network(self) -> Any:
        """What the stage trains as a function of images, compiled if CLRKIT_COMPILE asks for it."""
        if isinstance(self.config, Probe):
            return self.model
        function = self.model.project if isinstance(self.config, Pretrain) else self.model
        return self.compiled(function)

    def compiled(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Compile a network if CLRKIT_COMPILE asks for it."""
        quick = quick_version("compiled")
        return quick(function, self.device) if quick else function

    def forward(self, images: Images) -> Float[Tensor, "images dim"]:
        """Run the network in the config's precision; returns float32 or wider."""
        with self.autocast():
            return in_float(self.network(images))

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def project(self, batch: MicroBatch) -> Projections:
        """Projections of both views, first views first, for the contrastive loss.

        If the loss compares more images than the network computes at once, each micro-batch is computed a
        second time in the backward pass, so that one at a time is in memory (Gao et al., 2021). Batch norm's
        running statistics follow the first pass alone.
        """
        if not self.two_pass:
            return self.forward(batch.images)
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        options["context_fn"] = lambda: (nullcontext(), statistics_kept(self.model))
        parts = self.partition.split(batch.images, copies=2)
        return first_views_first([checkpoint(self.forward, part, **options) for part in parts])

    def keys(self, batch: MicroBatch) -> tuple[Projections, Projections] | None:
        """The momentum network's projections of both views, if there is one."""
        if not self.queue:
            return None
        parts = self.partition.split(batch.images, copies=2) if self.two_pass else [batch.images]
        with self.autocast():
            first, second = first_views_first([self.queue.project(part) for part in parts]).chunk(2)
        return first, second

    def negatives(self, batch: MicroBatch, z1: Projections, z2: Projections) -> Projections | None:
        """Normalised negatives beside the batch's own: other processes' projections, and the queue."""
        counts = [2 * count for count in batch.counts]
        everyones = processes.current().gather(F.normalize(torch.cat((z1, z2))), counts)
        if not self.losses:
            self.projections = everyones.detach()
        start = sum(counts[: processes.current().rank])
        others = torch.cat((everyones[:start], everyones[start + 2 * len(z1) :]))
        found = [each for each in (others, self.queue.negatives if self.queue else others[:0]) if len(each)]
        return torch.cat(found) if found else None

    def backward(self, loss: Scalar, batch: MicroBatch) -> None:
        """Add the gradient of a micro-batch's mean loss, weighted by its share of the batch."""
        if not self.losses:
            self.optimizer.zero_grad()
        loss = loss * batch.weight
        loss.backward()  # type: ignore[no-untyped-call]
        self.losses.append(loss.detach())

    def step(self) -> Step:
        """Take one optimiser step at the schedule's learning rate."""
        config = self.config
        rate = learning_rate(config.optimizer, self.steps_done, config.batch_size, self.images, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = processes.current().add_up(torch.stack(self.losses).sum(), self.model.parameters())
        self.losses = []
        self.steps_done += 1
        self.optimizer.step()
        return Step(self.steps_done, self.total, loss, rate)

    def state_dict(self) -> dict[str, Any]:
        """All that the run needs to go on. Every process must call it; process 0 gets the whole."""
        queue = {"memory": self.queue.state_dict()} if self.queue else {}
        return {
            "model": self.model.state_dict(),
            "optimizer": processes.current().optimizer_state(self.optimizer),
            "step": self.steps_done,
            **queue,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps_done = state["step"]
        if self.queue:
            self.queue.load_state_dict(state["memory"])


def first_views_first(parts: list[Projections]) -> Projections:
    """Join micro-batches, each with first and second views, into all first views and all second views."""
    if len(parts) == 1:
        return parts[0]
    first, second = zip(*(part.chunk(2) for part in parts), strict=True)
    return torch.cat((*first, *second))


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from its purpose; equal parts give equal seeds, others unrelated ones."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def step_generator(config: Stage, step: int) -> Generator:
    """The source of everything random in one step."""
    return Generator().manual_seed(seed_of(config.seed, "augment", step))


def batch_order(config: Stage, images: int, start: int) -> Iterator[Int64[np.ndarray, " batch"]]:
    """Yield the indices of every batch from step `start` on; epochs are shuffled and drop their remainder."""
    size, per_epoch = config.batch_size, images // config.batch_size
    permutation = np.arange(0)
    for step in range(start, config.epochs * per_epoch):
        epoch, position = divmod(step, per_epoch)
        if position == 0 or step == start:
            random = np.random.RandomState(seed_of(config.seed, "order", epoch) % 2**32)
            permutation = random.permutation(images)
        yield permutation[position * size : (position + 1) * size]
