"""Figures of the ablation lab: accuracy along a setting, and published numbers in a figure of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes

from clrkit.experiments.ablation_settings import FACTORS, OUTCOMES, depends, text_of
from clrkit.results import style
from clrkit.results.ablation import Ablation, Series, summary
from clrkit.results.published import Finding, finding
from clrkit.results.records import records_to_frame
from clrkit.results.style import TOP1, FigureWithData, SeriesStyle, caption, listed, new_figure, with_looks

LOOKS = {"linear": style.LINEAR, "finetuned": style.FINETUNED, "distilled": style.SELF}
PUBLISHED_LOOKS = LOOKS | {"supervised": style.SUPERVISED}  # a method looks the same, own or published
LEAST_SPAN = 10.0  # percentage points on the vertical axis, so that noise does not look like an effect
OFFSET = 0.05  # between lines of one panel, so that no error bar hides another


@dataclass(frozen=True)
class Line:
    """Means along a setting (`clrkit.results.ablation.summary`), and the values that lack seeds."""

    name: str
    look: SeriesStyle
    cells: pd.DataFrame
    lacking: Sequence[Any] = ()


@dataclass(frozen=True)
class Panel:
    """Lines along one setting: one for each series, then lines to compare them with."""

    heading: str
    series: Sequence[Series]
    lines: Sequence[Line]

    @property
    def along(self) -> str:
        return self.series[0].along


def compare(lab: Ablation, found: Sequence[Series]) -> FigureWithData:
    """Draw one series, or two side by side on one scale."""
    panels = [panel_of(heading, series) for heading, series in zip(headings(found), found, strict=True)]
    return draw(lab, title_of(found[0].outcome, found[0].along), panels)


def side_by_side(lab: Ablation, outcome: str, settings: Sequence[str], **held: Any) -> FigureWithData:
    """Draw an outcome along several settings, one panel each, on one scale."""
    panels = [panel_of("", lab.series(outcome, name, **held)) for name in settings]
    return draw(lab, title_of(outcome, *settings), panels)


def crossed(
    lab: Ablation, outcome: str, along: str, lines: str, panels: str | None = None, **held: Any
) -> FigureWithData:
    """Draw an outcome along a setting: a line for each value of a second one, a panel for each of a third.

    Panels with fewer than half of their runs, and lines without any, are omitted unless nothing would remain.

    Raises:
        ConfigError: as `Ablation.series`, and for more lines than there are looks.
    """
    points = [{**held, panels: value} for value in lab.choices[panels]] if panels else [held]
    rows = [
        [lab.series(outcome, along, **{**point, lines: value}) for value in lab.choices[lines]]
        for point in points
    ]
    rows = [row for row in rows if sum(len(each.runs) - len(each.missing) for each in row) > 0] or rows
    rows = [[each for each in row if each.runs] or row for row in rows]
    known = {each.held[lines] for row in rows for each in row}
    looks = dict(with_looks([value for value in lab.choices[lines] if value in known], "lines"))
    drawn = []
    for row in rows:
        heading = named(panels, row[0].held[panels]) if panels else ""
        values = [each.held[lines] for each in row]
        styled = [
            Line(named(lines, value), looks[value], each.cells, each.lacking)
            for value, each in zip(values, row, strict=True)
        ]
        drawn.append(Panel(heading, row, styled))
    return draw(lab, title_of(outcome, along, lines), drawn)


def title_of(outcome: str, *settings: str) -> str:
    return (
        f"{OUTCOMES[outcome].capitalize()}: accuracy by {', '.join(FACTORS[name].name for name in settings)}"
    )


def named(setting: str, value: Any) -> str:
    return f"{FACTORS[setting].name} {text_of(setting, value)}"


def panel_of(heading: str, series: Series) -> Panel:
    """A series beside the supervised runs and, for a student, its teacher."""
    lines = [Line(OUTCOMES[series.outcome], LOOKS[series.outcome], series.cells, series.lacking)]
    if series.outcome == "distilled" and series.runs:
        lines.append(Line("its teacher", style.FINETUNED, summary(series.runs, "teacher_top1")))
    if series.supervised:
        lines.append(Line("supervised", style.SUPERVISED, summary(series.supervised)))
    return Panel(heading, [series], lines)


def headings(found: Sequence[Series]) -> list[str]:
    """The settings in which the points A and B differ; no heading for a single series."""
    if len(found) == 1:
        return [""]
    one, other = found
    differ = [
        name
        for name in FACTORS
        if one.held[name] != other.held[name] and name != one.along and depends(one.outcome, name)
    ]
    if not differ:
        return ["A", "B, the same as A"]
    words = (", ".join(named(name, each.held[name]) for name in differ) for each in found)
    return [f"{point}: {text}" for point, text in zip("AB", words, strict=True)]


def draw(lab: Ablation, title: str, panels: Sequence[Panel]) -> FigureWithData:
    """Draw panels on one vertical scale, with one legend below them."""
    cells = pd.concat(
        [line.cells.assign(panel=panel.heading, line=line.name) for panel in panels for line in panel.lines]
    )
    width = max(6.4, 0.1 * len(title), 1.2 + 2.9 * len(panels))
    about = subtitle(lab, panels, cells)
    with new_figure(title, about, 1, len(panels), width=width, height=3.9) as (figure, grid):
        handles: dict[str, Any] = {}
        for axes, panel in zip(grid, panels, strict=True):
            draw_panel(lab, axes, panel)
            axes.set_ylim(limits(cells))
            axes.tick_params(labelleft=axes is grid[0])
            shown, names = axes.get_legend_handles_labels()
            handles |= dict(zip(names, shown, strict=True))
        grid[0].set_ylabel(TOP1)
        figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=3)
    return FigureWithData("ablation", title, figure, cells, alt(title, panels))


def draw_panel(lab: Ablation, axes: Axes, panel: Panel) -> None:
    """Draw lines over the values of a setting, evenly spaced; a grey bar marks the preset's value."""
    values = lab.choices[panel.along]
    standard = values.index(lab.standard[panel.along])
    axes.axvspan(standard - 0.12, standard + 0.12, color="#f0f0f0", zorder=0, label="the preset's value")
    offset = OFFSET if len(panel.series) > 1 else 0.0
    for index, line in enumerate(panel.lines):
        shift = offset * (index - (len(panel.lines) - 1) / 2)
        places = {value: place + shift for place, value in enumerate(values)}
        draw_line(axes, places, line, order=9 - index)
    axes.set_xticks(range(len(values)), [text_of(panel.along, value) for value in values])
    axes.set(xlim=(-0.4, len(values) - 0.6), xlabel=FACTORS[panel.along].meaning)
    axes.set_title(panel.heading)


