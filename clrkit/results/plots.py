"""Series, points and bars that seaborn draws on axes, with error bars, end labels and legends on top.

Cells are tidy frames with `mean` and `stderr`; no error bar is drawn for a single seed. Networks with
selective kernels have hollow markers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clrkit.results.style import BLACK, SeriesStyle, spread, tint
from clrkit.results.text import size_name, value

NEAR = 0.25  # of an axis' width: names of networks closer than that would overlap
Looks = Mapping[Any, SeriesStyle]


def selective(cells: pd.DataFrame) -> pd.Series[bool]:
    """Which cells are of networks with selective kernels."""
    return cells["network"].str.endswith("SK")


def lines(axes: Axes, cells: pd.DataFrame, x: str, by: str, looks: Looks) -> None:
    """A line of means with bars of one standard error for each value of `by`, apart for selective kernels."""
    cells, hollow = cells[cells[by].isin(looks)], selective(cells)
    for face, part in (("auto", cells[~hollow]), ("white", cells[hollow])):
        if part.empty:
            continue
        error_bars(axes, part, x, "mean", by, looks, yerr="stderr")
        sns.lineplot(
            part,
            x=x,
            y="mean",
            hue=by,
            style=by,
            palette={name: look.color for name, look in looks.items()},
            markers={name: look.marker for name, look in looks.items()},
            dashes={name: look.dashes for name, look in looks.items()},
            estimator=None,
            markeredgecolor="auto",
            markerfacecolor=face,
            legend=False,
            ax=axes,
        )
    axes.set(xlabel="", ylabel="")


def points(
    axes: Axes,
    cells: pd.DataFrame,
    x: str,
    y: str,
    by: str,
    looks: Looks,
    hollow: pd.Series[bool],
    **errors: str,
) -> None:
    """A marker for each cell, in the look of its value of `by`, with error bars.

    Args:
        hollow: which cells have hollow markers.
        errors: columns of the errors, as `xerr` and `yerr`.
    """
    error_bars(axes, cells, x, y, by, looks, **errors)
    for part, filled in ((cells[~hollow], True), (cells[hollow], False)):
        if part.empty:
            continue
        colors = [looks[name].color for name in part[by]]
        markers = {name: look.marker for name, look in looks.items()}
        sns.scatterplot(part, x=x, y=y, style=by, markers=markers, legend=False, ax=axes, zorder=2)
        drawn = axes.collections[-1]
        drawn.set(facecolor=colors if filled else "white", edgecolor=colors, linewidth=1.0)
    axes.set(xlabel="", ylabel="")


def error_bars(axes: Axes, cells: pd.DataFrame, x: str, y: str, by: str, looks: Looks, **errors: str) -> None:
    """Error bars behind the marks, in the colour of each series."""
    for name, series in cells.groupby(by, sort=False):
        lengths: Any = {side: series[column] for side, column in errors.items()}
        style: Any = {"fmt": "none", "ecolor": looks[name].color, "elinewidth": 1.1, "zorder": 1.9}
        axes.errorbar(series[x], series[y], **lengths, **style)


def bars(axes: Axes, cells: pd.DataFrame, column: str, looks: Looks) -> None:
    """Percentages as hatched bars, one for each of `looks` that `cells[column]` has, with their values."""
    names = [name for name in looks if name in set(cells[column])]
    palette = {name: tint(looks[name].color) for name in names}
    options: Any = {"width": 0.62, "saturation": 1, "errorbar": None, "legend": False}
    sns.barplot(
        cells,
        x="mean",
        y=column,
        hue=column,
        order=names,
        hue_order=names,
        palette=palette,
        ax=axes,
        **options,
    )
    for name, (bar,) in zip(names, axes.containers, strict=True):
        bar.set(edgecolor=looks[name].color, hatch=looks[name].hatch)
    shown = cells.set_index(column).loc[names]
    axes.errorbar(shown["mean"], range(len(names)), xerr=shown["stderr"], fmt="none", ecolor="#222222")
    for place, (mean, stderr) in enumerate(zip(shown["mean"], shown["stderr"], strict=True)):
        axes.text(102, place, value(mean, stderr), va="center")
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="", ylabel="")
    axes.grid(False)


def label_ends(
    axes: Axes,
    x: Iterable[float],
    y: Iterable[float],
    texts: Iterable[str],
    colors: Iterable[str],
    gap: float = 13.0,
) -> None:
    """Name points, such as the ends of lines, at their right, pushed apart to `gap` printer's points."""
    figure = cast(Figure, axes.figure)
    figure.draw_without_rendering()
    ends = sorted(zip(x, y, texts, colors, strict=True), key=lambda end: end[1])
    heights = [axes.transData.transform((x, y))[1] * 72 / figure.dpi for x, y, *_ in ends]
    for (x_end, y_end, text, color), height, place in zip(ends, heights, spread(heights, gap), strict=True):
        offset = (9, place - height)
        axes.annotate(text, (x_end, y_end), offset, textcoords="offset points", color=color, va="center")


def size_axis(axes: Axes, cells: pd.DataFrame) -> None:
    """A logarithmic axis of encoder parameters, with ticks at networks: all of up to five, else three."""
    networks = cells.drop_duplicates("parameters").sort_values("parameters")
    axes.set_xscale("log")
    axes.set_xlim(networks["parameters"].iloc[0] / 1.35, networks["parameters"].iloc[-1] * 1.35)
    ticks = networks if len(networks) <= 5 else networks.iloc[[0, len(networks) // 2, -1]]
    lowered = beside_another(ticks["parameters"], axes.get_xlim())
    rows = zip(ticks["parameters"], ticks["network"], lowered, strict=True)
    texts = ["\n\n" * lower + f"{size_name(parameters)}\n{network}" for parameters, network, lower in rows]
    axes.set_xticks(list(ticks["parameters"]), texts)
    axes.minorticks_off()


def beside_another(places: Iterable[float], limits: tuple[float, float]) -> list[bool]:
    """Which of rising places on a logarithmic axis need a lower text, as their neighbour's is too near."""
    span, lowered, last = np.log(limits[1] / limits[0]), list[bool](), 0.0
    for place in places:
        near = bool(lowered) and not lowered[-1] and np.log(place / last) < NEAR * span
        lowered.append(bool(near))
        last = place
    return lowered


def legend(figure: Figure, series: Mapping[str, SeriesStyle], cells: pd.DataFrame) -> None:
    """One legend below all panels; explains hollow markers if `cells` has networks with selective kernels."""
    handles = [Line2D([], [], label=name, **look.plot) for name, look in series.items()]
    if selective(cells).any():
        handles.append(Line2D([], [], color=BLACK, marker="o", ls="", mfc="white", label="selective kernels"))
    if handles:
        columns = 4 if len(handles) <= 4 else 3
        spacing: Any = {"handlelength": 2.8, "columnspacing": 1.6}
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, **spacing)
