"""What the figures share: the `FigureWithData` they return, its look, and how it is saved.

Figures are made with matplotlib's object-oriented API, so a widget's thread can draw them too. Colours are
Okabe and Ito's; markers, line styles and hatches say the same again for print in grey.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clrkit.results.records import MixedRunsError
from clrkit.results.table import value
from clrkit.files import write_atomically

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.7,
    "lines.markersize": 6,
    "errorbar.capsize": 3,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelcolor": "#222222",
    "ytick.labelcolor": "#222222",
    "svg.hashsalt": "clrkit",
    "pdf.fonttype": 42,
    "figure.facecolor": "white",
}
UNDATED: dict[str, dict[str, Any]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
}
DRAWING = threading.RLock()
TITLE_INCHES = 0.62
SCREEN_DPI, PRINT_DPI = 130, 200
Name = TypeVar("Name")
NEAR = 0.25  # of an axis' width: names of networks closer than that would overlap

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK, GREY = (
    "#333333",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#808080",
)


@dataclass(frozen=True)
class SeriesStyle:
    """How one series is drawn: told apart by colour, and by marker, line and hatch without it."""

    color: str
    marker: str
    line: str | tuple[float, tuple[float, ...]]
    hatch: str = ""

    @property
    def plot(self) -> dict[str, Any]:
        return {"color": self.color, "marker": self.marker, "linestyle": self.line}


ORDERED = (
    SeriesStyle(RED, "o", "-"),
    SeriesStyle(BLUE, "s", "--"),
    SeriesStyle(GREEN, "^", "-."),
    SeriesStyle(PINK, "D", ":"),
    SeriesStyle(BLACK, "v", "-"),
    SeriesStyle(ORANGE, "P", (0, (6, 2, 1, 2, 1, 2))),
    SeriesStyle(SKY, "X", (0, (8, 3))),
    SeriesStyle(GREY, "*", (0, (2, 2))),
)
SUPERVISED = SeriesStyle(BLACK, "D", "--")
LINEAR = SeriesStyle(GREEN, "^", ":")
FINETUNED = SeriesStyle(BLUE, "o", "-", "///")
SELF = SeriesStyle(RED, "s", "-.", "xxx")
STUDENTS = (SeriesStyle(PINK, "v", ":", "\\\\\\"), SeriesStyle(ORANGE, "P", ":", ".."), SeriesStyle(SKY, "X", ":", "++"))


def with_looks(series: Iterable[Name], what: str, looks: Sequence[SeriesStyle] = ORDERED) -> list[tuple[Name, SeriesStyle]]:
    """Each series of a figure with its look, in their order; `what` they are called.

    Raises MixedRunsError for more series than there are looks.
    """
    names = list(series)
    if len(names) > len(looks):
        raise MixedRunsError(
            f"{len(names)} {what} in one figure; at most {len(looks)} can be distinguished, so draw fewer."
        )
    return list(zip(names, looks[: len(names)], strict=True))


@dataclass(frozen=True)
class FigureWithData:
    """A figure with its numbers (`data`, tidy, a row a point) and the sentence for who cannot see it."""

    name: str
    title: str
    figure: Figure
    data: pd.DataFrame
    alt: str

    def __repr__(self) -> str:
        return self.alt

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        """The picture in a notebook, at its size on paper and with the alt text."""
        width, height = (int(96 * inches) for inches in self.figure.get_size_inches())
        return encode(self.figure, "png", SCREEN_DPI), {"width": width, "height": height, "alt": self.alt}


@contextmanager
def styled() -> Iterator[None]:
    """The house's look while drawing.

    matplotlib's settings are the process's, so one thread draws at a time: two whose contexts overlap would
    leave the look behind for good.
    """
    with DRAWING, mpl.rc_context(STYLE):
        yield


def encode(figure: Figure, kind: str, dpi: int = PRINT_DPI) -> bytes:
    """The figure as the bytes of an svg, pdf or png file, the same bytes each time."""
    target = io.BytesIO()
    with styled():
        figure.savefig(target, format=kind, dpi=dpi, metadata=UNDATED[kind])
    return target.getvalue()


def save(drawing: FigureWithData, folder: Path) -> None:
    """Writes `name`.svg, .pdf, .png, the numbers as .csv, and numbers, title and alt text as .json."""
    folder.mkdir(parents=True, exist_ok=True)
    data = drawing.data.round(6)
    rows = json.loads(data.to_json(orient="records"))
    content = {"name": drawing.name, "title": drawing.title, "alt": drawing.alt, "data": rows}
    forms = {kind: encode(drawing.figure, kind) for kind in UNDATED}
    forms["csv"] = data.to_csv(index=False, lineterminator="\n").encode()
    forms["json"] = (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
    for kind, form in forms.items():
        write_atomically(folder / f"{drawing.name}.{kind}", form)


@contextmanager
def new_figure(
    title: str, subtitle: str, rows: int = 1, columns: int = 1, width: float = 7.0, height: float = 4.3
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with a headline, a line on what is shown, and axes, in the house's look while drawing."""
    with styled():
        figure = Figure(figsize=(width, height), layout="constrained")
        engine = figure.get_layout_engine()
        assert engine is not None
        engine.set(rect=(0, 0, 1, 1 - TITLE_INCHES / height), w_pad=0.08, h_pad=0.06)  # type: ignore[call-arg]
        left, top = 0.08 / width, 1 - 0.08 / height
        as_it_is: Any = {"va": "top", "parse_math": False}
        figure.text(left, top, title, size=12, weight="bold", **as_it_is)
        figure.text(left, top - 0.25 / height, subtitle, size=8.5, color="#555555", **as_it_is)
        axes = figure.subplots(rows, columns, squeeze=False)
        yield figure, list(axes.flat)


