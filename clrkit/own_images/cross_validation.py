"""Which labels to look at again: those of training images that probes without them place in another class.

Cross-validated on the pretrained encoder's features, in which there is no label: what is said of an image
comes from models that did not see its label. Only images that are trained on are shown. Images that are
measured on are not: labels that were chosen by them would make the next accuracy too high.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Int64

from clrkit.config import Labelled
from clrkit.notebook.illustrations import Picture, bare, plain
from clrkit.own_images.active_learning import Features, logistic
from clrkit.runs.store import Run
from clrkit.stages import labelled_indices

FOLDS = 5
SHOWN, COLUMNS = 18, 6  # pictures
TITLE_LETTERS = 12  # of a class
APART = -1  # the fold of what no probe is asked about

Classes = Int64[np.ndarray, " count"]
Shares = Float[np.ndarray, " count"]


@dataclass(frozen=True)
class Crosscheck:
    """What probes that did not see their labels take training images for.

    Attributes:
        classes: names.
        names: of the images.
        truth, predicted: classes by label and by probe, as indices.
        probability: that the probe gave to its prediction.
        images: as a network sees them, floats in [0, 1], those alone that `surest` finds.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    truth: Classes
    predicted: Classes
    probability: Shares
    images: Float[np.ndarray, "shown 3 side side"]

    def sentence(self) -> str:
        """Which images are shown, and how they were found."""
        wrong = int((self.truth != self.predicted).sum())
        shown = (
            f"; here are the {len(self.images)} of which they are surest" if wrong > len(self.images) else ""
        )
        return (
            f"Linear probes on the pretrained features, each asked about labels that it did not see ({FOLDS}-"
            f"fold cross-validation), place {wrong:,} of {len(self.truth):,} training images in another class"
            f"{shown}. Is the label wrong, or the image unusual? If it is unusual, label more of its kind."
        )

    def picture(self) -> Picture:
        """The images with their labels, and what the probe takes them for, the surest first."""
        places = surest(self.truth, self.predicted, self.probability)
        said = [
            (self.classes[true], self.classes[called], f"{sure:.0%}")
            for true, called, sure in zip(
                self.truth[places], self.predicted[places], self.probability[places], strict=True
            )
        ]
        rows = max(1, math.ceil(len(places) / COLUMNS))
        with plain(rows, COLUMNS, 1.3 * COLUMNS, 1.75 * rows) as (figure, grid):
            for axes in grid.flat:
                bare(axes)
            for axes, image, text in zip(grid.flat, self.images, said, strict=False):
                axes.imshow(image.transpose(1, 2, 0))
                true, called, sure = (shortened(part, TITLE_LETTERS) for part in text)
                axes.set_title(f"{true}\n→ {called} {sure}", size=7, loc="center", parse_math=False)
        alt = "; ".join(f"{true} → {called}, {sure} sure" for true, called, sure in said)
        return Picture(figure, f"Training images, label first: {alt}" if alt else "No label is doubted.")


def crosscheck(config: Labelled, pretrained: Run, device: str = "auto") -> Crosscheck:
    """Ask probes about the labels that a stage is trained on.

    An image whose class has no other label is not asked about: without it there is no such class.

    Args:
        config: the stage, of any set of images.
        pretrained: the run of its pretraining.
        device: where features are computed.
    """
    from clrkit.device import choose_device
    from clrkit.evaluate import evaluation_view, extract
    from clrkit.runs.run import load_once

    data, size, place = load_once(config.images), config.images.image_size, choose_device(device)
    part = data.train.subset(labelled_indices(config, data))
    features = extract(pretrained.model().encoder.to(place), part, size, place)
    fold = folds(part.labels)
    predicted, probability = out_of_fold(features, part.labels, fold)
    asked = np.flatnonzero(fold != APART)
    part, predicted, probability = part.subset(asked), predicted[asked], probability[asked]
    wrong = surest(part.labels, predicted, probability)
    views = [evaluation_view(each, size).numpy() for each in part.views.batches(iter([wrong])) if len(wrong)]
    images = views[0] if views else np.empty((0, 3, size, size), dtype=np.float32)
    return Crosscheck(data.classes, tuple(part.names), part.labels, predicted, probability, images)


def folds(labels: Classes) -> Classes:
    """A fold for each image, of equal size, no class whole in one; `APART` for a class's only label."""
    mixed = np.random.RandomState(0).permutation(len(labels))
    by_class = mixed[np.argsort(labels[mixed], kind="stable")]
    repeated = by_class[np.bincount(labels)[labels[by_class]] > 1]
    fold = np.full(len(labels), APART)
    fold[repeated] = np.arange(len(repeated)) % FOLDS
    return fold


def out_of_fold(features: Features, labels: Classes, fold: Classes) -> tuple[Classes, Shares]:
    """Class of each image, and its probability, by logistic regression on the images of the other folds.

    Those that are `APART` are in every regression, and have no meaning in what is returned.
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


def surest(truth: Classes, predicted: Classes, probability: Shares) -> Int64[np.ndarray, " shown"]:
    """Places of the images with another class than their label's, the surest first, those that are shown."""
    wrong = np.flatnonzero(truth != predicted)
    return wrong[np.argsort(-probability[wrong], kind="stable")][:SHOWN]


def shortened(text: str, letters: int) -> str:
    """At most so many letters of a text: the ends, by which part_1 and part_2 differ, are kept."""
    if len(text) <= letters:
        return text
    end = (letters - 1) // 2
    return f"{text[: letters - 1 - end]}…{text[-end:]}"