def draw_line(axes: Axes, places: Mapping[Any, float], line: Line, order: float) -> None:
    """Draw means with bars of one standard error; hollow if seeds are missing, on the axis if all are."""
    cells, look = line.cells, line.look
    error = None if cells["stderr"].isna().all() else cells["stderr"].fillna(0)
    if len(cells):
        shown: Any = {**look.plot, "elinewidth": 1.1, "zorder": order, "label": line.name}
        axes.errorbar(cells["value"].map(places), cells["mean"], error, **shown)
    if line.lacking:
        hollow: Any = {"marker": look.marker, "ls": "", "color": look.color, "mfc": "white"}
        some = cells[cells["value"].isin(line.lacking)]
        axes.plot(some["value"].map(places), some["mean"], zorder=order + 0.5, **hollow)
        none = [places[value] for value in line.lacking if value not in set(cells["value"])]
        on_axis: Any = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": order + 0.5}
        label = "hollow: runs missing (on the axis: all)"
        axes.plot(none, [0.0] * len(none), label=label, **hollow, **on_axis)


def limits(cells: pd.DataFrame) -> tuple[float, float]:
    """Limits of the vertical axis: all means with their error bars, and at least LEAST_SPAN."""
    if cells.empty:
        return 0, 100
    error = cells["stderr"].fillna(0)
    low, high = float((cells["mean"] - error).min()), float((cells["mean"] + error).max())
    spare = max(LEAST_SPAN - (high - low), 0.2 * (high - low)) / 2
    return low - spare, min(high + spare, 100)


