"""Pictures that teach: the method's stages, views of images, similarities, embeddings, soft targets.

They show what a notebook has just computed; figures of recorded results are in `clrkit.results.figures`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from torch import Tensor

from clrkit.losses import partners
from clrkit.results.style import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY, encode, new_figure, styled, tint

DPI = 110
GREY = "#555555"
TEN_COLORS = (BLUE, ORANGE, GREEN, RED, PINK, SKY, "#8C6D31", "#7F7F7F", "#5254A3", BLACK)

Array = np.ndarray | Tensor
Images = Float[Array, "count 3 height width"]
Square = Float[Array, "rows rows"]


@dataclass(frozen=True)
class Picture:
    """A figure as a notebook shows it, with the sentence for who cannot see it."""

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
    """No ticks, grid or frame: what is inside is not measured."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def image_rows(rows: Mapping[str, Images], alt: str, titles: Sequence[str] = ()) -> Picture:
    """Rows of images in [0, 1], each row with its name on the left; `titles` stand above the columns."""
    columns = max(map(len, rows.values()))
    lines = max((len(title.split("\n")) for title in titles), default=0)
    height = 0.74 * len(rows) + 0.1 + 0.2 * lines
    with plain(len(rows), columns, 0.72 * columns + 1.6, height) as (figure, grid):
        for line, (name, images) in zip(grid, rows.items(), strict=True):
            for axes in line:
                bare(axes)
            for axes, image in zip(line[: len(images)], np.asarray(images), strict=True):
                axes.imshow(image.transpose(1, 2, 0).clip(0, 1))
            line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axes, title in zip(grid[0][: len(titles)], titles, strict=True):
            axes.set_title(title, size=8.5, loc="center", parse_math=False)
    return Picture(figure, alt)


def similarities(matrices: Mapping[str, Square], title: str, subtitle: str) -> Picture:
    """Cosine similarities of 2N projections, both views of N images; each row's positive pair is framed."""
    with new_figure(title, subtitle, 1, len(matrices), width=3.6 * len(matrices) + 0.8, height=4.4) as (
        figure,
        grid,
    ):
        for axes, (name, matrix) in zip(grid, matrices.items(), strict=True):
            values = np.array(matrix, dtype=float)
            np.fill_diagonal(values, np.nan)  # the pair of a view with itself is no candidate
            axes.set_facecolor("#bbbbbb")
            image = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
            half = len(values) // 2
            for row, column in enumerate(partners(len(values)).tolist()):
                corner = (column - 0.5, row - 0.5)
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", lw=1.1))
            axes.set_title(name)
            axes.set_xticks([half / 2 - 0.5, 1.5 * half - 0.5], ["first views", "second views"])
            axes.set_yticks([half / 2 - 0.5, 1.5 * half - 0.5], ["first", "second"], rotation=90, va="center")
            axes.tick_params(length=0)
            axes.grid(False)
        figure.colorbar(image, ax=grid, shrink=0.75, label="cosine similarity").outline.set_visible(False)
    gaps = [f"{name}: {positive_gap(matrix):.2f}" for name, matrix in matrices.items()]
    return Picture(figure, f"Mean similarity of positive pairs less that of the others; {', '.join(gaps)}.")


def positive_gap(matrix: Square) -> float:
    """Mean similarity of the positive pairs less the mean of all other pairs."""
    values = np.asarray(matrix)
    positive = np.eye(len(values), dtype=bool)[partners(len(values)).numpy()]
    others = ~positive & ~np.eye(len(values), dtype=bool)
    return float(values[positive].mean() - values[others].mean())


def deviations(values: Mapping[str, float], bound: float, title: str) -> Picture:
    """Relative deviations on a logarithmic scale, from the first at the top, and the bound they keep to."""
    names, worst = list(values), max(values, key=lambda name: values[name])
    subtitle = "largest difference in parts of the largest value, float32"
    with new_figure(title, subtitle, height=1.4 + 0.3 * len(names)) as (figure, (axes,)):
        places = range(len(names))
        axes.hlines(places, 1e-8, list(values.values()), color=BLUE, lw=1.1)
        axes.plot(list(values.values()), places, "o", color=BLUE)
        axes.axvline(bound, color=RED, ls="--", lw=1.1)
        axes.text(bound, -0.8, f" bound {bound:.0e}", color=RED, size=8.5, va="center", ha="right")
        axes.set_yticks(places, names)
        axes.set(xscale="log", xlim=(1e-8, 4 * bound), ylim=(len(names) - 0.5, -1.2), xlabel="deviation")
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
    alt = f"Largest deviation {values[worst]:.1e} at {worst}, below {bound:.0e}."
    return Picture(figure, alt)


def embeddings(
    points: Mapping[str, Float[Array, "count 2"]],
    labels: Int[np.ndarray, " count"],
    classes: Sequence[str],
    title: str,
    subtitle: str,
) -> Picture:
    """Points in the plane, a panel a network; colour and the class's number tell the classes apart."""
    with new_figure(title, subtitle, 1, len(points), width=4.2 * len(points), height=4.6) as (figure, grid):
        for axes, (name, places) in zip(grid, points.items(), strict=True):
            for number in range(len(classes)):
                x, y = np.asarray(places)[labels == number].T
                style: Any = {"s": 26, "lw": 0.2, "alpha": 0.85, "color": TEN_COLORS[number % 10]}
                axes.scatter(x, y, marker=f"${number}$", **style)
            bare(axes)
            axes.set_title(name)
        if list(classes) != [str(number) for number in range(len(classes))] and len(classes) <= 20:
            names = "  ".join(f"{number} {name}" for number, name in enumerate(classes))
            figure.supxlabel(names, size=8.5, color=GREY, parse_math=False)
    alt = f"{len(labels)} images in the plane, {len(classes)} classes: {', '.join(points)}."
    return Picture(figure, alt)


