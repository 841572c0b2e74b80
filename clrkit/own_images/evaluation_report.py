"""Evaluate a classifier on held-out images: accuracy with intervals, class by class, and one HTML page.

None of the held-out images is shown: labels chosen by the errors on them would make the next accuracy too
high. `clrkit.own_images.cross_validation` finds training labels to check instead.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64
from markupsafe import Markup

from clrkit.config import Distill, Labelled, Stage
from clrkit.data.splits import DataSet
from clrkit.device import choose_device
from clrkit.evaluate import predict
from clrkit.own_images.cross_validation import Crosscheck, shortened
from clrkit.results.curves import confusion
from clrkit.results.report import simple_page, table_element
from clrkit.results.statistics import wilson_interval
from clrkit.results.style import BLUE, ORANGE, FigureWithData, encode, new_figure
from clrkit.results.text import Table
from clrkit.runs.record import saw_evaluation
from clrkit.runs.run import load_once
from clrkit.runs.store import Run
from clrkit.stages import labelled_indices

PAGE_DPI = 110
NAME_LETTERS = 16  # of a class, on a screen of 80 columns
WIDE = 25.0  # points beyond which an interval is called wide
SEEN = "Pretraining and distillation saw these images, too, without their labels."
NOT_SHOWN = (
    "Held-out images are measured but not shown: labels chosen by looking at them would make the next "
    "accuracy too high."
)


@dataclass(frozen=True)
class Assessment:
    """A model's predictions on the held-out images.

    Attributes:
        run: of the model.
        classes: class names.
        truth, predicted: classes of the images, as indices.
        labels: number of training labels by class.
        seen: whether pretraining and distillation saw these images, without their labels.
    """

    run: Run
    classes: tuple[str, ...]
    truth: Int64[np.ndarray, " count"]
    predicted: Int64[np.ndarray, " count"]
    labels: dict[str, int]
    seen: bool = False

    def sentence(self) -> str:
        """Accuracy with its interval."""
        right, count = int((self.truth == self.predicted).sum()), len(self.truth)
        low, high = wilson_interval(right / count, count)
        few = f" {count} images are few: the interval is {high - low:.0f} points wide."
        return (
            f"Accuracy {100 * right / count:.1f}% (95%: {low:.1f} to {high:.1f}) on {count:,} images kept to "
            f"measure on, with {sum(self.labels.values()):,} labels to train on."
            f"{few if high - low > WIDE else ''}"
        )

    def remarks(self) -> list[str]:
        """What to know before using the numbers."""
        unlabelled = [name for name in self.classes if not self.labels.get(name)]
        absent = [name for number, name in enumerate(self.classes) if not (self.truth == number).any()]
        remarks = {
            f"No label to train on: {', '.join(unlabelled)}; the model never predicts these.": unlabelled,
            SEEN: self.seen,
            f"No image to measure on: {', '.join(absent)}.": absent,
        }
        return [text for text, applies in remarks.items() if applies]

    def by_class(self) -> pd.DataFrame:
        """Per class: images, predictions, and recall and precision (%) with Wilson's intervals, or NaN."""
        rows = []
        for number, name in enumerate(self.classes):
            actual, called = self.truth == number, self.predicted == number
            right, images, predicted = (int(part.sum()) for part in (actual & called, actual, called))
            row = {
                "class": name,
                "labels": self.labels.get(name, 0),
                "images": images,
                "predicted": predicted,
            }
            rows.append(row | {"right": right} | share("recall", right, images))
            rows[-1] |= share("precision", right, predicted)
        return pd.DataFrame(rows)

    def table(self) -> Table:
        """`by_class` as text, with each share and its interval in one cell."""
        found = self.by_class()
        cells = found[["class", "labels", "images", "predicted"]].astype(str)
        for name in ("recall", "precision"):
            parts = zip(found[name], found[f"{name}_low"], found[f"{name}_high"], strict=True)
            texts = [f"{mid:.0f} ({low:.0f} to {high:.0f})" for mid, low, high in parts]
            cells[f"{name}, % (95%)"] = np.where(found[name].isna(), "-", texts)
        remark = "Training labels, held-out images, predictions for these, and 95% intervals (Wilson)."
        return Table("numbers", "Numbers", remark, cells.columns.tolist(), cells.to_numpy().tolist())

    def lines(self) -> list[str]:
        """The table for a screen, 80 characters wide."""
        table = self.table()
        cells = pd.DataFrame(table.rows, columns=list(table.columns))
        cells["class"] = [shortened(name, NAME_LETTERS) for name in cells["class"]]
        return cells.to_string(index=False).splitlines()

    def class_figure(self) -> FigureWithData:
        """Recall and precision of every class with intervals."""
        table = self.by_class()
        places, subtitle = np.arange(len(table)), "95% intervals (Wilson); images kept to measure on"
        with new_figure("Class by class", subtitle, height=1.6 + 0.34 * len(table)) as (figure, (axes,)):
            for name, offset, color, marker in (
                ("recall", -0.13, BLUE, "o"),
                ("precision", 0.13, ORANGE, "s"),
            ):
                ends = [table[name] - table[f"{name}_low"], table[f"{name}_high"] - table[name]]
                style: dict[str, Any] = {"fmt": marker, "color": color, "label": name, "capsize": 2}
                axes.errorbar(table[name], places + offset, xerr=ends, **style)
            axes.set_yticks(
                places, table["class"] + " (" + table["images"].astype(str) + ")", parse_math=False
            )
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


