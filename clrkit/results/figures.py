"""The paper's figures from records: a frame of runs in, a `FigureWithData` out, no training.

The figures of runs take the frame (`clrkit.results.records.records_to_frame`) and the preset's name for the
caption, show means over seeds with bars of one standard error, and raise MissingRunsError for runs that are
not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pandas as pd
from matplotlib.axes import Axes

from clrkit.results.figures_peers import beside_peers
from clrkit.results.plots import bars, label_ends, legend, lines, points, selective, size_axis
from clrkit.results.published import have_peers, table_1
from clrkit.results.records import MissingRunsError, MixedRunsError, fractions_of, standard_head
from clrkit.results.statistics import (
    ALL_LABELS,
    FINE_TUNED,
    LINEAR_PROBE,
    SELF_DISTILLED,
    TARGETS,
    WITH_MEMORY,
    WITHOUT_MEMORY,
    accuracy_cells,
    best_layers,
    distillation_cells,
    gain_cells,
    head_cells,
    linear_cells,
    memory_cells,
    method_cells,
    target_cells,
    target_pair,
)
from clrkit.results.style import (
    BLACK,
    FINETUNED,
    LINEAR,
    ORANGE,
    SELF,
    STUDENTS,
    SUPERVISED,
    TOP1,
    FigureWithData,
    SeriesStyle,
    caption,
    listed,
    new_figure,
    share,
    with_looks,
)

PARAMETERS = "parameters of the encoder"
FRACTIONS = "label fractions"
MARKERS = "sD^o"  # by depth of the head modulo 4, so that the paper's 3 is a circle
PUBLISHED = "SimCLRv2, Table 1, ImageNet; no error bars are published"
METHODS = {"supervised": SUPERVISED, "finetuned": FINETUNED, "linear": LINEAR}
METHOD_NAMES = ("supervised", "pretrained, then fine-tuned", "linear probe")
MEMORY = {WITHOUT_MEMORY: LINEAR, WITH_MEMORY: SeriesStyle(ORANGE, "P", "-")}
TARGET_LOOKS = (SUPERVISED, STUDENTS[1], STUDENTS[2], STUDENTS[0])


def at(cells: pd.DataFrame, fraction: float) -> pd.DataFrame:
    """The cells at a label fraction."""
    return cells[cells["fraction"] == fraction]


def gain_by_size(runs: pd.DataFrame, preset: str) -> FigureWithData:
    """Fig. 1: gain (%) over the smallest network against size, a line per label fraction."""
    cells, title = gain_cells(runs), "Gain by model size at each label fraction"
    return draw_gain(cells, "gain_by_size", title, caption(runs, preset, cells))


def published_gain_by_size() -> FigureWithData:
    """Fig. 1 from the numbers of the paper's Table 1."""
    table = table_1()
    tuned = table[table["method"] == "finetuned"].drop(columns="method")
    smallest = tuned[tuned["parameters"] == tuned["parameters"].min()].set_index("fraction")["mean"]
    cells = tuned.assign(mean=100 * (tuned["mean"] / tuned["fraction"].map(smallest) - 1))
    return draw_gain(cells, "published_gain_by_size", "As published: gain by model size", PUBLISHED)


def draw_gain(cells: pd.DataFrame, name: str, title: str, subtitle: str) -> FigureWithData:
    """Gains against size, with the label fractions at the ends of the lines."""
    ordered = cells.sort_values(["parameters", "fraction"])
    smallest, largest = ordered["network"].iloc[0], ordered["network"].iloc[-1]
    looks = dict(with_looks(fractions_of(cells), FRACTIONS))
    with new_figure(title, subtitle) as (figure, (axes,)):
        size_axis(axes, cells)
        lines(axes, ordered, "parameters", "fraction", looks)
        axes.set(xlabel=PARAMETERS, ylabel=f"relative top-1 gain over {smallest} (%)")
        ends = ordered.groupby("fraction").tail(1).sort_values("fraction")
        colors = [look.color for look in looks.values()]
        label_ends(axes, ends["parameters"], ends["mean"], map(share, ends["fraction"]), colors)
        legend(figure, {}, cells)
    last = ordered[ordered["network"] == largest]
    gains = listed(map(share, last["fraction"]), last["mean"], "+.1f")
    alt = f"Relative gain in accuracy of {largest} over {smallest} after fine-tuning: {gains}."
    return FigureWithData(name, title, figure, cells, alt)


def accuracy_by_size(runs: pd.DataFrame, preset: str) -> FigureWithData:
    """Fig. 4: accuracy against size by method, a panel per label fraction and one for the probe."""
    cells = accuracy_cells(runs)
    return draw_accuracy(cells, "accuracy_by_size", "Accuracy by model size", caption(runs, preset, cells))


