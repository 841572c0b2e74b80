"""What notebooks show without files of one's own: digits that nobody has labelled, and a small checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clrkit.config import Data
from clrkit.data.datasets import Split, load
from clrkit.errors import reason
from clrkit.own_images.label_csv import editing
from clrkit.runs.reproduce import project_root
from clrkit.runs.store import RunError

# What digits want otherwise than photographs: no mirror images, larger crops (as the preset mini has it).
DIGIT_FIELDS: dict[str, Any] = {"flip": False, "pretrain.crop_area": 0.5, "pretrain.color_strength": 1.0}
SIZES = {"smoke": (300, 100, 1), "mini": (2000, 1000, 30)}  # images, test images, epochs of pretraining


def checkpoint() -> tuple[str, str]:
    """The repository's small checkpoint, and the file of what the official code computes with it."""
    folder = project_root() / "tests/golden"
    return str(folder / "tf1_ckpt_r50_eighth_sk0"), str(folder / "tf1_r50_eighth_sk0.npz")


def digits(folder: Path, preset: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Write digits into a folder, and some into class folders in `test/`, unless they are there.

    Args:
        folder: is made.
        preset: "smoke" takes few of them and one epoch; every other a minute's worth.

    Returns:
        The classes of the images, by name, which their files do not tell; and fields for the recipe.

    Raises:
        RunError: where the folder cannot be written.
    """
    data, (count, tests, epochs) = load(Data()), SIZES.get(preset, SIZES["mini"])
    train, test = some(data.train, count), some(data.evaluation, tests)
    classes = {f"{name}.png": data.classes[label] for name, label in labelled(train)}
    test_names = [f"test/{data.classes[label]}/{name}.png" for name, label in labelled(test)]
    try:
        write_images(folder, list(classes), train)
        write_images(folder, test_names, test)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {reason(error)}.") from None
    return classes, {**DIGIT_FIELDS, "pretrain.epochs": epochs, "epochs": max(1, epochs // 2)}


def some(part: Split, count: int) -> Split:
    """A fixed draw; the digits lie in the order of their classes."""
    return part.subset(np.random.RandomState(0).permutation(len(part))[:count])


def labelled(part: Split) -> Iterator[tuple[str, int]]:
    return zip(part.names, part.labels.tolist(), strict=True)


def write_images(folder: Path, names: list[str], part: Split) -> None:
    """Write a part's images as PNG files of these names, those that are not there yet."""
    pixels = next(part.pixels.batches(iter([np.arange(len(part))]))).numpy()
    for name, image in zip(names, pixels, strict=True):
        path = folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(path)


def fill(labels: Path, classes: dict[str, str], left: int = 0) -> None:
    """Give all images of a CSV the labels that are known, but for the last few."""
    with editing(labels) as rows:
        for row in rows[: len(rows) - left]:
            row["label"] = row["label"] or classes.get(row["file"], "")
