"""What figures share: `FigureWithData`, its look, its captions, and how it is saved.

Figures use matplotlib's object-oriented API, so that a panel's thread can draw them too. Colours are Okabe
and Ito's, safe for colour-blind readers; markers, line styles and hatches repeat the distinction for print
in grey.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from clrkit.data.files import write_atomically
from clrkit.results.records import MixedRunsError, dataset_name, fraction_name, seeds_named

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
TOP1 = "top-1 accuracy (%)"
Name = TypeVar("Name")

BLACK, ORANGE, SKY, GREEN = "#333333", "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PINK, GREY = "#0072B2", "#D55E00", "#CC79A7", "#808080"
DASHES: dict[str, str | tuple[float, ...]] = {
    "": "",
    "-": "",
    "--": (3.7, 1.6),
    "-.": (6.4, 1.6, 1, 1.6),
    ":": (1, 1.65),
}


@dataclass(frozen=True)
class SeriesStyle:
    """The look of one series: colour, and marker, line and hatch for readers without colour."""

    color: str
    marker: str
    line: str | tuple[float, tuple[float, ...]]
    hatch: str = ""

    @property
    def plot(self) -> dict[str, Any]:
        """The options of matplotlib's `plot`."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.line}

    @property
    def dashes(self) -> str | tuple[float, ...]:
        """The line as seaborn's `dashes` describe it."""
        return DASHES[self.line] if isinstance(self.line, str) else self.line[1]


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
STUDENTS = (
    SeriesStyle(PINK, "v", ":", "\\\\\\"),
    SeriesStyle(ORANGE, "P", ":", ".."),
    SeriesStyle(SKY, "X", ":", "++"),
)


def with_looks(
    series: Iterable[Name], what: str, looks: Sequence[SeriesStyle] = ORDERED
) -> list[tuple[Name, SeriesStyle]]:
    """Assign a look to each series of a figure, in order.

    Args:
        what: the name of the series in the message.

    Raises:
        MixedRunsError: for more series than looks.
    """
    names = list(series)
    if len(names) > len(looks):
        raise MixedRunsError(
            f"{len(names)} {what} in one figure; at most {len(looks)} can be distinguished, so draw fewer."
        )
    return list(zip(names, looks[: len(names)], strict=True))


@dataclass(frozen=True)
class FigureWithData:
    """A figure with its numbers (`data`, tidy, a row a point) and its alt text."""

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
    """Apply the common look while drawing.

    matplotlib's settings belong to the process, so one thread draws at a time.
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
    """Write `name`.svg, .pdf, .png, the numbers as .csv, and numbers, title and alt text as .json."""
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
    """A figure with a headline, a line below it, and axes; in the common look while drawing."""
    with styled():
        figure = Figure(figsize=(width, height), layout="constrained")
        engine: Any = figure.get_layout_engine()
        engine.set(rect=(0, 0, 1, 1 - TITLE_INCHES / height), w_pad=0.08, h_pad=0.06)
        left, top = 0.08 / width, 1 - 0.08 / height
        as_it_is: Any = {"va": "top", "parse_math": False}
        figure.text(left, top, title, size=12, weight="bold", **as_it_is)
        figure.text(left, top - 0.25 / height, subtitle, size=8.5, color="#555555", **as_it_is)
        axes = figure.subplots(rows, columns, squeeze=False)
        yield figure, list(axes.flat)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move ascending places apart to at least `gap`, each cluster about its own middle."""
    clusters: list[list[float]] = []
    for place in places:
        clusters.append([place])
        while len(clusters) > 1 and placed(clusters[-1], gap)[0] - placed(clusters[-2], gap)[-1] < gap:
            last = clusters.pop()
            clusters[-1].extend(last)
    return [place for cluster in clusters for place in placed(cluster, gap)]


def placed(cluster: Sequence[float], gap: float) -> list[float]:
    """Places `gap` apart about the middle of a cluster."""
    start = float(np.mean(cluster)) - gap * (len(cluster) - 1) / 2
    return [start + gap * index for index in range(len(cluster))]


def tint(color: str) -> tuple[float, float, float]:
    """A light version of a colour, for areas."""
    red, green, blue = to_rgb(color)
    return (red + 2) / 3, (green + 2) / 3, (blue + 2) / 3


# Captions


def caption(runs: pd.DataFrame, preset: str, cells: pd.DataFrame) -> str:
    """A figure's subtitle: data set, preset, part measured, seeds and error bars."""
    least, most = int(cells["seeds"].min()), int(cells["seeds"].max())
    number = f"{most}" if least == most else f"{least} to {most}"
    seeds = "1 seed" if most == 1 else f"{number} {seeds_named(runs)}"
    errors = f"mean of {seeds}, ± 1 standard error" if most > 1 else f"{seeds}, no error bars"
    train, evaluation, part = runs[["train", "evaluation", "part"]].iloc[0]
    images = f"{train:,} training, {evaluation:,} {part} images"
    return f"{dataset_name(runs)} ({images}), preset {preset}; {errors}"


def share(fraction: float) -> str:
    """A label fraction in running text."""
    return "all labels" if fraction == 1 else f"{fraction_name(fraction)} of the labels"


def listed(names: Iterable[str], values: Iterable[float], form: str = ".1f", unit: str = "%") -> str:
    """Names with their values, for an alt text."""
    steady = (round(value, 9) for value in values)  # as `clrkit.results.text.decimal`
    return ", ".join(f"{name} {value:{form}}{unit}" for name, value in zip(names, steady, strict=True))
