"""Figures of a single run: training curves and confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import LogNorm

from clrkit.results.style import BLUE, LINEAR, SUPERVISED, FigureWithData, new_figure

MANY_CLASSES = 20
SLANTED: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}


def loss_curve(history: Mapping[str, Sequence[Any]], caption: str) -> FigureWithData:
    """Loss, learning rate and, if monitored, kNN accuracy against the step.

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
            sns.lineplot(
                data,
                x="step",
                y=column,
                color=color,
                marker=marker,
                markeredgecolor="auto",
                estimator=None,
                ax=axes,
            )
            axes.set(xlabel="", ylabel=name)
            axes.sharex(grid[-1])
            axes.label_outer()
        grid[-1].set_xlabel("step")
        figure.align_ylabels(grid)
    first, last = steps.iloc[0], steps.iloc[-1]
    alt = f"Over {len(steps)} logged steps the loss goes from {first['loss']:.2f} to {last['loss']:.2f}"
    alt += f"; kNN accuracy ends at {knn['knn'].iloc[-1]:.1f}%." if len(knn) else "."
    data = steps.merge(knn, on="step", how="outer")
    return FigureWithData("loss_curve", "Training curves", figure, data, alt)


def confusion(
    matrix: Sequence[Sequence[int]],
    classes: Sequence[str],
    caption: str,
    rows: str = "true class",
    columns: str = "predicted class",
) -> FigureWithData:
    """A heat map of counts of row class x column class: truth and prediction, or teacher and student.

    Colour is the share of the row, so that classes of different size can be compared. Up to `MANY_CLASSES`
    classes are named, with the counts in the cells.
    """
    counts, named = np.asarray(matrix), len(classes) <= MANY_CLASSES
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    texts = np.where(counts > 0, counts.astype(str), "")
    title = f"{columns[0].upper()}{columns[1:]} against {rows}"
    with new_figure(title, caption, width=6.0, height=5.6) as (figure, (axes,)):
        sns.heatmap(
            np.maximum(shares, 0.1),
            norm=LogNorm(0.1, 100),
            cmap="Blues",
            square=True,
            annot=texts if named else None,
            fmt="",
            annot_kws={"size": 8},
            xticklabels=False,
            yticklabels=False,
            rasterized=not named,
            cbar_kws={"shrink": 0.8, "label": f"share of the {rows} (%), logarithmic"},
            ax=axes,
        )
        axes.set(xlabel=columns, ylabel=rows)
        if named:
            slanted = SLANTED if max(map(len, classes)) > 3 else {"rotation": 0}
            places = np.arange(len(classes)) + 0.5
            axes.set_xticks(places, classes, parse_math=False, **slanted)  # a class may be called $x$
            axes.set_yticks(places, classes, parse_math=False, rotation=0)
            axes.tick_params(length=0)
        bar = figure.axes[-1]
        bar.set_yticks([0.1, 1, 10, 100], ["≤ 0.1", "1", "10", "100"])
    data = pd.DataFrame(counts, index=pd.Index(classes, name="row"), columns=list(classes))
    tidy = data.reset_index().melt("row", var_name="column", value_name="count")
    return FigureWithData("confusion", title, figure, tidy, confusion_alt(counts, classes, rows, columns))


def confusion_alt(counts: np.ndarray, classes: Sequence[str], rows: str, columns: str) -> str:
    """How often both sides agree, and the most frequent confusion."""
    agreement = 100 * np.trace(counts) / max(counts.sum(), 1)
    wrong = counts - np.diag(np.diag(counts))
    row, column = divmod(int(wrong.argmax()), len(classes))
    worst = f"{rows} {classes[row]} with {columns} {classes[column]}, {wrong.max()} times"
    agreeing = f"{columns} and {rows} agree on {agreement:.1f}% of {counts.sum():,} images"
    return f"{agreeing[0].upper()}{agreeing[1:]}; most often apart: {worst}."
