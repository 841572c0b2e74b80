"""Find training labels to check: those that cross-validated probes on the pretrained features contradict.

A probe never sees the label that it judges. Only training images are shown: labels corrected by looking at
the images to measure on would make the next accuracy too high.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch.nn.functional as F
from jaxtyping import Float, Int64

from clrkit.config import Labelled
from clrkit.device import choose_device
from clrkit.evaluate import evaluation_view, extract
from clrkit.own_images.active_learning import Features, logistic
from clrkit.results.style import FigureWithData, new_figure
from clrkit.runs.run import load_once
from clrkit.runs.store import Run
from clrkit.stages import labelled_indices

FOLDS = 5
SHOWN, COLUMNS = 18, 6  # images in the figure
TITLE_LETTERS = 12  # of a class name
NO_FOLD = -1  # for the only label of a class, which no probe can judge

Classes = Int64[np.ndarray, " count"]
Probabilities = Float[np.ndarray, " count"]


@dataclass(frozen=True)
class Crosscheck:
    """What probes predict for training images whose labels they did not see.

    Attributes:
        classes: class names.
        names: of the images.
        truth, predicted: classes by label and by probe, as indices.
        probability: of the predicted class.
        images: those that `surest` finds, as the network sees them, floats in [0, 1].
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    truth: Classes
    predicted: Classes
    probability: Probabilities
    images: Float[np.ndarray, "shown 3 side side"]

    def sentence(self) -> str:
        """How many labels the probes contradict, and which are shown."""
        wrong = int((self.truth != self.predicted).sum())
        shown = f"; the {len(self.images)} surest are shown" if wrong > len(self.images) else ""
        return (
            f"{FOLDS}-fold cross-validation with linear probes on the pretrained features: the probes place "
            f"{wrong:,} of {len(self.truth):,} training images in another class{shown}. Is the label wrong, "
            "or the image unusual? If it is unusual, label more of its kind."
        )

    def figure(self) -> FigureWithData:
        """The images with label, predicted class and its probability, the surest first."""
        places = surest(self.truth, self.predicted, self.probability)
        table = pd.DataFrame(
            {
                "file": [self.names[place] for place in places],
                "label": [self.classes[number] for number in self.truth[places]],
                "predicted": [self.classes[number] for number in self.predicted[places]],
                "probability": self.probability[places],
            }
        )
        title, rows = "Training labels to check", max(1, math.ceil(len(places) / COLUMNS))
        size = {"width": 1.3 * COLUMNS, "height": 0.6 + 1.75 * rows}
        with new_figure(title, "label → predicted class", rows, COLUMNS, **size) as (figure, grid):
            for axes in grid:
                axes.set_axis_off()
            for axes, image, row in zip(grid, self.images, table.itertuples(), strict=False):
                axes.imshow(image.transpose(1, 2, 0))
                label, other = (shortened(str(name), TITLE_LETTERS) for name in (row.label, row.predicted))
                text = f"{label}\n→ {other} {row.probability:.0%}"
                axes.set_title(text, size=7, loc="center", parse_math=False)
        said = [f"{row.label} → {row.predicted}, {row.probability:.0%} sure" for row in table.itertuples()]
        alt = f"Training images, label first: {'; '.join(said)}" if said else "The probes confirm all labels."
        return FigureWithData("doubtful", title, figure, table, alt)


def crosscheck(config: Labelled, pretrained: Run, device: str = "auto") -> Crosscheck:
    """Cross-validate the labels that a stage is trained on.

    Args:
        config: the stage.
        pretrained: the run of its pretraining.
        device: to compute features on.
    """
    data, size, place = load_once(config.images), config.images.image_size, choose_device(device)
    part = data.train.subset(labelled_indices(config, data))
    features = extract(pretrained.model().encoder.to(place), part, size, place)
    fold = folds(part.labels)
    predicted, probability = out_of_fold(features, part.labels, fold)
    judged = np.flatnonzero(fold != NO_FOLD)
    part, predicted, probability = part.subset(judged), predicted[judged], probability[judged]
    wrong = surest(part.labels, predicted, probability)
    images = np.empty((0, 3, size, size), dtype=np.float32)
    if len(wrong):
        images = evaluation_view(next(part.views.batches(iter([wrong]))), size).numpy()
    return Crosscheck(data.classes, tuple(part.names), part.labels, predicted, probability, images)


def folds(labels: Classes) -> Classes:
    """Assign images to folds of equal size, stratified by class; `NO_FOLD` for the only label of a class."""
    mixed = np.random.RandomState(0).permutation(len(labels))
    by_class = mixed[np.argsort(labels[mixed], kind="stable")]
    repeated = by_class[np.bincount(labels)[labels[by_class]] > 1]
    fold = np.full(len(labels), NO_FOLD)
    fold[repeated] = np.arange(len(repeated)) % FOLDS
    return fold


def out_of_fold(features: Features, labels: Classes, fold: Classes) -> tuple[Classes, Probabilities]:
    """Predict class and probability of each fold by logistic regression on all other images.

    Images with `NO_FOLD` are in every regression; what is returned for them has no meaning.
    """
    predicted, probability = np.zeros_like(labels), np.zeros(len(labels))
    for number in range(FOLDS):
        held = fold == number
        if held.any():
            model = logistic(features[~held], labels[~held])
            found = model.predict_proba(F.normalize(features[held]).numpy())
            predicted[held] = model.classes_[found.argmax(1)]
            probability[held] = found.max(1)
    return predicted, probability


def surest(truth: Classes, predicted: Classes, probability: Probabilities) -> Int64[np.ndarray, " shown"]:
    """Indices of the images to show: predicted class differs from the label, most probable first."""
    wrong = np.flatnonzero(truth != predicted)
    return wrong[np.argsort(-probability[wrong], kind="stable")][:SHOWN]


def shortened(text: str, letters: int) -> str:
    """Cut the middle out of a long text; the ends, by which part_1 and part_2 differ, are kept."""
    if len(text) <= letters:
        return text
    end = (letters - 1) // 2
    return f"{text[: letters - 1 - end]}…{text[-end:]}"
