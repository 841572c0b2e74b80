"""NT-Xent without the matrix of all similarities: a block at a time, forward and backward.

The matrix is symmetric, so each block above the diagonal serves the anchors of its rows and those of its
columns. That makes the recomputation in the backward pass cheaper than it sounds: two thirds of the plain
version's matrix products in all, and memory for a few blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = {"cpu": 512, "cuda": 4096}  # rows and columns at a time: what a CPU's cache holds, what fills a GPU
DEEPEST = 80.0  # exp(-80) is still a normal number in float32

Projections = Float[Tensor, "batch dim"]
Negatives = Float[Tensor, "queue dim"]
Weights = Float[Tensor, "rows columns"]
Scalar = Float[Tensor, ""]


def nt_xent(z: Projections, keys: Projections | None, negatives: Negatives, temperature: float) -> Scalar:
    """The loss of `clrkit.losses.dense_nt_xent`, same arguments, in little memory."""
    loss: Scalar = BlockwiseNTXent.apply(z, keys, negatives, temperature)
    return loss


class BlockwiseNTXent(torch.autograd.Function):
    """Mean over all anchors of log-sum-exp over the candidates less the positive; `clrkit.losses.nt_xent`.

    Inputs are normalised rows: `z` (2N, dim; both views, one after the other), `keys` (2N, dim; the positive
    of each anchor by a memory's network, or None for the other view in `z`) and `negatives` (further, dim;
    may be empty). `z` gets a gradient, and so do `negatives` that want one: projections gathered from other
    processes do, a queue's do not.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Projections, keys: Projections | None, negatives: Negatives, temperature: float
    ) -> Scalar:
        count, size = len(z), BLOCK.get(z.device.type, BLOCK["cuda"])
        ctx.temperature, ctx.size = temperature, size
        # Neither an anchor with itself nor, where its positive is a key, with its other view.
        ctx.left_out = (0,) if keys is None else (0, count // 2, -count // 2)
        scaled, highest = z / temperature, 1 / temperature
        # No similarity is above 1 / temperature, so nothing overflows; float64 where float32 would underflow.
        total = z.new_zeros(count, dtype=torch.double if 2 * highest > DEEPEST else z.dtype)
        for rows, columns in pairs(count, size):
            weights = (scaled[rows] @ z[columns].T).to(total.dtype).sub_(highest).exp_()
            leave_out(weights, rows, columns, ctx.left_out)
            total[rows] += weights.sum(1)
            if rows != columns:
                total[columns] += weights.sum(0)
        for rows, columns in products(count, len(negatives), size):
            total[rows] += (scaled[rows] @ negatives[columns].T).to(total.dtype).sub_(highest).exp_().sum(1)
        positive = (scaled * (z.roll(count // 2, 0) if keys is None else keys)).sum(1)
        if keys is not None:
            total += positive.to(total.dtype).sub(highest).exp()
        normaliser = (total.log() + highest).to(z.dtype)
        ctx.save_for_backward(z, keys, negatives, positive, normaliser)
        return (normaliser - positive).mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Scalar) -> tuple[Projections, None, Negatives | None, None]:
        # Autocast, where it is on around `backward`, would round similarities to half precision.
        with torch.autocast(upstream.device.type, enabled=False):
            gradient, further = gradients(ctx)
            scale = upstream / (ctx.temperature * len(gradient))
        return gradient * scale, None, None if further is None else further * scale, None


def gradients(ctx: Any) -> tuple[Projections, Negatives | None]:
    """Gradients of the sum over all anchors times the temperature; the negatives' where it is wanted."""
    z, keys, negatives, positive, normaliser = ctx.saved_tensors
    count, scaled = len(z), z / ctx.temperature
    further = torch.zeros_like(negatives) if ctx.needs_input_grad[2] else None
    if keys is None:
        gradient = z.roll(count // 2, 0) * -2
    else:
        gradient = keys * ((positive - normaliser).exp() - 1)[:, None]
    for rows, columns in pairs(count, ctx.size):
        similarity = scaled[rows] @ z[columns].T
        # The same similarity in the softmax of the row's anchor and in that of the column's.
        weights = (similarity - normaliser[rows, None]).exp_()
        weights += similarity.sub_(normaliser[columns]).exp_()
        leave_out(weights, rows, columns, ctx.left_out)
        gradient[rows].addmm_(weights, z[columns])
        if rows != columns:
            gradient[columns].addmm_(weights.T, z[rows])
    for rows, columns in products(count, len(negatives), ctx.size):
        weights = (scaled[rows] @ negatives[columns].T).sub_(normaliser[rows, None]).exp_()
        gradient[rows].addmm_(weights, negatives[columns])
        if further is not None:
            further[columns].addmm_(weights.T, z[rows])
    return gradient, further


def slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def pairs(count: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the blocks on and above the diagonal of a square matrix."""
    parts = slices(count, size)
    return ((rows, columns) for place, rows in enumerate(parts) for columns in parts[place:])


def products(rows: int, columns: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of all blocks of a matrix."""
    return ((each, other) for each in slices(rows, size) for other in slices(columns, size))


def leave_out(weights: Weights, rows: slice, columns: slice, offsets: tuple[int, ...]) -> None:
    """Set to 0, within a block, the entries on these diagonals of the whole matrix."""
    for offset in offsets:
        shift = rows.start + offset - columns.start
        if -weights.shape[0] < shift < weights.shape[1]:
            weights.diagonal(shift).zero_()
