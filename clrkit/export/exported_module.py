"""A model with its preprocessing: photographs of any size in, as bytes, and what they show out.

What `clrkit.data.images.to_view` does to a decoded photograph is written here in operations that exporters
know, with the same results to the last bit of a pixel, so that a file of the whole needs no clrkit.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from clrkit.data.images import WHOLE
from clrkit.model import Model
from clrkit.resize import CENTRAL, cubic, resize_matrices

Photos = UInt8[Tensor, "batch height width 3"]
Planes = UInt8[Tensor, "batch 3 height width"]
EvalView = Float[Tensor, "batch 3 side side"]

FINEST = 22  # most bits of a weight after the point (PyTorch, UpSampleKernelAVXAntialias.h, as Pillow-SIMD)


class ExportedModule(nn.Module):
    """Photographs, (batch, height, width, 3) as bytes, upright, to the outputs of a model.

    Args:
        model: its probabilities and logits are given; of one without a classifier, the encoder's features.
        size: side in pixels of the view that the model measures.
    """

    def __init__(self, model: Model, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size

    @property
    def outputs(self) -> tuple[str, ...]:
        """What is given, in this order."""
        return ("features",) if self.model.classifier is None else ("probabilities", "logits")

    def forward(self, images: Photos) -> tuple[Tensor, ...]:
        view = measured_view(images.permute(0, 3, 1, 2), self.size)
        if self.model.classifier is None:
            return (self.model.encoder(view),)
        logits = self.model(view)
        return logits.softmax(1), logits


def measured_view(planes: Planes, size: int) -> EvalView:
    """The evaluation view: small ones are whole images squashed, larger ones the official central crop."""
    if size <= WHOLE:
        return squash(squash(planes.int(), size, axis=3), size, axis=2).float() / 255
    height, width = side_of(planes, 2), side_of(planes, 3)
    crop = (CENTRAL * torch.minimum(height, width)).round()
    rows, columns = (
        resize_matrices(torch.floor((side - crop + 1) / 2)[None], crop[None], planes.shape[axis], size)[0]
        for axis, side in ((2, height), (3, width))
    )
    return (rows @ (planes.float() / 255) @ columns.T).clamp(0, 1)


def side_of(planes: Tensor, axis: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, ""]:
    """A side as a number that stays open in an exported graph."""
    return torch.scalar_tensor(planes.shape[axis], dtype=dtype)


def squash(planes: Int[Tensor, "batch 3 _ _"], size: int, axis: int) -> Int[Tensor, "batch 3 _ _"]:
    """Antialiased bicubic resize of bytes along one axis, in the integers that `F.interpolate` computes in.

    Weights are rounded to 16 bits, with as many bits after the point as the largest of them leaves.
    """
    weights = squash_weights(side_of(planes, axis, torch.float64), planes.shape[axis], size)
    points = 2 ** torch.arange(1, FINEST + 1)
    one = 2 ** (weights.max() * points + 0.5 < 2**15).sum()
    whole = (weights.abs() * one + 0.5).floor() * weights.sign()
    fixed, unit = whole.int(), one.int()
    total = planes @ fixed.T if axis == 3 else fixed @ planes
    # Below zero is cut off anyway, and above it a division is the shift that it stands for.
    rounded = (total + torch.div(unit, 2, rounding_mode="trunc")).clamp(min=0)
    return torch.div(rounded, unit, rounding_mode="trunc").clamp(max=255)


def squash_weights(
    length: Float[Tensor, ""], source: int | torch.SymInt, size: int
) -> Float[Tensor, "size source"]:
    """Keys' cubic with a = -0.5, stretched over the pixels that become one; rows sum to 1."""
    scale = length / size
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    pixels = torch.arange(source, dtype=torch.float64) + 0.5
    weights = cubic((pixels - centres[:, None]) / scale.clamp(min=1), a=-0.5)
    return weights / weights.sum(1, keepdim=True)
