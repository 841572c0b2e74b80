"""Cross-validation finds wrong training labels without having seen them, and shows no test image."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from clrkit.data.datasets import load
from clrkit.evaluate import extract
from clrkit.own_images import cross_validation as module
from clrkit.own_images import fit, scan
from clrkit.own_images.cross_validation import (
    FOLDS,
    NO_FOLD,
    Crosscheck,
    crosscheck,
    folds,
    out_of_fold,
    surest,
)
from clrkit.own_images.recipe import recipe
from clrkit.runs.run import finish, run_or_load
from clrkit.runs.store import Store

CLASSES, EACH = 4, 15


def clouds() -> tuple[torch.Tensor, np.ndarray]:
    """Features in four directions, 15 images each, and their classes."""
    labels = np.repeat(np.arange(CLASSES), EACH)
    points = np.eye(CLASSES + 2)[labels] + 0.3 * np.random.RandomState(0).randn(len(labels), CLASSES + 2)
    return torch.from_numpy(points).float(), labels


@pytest.mark.parametrize("image", range(0, CLASSES * EACH, 7))
def test_a_prediction_does_not_depend_on_the_label_of_its_image(image: int) -> None:
    features, labels = clouds()
    fold, other = folds(labels), labels.copy()
    other[image] = (labels[image] + 1) % CLASSES
    told = out_of_fold(features, labels, fold)
    again = out_of_fold(features, other, fold)
    assert told[0][image] == again[0][image]
    assert told[1][image] == again[1][image]
    assert (told[1] != again[1]).any()  # of images of other folds it may


def test_labels_that_are_wrong_are_found_first() -> None:
    features, labels = clouds()
    wrong = [3, 20, 50]
    labels[wrong] = (labels[wrong] + 2) % CLASSES
    found = surest(labels, *out_of_fold(features, labels, folds(labels)))
    assert sorted(found[:3]) == wrong


def test_folds_are_of_equal_size_and_hold_no_class_whole() -> None:
    labels = np.array([0] * 2 + [1] * 3 + [2] * 40 + [3])
    fold = folds(labels)
    assert fold[-1] == NO_FOLD  # no probe can know the class without it
    counts = np.bincount(fold[:-1], minlength=FOLDS)
    assert counts.max() - counts.min() <= 1
    for number in range(3):
        assert len(set(fold[labels == number])) == min(FOLDS, (labels == number).sum())


@pytest.mark.slow
def test_only_training_images_are_shown(tmp_path: Path) -> None:
    """Noise, so that half of the labels are doubted; two thirds of the images have one."""
    root, random = tmp_path / "own", np.random.RandomState(0)
    root.mkdir()
    for number in range(60):
        pixels = random.randint(0, 256, (12, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{number:02d}.png")
    store = Store(tmp_path / "results", "own")
    found = scan.scan_folder(root, store)
    rows = [{"file": name, "label": "ab"[index % 2], "part": ""} for index, name in enumerate(found.names)]
    fields = {"pretrain.epochs": 1, "pretrain.width": 0.25}
    chain = fit.with_labels(
        recipe(found, fields=fields), found, rows[:40], store, root / "labels.csv", fields=fields
    )
    pretrained = finish(run_or_load(chain.teacher.pretrain, store))
    data = load(chain.images)
    measured, labelled = set(data.evaluation.names), np.flatnonzero(data.train.labels >= 0)
    assert len(measured) == 8
    doubted = crosscheck(chain.teacher, pretrained)
    assert set(doubted.names) == {data.train.names[place] for place in labelled}
    assert not measured & set(doubted.names)
    assert 0 < len(doubted.images) <= module.SHOWN
    # The pictures are those of the images that the sentence is about, as they lie on the disk.
    places = surest(doubted.truth, doubted.predicted, doubted.probability)
    for place, image in zip(places, doubted.images, strict=True):
        own = np.asarray(Image.open(root / doubted.names[place])).transpose(2, 0, 1) / 255
        np.testing.assert_allclose(image, own, atol=1e-6)
    # And what is said of them comes from the pretrained encoder, which no label has reached.
    part, size = data.train.subset(labelled), chain.images.image_size
    features = extract(pretrained.model().encoder, part, size, torch.device("cpu"))
    predicted, _ = out_of_fold(features, part.labels, folds(part.labels))
    np.testing.assert_array_equal(doubted.predicted, predicted)


def test_titles_of_doubted_labels_do_not_overlap() -> None:
    classes, count = ("Golden_Retriever", "HOMOGENEOUS_2"), 18
    truth, black = np.zeros(count, dtype=np.int64), np.zeros((count, 3, 8, 8), dtype=np.float32)
    sure, names = np.linspace(0.5, 1, count), tuple(map(str, range(count)))
    picture = Crosscheck(classes, names, truth, truth + 1, sure, black).figure()
    canvas = FigureCanvasAgg(picture.figure)
    canvas.draw()
    boxes = [axes.title.get_window_extent(canvas.get_renderer()) for axes in picture.figure.axes]
    for row in range(0, count, 6):
        for left, right in itertools.pairwise(boxes[row : row + 6]):
            assert left.x1 < right.x0
    assert f"{classes[0]} → {classes[1]}, 100% sure" in picture.alt


def test_confirmed_labels_give_an_empty_figure_with_a_sentence() -> None:
    truth, none = np.arange(4) % 2, np.zeros((0, 3, 8, 8), dtype=np.float32)
    found = Crosscheck(("a", "b"), tuple("wxyz"), truth, truth, np.ones(4), none)
    assert found.figure().alt == "The probes confirm all labels."
    assert "place 0 of 4 training images in another class." in found.sentence()
