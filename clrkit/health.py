"""Training that goes wrong, noticed at its step without waiting for the device at every step."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from clrkit.errors import ConfigError

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
    """Training that has failed by its numbers; says at which step, and what to try."""


class TrainingMonitor:
    """Looks at the loss and the gradient of every step, and at projections; `check` tells.

    What it has seen stays on the device until it is asked, and is saved with a run's state, so that a resumed
    run judges as one that was not stopped.

    Args:
        device: of the training.
    """

    def __init__(self, device: torch.device) -> None:
        self.first: Int64[Tensor, " kinds"] = torch.zeros(len(KINDS), dtype=torch.int64, device=device)
        self.ordinary: Float[Tensor, ""] = torch.zeros((), device=device)
        self.flat: Int64[Tensor, ""] = torch.zeros((), dtype=torch.int64, device=device)
        self.seen = 0  # the last step whose projections were looked at

    def see(self, step: int, loss: Float[Tensor, ""], model: nn.Module) -> None:
        """Note the step's loss, and its gradient before the optimiser uses it."""
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = torch.stack(torch._foreach_norm(gradients)).norm().float()
        self.note(0, ~(loss.isfinite() & norm.isfinite()), step)
        if step <= BASELINE:
            self.ordinary = torch.maximum(self.ordinary, norm)
        else:
            self.note(1, norm > EXPLODED * self.ordinary, step)

    @torch.no_grad()
    def see_projections(self, step: int, z: Float[Tensor, "rows dim"]) -> None:
        """Note whether a step's projections lie on one line: of several micro-batches, those of the first.

        Args:
            step: to which they belong.
            z: of all processes, normalised, so that all judge alike.
        """
        if step == self.seen:
            return
        self.seen = step
        self.flat = torch.where(dimensions(z) < COLLAPSED, self.flat + 1, 0)
        self.note(2, self.flat >= PATIENCE, step)

    def note(self, kind: int, wrong: Tensor, step: int) -> None:
        """Keep the first step at which something is wrong."""
        self.first[kind] = torch.where((self.first[kind] == 0) & wrong, step, self.first[kind])

    def check(self) -> None:
        """Raises TrainingError for what has gone wrong first; waits for the device."""
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