def share(name: str, right: int, count: int) -> dict[str, float]:
    """A share in percent with the ends of its interval; NaN without any image."""
    low, high = wilson_interval(right / count, count) if count else (math.nan, math.nan)
    return {name: 100 * right / count if count else math.nan, f"{name}_low": low, f"{name}_high": high}


def assess(config: Stage, run: Run, device: str = "auto") -> Assessment:
    """Measure a finished classifier on the evaluation part of its data set."""
    data, place = load_once(config.images), choose_device(device)
    logits = predict(run.model().to(place), data.evaluation, config.images.image_size, place)
    labels, seen = label_counts(config, data), saw_evaluation(config, data)
    return Assessment(run, data.classes, data.evaluation.labels, logits.argmax(1).numpy(), labels, seen)


def label_counts(config: Stage, data: DataSet) -> dict[str, int]:
    """Number of labels by class that the stage, or its teacher, was trained on."""
    labelled, given = config.teacher if isinstance(config, Distill) else config, data.train.labels
    if isinstance(labelled, Labelled):
        given = given[labelled_indices(labelled, data)]
    counts = np.bincount(given[given >= 0], minlength=len(data.classes))
    return dict(zip(data.classes, counts.tolist(), strict=True))


def page(title: str, lines: Sequence[str], found: Assessment, doubtful: Crosscheck) -> str:
    """A self-contained HTML page: accuracy, what was done, classes, confusions, training labels to check."""
    numbers, labels = found.table(), doubtful.figure()
    heading, paragraph = Markup("<h2>{}</h2>").format, Markup("<p>{}</p>").format
    body = [Markup("<h1>{}</h1>\n<p><strong>{}</strong></p>").format(title, found.sentence())]
    body += map(paragraph, [*found.remarks(), *lines])
    for figure in (found.class_figure(), found.confusion_figure()):
        body += [heading(figure.title), embedded(figure)]
    body += [heading(labels.title), paragraph(doubtful.sentence()), embedded(labels), paragraph(NOT_SHOWN)]
    body += [heading(numbers.title), table_element(numbers, numbers.title)]
    return simple_page(title, Markup("\n").join(body))


def embedded(figure: FigureWithData) -> Markup:
    """A figure as an HTML element with its picture inside, on white."""
    content = b64encode(encode(figure.figure, "png", PAGE_DPI)).decode()
    image = Markup('<img alt="{}" src="data:image/png;base64,{}">').format(figure.alt, content)
    return Markup('<figure class="paper">{}</figure>').format(image)
