"""Random crops and the pixel operations of a view as compiled loops, for the CPU.

PyTorch's operations pass over a batch again and again; here an image stays in the cache from its crop to its
blur. The pixel operations compute what `clrkit.augment` defines, but for rounding
(tests/fast/test_augment_numba.py). A view depends on its own image and parameters alone, so it is the same in
any batch and with any number of threads.

An image under way is three planes of float32 (red, green, blue), (3, column, row).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, cast, no_type_check

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numba import njit
from torch import Tensor

from clrkit.device import available_cores, local_processes

SHARED_OUT = 2**18  # pixels of views from which on threads pay


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function and cache it on disk; without a writable folder each process compiles it again."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return cast(Callable[..., Any], njit(cache=True, **options)(function))
    except RuntimeError:
        return cast(Callable[..., Any], njit(**options)(function))


# Type checkers see nothing of compiled functions (no_type_check); numba checks their types itself.

F32 = np.float32
ZERO, HALF, ONE, TWO, THREE, FOUR, SIX = (F32(value) for value in (0, 0.5, 1, 2, 3, 4, 6))
STEPS, TINY, SHADES, ALMOST_HALF = F32(1024), F32(1e-12), F32(255), F32(0.4999)
RED, GREEN, BLUE = F32(0.2989), F32(0.5870), F32(0.1140)
NEAR_3, NEAR_2, FAR_3, FAR_2, FAR_1 = F32(1.5), F32(2.5), F32(0.5), F32(2.5), F32(4)  # Keys, a = -0.5


@compiled
@no_type_check
def clip(value):
    return min(max(value, ZERO), ONE)


@compiled
@no_type_check
def near(x):
    """Keys' cubic kernel at distances up to 1."""
    return (NEAR_3 * x - NEAR_2) * x * x + ONE


@compiled
@no_type_check
def far(x):
    """The kernel at distances from 1 to 2."""
    return TWO - ((FAR_3 * x - FAR_2) * x + FAR_1) * x


@compiled
@no_type_check
def taps(length, target):
    """Pixels of [0, length) and their weights, both (4, target), that resize it to `target` pixels."""
    pixels, weights = np.empty((4, target), np.intp), np.empty((4, target), np.float32)
    scale = F32(length) / F32(target)
    for i in range(target):
        position = (F32(i) + HALF) * scale - HALF
        base = np.floor(position)
        fraction = np.rint((position - base) * STEPS) / STEPS
        first, last = int(base) - 1, length - 1
        a = far(ONE + fraction) if first >= 0 else ZERO
        b = near(fraction) if first >= -1 else ZERO
        c = near(ONE - fraction) if first + 2 <= last else ZERO
        d = far(TWO - fraction) if first + 3 <= last else ZERO
        total = a + b + c + d
        weights[0, i], weights[1, i], weights[2, i], weights[3, i] = (
            a / total,
            b / total,
            c / total,
            d / total,
        )
        for k in range(4):
            pixels[k, i] = min(max(first + k, 0), last)
    return pixels, weights


@compiled
@no_type_check
def crop_resize(image, box, mirrored, planes):
    """Cut a box out of a uint8 image (3, side, side), resize it bicubically, mirror it if asked."""
    top, left, height, width = box
    size = planes.shape[1]
    rows, row_weights = taps(height, size)
    columns, column_weights = taps(width, size)
    row_weights /= SHADES
    cut = image[:, top : top + height, left : left + width]
    mixed, turned = np.empty(width, np.float32), np.empty((width, size), np.float32)
    for channel in range(3):
        for y in range(size):
            p, q, r, s = row_weights[0, y], row_weights[1, y], row_weights[2, y], row_weights[3, y]
            a, b, c, d = rows[0, y], rows[1, y], rows[2, y], rows[3, y]
            for x in range(width):
                mixed[x] = (
                    p * F32(cut[channel, a, x])
                    + q * F32(cut[channel, b, x])
                    + r * F32(cut[channel, c, x])
                    + s * F32(cut[channel, d, x])
                )
            for x in range(width):
                turned[x, y] = mixed[x]
        for x in range(size):
            at = size - 1 - x if mirrored else x
            p, q, r, s = (
                column_weights[0, x],
                column_weights[1, x],
                column_weights[2, x],
                column_weights[3, x],
            )
            a, b, c, d = columns[0, x], columns[1, x], columns[2, x], columns[3, x]
            for y in range(size):
                planes[channel, at, y] = (
                    p * turned[a, y] + q * turned[b, y] + r * turned[c, y] + s * turned[d, y]
                )


@compiled
@no_type_check
def brightness(planes, factor, added):
    for channel in range(3):
        plane = planes[channel].reshape(-1)
        for i in range(plane.size):
            plane[i] = clip(plane[i] + (factor - ONE) if added else plane[i] * factor)


@compiled
@no_type_check
def contrast(planes, factor):
    size = planes.shape[1]
    sums = np.empty(size, np.float32)  # a whole row is added at a time: fast, and in a fixed order
    for channel in range(3):
        sums[:] = ZERO
        for x in range(size):
            for y in range(size):
                sums[y] += planes[channel, x, y]
        mean = F32(sums.sum() / F32(size * size))
        plane = planes[channel].reshape(-1)
        for i in range(plane.size):
            plane[i] = clip(mean + (plane[i] - mean) * factor)


@compiled
@no_type_check
def saturation(planes, factor):
    red, green, blue = planes[0].reshape(-1), planes[1].reshape(-1), planes[2].reshape(-1)
    for i in range(red.size):
        r, g, b = red[i], green[i], blue[i]
        value = max(max(r, g), b)
        chroma = value - min(min(r, g), b)
        scale = min(factor, value / max(chroma, TINY))
        red[i] = clip(value + (r - value) * scale)
        green[i] = clip(value + (g - value) * scale)
        blue[i] = clip(value + (b - value) * scale)


