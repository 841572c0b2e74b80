"""Pictures of images that a playground draws anew with every move of a control: views, nearest neighbours.

Axes are placed by hand and images are laid out as one: a layout engine would take longer than the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Generator, Tensor

from clrkit.augment import Boxes, ViewParams, apply_view, sample_view_params
from clrkit.config import Augmentation
from clrkit.notebook.illustrations import GREY, Picture, bare
from clrkit.resize import to_float
from clrkit.results.style import BLUE, ORANGE, RED, styled

PAIRS = 8  # of views that are shown
GAP = 2  # white pixels between images

Images = Float[Tensor, "count 3 height width"]
Near = tuple[Int64[Tensor, "count k"], Float[Tensor, "count k"]]


def tiled(axes: Axes, images: Images, columns: int) -> None:
    """Axes that show nothing but images, from their upper edge."""
    axes.imshow(tiles(images, columns), interpolation="nearest")
    axes.set_anchor("N")
    bare(axes)


def tiles(images: Images, columns: int) -> Float32[np.ndarray, "high wide 3"]:
    """Images in [0, 1] as one, in rows of `columns`, white between them."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    whole = np.ones((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), np.float32)
    for index, image in enumerate(images.clamp(0, 1).permute(0, 2, 3, 1).numpy()):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        whole[top : top + height, left : left + width] = image
    return whole


# Augmentation


def steady_draw(count: int, side: int, augmentation: Augmentation, seed: int) -> ViewParams:
    """What `sample_view_params` draws with every operation on; then those that are off are taken out again.

    So a setting changes what it is about, and nothing of the other draws of the same seed.
    """
    strength = augmentation.color_strength
    whole = replace(augmentation, flip=True, blur=True, color_strength=strength or 1.0)
    drawn = sample_view_params(count, side, whole, Generator().manual_seed(seed))
    applied, grey = (chosen & (strength > 0) for chosen in (drawn.jitter.applied, drawn.jitter.grey))
    return drawn._replace(
        flip=drawn.flip & augmentation.flip,
        jitter=drawn.jitter._replace(applied=applied, grey=grey),
        sigma=drawn.sigma * augmentation.blur,
    )


def augmented(
    pixels: UInt8[Tensor, "3 side side"], augmentation: Augmentation, size: int, seed: int
) -> Picture:
    """An image with the crops that are drawn, and the views made of it: a column is a pair of views."""
    drawn = steady_draw(2 * PAIRS, pixels.shape[-1], augmentation, seed)
    views = apply_view(pixels.expand(2 * PAIRS, -1, -1, -1), drawn, augmentation, size)
    with styled():
        figure = Figure(figsize=(8.4, 2.1))
        image = figure.add_axes((0.0, 0.03, 0.21, 0.84))
        tiles = figure.add_axes((0.235, 0.03, 0.765, 0.84))
        tiled(image, to_float(pixels[None]), 1)
        outline(image, drawn.boxes)
        image.set_title("image and crops")
        tiled(tiles, views, PAIRS)
        tiles.set_title(f"first views (above) and second views of {PAIRS} pairs")
    words = [
        f"crops of at least {augmentation.crop_area:.0%} of the area",
        "half mirrored" if augmentation.flip else "none mirrored",
        f"colour strength {augmentation.color_strength:g}, brightness {augmentation.brightness}",
        "half blurred" if augmentation.blur else "none blurred",
    ]
    return Picture(figure, f"{2 * PAIRS} views of an image: {'; '.join(words)}.")


def outline(axes: Axes, boxes: Boxes) -> None:
    """The crops of first views and of second views, each in a colour."""
    half = len(boxes.top) // 2
    for row, (top, left, height, width) in enumerate(torch.stack(boxes, 1).tolist()):
        color = ORANGE if row < half else BLUE
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, ec=color, lw=0.9))


# Nearest neighbours


def nearest(features: Float[Tensor, "count dim"], k: int) -> Near:
    """The k other images with the most similar features, and their cosine similarities, the nearest first."""
    rows = F.normalize(features)
    near = (rows @ rows.T).fill_diagonal_(-2).topk(min(k, len(rows) - 1), 1)
    return near.indices, near.values


def neighbours(
    images: Images,
    labels: Int64[np.ndarray, " count"],
    classes: Sequence[str],
    near: Mapping[str, Near],
    query: int,
) -> Picture:
    """An image and its nearest neighbours, a row a network, with class and similarity; red: another class.

    Args:
        images: in [0, 1].
        labels: class of each.
        classes: names.
        near: by network, what `nearest` returns.
        query: which image.
    """
    name = classes[labels[query]]
    told = []
    with styled():
        figure = Figure(figsize=(8.4, 1.1 * len(near)))
        tiled(image := figure.add_axes((0.0, 0.0, 0.12, 0.80)), images[[query]], 1)
        image.set_title(name, parse_math=False)
        for row, (network, (chosen, similar)) in enumerate(near.items()):
            bottom = 1 - (row + 1) / len(near)
            figure.text(0.14, bottom + 0.4 / len(near), network.replace(" ", "\n"), va="center")
            axes = figure.add_axes((0.23, bottom, 0.77, 0.80 / len(near)))
            same = labels[chosen[query].numpy()] == labels[query]
            names = [classes[labels[index]] for index in chosen[query].tolist()]
            tiled(axes, images[chosen[query]], len(names))
            entitle(axes, names, similar[query].tolist(), same.tolist())
            told.append(f"{same.sum()} of {len(same)} with {network}")
    alt = f"Nearest neighbours of an image of class {name}; of its class: {', '.join(told)}."
    return Picture(figure, alt)


def entitle(axes: Axes, names: Sequence[str], similar: Sequence[float], same: Sequence[bool]) -> None:
    """Class and similarity above each image of a row."""
    width = (axes.get_xlim()[1] + 0.5 + GAP) / len(names)
    for place, (name, value, alike) in enumerate(zip(names, similar, same, strict=True)):
        look: Any = {"color": GREY} if alike else {"color": RED, "weight": "bold"}
        text = f"{name[:9]}  {value:.2f}"
        axes.text((place + 0.5) * width - GAP, -2, text, ha="center", size=8, parse_math=False, **look)
