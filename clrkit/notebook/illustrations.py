"""Illustrations of what a notebook has just computed: the stages, images, embeddings, the course of a run.

Those of the losses are in `illustrations_losses`, figures of recorded results in `clrkit.results.figures`.
A playground redraws some of them at every move of a slider. Their axes are placed by hand: a layout engine
would take longer than everything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Generator, Tensor

from clrkit.augment import ViewParams, apply_view, sample_view_params
from clrkit.config import Augmentation
from clrkit.data.resize import to_float
from clrkit.results.style import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY, encode, new_figure, styled, tint

DPI = 110
GREY = "#555555"
TEN_COLORS = (BLUE, ORANGE, GREEN, RED, PINK, SKY, "#8C6D31", "#7F7F7F", "#5254A3", BLACK)
PAIRS = 8  # pairs of views in the illustration of augmentation
GAP = 2  # white pixels between images

Images = Float[Tensor, "count 3 height width"]  # in [0, 1]
Neighbours = tuple[Int64[Tensor, "count k"], Float[Tensor, "count k"]]  # indices and cosine similarities


@dataclass(frozen=True)
class Picture:
    """A figure as a notebook shows it, with its alt text."""

    figure: Figure
    alt: str

    def __repr__(self) -> str:
        return self.alt

    def png(self) -> bytes:
        return encode(self.figure, "png", DPI)

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        width, height = (round(96 * inches) for inches in self.figure.get_size_inches())
        return self.png(), {"width": width, "height": height, "alt": self.alt}


@contextmanager
def plain(rows: int, columns: int, width: float, height: float) -> Iterator[tuple[Figure, np.ndarray]]:
    """A figure without a headline, and its axes (rows, columns)."""
    with styled():
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False)


def bare(axes: Axes) -> None:
    """Remove ticks, grid and frame."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def tiles(images: Images, columns: int) -> Float32[np.ndarray, "high wide 3"]:
    """One array that shows all images, in rows of `columns` with white between them."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.ones((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), np.float32)
    for index, image in enumerate(images.clamp(0, 1).permute(0, 2, 3, 1).numpy()):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet


def draw_tiles(axes: Axes, images: Images, columns: int) -> None:
    """Fill axes with images, in rows of `columns`."""
    axes.imshow(tiles(images, columns), interpolation="nearest")
    axes.set_anchor("N")
    bare(axes)


def write_above(axes: Axes, place: int, columns: int, text: str, **look: Any) -> None:
    """Write a text above one of the `columns` images in axes that `draw_tiles` has filled."""
    left = (place + 0.5) / columns
    fixed: Any = {"transform": axes.transAxes, "ha": "center", "va": "bottom", "parse_math": False}
    axes.text(left, 1.02, text, size=8, **fixed, **look)


def image_rows(rows: Mapping[str, Images], alt: str, titles: Sequence[str] = ()) -> Picture:
    """Rows of images, each with its name on the left; `titles` stand above the columns."""
    columns, lines = max(map(len, rows.values())), max((title.count("\n") + 1 for title in titles), default=0)
    left, side = 0.2 + 0.08 * max(map(len, rows)), min(1.6, max(0.72, 7 / columns))  # inches
    width, height = left + side * columns, side * len(rows) + 0.15 * lines
    with styled():
        figure = Figure(figsize=(width, height))
        for row, (name, images) in enumerate(rows.items(), start=1):
            bottom = 1 - (0.15 * lines + side * row) / height
            axes = figure.add_axes((left / width, bottom, 1 - left / width, 0.95 * side / height))
            draw_tiles(axes, images, columns)
            figure.text((left - 0.1) / width, bottom + side / 2 / height, name, ha="right", va="center")
        for place, title in enumerate(titles):
            write_above(figure.axes[0], place, columns, title)
    return Picture(figure, alt)


def embeddings(
    points: Mapping[str, Float[np.ndarray, "count 2"]],
    labels: Int64[np.ndarray, " count"],
    classes: Sequence[str],
    title: str,
    subtitle: str,
) -> Picture:
    """Points in the plane, one panel per network; each point is the number of its class, in its colour."""
    with new_figure(title, subtitle, 1, len(points), width=4.2 * len(points), height=4.6) as (figure, grid):
        for axes, (name, places) in zip(grid, points.items(), strict=True):
            for number in range(len(classes)):
                x, y = places[labels == number].T
                style: Any = {"s": 26, "lw": 0.2, "alpha": 0.85, "color": TEN_COLORS[number % 10]}
                axes.scatter(x, y, marker=f"${number}$", **style)
            bare(axes)
            axes.set_title(name)
        if list(classes) != [str(number) for number in range(len(classes))] and len(classes) <= 20:
            names = "  ".join(f"{number} {name}" for number, name in enumerate(classes))
            figure.supxlabel(names, size=8.5, color=GREY, parse_math=False)
    alt = f"{len(labels)} images in the plane, {len(classes)} classes: {', '.join(points)}."
    return Picture(figure, alt)


def course(
    text: str, steps: Sequence[float], loss: Sequence[float], total: int, knn: Sequence[Sequence[float]] = ()
) -> Picture:
    """The loss of a run over its steps, and kNN accuracy (pairs of step and fraction) on a second scale."""
    with plain(1, 1, 7.0, 1.6) as (figure, grid):
        axes = grid[0, 0]
        axes.set_title(text, size=9.5, parse_math=False)
        axes.plot(steps, loss, color=BLUE, lw=1.3)
        axes.set(xlim=(0, max(total, 1)), xlabel="step")
        axes.set_ylabel("loss", color=BLUE)
        axes.tick_params(labelleft=bool(loss))
        if knn:
            right = axes.twinx()
            at, fractions = zip(*knn, strict=True)
            right.plot(at, 100 * np.asarray(fractions), "^--", color=GREEN, lw=1.1, clip_on=False)
            right.set_ylabel("kNN (%)", color=GREEN)
            right.grid(False)
            right.spines[:].set_visible(False)
    return Picture(figure, text)


# The three stages

STAGES = (
    (
        "1  Pretrain",
        "all images, no labels",
        "big encoder f + head g",
        "two views of an image\nshould agree:  NT-Xent",
        BLUE,
    ),
    (
        "2  Fine-tune",
        "few images with labels",
        "f + first layer of g + classifier",
        "predict the label:\ncross-entropy",
        ORANGE,
    ),
    (
        "3  Distil",
        "all images, no labels",
        "student, the same size or small",
        "agree with the teacher's\nsoft outputs",
        GREEN,
    ),
)


def three_stages() -> Picture:
    """SimCLRv2 as a diagram (v2, Fig. 3): images, network and objective of each stage."""
    arrow: Any = {"arrowstyle": "-|>", "color": GREY, "mutation_scale": 11}
    with styled():
        figure = Figure(figsize=(9.0, 2.9))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-0.5, 2.5), ylim=(0, 4))
        bare(axes)
        centred: Any = {"ha": "center", "va": "center", "size": 10}
        for place, (name, images, network, goal, color) in enumerate(STAGES):
            axes.text(place - 0.37, 3.6, name, size=12, weight="bold", color=color)
            white: Any = {"boxstyle": "round,pad=0.5", "fc": "#f4f4f4", "ec": "#bbbbbb"}
            tinted: Any = {"boxstyle": "round,pad=0.5", "fc": tint(color), "ec": color}
            axes.annotate(images, (place, 2.2), (place, 3), arrowprops=arrow, bbox=white, **centred)
            axes.annotate(network, (place, 1.1), (place, 1.9), arrowprops=arrow, bbox=tinted, **centred)
            axes.text(place, 0.7, goal, **centred)
        for middle, passed in ((0.5, "weights"), (1.5, "teacher")):
            axes.annotate("", (middle + 0.1, 1.9), (middle - 0.1, 1.9), arrowprops=arrow)
            axes.text(middle, 2.05, passed, ha="center", size=8.5, color=GREY)
    alt = "Three stages: " + "; ".join(" - ".join(stage[:4]) for stage in STAGES) + "."
    return Picture(figure, alt.replace("\n", " "))


# Augmentation


def steady_params(count: int, side: int, augmentation: Augmentation, seed: int) -> ViewParams:
    """Random parameters of views that do not change when another setting changes.

    All operations are on when `sample_view_params` draws; afterwards those that are off are removed.
    """
    strength = augmentation.color_strength
    all_on = replace(augmentation, flip=True, blur=True, color_strength=strength or 1.0)
    params = sample_view_params(count, side, all_on, Generator().manual_seed(seed))
    applied, grey = (chosen & (strength > 0) for chosen in (params.jitter.applied, params.jitter.grey))
    return params._replace(
        flip=params.flip & augmentation.flip,
        jitter=params.jitter._replace(applied=applied, grey=grey),
        sigma=params.sigma * augmentation.blur,
    )


def augmented(
    pixels: UInt8[Tensor, "3 side side"], augmentation: Augmentation, size: int, seed: int
) -> Picture:
    """An image with its random crops, and the views made from them; each column is a pair of views."""
    params = steady_params(2 * PAIRS, pixels.shape[-1], augmentation, seed)
    views = apply_view(pixels.expand(2 * PAIRS, -1, -1, -1), params, augmentation, size)
    with styled():
        figure = Figure(figsize=(8.4, 2.1))
        image = figure.add_axes((0.0, 0.03, 0.21, 0.84))
        draw_tiles(image, to_float(pixels[None]), 1)
        for index, (top, left, height, width) in enumerate(torch.stack(params.boxes, 1).tolist()):
            color = ORANGE if index < PAIRS else BLUE
            image.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, ec=color, lw=0.9))
        image.set_title("image and crops")
        pairs = figure.add_axes((0.235, 0.03, 0.765, 0.84))
        draw_tiles(pairs, views, PAIRS)
        pairs.set_title(f"first views (above) and second views of {PAIRS} pairs")
    words = [
        f"crops of at least {augmentation.crop_area:.0%} of the area",
        "half mirrored" if augmentation.flip else "none mirrored",
        f"colour strength {augmentation.color_strength:g}, brightness {augmentation.brightness}",
        "half blurred" if augmentation.blur else "none blurred",
    ]
    return Picture(figure, f"{2 * PAIRS} views of an image: {'; '.join(words)}.")


# Nearest neighbours


def nearest(features: Float[Tensor, "count dim"], k: int) -> Neighbours:
    """The k most similar other images of each image, most similar first, and their cosine similarities."""
    rows = F.normalize(features)
    near = (rows @ rows.T).fill_diagonal_(-2).topk(min(k, len(rows) - 1), 1)
    return near.indices, near.values


def neighbours(
    images: Images,
    labels: Int64[np.ndarray, " count"],
    classes: Sequence[str],
    near: Mapping[str, Neighbours],
    query: int,
) -> Picture:
    """An image and its nearest neighbours, one row per network; red: a neighbour of another class.

    Args:
        images: in [0, 1].
        labels: class of each image.
        classes: class names.
        near: result of `nearest` for each network.
        query: index of the image.
    """
    name, correct = classes[labels[query]], []
    with styled():
        figure = Figure(figsize=(8.4, 1.1 * len(near)))
        image = figure.add_axes((0.0, 0.0, 0.12, 0.80))
        draw_tiles(image, images[[query]], 1)
        image.set_title(name, parse_math=False)
        for row, (network, (indices, values)) in enumerate(near.items()):
            bottom, chosen = 1 - (row + 1) / len(near), indices[query]
            figure.text(0.14, bottom + 0.4 / len(near), network.replace(" ", "\n"), va="center")
            axes = figure.add_axes((0.23, bottom, 0.77, 0.80 / len(near)))
            draw_tiles(axes, images[chosen], len(chosen))
            same = labels[chosen.numpy()] == labels[query]
            for place, (index, value) in enumerate(zip(chosen, values[query], strict=True)):
                look: Any = {"color": GREY} if same[place] else {"color": RED, "weight": "bold"}
                write_above(axes, place, len(chosen), f"{classes[labels[index]][:9]}  {value:.2f}", **look)
            correct.append(f"{same.sum()} of {len(same)} with {network}")
    alt = (
        f"Nearest neighbours of an image of class {name}. Neighbours of the same class: {', '.join(correct)}."
    )
    return Picture(figure, alt)