def subtitle(lab: Ablation, panels: Sequence[Panel], cells: pd.DataFrame) -> str:
    """Data, preset, seeds and error bars; settings that differ from the preset; where the runs come from."""
    found = [series for panel in panels for series in panel.series]
    first, along = found[0], {series.along for series in found}
    held = [
        named(name, first.held[name])
        for name, value in lab.standard.items()
        if len({series.held[name] for series in found}) == 1
        and name not in along
        and (first.held[name] != value or name == "fraction")
        and depends(first.outcome, name)
    ]
    settings = ", ".join([*held, "all other settings as in the preset"])
    runs = [run for series in found for _, run in series.runs]
    if not runs:
        return f"no runs are recorded here\n{settings}"
    about = caption(records_to_frame([runs[0].record], lab.preset), lab.preset.name, cells)
    return f"{about}\n{settings}; {lab.sources([(None, run) for run in runs])}"


def alt(title: str, panels: Sequence[Panel]) -> str:
    """The means of every series, and how many runs are missing."""
    texts = []
    for panel in panels:
        means = []
        for line in panel.lines[: len(panel.series)]:
            values = (text_of(panel.along, value) for value in line.cells["value"])
            known = listed(values, line.cells["mean"]) or "nothing is recorded"
            means.append(f"{line.name}, {known}" if len(panel.series) > 1 else known)
        missing = sum(len(series.missing) for series in panel.series)
        lacking = f", {missing} run{'s' if missing > 1 else ''} missing" if missing else ""
        texts.append(f"{panel.heading or FACTORS[panel.along].name}: {'. '.join(means)}{lacking}")
    return f"{title}. {'; '.join(texts)}."


# Published numbers


@cache
def published(setting: str) -> Finding:
    """What was published about a setting; the file is read once."""
    return finding(setting)


def as_published(setting: str) -> FigureWithData | None:
    """Draw the published numbers of a setting; None if none were published."""
    found = published(setting)
    if found.numbers.empty:
        return None
    title, about = f"As published, ImageNet: {FACTORS[setting].name}", "no error bars are published"
    values = list(dict.fromkeys(found.numbers["label"]))
    with new_figure(title, f"{found.cited}; {about}", width=5.2, height=3.9) as (figure, (axes,)):
        axes.set_facecolor("#faf7f0")
        for (name, cells), look in with_looks(found.numbers.groupby("series", sort=False), "series"):
            plot = PUBLISHED_LOOKS.get(str(name), look).plot
            axes.plot(cells["label"].map(values.index), cells["mean"], **plot, label=name)
        axes.set_xticks(range(len(values)), values)
        axes.set(xlim=(-0.4, len(values) - 0.6), ylabel=TOP1)
        figure.legend(loc="outside lower left", ncols=3)
    names = found.numbers["series"] + " " + found.numbers["label"]
    text = f"{title}. {listed(names, found.numbers['mean'])}."
    return FigureWithData("published", title, figure, found.numbers, text)


def findings(lab: Ablation, found: Sequence[Series]) -> list[tuple[str, str]]:
    """What was published about a setting, with its source, and what the records of each series show."""
    own = [
        (name or "these records", lab.says(each)) for name, each in zip(headings(found), found, strict=True)
    ]
    return [("published", published(found[0].along).says), *own]


def findings_table(lab: Ablation, outcome: str, *settings: str, **held: Any) -> Markdown:
    """A table of settings: what was published, and what these records show."""
    lines = ["| setting | published | these records |", "| --- | --- | --- |"]
    for name in settings:
        (_, others), (_, own) = findings(lab, [lab.series(outcome, name, **held)])
        lines.append(f"| {FACTORS[name].name} | {others} | {own} |")
    return Markdown("\n".join(lines))
