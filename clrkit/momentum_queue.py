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

    After MoCo (He et al., 2020). The paper gives the queue's length (64K) and the average's momentum (0.999),
    and says that the queue's projections are negatives beside the batch's own. What it leaves open:

    - An anchor's positive is the momentum network's projection of its other view, as in MoCo. (With the
      trained network's projection as the positive nothing is learned: docs/mini.md.)
    - One view of every image is stored, so a queue of `size` covers that many images, not half as many.
    - The queue starts empty; unfilled slots are not used as negatives.
    - A batch is written, and the network updated, after its step.
    - Weights are averaged, batch-norm statistics are not: the network runs in training mode.

    `state_dict` holds all of it: network, queue and how much has been written.

    Args:
        model: the network to follow, and the first copy.
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
