"""Own results on CIFAR-10 beside what papers and peers report: two panels on one scale, never one series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from clrkit.results.plots import points
from clrkit.results.published import PEERS_DATASET, have_peers, peers
from clrkit.results.records import MissingRunsError
from clrkit.results.statistics import (
    ALL_LABELS,
    FINE_TUNED,
    KNN,
    LINEAR_PROBE,
    outcome_cells,
    pretrainings,
)
from clrkit.results.style import (
    FINETUNED,
    LINEAR,
    ORANGE,
    PINK,
    SELF,
    SUPERVISED,
    TOP1,
    FigureWithData,
    SeriesStyle,
    caption,
    listed,
    new_figure,
)
from clrkit.results.text import duration, size_name

ONLINE, DISTILLED, SEMI_SUPERVISED = "linear, trained online", "distilled", "semi-supervised"
LOOKS = {
    KNN: SeriesStyle(ORANGE, "P", ""),
    LINEAR_PROBE: LINEAR,
    ONLINE: LINEAR,
    ALL_LABELS: SUPERVISED,
    FINE_TUNED: FINETUNED,
    DISTILLED: SELF,
    SEMI_SUPERVISED: SeriesStyle(PINK, "v", ""),
}
METRICS = {"knn": KNN, "linear": LINEAR_PROBE, "linear_online": ONLINE, "top1": SEMI_SUPERVISED}
OF_ALL_LABELS = (KNN, LINEAR_PROBE, ONLINE, ALL_LABELS)
HEADINGS = {"own": "Own", "published": "Published by others, ± standard deviation where given"}
PAPER_GROUND = "#faf7f0"
ROW_INCHES = 0.28
COLUMNS = ["outcome", "labels", "mean", "spread"]
Row = tuple[str, pd.DataFrame]  # a training in words, and its points, perhaps none


def beside_peers(runs: pd.DataFrame, preset: str) -> FigureWithData:
    """Every network's accuracies above those of others, a row a training with its network, epochs and device.

    Raises MissingRunsError for other images than CIFAR-10.
    """
    if not have_peers(runs):
        raise MissingRunsError(f"Others' numbers are of {PEERS_DATASET}; no runs on it are recorded.")
    cells = outcome_cells(runs)
    panels = {"own": list(own_rows(runs, cells)), "published": list(published_rows(peers()))}
    data = pd.concat(
        cells.assign(whose=whose, training=training)
        for whose, rows in panels.items()
        for training, cells in rows
    )
    heights = list(map(len, panels.values()))
    title, height = f"{PEERS_DATASET}: own results and what others report", 2.2 + ROW_INCHES * sum(heights)
    with new_figure(title, caption(runs, preset, cells), 2, 1, 8.4, height) as (figure, grid):
        for axes, (whose, rows) in zip(grid, panels.items(), strict=True):
            draw_rows(axes, rows)
            axes.set(title=HEADINGS[whose], xlim=(10 * (data["mean"].min() // 10) - 5, 100))
        gridspec = grid[0].get_gridspec()
        assert gridspec is not None
        gridspec.set_height_ratios(heights)
        grid[1].set_facecolor(PAPER_GROUND)
        grid[1].set_xlabel(f"{TOP1}; small numbers: labels used")
        handles = [handle(outcome) for outcome in LOOKS if outcome in set(data["outcome"])]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return FigureWithData("beside_peers", title, figure, data, alt(cells))


def own_rows(runs: pd.DataFrame, cells: pd.DataFrame) -> Iterator[Row]:
    """A row for each network's pretraining, then one for each way to continue with few labels."""
    cells = cells.rename(columns={"stderr": "spread"})
    for _, training in pretrainings(runs).iterrows():
        mine = cells[cells["network"] == training["network"]]
        frozen = mine["outcome"].isin(OF_ALL_LABELS)
        yield described(training), by_labels(mine[frozen])
        for outcome, tuned in mine[~frozen].groupby("outcome", sort=False):
            kind = FINE_TUNED if outcome == FINE_TUNED else DISTILLED
            yield f"… {outcome}", by_labels(tuned.assign(outcome=kind))


def published_rows(numbers: pd.DataFrame) -> Iterator[Row]:
    """A row for each training that others report, in the order of `peers`."""
    few = numbers["labels"] < numbers["labels"].max()
    outcomes = numbers["metric"].map(METRICS).mask(numbers["method"] == "supervised", ALL_LABELS)
    numbers = numbers.assign(who=numbers["name"].mask(few, numbers["method"]), outcome=outcomes)
    numbers = numbers.rename(columns={"value": "mean", "std": "spread"})
    for _, row in numbers.groupby(["who", "network", "epochs", "batch_size"], sort=False, dropna=False):
        parts = described(row.iloc[0]), row["doubt"].iloc[0]
        yield f"{row['who'].iloc[0]}: {', '.join(filter(None, parts))}", by_labels(row)


def by_labels(cells: pd.DataFrame) -> pd.DataFrame:
    """The points of a row, those of few labels first."""
    return cells[COLUMNS].sort_values("labels", kind="stable")


def described(training: pd.Series) -> str:
    """Network with its parameters, epochs, time and device, as far as they are known."""
    parts = [f"{training['network']} ({size_name(training['parameters'])})"]
    if pd.notna(training["epochs"]):
        parts.append(f"{training['epochs']:,.0f} epochs")
    if pd.notna(training["seconds"]):
        on = f" on {training['device']}" if pd.notna(training["device"]) else ""
        parts.append(f"{duration(training['seconds'])}{on}")
    return ", ".join(parts)


def draw_rows(axes: Axes, rows: list[Row]) -> None:
    """Points with error bars, and the number of labels beside those of few or other labels than a probe's."""
    cells = pd.concat(cells.assign(place=place) for place, (_, cells) in enumerate(rows))
    cells = cells.reset_index(drop=True)
    points(axes, cells, "mean", "place", "outcome", LOOKS, cells["outcome"] == ONLINE, xerr="spread")
    counted = cells[~cells["outcome"].isin(OF_ALL_LABELS)].sort_values("mean")
    for place, row in counted.groupby("place"):
        for index, (mean, count) in enumerate(zip(row["mean"], row["labels"], strict=True)):
            # Above the point, to its left or right; below it between two neighbours.
            side = "right" if index == 0 else "left" if index == len(row) - 1 else "center"
            under = side == "center"
            style: Any = {"ha": side, "va": "top" if under else "bottom", "size": 6.5, "color": "#555555"}
            at, offset = (mean, float(str(place))), (0, -3 if under else 3)
            axes.annotate(f"{count:,.0f}", at, offset, textcoords="offset points", **style)
    axes.set_yticks(range(len(rows)), [training for training, _ in rows], size=8.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def handle(outcome: str) -> Line2D:
    """An entry of the legend; hollow if its marker is also another outcome's."""
    look = LOOKS[outcome]
    face = "white" if outcome == ONLINE else look.color
    return Line2D([], [], color=look.color, marker=look.marker, ls="", mfc=face, label=outcome)


def alt(cells: pd.DataFrame) -> str:
    """The largest network's accuracies."""
    largest = cells[cells["parameters"] == cells["parameters"].max()]
    names = largest["outcome"].where(
        largest["outcome"].isin(OF_ALL_LABELS),
        largest["outcome"] + largest["labels"].map(" with {:,} labels".format),
    )
    own = listed(names, largest["mean"])
    return f"Own {largest['network'].iloc[0]}: {own}; what others report stands in a panel of its own."
