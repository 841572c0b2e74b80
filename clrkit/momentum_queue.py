"""The memory of SimCLRv2 (appendix D): a momentum encoder and the queue of its projections."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clrkit.losses import in_float
from clrkit.model import Images, Model


class MomentumQueue(nn.Module):
    """A network that follows the trained one slowly, and its latest projections as further negatives.

    After MoCo (He et al., 2020). The paper says that the memory's projections are further negatives beside
    those of the large batch, the queue's length (64K) and the average's momentum (0.999). What it leaves open
    is decided as follows:

    - An anchor's positive is the memory network's projection of its other view, as in MoCo, and the batch's
      own negatives are kept beside the queue's. (With the trained network's projection as the positive the
      loss falls by moving all projections away from where the queue's were, and nothing is learned:
      docs/mini.md.)
    - Projections of one view of every image are kept: the queue then reaches back over twice as many images.
    - The queue starts empty; unfilled slots are not used as negatives.
    - The queue holds earlier steps alone: the batch's own images are written once its loss has been used.
    - The network follows after the optimiser's step, so a step's keys are of the weights before it.
    - Weights are averaged and batch-norm statistics are not: the network runs in training mode, on the
      statistics of its batch as MoCo's; nothing reads its running statistics.

    `state_dict` holds all of it: network, queue and how much has been written.

    Args:
        model: the network to follow, which the first copy equals; its device and precision are taken over.
        size: projections the queue holds.
        momentum: m in theta_memory <- m theta_memory + (1 - m) theta, at every step.
    """

    queue: Float[Tensor, "size dim"]

    def __init__(self, model: Model, size: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.network = copy.deepcopy(model).requires_grad_(False).train()
        weight = next(model.parameters())
        self.register_buffer("queue", weight.new_zeros(size, model.config.head_dim))
        self.written = 0  # projections since the beginning; on the host, so that slicing waits for no device

    @property
    def negatives(self) -> Float[Tensor, "filled dim"]:
        """The projections in the queue, normalised, in no order: none at first, later `size` of them."""
        return self.queue[: self.written]

    @torch.no_grad()
    def project(self, images: Images) -> Float[Tensor, "batch dim"]:
        """The keys of a batch of views: the following network's projections, normalised."""
        return F.normalize(in_float(self.network.project(images)))

    @torch.no_grad()
    def update(self, model: Model, keys: Float[Tensor, "batch dim"]) -> None:
        """After an optimiser step: follow `model` and write the keys of one view of its batch."""
        self.follow(model)
        self.write(keys)

    def follow(self, model: Model) -> None:
        """One step of the moving average of the weights."""
        for mine, trained in zip(self.network.parameters(), model.parameters(), strict=True):
            mine.lerp_(trained, 1 - self.momentum)

    def write(self, projections: Float[Tensor, "batch dim"]) -> None:
        """Put projections in the place of the oldest; of more than `size` the last ones are kept."""
        size = len(self.queue)
        self.written += len(projections)
        latest = projections[-size:]
        places = torch.arange(self.written - len(latest), self.written, device=latest.device) % size
        self.queue.index_copy_(0, places, latest.to(self.queue.dtype))

    def get_extra_state(self) -> int:
        return self.written

    def set_extra_state(self, state: int) -> None:
        self.written = state
