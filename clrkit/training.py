"""A run under way, whatever its stage: batches, their division, views, and the optimiser's step.

Whatever is random in step s is drawn from the seed and s alone, for the whole batch, so that a run resumed at
any step goes on as if never stopped, and one of several processes sees what one process would see.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Generator, Tensor, nn

from clrkit.augment import apply_view, sample_view_params
from clrkit.config import Augmentation, Pretrain, Stage
from clrkit.data.datasets import Split
from clrkit.device import to_device
from clrkit.health import TrainingMonitor
from clrkit.model import Model
from clrkit.momentum_queue import MomentumQueue
from clrkit.optim import learning_rate, make_optimizer, whole_state
from clrkit.scale import distributed

Scalar = Float[Tensor, ""]
Views = Float[Tensor, "views 3 height width"]


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
    """This process's images of a batch.

    Attributes:
        step: for which it is, counted from 0.
        at: indices of the images in their part, on the device.
        pixels: squares (images, 3, side, side), on the device.
        aspects: on the CPU, of all images of the batch; None where all were square.
    """

    step: int
    at: Int64[Tensor, " images"]
    pixels: UInt8[Tensor, "images 3 side side"]
    aspects: Float[Tensor, " batch"] | None


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
        """Of every micro-batch, the places in the batch that each process has."""
        number = math.ceil(self.size / self.micro_batch)
        ends = [self.size * i // number for i in range(number + 1)]
        blocks = [range(*each) for each in pairwise(ends)]
        return [[block[part] for part in distributed.shares(len(block))] for block in blocks]

    @cached_property
    def counts(self) -> list[list[int]]:
        """Of every micro-batch, how many images each process has."""
        return [[len(part) for part in block] for block in self.places]

    def rows(self, process: int) -> Int64[np.ndarray, " rows"]:
        """Places in the batch that a process has, a micro-batch after the other."""
        return np.concatenate([np.arange(block[process].start, block[process].stop) for block in self.places])

    @cached_property
    def mine(self) -> Int64[np.ndarray, " rows"]:
        return self.rows(distributed.rank())

    def weight(self, images: int) -> float:
        """What the mean over some images of the batch counts in the mean over all."""
        return images / self.size

    def parts(self, values: Tensor, copies: int = 1) -> list[Tensor]:
        """This process's rows by micro-batch; each has its rows of every copy, one after the other."""
        if len(self.counts) == 1:
            return [values]
        lengths = [counts[distributed.rank()] for counts in self.counts]
        split = [copy.split_with_sizes(lengths) for copy in values.chunk(copies)]
        return [torch.cat(parts) for parts in zip(*split, strict=True)]

    def whole(self, mine: Float[Tensor, "rows dim"]) -> Float[Tensor, "batch dim"]:
        """The rows of all processes, in the order of the batch."""
        if distributed.world_size() == 1:
            return mine
        rows = [self.rows(process) for process in range(distributed.world_size())]
        gathered = distributed.gather(mine, [len(each) for each in rows])
        return gathered[to_device(torch.from_numpy(np.concatenate(rows).argsort()), mine.device)]


