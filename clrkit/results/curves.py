"""Figures of a single run: how its training went, and what it confuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from clrkit.results.style import BLUE, LINEAR, SUPERVISED, FigureWithData, new_figure

MANY_CLASSES = 20
SLANTED: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}


def loss_curve(history: Mapping[str, Sequence[Any]], caption: str) -> FigureWithData:
    """Loss, learning rate and, where it was watched, kNN accuracy against the step.

    Args:
        history: `step`, `loss`, `learning_rate` of equal length, and `knn` as pairs of step and accuracy
            (a fraction of 1).
        caption: what the run is, such as "Tinted MNIST, preset mini, R8 1x, seed 0".
    """
    steps = pd.DataFrame({name: history[name] for name in ("step", "loss", "learning_rate")})
    knn = pd.DataFrame(history.get("knn", []), columns=["step", "knn"])
    knn["knn"] *= 100
    panels = [("loss", steps, "loss", BLUE), ("kNN accuracy (%)", knn, "knn", LINEAR.color)]
    panels.append(("learning rate", steps, "learning_rate", SUPERVISED.color))
    panels = [panel for panel in panels if len(panel[1])]
    rows = len(panels)
    with new_figure("Training curves", caption, rows, 1, height=1.0 + 1.3 * rows) as (figure, grid):
        for axes, (name, data, column, color) in zip(grid, panels, strict=True):
            marker = LINEAR.marker if column == "knn" else ""
            axes.plot(data["step"], data[column], color=color, marker=marker)
            axes.set_ylabel(name)
            axes.sharex(grid[-1])
            axes.label_outer()
        grid[-1].set_xlabel("step")
        figure.align_ylabels(grid)
    first, last = steps.iloc[0], steps.iloc[-1]
    alt = f"Over {len(steps)} logged steps the loss goes from {first['loss']:.2f} to {last['loss']:.2f}"
    alt += f"; kNN accuracy ends at {knn['knn'].iloc[-1]:.1f}%." if len(knn) else "."
    return FigureWithData("loss_curve", "Training curves", figure, steps.merge(knn, on="step", how="outer"), alt)


def confusion(
    matrix: Sequence[Sequence[int]],
    classes: Sequence[str],
    caption: str,
    rows: str = "true class",
    columns: str = "predicted class",
) -> FigureWithData:
    """Counts of row class x column class: truth against prediction, or teacher against student.

    Colour is the share of the row, so classes of different size can be compared.
    """
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    title = f"{columns[0].upper()}{columns[1:]} against {rows}"
    with new_figure(title, caption, width=6.0, height=5.6) as (figure, (axes,)):
        image = axes.imshow(100 * np.maximum(shares, 1e-3), cmap="Blues", norm=LogNorm(0.1, 100))
        axes.set(xlabel=columns, ylabel=rows)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        if len(classes) <= MANY_CLASSES:
            name_cells(axes, counts, shares, classes)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, label=f"share of the {rows} (%), logarithmic")
        bar.ax.set_yticks([0.1, 1, 10, 100], ["≤ 0.1", "1", "10", "100"])
        bar.outline.set_visible(False)
    data = pd.DataFrame(counts, index=pd.Index(classes, name="row"), columns=list(classes))
    tidy = data.reset_index().melt("row", var_name="column", value_name="count")
    return FigureWithData("confusion", title, figure, tidy, confusion_alt(counts, classes, rows, columns))


def name_cells(axes: Axes, counts: np.ndarray, shares: np.ndarray, classes: Sequence[str]) -> None:
    """Class names on both axes and the count in every cell that has one."""
    slanted = max(map(len, classes)) > 3
    as_it_is = {"parse_math": False}  # a class may be called $x$
    axes.set_xticks(range(len(classes)), classes, **as_it_is, **(SLANTED if slanted else {}))
    axes.set_yticks(range(len(classes)), classes, **as_it_is)
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if shares[row, column] > 0.1 else "#222222"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", size=8, color=color)


def confusion_alt(counts: np.ndarray, classes: Sequence[str], rows: str, columns: str) -> str:
    agreement = 100 * np.trace(counts) / max(counts.sum(), 1)
    wrong = counts - np.diag(np.diag(counts))
    row, column = divmod(int(wrong.argmax()), len(classes))
    worst = f"{rows} {classes[row]} with {columns} {classes[column]}, {wrong.max()} times"
    agreeing = f"{columns} and {rows} agree on {agreement:.1f}% of {counts.sum():,} images"
    return f"{agreeing[0].upper()}{agreeing[1:]}; most often apart: {worst}."
