"""How good a classifier is on the images held out: with intervals, and class by class.

None of these images is shown: who labels more of what a model gets wrong there, and measures there again,
gets too high an accuracy. `clrkit.own_images.cross_validation` finds images to look at again among those that
are trained on.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64
from markupsafe import Markup

from clrkit.config import Distill, Labelled, Stage
from clrkit.data.datasets import DataSet
from clrkit.notebook.controls import figure as embedded
from clrkit.own_images.cross_validation import Crosscheck, shortened
from clrkit.results.curves import confusion
from clrkit.results.report import simple_page, table_element
from clrkit.results.statistics import wilson_interval
from clrkit.results.style import BLUE, ORANGE, FigureWithData, encode, new_figure
from clrkit.results.text import Table
from clrkit.runs.record import saw_evaluation
from clrkit.runs.store import Run
from clrkit.stages import labelled_indices

PAGE_DPI = 110
WIDEST_NAME = 16  # of a class, in letters
ONLY_MEASURED = (
    "The images kept to measure on are only measured, none of them is shown: an accuracy on images by which "
    "labels were chosen would be too high."
)
WIDE = 25.0  # points of an interval from which it is called wide


@dataclass(frozen=True)
class Assessment:
    """A model's predictions of the images that were kept to measure on.

    Attributes:
        run: of the model.
        classes: names.
        truth, predicted: classes of the images, as indices.
        labels: that were trained on, by class.
        seen: whether pretraining and distillation saw these images, without their labels.
    """

    run: Run
    classes: tuple[str, ...]
    truth: Int64[np.ndarray, " count"]
    predicted: Int64[np.ndarray, " count"]
    labels: dict[str, int]
    seen: bool = False

    def sentence(self) -> str:
        """Accuracy with its interval, and what to think of it."""
        right, count = int((self.truth == self.predicted).sum()), len(self.truth)
        low, high = wilson_interval(right / count, count)
        wide = (
            f" {count} images are few: the interval is {high - low:.0f} points wide."
            if high - low > WIDE
            else ""
        )
        return (
            f"Accuracy {100 * right / count:.1f}% (95%: {low:.1f} to {high:.1f}) on {count:,} images kept to "
            f"measure on, with {sum(self.labels.values()):,} labels to train on.{wide}"
        )

    def remarks(self) -> list[str]:
        """What to know before the numbers are used."""
        seen = "Pretraining and distillation saw these images, too, without their labels."
        unseen = [name for name in self.classes if not self.labels.get(name)]
        found = (
            [f"No label to train on: {', '.join(unseen)}; the model never predicts these."] if unseen else []
        )
        absent = [name for number, name in enumerate(self.classes) if not (self.truth == number).any()]
        found += [seen] if self.seen else []
        return found + ([f"No image to measure on: {', '.join(absent)}."] if absent else [])

    def by_class(self) -> pd.DataFrame:
        """Per class: images, predictions, right ones, recall and precision (%) with Wilson's intervals.

        Nan where nothing can be said.
        """
        rows = []
        for number, name in enumerate(self.classes):
            actual, called = self.truth == number, self.predicted == number
            right = int((actual & called).sum())
            row: dict[str, Any] = {"class": name, "labels": self.labels.get(name, 0)}
            row |= {"images": int(actual.sum()), "predicted": int(called.sum()), "right": right}
            for what, count in (("recall", row["images"]), ("precision", row["predicted"])):
                row |= share_of(what, right, count)
            rows.append(row)
        return pd.DataFrame(rows)

    def table(self) -> Table:
        """`by_class` as texts, shares with their intervals in one cell."""
        columns = ["class", "labels", "images", "predicted", "recall, % (95%)", "precision, % (95%)"]
        rows = [
            [
                *(str(row[name]) for name in columns[:4]),
                in_percent(row, "recall"),
                in_percent(row, "precision"),
            ]
            for row in self.by_class().to_dict("records")
        ]
        remark = (
            "Labels that were trained on, images that were measured on, how often the class was predicted of "
            "these, and 95% intervals (Wilson)."
        )
        return Table("numbers", "Numbers", remark, columns, rows)

    def lines(self) -> list[str]:
        """The table for a screen, 80 characters wide."""
        table = self.table()
        rows = [table.columns, *([shortened(row[0], WIDEST_NAME), *row[1:]] for row in table.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in rows
        ]

    def class_figure(self) -> FigureWithData:
        """Recall and precision of every class with intervals."""
        table = self.by_class()
        places, subtitle = np.arange(len(table)), "95% intervals (Wilson); images kept to measure on"
        with new_figure("Class by class", subtitle, height=1.6 + 0.34 * len(table)) as (figure, (axes,)):
            for what, offset, color, marker in (
                ("recall", -0.13, BLUE, "o"),
                ("precision", 0.13, ORANGE, "s"),
            ):
                middle = table[what]
                ends = [middle - table[f"{what}_low"], table[f"{what}_high"] - middle]
                axes.errorbar(
                    middle, places + offset, xerr=ends, fmt=marker, color=color, label=what, capsize=2
                )
            names = [f"{row['class']} ({row['images']})" for _, row in table.iterrows()]
            axes.set_yticks(places, names, parse_math=False)
            axes.set(xlim=(-2, 102), ylim=(len(table) - 0.5, -0.6), xlabel="percent")
            axes.grid(True, axis="x")
            axes.grid(False, axis="y")
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        said = [f"{row['class']} {row['recall']:.0f}%" for _, row in table.iterrows() if row["images"]]
        return FigureWithData("classes", "Class by class", figure, table, f"Recall: {', '.join(said)}.")

    def confusion_figure(self) -> FigureWithData:
        """Counts of true against predicted classes."""
        caption = f"{len(self.truth):,} images kept to measure on"
        return confusion(self.run.record["confusion"], self.classes, caption)


def in_percent(row: Mapping[Hashable, Any], what: str) -> str:
    """A share with its interval, such as 67 (21 to 94), where there is one."""
    if math.isnan(row[what]):
        return "-"
    return f"{row[what]:.0f} ({row[f'{what}_low']:.0f} to {row[f'{what}_high']:.0f})"


def share_of(what: str, right: int, count: int) -> dict[str, float]:
    low, high = wilson_interval(right / count, count) if count else (math.nan, math.nan)
    share = 100 * right / count if count else math.nan
    return {what: share, f"{what}_low": low, f"{what}_high": high}


def assess(config: Stage, run: Run, device: str = "auto") -> Assessment:
    """Measure a finished classifier on the evaluation part of its data set."""
    from clrkit.device import choose_device
    from clrkit.evaluate import predict
    from clrkit.runs.run import load_once

    data, place = load_once(config.images), choose_device(device)
    logits = predict(run.model().to(place), data.evaluation, config.images.image_size, place)
    labels, seen = labels_given(config, data), saw_evaluation(config, data)
    return Assessment(run, data.classes, data.evaluation.labels, logits.argmax(1).numpy(), labels, seen)


def labels_given(config: Stage, data: DataSet) -> dict[str, int]:
    """How many labels of every class the stage, or the teacher it learns from, was trained on."""
    labelled, given = config.teacher if isinstance(config, Distill) else config, data.train.labels
    if isinstance(labelled, Labelled):
        given = given[labelled_indices(labelled, data)]
    counts = np.bincount(given[given >= 0], minlength=len(data.classes))
    return dict(zip(data.classes, counts.tolist(), strict=True))


def page(title: str, lines: Sequence[str], found: Assessment, doubtful: Crosscheck) -> str:
    """One self-contained HTML page: accuracy, what was done, classes, confusions, labels to look at again."""
    numbers, picture = found.table(), doubtful.picture()
    heading, paragraph = Markup("<h2>{}</h2>").format, Markup("<p>{}</p>").format
    body = [Markup("<h1>{}</h1>\n<p><strong>{}</strong></p>").format(title, found.sentence())]
    body += map(paragraph, [*found.remarks(), *lines])
    for drawing in (found.class_figure(), found.confusion_figure()):
        body += [heading(drawing.title), on_paper(encode(drawing.figure, "png", PAGE_DPI), drawing.alt)]
    body += [heading("Training labels to look at again"), paragraph(doubtful.sentence())]
    body += [on_paper(picture.png(), picture.alt), paragraph(ONLY_MEASURED)]
    body += [heading(numbers.title), table_element(numbers, numbers.title)]
    return simple_page(title, Markup("\n").join(body))


def on_paper(png: bytes, alt: str) -> Markup:
    """A figure on white, in the dark, too."""
    return Markup('<figure class="paper">{}</figure>').format(Markup(embedded(png, alt)))