def line(axes: Axes, x: Sequence[float] | pd.Series, cells: pd.DataFrame, look: SeriesStyle, **options: Any) -> None:
    """A series of means with bars of one standard error (none where there is one seed)."""
    error = None if cells["stderr"].isna().all() else cells["stderr"].fillna(0)
    axes.errorbar(x, cells["mean"], error, **{**look.plot, "elinewidth": 1.1, **options})


def label_ends(
    axes: Axes,
    x: Iterable[float],
    y: Iterable[float],
    texts: Iterable[str],
    colors: Iterable[str],
    gap: float = 13.0,
) -> None:
    """Names points, such as the last of each line, at their right, pushed apart to `gap` printer's points."""
    figure = cast(Figure, axes.figure)
    figure.draw_without_rendering()
    ends = sorted(zip(x, y, texts, colors, strict=True), key=lambda end: end[1])
    heights = [axes.transData.transform((x, y))[1] * 72 / figure.dpi for x, y, *_ in ends]
    for (x_end, y_end, text, color), height, place in zip(ends, heights, spread(heights, gap), strict=True):
        offset = (9, place - height)
        axes.annotate(text, (x_end, y_end), offset, textcoords="offset points", color=color, va="center")


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved apart to at least `gap`, each cluster about its own middle."""
    clusters: list[list[float]] = []
    for place in places:
        clusters.append([place])
        while len(clusters) > 1 and start(clusters[-1], gap) - end(clusters[-2], gap) < gap:
            last = clusters.pop()
            clusters[-1].extend(last)
    return [start(cluster, gap) + gap * index for cluster in clusters for index in range(len(cluster))]


def start(cluster: Sequence[float], gap: float) -> float:
    return float(np.mean(cluster)) - gap * (len(cluster) - 1) / 2


def end(cluster: Sequence[float], gap: float) -> float:
    return start(cluster, gap) + gap * (len(cluster) - 1)


def size_axis(axes: Axes, cells: pd.DataFrame, names: bool = True) -> None:
    """A logarithmic axis of encoder parameters, marked at the networks where they are few enough."""
    networks = cells.drop_duplicates("parameters").sort_values("parameters")
    axes.set_xscale("log")
    least, most = networks["parameters"].iloc[0], networks["parameters"].iloc[-1]
    axes.set_xlim(least / 1.35, most * 1.35)
    ticks = networks if len(networks) <= 5 else networks.iloc[[0, len(networks) // 2, -1]]
    lowered, lower = beside_another(ticks["parameters"], axes.get_xlim()), "\n\n" if names else "\n"
    texts = [
        f"{lower if down else ''}{size_name(parameters)}" + (f"\n{network}" if names else "")
        for parameters, network, down in zip(ticks["parameters"], ticks["network"], lowered, strict=True)
    ]
    axes.set_xticks(list(ticks["parameters"]), texts)
    axes.minorticks_off()


def beside_another(places: Iterable[float], limits: tuple[float, float]) -> list[bool]:
    """For rising places on a logarithmic axis: whose text stands lower, since its neighbour's is too near."""
    span, lowered, last = np.log(limits[1] / limits[0]), list[bool](), 0.0
    for place in places:
        near = bool(lowered) and not lowered[-1] and np.log(place / last) < NEAR * span
        lowered.append(bool(near))
        last = place
    return lowered


def size_name(millions: float) -> str:
    """Parameters as 20k, 1.2M or 24M."""
    if millions < 1:
        return f"{1000 * millions:.0f}k"
    return f"{millions:.1f}M" if millions < 10 else f"{millions:.0f}M"


def legend(figure: Figure, series: Mapping[str, SeriesStyle], cells: pd.DataFrame) -> None:
    """One legend for all panels, below them; explains hollow markers where `cells` has SK networks."""
    handles = [Line2D([], [], label=name, **look.plot) for name, look in series.items()]
    if cells["network"].str.endswith("SK").any():
        handles.append(Line2D([], [], color=BLACK, marker="o", ls="", mfc="white", label="selective kernels"))
    if handles:
        columns = 4 if len(handles) <= 4 else 3
        figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, handlelength=2.8, columnspacing=1.6
        )


def bars(axes: Axes, cells: pd.DataFrame, column: str, looks: Mapping[str, SeriesStyle]) -> None:
    """Percentages as bars, one for each of `looks` that `cells[column]` has, and a column of their values."""
    shown = cells.set_index(column).loc[[name for name in looks if name in set(cells[column])]]
    rows = zip(shown.index, shown["mean"], shown["stderr"], strict=True)
    for place, (name, mean, stderr) in enumerate(rows):
        look, error = looks[str(name)], None if np.isnan(stderr) else stderr
        style: Any = {"edgecolor": look.color, "hatch": look.hatch, "ecolor": "#222222"}
        axes.barh(place, mean, 0.62, xerr=error, color=tint(look.color), **style)
        axes.text(102, place, value(mean, stderr), va="center")
    axes.set_yticks(range(len(shown)), list(shown.index))
    axes.set_ylim(len(shown) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(False)


def tint(color: str) -> tuple[float, float, float]:
    """A light version of a colour, for areas."""
    red, green, blue = to_rgb(color)
    return (red + 2) / 3, (green + 2) / 3, (blue + 2) / 3
