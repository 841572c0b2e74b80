"""Figures of the ablation lab: one panel or several on one scale, and what was published, clearly apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes

from clrkit.experiments.ablation_settings import FACTORS, OUTCOMES, depends, text_of
from clrkit.results.ablation import Ablation, Series, summary
from clrkit.results.published import finding
from clrkit.results.records import records_to_frame
from clrkit.results.style import (
    FINETUNED,
    LINEAR,
    SELF,
    SUPERVISED,
    TOP1,
    FigureWithData,
    SeriesStyle,
    caption,
    listed,
    new_figure,
    with_looks,
)

LOOKS = {"linear": LINEAR, "finetuned": FINETUNED, "distilled": SELF}
PUBLISHED_LOOKS = LOOKS | {"supervised": SUPERVISED}  # a method looks alike, own or published
REST = "all else as in the preset"
LEAST_SPAN = 10.0  # percentage points on the vertical axis, so that noise does not look like an effect
APART = 0.05  # between the bars of lines that are crossed, so that none hides another
GREY = "#f0f0f0"


@dataclass(frozen=True)
class Line:
    """Means of a panel (`clrkit.results.ablation.summary`), their look, and where seeds are missing."""

    name: str
    look: SeriesStyle
    cells: pd.DataFrame
    lacking: Sequence[Any] = ()


@dataclass(frozen=True)
class Panel:
    """Lines along one setting, under a heading."""

    heading: str
    along: str
    series: list[Series]
    lines: list[Line]

    @property
    def lines_of_series(self) -> list[Line]:
        """Those of own measurements, without what stands beside them."""
        return self.lines[: len(self.series)]


def compare(lab: Ablation, outcome: str, along: str, points: Sequence[Mapping[str, Any]]) -> FigureWithData:
    """An outcome along a setting: at one point, or at two side by side on one scale.

    Raises:
        ConfigError: as `Ablation.series`.
    """
    found = [lab.series(outcome, along, **point) for point in points]
    title = f"{OUTCOMES[outcome].capitalize()}: accuracy by {FACTORS[along].name}"
    return draw(lab, title, list(map(panel_of, headings(found), found)))


def crossed(
    lab: Ablation, outcome: str, along: str, lines: str, panels: str | None = None, **held: Any
) -> FigureWithData:
    """An outcome along a setting, a line for every value of a second and a panel for every one of a third.

    Panels of which less than half is recorded are left out, and lines of which nothing is, unless all are.

    Raises:
        ConfigError: as `Ablation.series`, and for more lines than there are looks.
    """
    title = f"{OUTCOMES[outcome].capitalize()}: accuracy by {FACTORS[along].name} and {FACTORS[lines].name}"
    points = [{**held, panels: value} for value in lab.choices[panels]] if panels else [held]
    every = [
        [lab.series(outcome, along, **{**point, lines: each}) for each in lab.choices[lines]]
        for point in points
    ]
    every = [
        found for found in every if sum(len(each.runs) - len(each.missing) for each in found) > 0
    ] or every
    shown = [[each for each in found if each.runs] or found for found in every]
    known = {each.held[lines] for found in shown for each in found}
    looks = dict(with_looks([value for value in lab.choices[lines] if value in known], "lines"))
    drawn = [
        Panel(
            f"{FACTORS[panels].name} {text_of(panels, found[0].held[panels])}" if panels else "",
            along,
            found,
            [crossing_line(each, lines, looks[each.held[lines]]) for each in lined],
        )
        for found, lined in zip(every, shown, strict=True)
    ]
    return draw(lab, title, drawn)


def crossing_line(series: Series, lines: str, look: SeriesStyle) -> Line:
    """A series under the value of the setting that the lines differ in."""
    name = f"{FACTORS[lines].name} {text_of(lines, series.held[lines])}"
    return Line(name, look, series.cells, series.lacking)


def side_by_side(lab: Ablation, outcome: str, settings: Sequence[str], **held: Any) -> FigureWithData:
    """An outcome along several settings, a panel each, on one scale."""
    title = (
        f"{OUTCOMES[outcome].capitalize()}: accuracy by {', '.join(FACTORS[name].name for name in settings)}"
    )
    return draw(lab, title, [panel_of("", lab.series(outcome, name, **held)) for name in settings])


def panel_of(heading: str, series: Series) -> Panel:
    """A series with the supervised runs, and of a student its teacher, beside it."""
    lines = [Line(OUTCOMES[series.outcome], LOOKS[series.outcome], series.cells, series.lacking)]
    if series.outcome == "distilled" and series.runs:
        lines.append(Line("its teacher", FINETUNED, summary(series.runs, "teacher_top1")))
    if series.supervised:
        lines.append(Line("supervised", SUPERVISED, summary(series.supervised)))
    return Panel(heading, series.along, [series], lines)


def headings(found: Sequence[Series]) -> list[str]:
    """What differs between two points, A and B; nothing where there is one."""
    if len(found) == 1:
        return [""]
    one, other = found
    differ = [
        name
        for name in FACTORS
        if one.held[name] != other.held[name] and name != one.along and depends(one.outcome, name)
    ]
    words = [
        ", ".join(f"{FACTORS[name].name} {text_of(name, each.held[name])}" for name in differ)
        for each in found
    ]
    return [f"A: {words[0]}", f"B: {words[1]}"] if differ else ["A", "B, the same as A"]


def draw(lab: Ablation, title: str, panels: Sequence[Panel]) -> FigureWithData:
    """Panels on one vertical scale, the names of their lines below."""
    every = [series for panel in panels for series in panel.series]
    width = max(6.4, 0.1 * len(title), 1.2 + 2.9 * len(panels))
    with new_figure(title, subtitle(lab, every), 1, len(panels), width=width, height=3.9) as (figure, grid):
        for axes, panel in zip(grid, panels, strict=True):
            draw_panel(lab, axes, panel)
            axes.set_ylim(limits(panels))
        grid[0].set_ylabel(TOP1)
        for axes in grid[1:]:
            axes.tick_params(labelleft=False)
        shown = {
            text: handle
            for axes in grid
            for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(shown.values(), shown.keys(), loc="outside lower left", ncols=3)
    cells = [
        line.cells.assign(panel=panel.heading, line=line.name) for panel in panels for line in panel.lines
    ]
    return FigureWithData("ablation", title, figure, pd.concat(cells), alt(title, panels))


def draw_panel(lab: Ablation, axes: Axes, panel: Panel) -> None:
    """Lines over the values of a setting, evenly spaced; a grey bar marks the preset's value."""
    values = lab.choices[panel.along]
    places = {value: place for place, value in enumerate(values)}
    standard = places[lab.standard[panel.along]]
    axes.axvspan(standard - 0.12, standard + 0.12, color=GREY, zorder=0, label="the preset's value")
    apart = APART if len(panel.series) > 1 else 0.0
    for index, line in enumerate(panel.lines):
        shift = apart * (index - (len(panel.lines) - 1) / 2)
        draw_line(axes, {value: place + shift for value, place in places.items()}, line, order=9 - index)
    texts = [text_of(panel.along, value) for value in values]
    axes.set_xticks(range(len(values)), texts)
    axes.set(xlim=(-0.4, len(values) - 0.6), xlabel=FACTORS[panel.along].meaning)
    axes.set_title(panel.heading)