class Training:
    """A run under way: model, optimiser, memory and the number of steps done; all that a resumed run needs.

    A probe also keeps the frozen `features` that it trains on, once it has taken them.

    Args:
        config: the stage's epochs, batch size and optimiser.
        model: is moved to the device and put in training mode.
        images: number of images in an epoch.
        device: where to train.
    """

    def __init__(self, config: Stage, model: nn.Module, images: int, device: torch.device) -> None:
        self.config, self.images, self.device = config, images, device
        self.model = model.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizer = make_optimizer(config.optimizer, model)
        self.memory = empty_memory(config, self.model)
        self.division = BatchPartition(config.batch_size, config.micro_batch or config.batch_size)
        self.watch = TrainingMonitor(device)
        self.features: Float[Tensor, "images features"] | None = None
        self.step = 0
        self.steps_per_epoch = images // config.batch_size
        self.total = config.epochs * self.steps_per_epoch

    def update(self, losses: Iterable[Scalar]) -> Step:
        """One optimiser step down the gradient of the summed losses, at the schedule's learning rate.

        Args:
            losses: the batch's loss in parts, this process's; each is let go before the next is computed.
        """
        config = self.config
        rate = learning_rate(config.optimizer, self.step, config.batch_size, self.images, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss = distributed.add_up(backward(losses), self.model.parameters())
        self.step += 1
        self.watch.see(self.step, loss, self.model)
        self.optimizer.step()
        return Step(self.step, self.total, loss, rate)

    def autocast(self) -> AbstractContextManager[Any]:
        """Where networks run: in the precision of the config."""
        low = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    def views(self, batch: Batch, augmentation: Augmentation, size: int, copies: int = 1) -> list[Views]:
        """Random views of side `size` of a batch's images, by micro-batch: of each image `copies` ones."""
        count, rng = copies * self.config.batch_size, step_generator(self.config, batch.step)
        aspects = None if batch.aspects is None else batch.aspects.repeat(copies)
        drawn = sample_view_params(count, batch.pixels.shape[-1], augmentation, rng, aspects)
        if distributed.world_size() > 1:
            firsts = range(0, count, self.config.batch_size)
            drawn = drawn.of(torch.from_numpy(np.concatenate([self.division.mine + i for i in firsts])))
        pixels = batch.pixels if copies == 1 else batch.pixels.repeat(copies, 1, 1, 1)
        views = apply_view(pixels, drawn, augmentation, size)
        return self.division.parts(views.contiguous(memory_format=torch.channels_last), copies)

    def state_dict(self) -> dict[str, Any]:
        """All that the run needs to go on; several processes call it at once, the first has the whole."""
        memory = {"memory": self.memory.state_dict()} if self.memory else {}
        return {
            "model": self.model.state_dict(),
            "optimizer": whole_state(self.optimizer),
            "watch": self.watch.state_dict(),
            "step": self.step,
            **memory,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.watch.load_state_dict(state["watch"])
        self.step = state["step"]
        if self.memory:
            self.memory.load_state_dict(state["memory"])


def backward(losses: Iterable[Scalar]) -> Scalar:
    """Adds the gradients of all losses to the parameters'; returns the sum of the losses."""
    values = []
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
        values.append(loss.detach())
    return torch.stack(values).sum()


def empty_memory(config: Stage, model: nn.Module) -> MomentumQueue | None:
    """The memory of a pretraining run that has one, as it is before the first step."""
    if not (isinstance(config, Pretrain) and config.memory):
        return None
    assert isinstance(model, Model)
    return MomentumQueue(model, config.memory_size, config.memory_momentum)


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from what it is for; equal parts give equal seeds, others unrelated ones."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def step_generator(config: Stage, step: int) -> Generator:
    """The source of everything random in one step."""
    return Generator().manual_seed(seed_of(config.seed, "augment", step))


def batch_order(config: Stage, images: int, start: int) -> Iterator[Int64[np.ndarray, " batch"]]:
    """Indices of every batch from step `start` on; each epoch is permuted anew and drops its remainder."""
    size, per_epoch = config.batch_size, images // config.batch_size
    permutation = np.arange(0)
    for step in range(start, config.epochs * per_epoch):
        epoch, position = divmod(step, per_epoch)
        if position == 0 or step == start:
            random = np.random.RandomState(seed_of(config.seed, "order", epoch) % 2**32)
            permutation = random.permutation(images)
        yield permutation[position * size : (position + 1) * size]


def own_order(training: Training, images: int) -> Iterator[Int64[np.ndarray, " rows"]]:
    """Indices of this process's images of every batch that is still to be trained on."""
    order = batch_order(training.config, images, training.step)
    return (indices[training.division.mine] for indices in order)


def batches(part: Split, training: Training) -> Iterator[Batch]:
    """Every batch that is still to be trained on: of its images, those that are this process's."""
    first, device = training.step, training.device
    squares = part.pixels.squares(own_order(training, len(part)))
    order = own_order(training, len(part))
    for step, indices, chunk in zip(range(first, training.total), order, squares, strict=True):
        aspects = None if chunk.aspects is None else training.division.whole(chunk.aspects[:, None])[:, 0]
        yield Batch(
            step, to_device(torch.from_numpy(indices), device), to_device(chunk.pixels, device), aspects
        )
