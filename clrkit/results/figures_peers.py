"""Own results on CIFAR-10 beside what papers and peers report: two panels on one scale, never one series."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from clrkit.results.captions import TOP1, caption, listed
from clrkit.results.cells import ALL_LABELS, FINE_TUNED, KNN, LINEAR_PROBE, outcome_cells, pretrainings
from clrkit.results.style import FINETUNED, LINEAR, ORANGE, PINK, SELF, SUPERVISED, FigureWithData, SeriesStyle, new_figure, size_name
from clrkit.results.records import MissingRunsError
from clrkit.results.published import PEERS_DATASET, have_peers, peers
from clrkit.results.table import duration

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
HEADINGS = ("Own", "Published by others, ± standard deviation where given")
PAPER_GROUND = "#faf7f0"
ROW_INCHES = 0.28


@dataclass(frozen=True)
class Row:
    """A training in words, and its points: `outcome` (of LOOKS), `labels` (their count), `mean`, `spread`."""

    text: str
    points: pd.DataFrame


def beside_peers(runs: pd.DataFrame, preset: str) -> FigureWithData:
    """Every network's accuracies above those of others, a row a training with its network, epochs and device.

    Raises MissingRunsError for other images than CIFAR-10.
    """
    if not have_peers(runs):
        raise MissingRunsError(f"Others' numbers are of {PEERS_DATASET}; no runs on it are recorded.")
    cells = outcome_cells(runs)
    panels = list(own_rows(runs, cells)), list(published_rows(peers()))
    data = pd.concat(
        row.points.assign(whose=whose, training=row.text)
        for whose, rows in zip(("own", "published"), panels, strict=True)
        for row in rows
    )
    title, height = (
        f"{PEERS_DATASET}: own results and what others report",
        2.2 + ROW_INCHES * sum(map(len, panels)),
    )
    with new_figure(title, caption(runs, preset, cells), 2, 1, 8.4, height) as (figure, grid):
        for axes, heading, rows in zip(grid, HEADINGS, panels, strict=True):
            axes.set(title=heading, xlim=(10 * (data["mean"].min() // 10) - 5, 100))
            draw_rows(axes, rows)
        gridspec = grid[0].get_gridspec()
        assert gridspec is not None
        gridspec.set_height_ratios(list(map(len, panels)))
        grid[1].set_facecolor(PAPER_GROUND)
        grid[1].set_xlabel(f"{TOP1}; small numbers: labels used")
        handles = [handle(outcome) for outcome in LOOKS if outcome in set(data["outcome"])]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return FigureWithData("beside_peers", title, figure, data, alt(cells))


def own_rows(runs: pd.DataFrame, cells: pd.DataFrame) -> Iterator[Row]:
    """A row for a network's pretraining, then one for each way to go on from it with some of the labels."""
    cells = cells.rename(columns={"stderr": "spread"})
    for _, training in pretrainings(runs).iterrows():
        mine = cells[cells["network"] == training["network"]]
        frozen = mine["outcome"].isin(OF_ALL_LABELS)
        yield Row(described(training), points(mine[frozen]))
        for outcome, tuned in mine[~frozen].groupby("outcome", sort=False):
            kind = FINE_TUNED if outcome == FINE_TUNED else DISTILLED
            yield Row(f"… {outcome}", points(tuned.assign(outcome=kind)))


def published_rows(numbers: pd.DataFrame) -> Iterator[Row]:
    """A row for each training that others report, in the order of `clrkit.results.published.peers`."""
    few = numbers["labels"] < numbers["labels"].max()
    outcomes = numbers["metric"].map(METRICS).mask(numbers["method"] == "supervised", ALL_LABELS)
    numbers = numbers.assign(who=numbers["name"].mask(few, numbers["method"]), outcome=outcomes)
    numbers = numbers.rename(columns={"value": "mean", "std": "spread"})
    for _, row in numbers.groupby(["who", "network", "epochs", "batch_size"], sort=False, dropna=False):
        parts = described(row.iloc[0]), row["doubt"].iloc[0]
        yield Row(f"{row['who'].iloc[0]}: {', '.join(filter(None, parts))}", points(row))


def described(training: pd.Series) -> str:
    """Network with its parameters, epochs, time and device, as far as they are known."""
    parts = [f"{training['network']} ({size_name(training['parameters'])})"]
    if pd.notna(training["epochs"]):
        parts.append(f"{training['epochs']:,.0f} epochs")
    if pd.notna(training["seconds"]):
        on = f" on {training['device']}" if pd.notna(training["device"]) else ""
        parts.append(f"{duration(training['seconds'])}{on}")
    return ", ".join(parts)


def points(cells: pd.DataFrame) -> pd.DataFrame:
    return cells[["outcome", "labels", "mean", "spread"]].sort_values("labels", kind="stable")


def draw_rows(axes: Axes, rows: list[Row]) -> None:
    """Points with bars; those of fewer or other labels than a probe's have their number beside them."""
    for place, row in enumerate(rows):
        for outcome, _, mean, spread in row.points.itertuples(index=False):
            look, error = LOOKS[outcome], None if pd.isna(spread) else spread
            axes.errorbar(mean, place, xerr=error, **look.plot, mfc=face(outcome), elinewidth=1.1)
        numbered = row.points[~row.points["outcome"].isin(OF_ALL_LABELS)].sort_values("mean")
        for index, (mean, label_count) in enumerate(zip(numbered["mean"], numbered["labels"], strict=True)):
            last = index == len(numbered) - 1
            write(axes, mean, place, f"{label_count:,.0f}", "right" if index == 0 else "left" if last else "")
    axes.set_yticks(range(len(rows)), [row.text for row in rows], size=8.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def write(axes: Axes, x: float, place: float, text: str, side: str) -> None:
    """A small number above a point, to its left or right; under it where it has neighbours on both sides."""
    under = not side
    offset = {"right": (0, 3), "left": (0, 3), "": (0, -3)}[side]
    axes.annotate(
        text,
        (x, place),
        offset,
        textcoords="offset points",
        size=6.5,
        color="#555555",
        ha=side or "center",
        va="top" if under else "bottom",
    )


def face(outcome: str) -> str:
    """Hollow where a marker means two things otherwise."""
    return "white" if outcome == ONLINE else LOOKS[outcome].color


def handle(outcome: str) -> Line2D:
    look = LOOKS[outcome]
    return Line2D([], [], color=look.color, marker=look.marker, ls="", mfc=face(outcome), label=outcome)


def alt(cells: pd.DataFrame) -> str:
    """The largest network's accuracies, and that others' stand apart."""
    largest = cells[cells["parameters"] == cells["parameters"].max()]
    names = largest["outcome"].where(
        largest["outcome"].isin(OF_ALL_LABELS),
        largest["outcome"] + largest["labels"].map(" with {:,} labels".format),
    )
    own = listed(names, largest["mean"])
    return f"Own {largest['network'].iloc[0]}: {own}; what others report stands in a panel of its own."
