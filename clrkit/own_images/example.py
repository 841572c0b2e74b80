"""Examples for notebooks without files of your own: digits as unlabelled images, and a small checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clrkit.config import Data
from clrkit.data.datasets import load
from clrkit.data.splits import Split
from clrkit.errors import reason
from clrkit.own_images.label_csv import editing
from clrkit.runs.reproduce import project_root
from clrkit.runs.store import RunError

# Digits need other settings than photographs: no mirror images, larger crops (as in the preset mini).
DIGIT_FIELDS: dict[str, Any] = {"flip": False, "pretrain.crop_area": 0.5, "pretrain.color_strength": 1.0}
SIZES = {"smoke": (300, 100, 1), "mini": (2000, 1000, 30)}  # images, test images, epochs of pretraining


def checkpoint() -> tuple[str, str]:
    """The repository's small checkpoint, and the file with the official code's outputs for it."""
    folder = project_root() / "tests/golden"
    return str(folder / "tf1_ckpt_r50_eighth_sk0"), str(folder / "tf1_r50_eighth_sk0.npz")


def digits(folder: Path, preset: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Write digits into a folder, and others into `test/<class>/`; existing files stay.

    Args:
        folder: created if needed.
        preset: "smoke" takes few digits and one epoch; any other about a minute.

    Returns:
        The classes of the images by file name, and fields for the recipe.

    Raises:
        RunError: if the folder cannot be written.
    """
    data, (count, tests, epochs) = load(Data()), SIZES.get(preset, SIZES["mini"])
    train, test = draw(data.train, count), draw(data.evaluation, tests)
    train_classes, test_classes = ([data.classes[label] for label in part.labels] for part in (train, test))
    files = [f"{name}.png" for name in train.names]
    test_files = [f"test/{label}/{name}.png" for label, name in zip(test_classes, test.names, strict=True)]
    try:
        write_images(folder, files, train)
        write_images(folder, test_files, test)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {reason(error)}.") from None
    fields = {**DIGIT_FIELDS, "pretrain.epochs": epochs, "epochs": max(1, epochs // 2)}
    return dict(zip(files, train_classes, strict=True)), fields


def draw(part: Split, count: int) -> Split:
    """A fixed random part; the digits are sorted by class."""
    return part.subset(np.random.RandomState(0).permutation(len(part))[:count])


def write_images(folder: Path, names: list[str], part: Split) -> None:
    """Write the images of a part as PNG files, those that do not exist yet."""
    pixels = next(part.pixels.batches(iter([np.arange(len(part))]))).numpy()
    for name, image in zip(names, pixels, strict=True):
        path = folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(path)


def fill(labels: Path, classes: dict[str, str], left: int = 0) -> None:
    """Fill in the known labels of a CSV, except in its last `left` rows."""
    with editing(labels) as rows:
        for row in rows[: len(rows) - left]:
            row["label"] = row["label"] or classes.get(row["file"], "")