def draw_line(axes: Axes, places: Mapping[Any, float], line: Line, order: float) -> None:
    """Means with bars of one standard error; hollow where seeds are missing, on the axis where all are."""
    cells, look = line.cells, line.look
    error = None if cells["stderr"].isna().all() else cells["stderr"].fillna(0)
    if len(cells):
        axes.errorbar(
            cells["value"].map(places),
            cells["mean"],
            error,
            **look.plot,
            elinewidth=1.1,
            zorder=order,
            label=line.name,
        )
    hollow: dict[str, Any] = {
        "marker": look.marker,
        "ls": "",
        "color": look.color,
        "mfc": "white",
        "zorder": order + 0.5,
    }
    some = cells[cells["value"].isin(line.lacking)]
    axes.plot(some["value"].map(places), some["mean"], **hollow)
    none = [places[value] for value in line.lacking if value not in set(cells["value"])]
    if line.lacking:
        at = axes.get_xaxis_transform()
        label = "hollow: runs are missing (on the axis: all)"
        axes.plot(none, [0.0] * len(none), transform=at, clip_on=False, label=label, **hollow)


def limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Of the vertical axis: all means with their bars, and no less than LEAST_SPAN."""
    cells = pd.concat([line.cells for panel in panels for line in panel.lines])
    if cells.empty:
        return 0, 100
    error = cells["stderr"].fillna(0)
    low, high = float((cells["mean"] - error).min()), float((cells["mean"] + error).max())
    spare = max(LEAST_SPAN - (high - low), 0.2 * (high - low)) / 2
    return low - spare, min(high + spare, 100)


def subtitle(lab: Ablation, found: Sequence[Series]) -> str:
    """Data, preset, seeds and error bars; where the runs come from, and what is held other than usual."""
    along, outcome = {series.along for series in found}, found[0].outcome
    held = [
        f"{FACTORS[name].name} {text_of(name, found[0].held[name])}"
        for name, value in lab.standard.items()
        if len({series.held[name] for series in found}) == 1
        and name not in along
        and (found[0].held[name] != value or name == "fraction")
        and depends(outcome, name)
    ]
    runs = [run for series in found for _, run in series.runs]
    if not runs:
        return f"no runs are recorded here\n{', '.join([*held, REST])}"
    told = caption(
        records_to_frame([runs[0].record], lab.preset),
        lab.preset.name,
        pd.concat([series.cells for series in found]),
    )
    sources = lab.sources([(None, run) for run in runs])
    return f"{told}\n{', '.join([*held, REST])}; {sources}"


def alt(title: str, panels: Iterable[Panel]) -> str:
    """The means of every panel's series, and how many runs are missing."""
    told = []
    for panel in panels:
        missing = sum(len(series.missing) for series in panel.series)
        known = ". ".join(means(panel.along, line, len(panel.series) > 1) for line in panel.lines_of_series)
        name = panel.heading or FACTORS[panel.along].name
        lacking = f", {missing} run{'s' if missing > 1 else ''} missing" if missing else ""
        told.append(f"{name}: {known or 'nothing is recorded'}{lacking}")
    return f"{title}. {'; '.join(told)}."