def published_accuracy_by_size() -> FigureWithData:
    """Fig. 4 from the numbers of the paper's Table 1."""
    title = "As published: accuracy by model size"
    return draw_accuracy(table_1(), "published_accuracy_by_size", title, PUBLISHED)


def draw_accuracy(cells: pd.DataFrame, name: str, title: str, subtitle: str) -> FigureWithData:
    """Accuracy against size, a panel per label fraction and one for the linear probe."""
    tuned = cells[cells["method"] != "linear"]
    panels = {share(fraction): at(tuned, fraction) for fraction in fractions_of(tuned)}
    panels["linear probe, all labels"] = at(cells[cells["method"] != "finetuned"], 1)
    rows, names = -(-len(panels) // 2), dict(zip(METHODS, METHOD_NAMES, strict=True))
    with new_figure(title, subtitle, rows, 2, height=1.1 + 2.2 * rows) as (figure, grid):
        for axes, (heading, panel) in zip(grid, panels.items(), strict=False):
            size_axis(axes, cells)
            axes.set_title(heading)
            lines(axes, panel, "parameters", "method", METHODS)
        label_outer(trimmed(grid, len(panels)), 2)
        legend(figure, {names[method]: look for method, look in METHODS.items()}, cells)
    last = cells[cells["parameters"] == cells["parameters"].max()]
    texts = [
        f"{names[str(method)]} {listed(map(share, part['fraction']), part['mean'])}"
        for method, part in last.groupby("method", sort=False)
    ]
    alt = f"Accuracy of the largest network, {last['network'].iloc[0]}: {'; '.join(texts)}."
    return FigureWithData(name, title, figure, cells, alt)


def trimmed(grid: list[Axes], panels: int) -> list[Axes]:
    """Remove the axes beyond the last panel."""
    for axes in grid[panels:]:
        axes.remove()
    return grid[:panels]


def label_outer(grid: list[Axes], columns: int) -> None:
    """Label accuracy left of the first column and parameters below the last row."""
    for axes in grid[::columns]:
        axes.set_ylabel(TOP1)
    for axes in grid[-columns:]:
        axes.set_xlabel(PARAMETERS)


def head_ablation(runs: pd.DataFrame, preset: str) -> FigureWithData:
    """Fig. 5: (a) accuracy from the best layer by head depth; (b) accuracy by the layer started from."""
    cells, head = head_cells(runs), standard_head(runs)
    network, fractions = cells["network"].iloc[0], fractions_of(cells)
    best, standard = best_layers(cells), cells[cells["head_layers"] == head]
    looks = dict(with_looks(fractions, FRACTIONS))
    title, rows = f"Depth of the head, and the layer fine-tuning starts from ({network})", len(fractions)
    with new_figure(title, caption(runs, preset, cells), rows, 2, height=1.0 + 2.0 * rows) as (figure, grid):
        for fraction, left, right in zip(fractions, grid[::2], grid[1::2], strict=True):
            heads, layers = at(best, fraction), at(standard, fraction)
            lines(left, heads, "head_layers", "fraction", looks)
            pairs = zip(heads["head_layers"], heads["tap_layer"], strict=True)
            left.set_xticks(heads["head_layers"], [f"{depth}\nlayer {layer}" for depth, layer in pairs])
            left.margins(x=0.15)
            left.set(title=f"(a) {share(fraction)}, best layer", ylabel=TOP1)
            lines(right, layers, "tap_layer", "fraction", looks)
            right.set(title=f"(b) {share(fraction)}, {head}-layer head", xticks=layers["tap_layer"])
        grid[-2].set_xlabel("layers of the projection head, and best layer")
        grid[-1].set_xlabel("layer started from (0: encoder's output)")
    least = at(standard, fractions[0])
    values = listed([f"layer {tap}" for tap in least["tap_layer"]], least["mean"])
    alt = f"Accuracy of {network} with {share(fractions[0])} by the layer fine-tuning starts from: {values}."
    return FigureWithData("head_ablation", title, figure, cells, alt)


def linear_against_finetuned(runs: pd.DataFrame, preset: str) -> FigureWithData:
    """Appendix: do encoders with a better linear evaluation fine-tune better? A panel per fraction."""
    cells, head = linear_cells(runs), standard_head(runs)
    named = cells.assign(head=[f"{depth}-layer head" for depth in cells["head_layers"]])
    title, fractions = "Linear evaluation against fine-tuning", fractions_of(cells)
    depths = cells["head_layers"].unique()
    heads = {f"{depth}-layer head": SeriesStyle(BLACK, MARKERS[depth % 4], "") for depth in depths}
    looks = with_looks(fractions, FRACTIONS)
    columns = len(fractions) if len(fractions) <= 3 else 2
    rows = -(-len(fractions) // columns)
    with new_figure(title, caption(runs, preset, cells), rows, columns, height=1.3 + 2.6 * rows) as (
        figure,
        grid,
    ):
        grid = trimmed(grid, len(looks))
        for axes, (fraction, look) in zip(grid, looks, strict=True):
            draw_scatter(axes, at(named, fraction), look.color, heads, f"{head}-layer head")
            axes.set_title(share(fraction))
        for axes in grid[::columns]:
            axes.set_ylabel("fine-tuned, " + TOP1)
        under = grid[-columns:]
        for axes in under if rows > 1 else [under[columns // 2]]:
            axes.set_xlabel("linear probe, all labels, " + TOP1)
        legend(figure, heads, cells)
    return FigureWithData("linear_against_finetuned", title, figure, cells, linear_alt(cells))


def linear_alt(cells: pd.DataFrame) -> str:
    """The correlation at each label fraction."""
    encoders = len(cells[["network", "head_layers"]].drop_duplicates())
    start = f"Fine-tuned against linear-probe accuracy of {encoders} encoder{'s' if encoders > 1 else ''}"
    if encoders < 3:
        return f"{start}, too few for a correlation."
    related = [cell["linear"].corr(cell["mean"]) for _, cell in cells.groupby("fraction")]
    return f"{start}; correlation: {listed(map(share, fractions_of(cells)), related, '.2f', '')}."


def draw_scatter(
    axes: Axes, cells: pd.DataFrame, color: str, heads: Mapping[str, SeriesStyle], standard: str
) -> None:
    """Points with error bars both ways, a marker for each head depth; the standard head's are named."""
    looks = {name: replace(look, color=color) for name, look in heads.items()}
    errors = {"xerr": "linear_stderr", "yerr": "stderr"}
    points(axes, cells, "linear", "mean", "head", looks, selective(cells), **errors)
    axes.margins(0.42, 0.2)
    named = cells[cells["head"] == standard]
    label_ends(axes, named["linear"], named["mean"], named["network"], ["#555555"] * len(named))


def memory_by_size(runs: pd.DataFrame, preset: str) -> FigureWithData:
    """Appendix D: linear accuracy against size, pretrained with and without a memory."""
    cells, title = memory_cells(runs), "Linear evaluation after pretraining with and without a memory"
    aside = cells["method"].map({WITHOUT_MEMORY: 0.97, WITH_MEMORY: 1.03})  # the two are near each other
    with new_figure(title, caption(runs, preset, cells)) as (figure, (axes,)):
        size_axis(axes, cells)
        lines(axes, cells.assign(parameters=cells["parameters"] * aside), "parameters", "method", MEMORY)
        low, high = cells["mean"].min() - 10, cells["mean"].max() + 10
        axes.set(xlabel=PARAMETERS, ylabel="linear probe, " + TOP1, ylim=(max(low, 0), min(high, 100)))
        legend(figure, MEMORY, cells)
    values = listed(cells["network"] + " " + cells["method"], cells["mean"])
    return FigureWithData("memory_by_size", title, figure, cells, f"Linear accuracy by network: {values}.")


def student_looks(cells: pd.DataFrame) -> dict[str, SeriesStyle]:
    """The look of each method. Raises MixedRunsError for more teachers than can be distinguished."""
    students = sorted(name for name in set(cells["method"]) if name.startswith("distilled from"))
    looks = {"supervised": SUPERVISED, ALL_LABELS: SUPERVISED, FINE_TUNED: FINETUNED, SELF_DISTILLED: SELF}
    looks.update(with_looks(students, "kinds of distilled students", STUDENTS))
    return {name: look for name, look in looks.items() if name in set(cells["method"])}


def distillation(runs: pd.DataFrame, preset: str) -> FigureWithData:
    """Fig. 6: accuracy against size, fine-tuned and distilled, with supervised training on all labels."""
    cells = distillation_cells(runs)
    everything = cells["method"] == ALL_LABELS
    looks, rest = student_looks(cells), cells[~everything]
    title, fractions = "Distillation by model size", fractions_of(rest)
    with new_figure(title, caption(runs, preset, cells), 1, len(fractions), height=4.2) as (figure, grid):
        for axes, fraction in zip(grid, fractions, strict=True):
            size_axis(axes, cells)
            axes.set_title(share(fraction))
            panel = side_by_side(pd.concat([cells[everything], at(rest, fraction)], ignore_index=True))
            lines(axes, panel, "parameters", "method", looks)
        label_outer(grid, len(grid))
        legend(figure, looks, cells)
    least = at(rest, fractions[0])
    values = listed(least["network"] + " " + least["method"], least["mean"])
    alt = f"Accuracy with {share(fractions[0])} by network and method: {values}."
    return FigureWithData("distillation", title, figure, cells, alt)


def side_by_side(cells: pd.DataFrame) -> pd.DataFrame:
    """Move students of one network a little apart in size, as their marks would cover each other."""
    twins = cells[~cells["method"].isin([ALL_LABELS, FINE_TUNED])].groupby("parameters")["method"]
    apart = twins.cumcount() - (twins.transform("size") - 1) / 2
    return cells.assign(parameters=cells["parameters"] * (1.12**apart).reindex(cells.index, fill_value=1.0))


def distillation_targets(runs: pd.DataFrame, preset: str) -> FigureWithData:
    """Table 2 as bars: what a student learns from labels, the teacher's outputs, and unlabelled images."""
    cells, (student, teacher) = target_cells(runs), target_pair(runs)
    looks = dict(zip((target for target, _, _ in TARGETS), TARGET_LOOKS, strict=True))
    title, fractions = f"What the student learns from ({teacher} teaches {student})", fractions_of(cells)
    rows = len(fractions)
    with new_figure(title, caption(runs, preset, cells), rows, 1, height=1.0 + 1.6 * rows) as (figure, grid):
        draw_bars(grid, cells, "target", looks)
    least = at(cells, fractions[0])
    values = listed(least["target"], least["mean"])
    alt = f"Accuracy of {student} taught by {teacher} with {share(fractions[0])}: {values}."
    return FigureWithData("distillation_targets", title, figure, cells, alt)


def draw_bars(grid: list[Axes], cells: pd.DataFrame, column: str, looks: dict[str, SeriesStyle]) -> None:
    """A panel of bars for each label fraction, on one scale from 0 to 100%."""
    for axes, fraction in zip(grid, fractions_of(cells), strict=True):
        bars(axes, at(cells, fraction), column, looks)
        axes.set(title=share(fraction), xlim=(0, 121), xticks=range(0, 101, 20))
        axes.label_outer()
    grid[-1].set_xlabel(TOP1)


def method_bars(runs: pd.DataFrame, preset: str) -> FigureWithData:
    """Fig. 2: one network's accuracy by method with few labels; dashed lines show what all labels give."""
    cells = method_cells(runs)
    few, network = cells[cells["fraction"] < 1], cells["network"].iloc[0]
    full = cells[(cells["fraction"] == 1) & cells["method"].isin(["supervised", LINEAR_PROBE])]
    title, fractions = f"Few labels: {network} by method", fractions_of(few)
    rows = len(fractions)
    with new_figure(title, caption(runs, preset, cells), rows, 1, height=1.0 + 1.6 * rows) as (figure, grid):
        draw_bars(grid, few, "method", student_looks(few))
        for method, mean in zip(full["method"], full["mean"], strict=True):
            look = SUPERVISED if method == "supervised" else LINEAR
            for axes in grid:
                axes.axvline(mean, color=look.color, ls=look.line, lw=1.2, label=f"{method}, all labels")
        figure.legend(handles=grid[0].lines[-len(full) :], loc="outside lower center", ncols=2)
    least = at(few, fractions[0])
    alt = f"Accuracy of {network} with {share(fractions[0])}: {listed(least['method'], least['mean'])}."
    return FigureWithData("method_bars", title, figure, cells, alt)


FIGURES: tuple[Callable[[pd.DataFrame, str], FigureWithData], ...] = (
    method_bars,
    gain_by_size,
    accuracy_by_size,
    head_ablation,
    linear_against_finetuned,
    distillation,
    distillation_targets,
    memory_by_size,
)


def draw_all(runs: pd.DataFrame, preset: str) -> tuple[list[FigureWithData], dict[str, str]]:
    """Every figure that the runs allow, and for each other its name and what is missing.

    Runs on CIFAR-10 are also drawn beside the numbers of peers.
    """
    drawings, missing = [], {}
    for figure in (*FIGURES, *([beside_peers] if have_peers(runs) else [])):
        try:
            drawings.append(figure(runs, preset))
        except (MissingRunsError, MixedRunsError) as reason:
            missing[figure.__name__] = str(reason)
    return drawings, missing