def soft_targets(
    image: Float[Array, "3 height width"],
    rows: Mapping[str, Float[Array, " classes"]],
    classes: Sequence[str],
    alt: str,
) -> Picture:
    """An image, and the probabilities that its classes get, a panel for each name in `rows`."""
    with plain(1, len(rows) + 1, 1.7 * len(rows) + 1.8, 1.9) as (figure, grid):
        bare(grid[0, 0])
        grid[0, 0].imshow(np.asarray(image).transpose(1, 2, 0).clip(0, 1))
        for axes, (name, probabilities) in zip(grid[0, 1:], rows.items(), strict=True):
            axes.bar(range(len(classes)), probabilities, color=tint(BLUE), edgecolor=BLUE)
            axes.set(ylim=(0, 1), yticks=[0, 0.5, 1])
            axes.set_title(name, loc="center")
            turned = 90 if len(classes[0]) > 1 else 0
            axes.set_xticks(range(len(classes)), classes, size=7.5, rotation=turned, parse_math=False)
            axes.tick_params(length=0, labelleft=axes is grid[0, 1])
    return Picture(figure, alt)


def course(
    text: str, steps: Sequence[float], loss: Sequence[float], total: int, knn: Sequence[Sequence[float]] = ()
) -> Picture:
    """The course of a run, small: a line of text, how far it is, and the loss so far.

    Where it was watched also kNN accuracy, pairs of step and a fraction of 1, on a scale at the right.
    """
    with styled():
        figure = Figure(figsize=(7.0, 1.25))
        figure.text(0.01, 0.87, text, size=9.5)
        axes = figure.add_axes((0.1, 0.17, 0.82 if knn else 0.89, 0.58))
        axes.plot(steps, loss, color=BLUE, lw=1.3)
        axes.set_xlim(0, max(total, 1))
        axes.set_xticks([])
        axes.set_ylabel("loss", size=8.5, color=BLUE if knn else BLACK)
        axes.yaxis.set_label_coords(-0.085, 0.5)
        axes.tick_params(labelsize=8)
        axes.spines["bottom"].set_visible(False)
        if knn:
            right = axes.twinx()
            seen, shares = zip(*knn, strict=True)
            percent = 100 * np.asarray(shares)
            right.plot(seen, percent, "^--", color=GREEN, lw=1.1, clip_on=False)  # both ends are on the edge
            right.set_ylabel("kNN (%)", size=8.5, color=GREEN)
            right.tick_params(labelsize=8)
            right.grid(False)
            right.spines[:].set_visible(False)
        done = max(steps, default=0) / max(total, 1)
        for share, color in ((1.0, "#e4e4e4"), (done, BLUE)):
            axes.plot([0, share * total], [-0.06] * 2, color=color, lw=4, clip_on=False, **at_bottom(axes))
    return Picture(figure, text)


def at_bottom(axes: Axes) -> dict[str, Any]:
    """Places a line by step, and by a share of the height: no part of the data's scale."""
    return {"transform": axes.get_xaxis_transform(), "solid_capstyle": "butt"}


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
    """SimCLRv2 as a diagram (v2, Fig. 3): images, network and what is learnt, stage by stage."""
    with styled():
        figure = Figure(figsize=(9.0, 2.9))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 9), ylim=(0, 2.9))
        bare(axes)
        for place, (name, images, network, goal, color) in enumerate(STAGES):
            left = 0.1 + 3.2 * place
            axes.text(left + 0.02, 2.62, name, size=12, weight="bold", color=color)
            box(axes, left, 1.95, images, "#f4f4f4", "#bbbbbb")
            box(axes, left, 1.2, network, tint(color), color)
            axes.text(left + 1.2, 0.53, goal, ha="center", va="center", size=10, color="#222222")
            arrow(axes, (left + 1.2, 1.95), (left + 1.2, 1.72))
            arrow(axes, (left + 1.2, 1.2), (left + 1.2, 0.86))
            if place:
                arrow(axes, (left - 0.8, 1.46), (left, 1.46))
        axes.text(2.9, 1.55, "weights", ha="center", size=8.5, color=GREY)
        axes.text(6.1, 1.55, "teacher", ha="center", size=8.5, color=GREY)
    return Picture(figure, "Three stages: " + "; ".join(" - ".join(stage[:4]) for stage in STAGES) + ".")


def box(axes: Axes, left: float, bottom: float, text: str, face: Any, edge: str) -> None:
    style: Any = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": face, "edgecolor": edge}
    axes.add_patch(FancyBboxPatch((left, bottom), 2.4, 0.52, **style))
    axes.text(left + 1.2, bottom + 0.26, text, ha="center", va="center", size=10)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=GREY, lw=1.2))