def means(along: str, line: Line, named: bool) -> str:
    """A line's means by value, with its name where it is one of several."""
    texts = (text_of(along, value) for value in line.cells["value"])
    known = listed(texts, line.cells["mean"])
    return f"{line.name}, {known or 'nothing is recorded'}" if named else known


def as_published(setting: str) -> FigureWithData | None:
    """The published numbers of a setting, on a scale of their own; None where there are none."""
    found = finding(setting)
    if found.numbers.empty:
        return None
    title = f"As published, ImageNet: {FACTORS[setting].name}"
    labels = list(dict.fromkeys(found.numbers["label"]))
    with new_figure(title, f"{found.cited}; no error bars are published", width=5.2, height=3.9) as (
        figure,
        (axes,),
    ):
        axes.set_facecolor("#faf7f0")
        for (name, cells), look in with_looks(found.numbers.groupby("series", sort=False), "series"):
            places = cells["label"].map(labels.index)
            axes.plot(places, cells["mean"], **PUBLISHED_LOOKS.get(str(name), look).plot, label=name)
        axes.set_xticks(range(len(labels)), labels)
        axes.set(xlim=(-0.4, len(labels) - 0.6), ylabel=TOP1)
        figure.legend(loc="outside lower left", ncols=3)
    said = found.numbers["series"] + " " + found.numbers["label"]
    return FigureWithData(
        "published", title, figure, found.numbers, f"{title}. {listed(said, found.numbers['mean'])}."
    )


def beside(lab: Ablation, found: Sequence[Series]) -> list[tuple[str, str]]:
    """What was published of a setting, with its sources, and what the records of each series say."""
    own = [
        (name or "these records", lab.says(each)) for name, each in zip(headings(found), found, strict=True)
    ]
    return [("published", finding(found[0].along).says), *own]


def found(lab: Ablation, outcome: str, *settings: str, **held: Any) -> Markdown:
    """What was published of settings beside what these records say, as a table."""
    lines = ["| setting | published | these records |", "| --- | --- | --- |"]
    for name in settings:
        (_, published), (_, own) = beside(lab, [lab.series(outcome, name, **held)])
        lines.append(f"| {FACTORS[name].name} | {published} | {own} |")
    return Markdown("\n".join(lines))