@compiled
@no_type_check
def hue(planes, turns):
    red, green, blue = planes[0].reshape(-1), planes[1].reshape(-1), planes[2].reshape(-1)
    shift = SIX * turns
    for i in range(red.size):
        r, g, b = red[i], green[i], blue[i]
        value = max(max(r, g), b)
        chroma = value - min(min(r, g), b)
        width = max(chroma, TINY)
        sixths = TWO + (b - r) / width if value == g else FOUR + (r - g) / width
        sixths = (g - b) / width if value == r else sixths
        sixths += shift
        sixths -= SIX * np.floor(sixths / SIX)
        red[i] = clip(value - chroma * clip(TWO - abs(sixths - THREE)))
        green[i] = clip(value - chroma * clip(abs(sixths - TWO) - ONE))
        blue[i] = clip(value - chroma * clip(abs(sixths - FOUR) - ONE))


@compiled
@no_type_check
def grey(planes):
    red, green, blue = planes[0].reshape(-1), planes[1].reshape(-1), planes[2].reshape(-1)
    for i in range(red.size):
        luminance = RED * red[i] + GREEN * green[i] + BLUE * blue[i]
        red[i], green[i], blue[i] = luminance, luminance, luminance


@compiled
@no_type_check
def clamp(planes):
    for channel in range(3):
        plane = planes[channel].reshape(-1)
        for i in range(plane.size):
            plane[i] = clip(plane[i])


@compiled
@no_type_check
def blur(planes, sigma, kernel_size):
    """Gaussian, zeros beyond the border."""
    size, radius = planes.shape[1], kernel_size // 2
    kernel = np.empty(2 * radius + 1, np.float32)
    for k in range(kernel.size):
        kernel[k] = np.exp(-F32((k - radius) * (k - radius)) / (TWO * sigma * sigma))
    kernel /= kernel.sum()
    line = np.zeros(size + 2 * radius, np.float32)
    along = np.zeros((size + 2 * radius, size), np.float32)
    for channel in range(3):
        for x in range(size):
            for y in range(size):
                line[radius + y], along[radius + x, y] = planes[channel, x, y], ZERO
            for k in range(kernel.size):
                weight = kernel[k]
                for y in range(size):
                    along[radius + x, y] += weight * line[y + k]
        for x in range(size):
            for y in range(size):
                planes[channel, x, y] = ZERO
            for k in range(kernel.size):
                weight = kernel[k]
                for y in range(size):
                    planes[channel, x, y] += weight * along[x + k, y]


@compiled
@no_type_check
def write(planes, view):
    """Clip, and lay the image down as (height, width, 3): what channels-last memory is."""
    size = planes.shape[1]
    for y in range(size):
        for x in range(size):
            for channel in range(3):
                view[y, x, channel] = clip(planes[channel, x, y])


@compiled
@no_type_check
def colours(planes, order, factors, added):
    for which in order:
        if which == 0:
            brightness(planes, factors[0], added)
        elif which == 1:
            contrast(planes, factors[1])
        elif which == 2:
            saturation(planes, factors[2])
        else:
            hue(planes, factors[3])


@compiled
@no_type_check
def cut_arrays(images, boxes, flips, applied, order, factors, greys, sigmas, kernel_size, added, views):
    """Write every image's view; arguments as arrays of what `clrkit.augment.ViewParams` holds."""
    size = views.shape[1]
    planes = np.empty((3, size, size), np.float32)
    for i in range(len(images)):
        crop_resize(images[i], boxes[i], flips[i], planes)
        if applied[i]:
            colours(planes, order[i], factors[i], added)
        if greys[i]:
            grey(planes)
        if sigmas[i] > ZERO:
            clamp(planes)
            blur(planes, sigmas[i], kernel_size)
        write(planes, views[i])


def cutting_threads() -> int:
    """Threads that cut views, one in a worker of a pool; their number changes no bit of the views."""
    return 1 if multiprocessing.parent_process() else max(1, available_cores() // local_processes())


@cache
def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: starting them takes as long as a small batch."""
    return ThreadPoolExecutor(threads, thread_name_prefix="views")


def cut_views(
    pixels: UInt8[Tensor, "batch 3 height width"],
    params: Any,
    size: int,
    brightness: str = "multiplied",
) -> Float[Tensor, "batch 3 {size} {size}"]:
    """The views of `clrkit.augment.cut_views`, on the CPU, in channels-last memory.

    Args:
        pixels: square images.
        params: `clrkit.augment.ViewParams`, one set an image.
        size: side of the view in pixels.
        brightness: "multiplied" or "added".
    """
    boxes, jitter, count = torch.stack(params.boxes, 1).int(), params.jitter, len(pixels)
    factors = torch.stack((jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue), 1)
    tensors = (pixels, boxes, params.flip, jitter.applied, jitter.order, factors, jitter.grey, params.sigma)
    arrays = [np.ascontiguousarray(tensor.numpy()) for tensor in tensors]
    views = np.empty((count, size, size, 3), np.float32)

    def cut(part: slice) -> None:
        columns = (array[part] for array in arrays)
        cut_arrays(*columns, size // 10, brightness == "added", views[part])

    threads = cutting_threads() if views.size > 3 * SHARED_OUT else 1
    if threads == 1:
        cut(slice(0, count))
    else:
        ends = [count * i // threads for i in range(threads + 1)]
        list(thread_pool(threads).map(cut, map(slice, ends[:-1], ends[1:])))
    return torch.from_numpy(views).permute(0, 3, 1, 2)
