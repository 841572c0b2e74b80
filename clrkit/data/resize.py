"""Resize as TensorFlow does: crop and bicubic interpolation as one matrix per axis."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from clrkit.config import Resize

PerImage = Float[Tensor, " batch"]


CENTRAL = 0.875  # side of the evaluation crop, as a part of the image's shorter side


def cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' cubic kernel."""
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def resize_matrices(
    start: PerImage, length: PerImage, source: int | torch.SymInt, target: int, resize: Resize = "tf2"
) -> Float[Tensor, "batch target source"]:
    """Matrices that cut [start, start + length) out of `source` pixels and resize it to `target` pixels.

    TensorFlow's bicubic: no antialiasing, source positions rounded to 1/1024. "tf2" (`tf.image.resize`) has
    a = -0.5, half-pixel centres, taps outside the crop dropped and the rest renormalised; "tf1" (the older
    `tf.image.resize_bicubic`) a = -0.75, pixels numbered from the corner, and the edge repeated.
    """
    centre, last = (0.5 if resize == "tf2" else 0.0), length[:, None, None] - 1
    pixels = torch.arange(target, device=start.device) + centre
    position = pixels * (length / target)[:, None] - centre
    base = position.floor()
    fraction = ((position - base) * 1024).round() / 1024
    offsets = torch.arange(-1, 3, device=start.device)
    taps = base[..., None] + offsets
    if resize == "tf2":
        weights = cubic(offsets - fraction[..., None], a=-0.5) * ((taps >= 0) & (taps <= last))
        weights = weights / weights.sum(-1, keepdim=True)
    else:
        weights = cubic(offsets - fraction[..., None], a=-0.75)
        taps = torch.minimum(taps.clamp(min=0), last)
    columns = (taps + start[:, None, None]).clamp(0, source - 1).long()
    return weights.new_zeros(len(start), target, source).scatter_add_(2, columns, weights)


def central_crop(
    image: UInt8[Tensor, "3 height width"], size: int, resize: Resize = "tf2"
) -> Float[Tensor, "3 {size} {size}"]:
    """The official evaluation view: the central square of 0.875 of the shorter side, resized bicubically.

    Args:
        image: of any height and width from 2.
        size: side of the view in pixels.
        resize: "tf2" as `tf2/data_util.py`, "tf1" as the code that trained the released checkpoints.
    """
    height, width = image.shape[1:]
    crop = round(CENTRAL * min(height, width))
    top, left = (height - crop + 1) // 2, (width - crop + 1) // 2
    matrix = resize_matrices(torch.zeros(1), torch.tensor([float(crop)]), crop, size, resize)[0]
    used = matrix.any(0)  # of a large photograph, few pixels
    matrix = matrix[:, used]
    pixels = image[:, top : top + crop, left : left + crop][:, used][:, :, used]
    view: Tensor = matrix @ to_float(pixels[None])[0] @ matrix.T
    return view.clamp(0, 1)


def to_float(pixels: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Bytes as float32 in [0, 1]."""
    return pixels.float().div_(255)
