"""Choose which images have labels: stratified fractions, hold-outs and lists of names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from clrkit.data.splits import Labels, Split
from clrkit.errors import DataError, reason

TEST_SHARE = 5  # one in so many labelled images is held out if there is no test split
Chosen = Int64[np.ndarray, " chosen"]
Kept = Int64[np.ndarray, " kept"]
Held = Int64[np.ndarray, " held"]


def label_subset(labels: Labels, fraction: float, seed: int) -> Chosen:
    """Indices of a stratified part of the labelled images, sorted.

    The seed fixes them, a smaller fraction lies in a larger one, and every class is in it.

    Raises:
        DataError: if the fraction is less than one label a class.
    """
    classes, total = len(np.unique(labels[labels >= 0])), int((labels >= 0).sum())
    wanted = round(fraction * total)
    if wanted < classes:
        raise DataError(
            f"fraction {fraction:g} of {total} labelled images is {wanted}, fewer than one for each of the "
            f"{classes} classes; the smallest possible is {classes / total:.2g}."
        )
    return stratified(labels, fraction, seed)


def stratified(labels: Labels, fraction: float, seed: int) -> Chosen:
    """The fraction of every class, at least one image of each, in sorted order."""
    random, chosen = np.random.RandomState(seed), [np.empty(0, dtype=np.int64)]
    for label, count in zip(*np.unique(labels[labels >= 0], return_counts=True), strict=True):
        order = random.permutation(np.flatnonzero(labels == label))
        chosen.append(order[: max(1, round(fraction * int(count)))])
    return np.sort(np.concatenate(chosen))


def hold_out(labels: Labels, share: int, classes: Sequence[str]) -> tuple[Kept, Held]:
    """Hold out one in `share` of the labelled images of each class; returns the kept and the held indices.

    The choice is fixed; images without a label are kept.

    Raises:
        DataError: if a class has a single labelled image.
    """
    for label, count in zip(*np.unique(labels[labels >= 0], return_counts=True), strict=True):
        if count < 2:
            raise DataError(
                f"Class {classes[label]} has one labelled image; add one, to train and to measure."
            )
    held = stratified(labels, 1 / share, seed=0)
    return np.setdiff1d(np.arange(len(labels)), held), held


def listed_subset(part: Split, path: str) -> Chosen:
    """Indices of the images that a list file names, one a line, sorted.

    A name is a path within the set, or its last parts (the official ImageNet lists have the file name alone),
    with or without the suffix.

    Raises:
        DataError: if the list cannot be read or is empty, or names no image, several, or one without a label.
    """
    wanted = read_list(path)
    candidates: dict[str, list[int]] = {file_name(name): [] for name in wanted}
    for index, name in enumerate(part.names):
        for short in {file_name(name), without_suffix(file_name(name))}:
            if short in candidates:
                candidates[short].append(index)
    chosen = []
    for name in wanted:
        matches = [i for i in candidates[file_name(name)] if is_meant(name, part.names[i])]
        if len(matches) > 1:
            raise DataError(f"The label list {path} names {name}, which is the name of several images.")
        if not matches:
            raise DataError(f"The label list {path} names {name}, which is not among the training images.")
        if part.labels[matches[0]] < 0:
            raise DataError(f"The label list {path} names {name}, which has no label.")
        chosen.append(matches[0])
    return np.unique(np.array(chosen, dtype=np.int64))


def read_list(path: str) -> list[str]:
    """The lines of a list file that are not blank. Raises DataError if it cannot be read or has none."""
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The label list {path} cannot be read: {reason(error)}.") from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"The label list {path} is empty.")
    return names


def file_name(name: str) -> str:
    return name.rpartition("/")[2]


def without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and "/" not in suffix else name


def is_meant(listed: str, name: str) -> bool:
    """True if the listed name is the image's path or its last parts."""
    return any(f"/{full}".endswith(f"/{listed}") for full in (name, without_suffix(name)))
