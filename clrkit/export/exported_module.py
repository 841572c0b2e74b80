"""A model with its preprocessing: bytes of photographs of any size in, what they show out.

The preprocessing is that of `clrkit.data.images.to_view`, in operations that exporters know, so that the
exported file does not need clrkit.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from clrkit.data.images import WHOLE
from clrkit.data.resize import CENTRAL, cubic, resize_matrices
from clrkit.model import Model

Photos = UInt8[Tensor, "batch height width 3"]
Planes = UInt8[Tensor, "batch 3 height width"]
EvalView = Float[Tensor, "batch 3 side side"]

FINEST = 22  # most bits of a weight after the point (PyTorch, UpSampleKernelAVXAntialias.h, as Pillow-SIMD)


class ExportedModule(nn.Module):
    """From photographs, upright bytes (batch, height, width, 3), to the outputs of a model.

    Args:
        model: gives probabilities and logits; without a classifier, the encoder's features.
        size: side in pixels of the model's evaluation view.
    """

    def __init__(self, model: Model, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return ("features",) if self.model.classifier is None else ("probabilities", "logits")

    def forward(self, images: Photos) -> tuple[Tensor, ...]:
        view = evaluation_view(images.permute(0, 3, 1, 2), self.size)
        if self.model.classifier is None:
            return (self.model.encoder(view),)
        logits = self.model(view)
        return logits.softmax(1), logits


def evaluation_view(planes: Planes, size: int) -> EvalView:
    """Small views are the whole image squashed to a square, larger ones the official central crop."""
    if size <= WHOLE:
        columns, rows = (squash_matrix(planes.shape[axis], size) for axis in (3, 2))
        return to_bytes(rows @ to_bytes(planes.double() @ columns.T)).float() / 255
    height, width = (torch.scalar_tensor(planes.shape[axis]) for axis in (2, 3))
    crop = (CENTRAL * torch.minimum(height, width)).round()
    rows, columns = (
        resize_matrices(torch.floor((side - crop + 1) / 2)[None], crop[None], planes.shape[axis], size)[0]
        for axis, side in ((2, height), (3, width))
    )
    return (rows @ (planes.float() / 255) @ columns.T).clamp(0, 1)


def to_bytes(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Round to whole numbers from 0 to 255."""
    return (values + 0.5).floor().clamp(0, 255)


def squash_matrix(source: int | torch.SymInt, size: int) -> Float[Tensor, "size source"]:
    """Antialiased bicubic resize along one axis, with the fixed-point weights of `F.interpolate` on bytes.

    Keys' cubic with a = -0.5, stretched over the pixels that become one. Weights are rounded to 16 bits, with
    as many bits after the point as the largest of them leaves; in float64 all sums of them are exact.
    """
    scale = torch.scalar_tensor(source, dtype=torch.float64) / size
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    pixels = torch.arange(source, dtype=torch.float64) + 0.5
    weights = cubic((pixels - centres[:, None]) / scale.clamp(min=1), a=-0.5)
    weights = weights / weights.sum(1, keepdim=True)
    bits = (weights.max() * 2 ** torch.arange(1, FINEST + 1) + 0.5 < 2**15).sum()
    one = 2.0 ** bits.double()
    return (weights.abs() * one + 0.5).floor() * weights.sign() / one
