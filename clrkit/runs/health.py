"""Notice training that fails: not finite, exploded or collapsed, without waiting for the device."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clrkit.errors import ConfigError
from clrkit.training import Training

BASELINE = 100  # steps whose largest gradient norm is taken as ordinary
EXPLODED = 1e4  # times the ordinary norm
COLLAPSED = 1.01  # dimensions that projections fill: all on one line
PATIENCE = 50  # steps in a row with collapsed projections

KINDS = ("not finite", "exploded", "collapsed")
ADVICE = {
    "not finite": "The loss or its gradient is not finite at step {step}; try a lower learning_rate, more "
    "warmup_epochs or a higher temperature",
    "exploded": "The gradient exploded at step {step}: its norm is over "
    f"{EXPLODED:,.0f} times the largest of the first steps; try a lower learning_rate or more warmup_epochs",
    "collapsed": "The representation has collapsed at step {step}: for "
    f"{PATIENCE} steps all projections have lain on one line; try a lower learning_rate, "
    "a larger batch_size or stronger augmentation",
}


class TrainingError(ConfigError):
    """Training that failed by its numbers; says at which step, and what to try."""


class TrainingMonitor:
    """Monitor the loss, gradient and projections of every step; `check` raises if training failed.

    What it has seen stays on the device until `check`, and is saved with a run's state, so that a resumed
    run judges as one that was not stopped.

    Args:
        device: of the training.
    """

    def __init__(self, device: torch.device) -> None:
        self.first: Int64[Tensor, " kinds"] = torch.zeros(len(KINDS), dtype=torch.int64, device=device)
        self.ordinary: Float[Tensor, ""] = torch.zeros((), device=device)
        self.flat: Int64[Tensor, ""] = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def see(self, step: int, loss: Float[Tensor, ""], training: Training) -> None:
        """Note a step's loss, gradient and projections, right after it."""
        gradients = [weight.grad for weight in training.model.parameters() if weight.grad is not None]
        norm = torch.stack(torch._foreach_norm(gradients)).norm().float()
        self.note(0, ~(loss.isfinite() & norm.isfinite()), step)
        if step <= BASELINE:
            self.ordinary = torch.maximum(self.ordinary, norm)
        else:
            self.note(1, norm > EXPLODED * self.ordinary, step)
        if training.projections is not None:
            self.flat = torch.where(dimensions(training.projections) < COLLAPSED, self.flat + 1, 0)
            self.note(2, self.flat >= PATIENCE, step)

    def note(self, kind: int, wrong: Tensor, step: int) -> None:
        """Keep the first step at which something is wrong."""
        self.first[kind] = torch.where((self.first[kind] == 0) & wrong, step, self.first[kind])

    def check(self) -> None:
        """Raise TrainingError for what went wrong first; waits for the device."""
        steps = [step for step in self.first.tolist() if step]
        if steps:
            kind = KINDS[self.first.tolist().index(min(steps))]
            raise TrainingError(ADVICE[kind].format(step=min(steps)))

    def state_dict(self) -> dict[str, Tensor]:
        return {"first": self.first, "ordinary": self.ordinary, "flat": self.flat}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            getattr(self, name).copy_(value)


def dimensions(z: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """How many dimensions normalised rows fill, from 1 (all on one line) to `dim`; 0 where all are 0.

    The participation ratio of the eigenvalues of z'z: the square of their sum over the sum of their squares.
    """
    second = z.T @ z
    return second.trace().square() / second.square().sum().clamp(min=1e-30)
