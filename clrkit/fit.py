"""A small model from one's own images: a recipe that suits them, the labels they have or get, and the runs.

The data set is `images`: pretraining depends on the images alone, so labels can come later and change.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from clrkit.checksums import REFERENCE
from clrkit.config import (
    Augmentation,
    Distill,
    Finetune,
    Network,
    Optimizer,
    Pretrain,
    to_dict,
    with_fields,
)
from clrkit.console import duration
from clrkit.folders import list_images
from clrkit.images import DataError
from clrkit.label_file import Row, add_rows, as_csv, check_names, read_table
from clrkit.labels import stratified
from clrkit.presets import PRESETS
from clrkit.runs import Run, Store
from clrkit.survey import Survey, counted, kept

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

RANDOM_SHARE = 5  # one in so many proposals is drawn at random, to measure on
MEASURED_SHARE = 5  # one in so many labelled images is measured on where nothing else is
FINETUNE_STEPS = 240
TIMED_STEPS = 4


def labels_of(folder: Path) -> Path:
    """labels.csv in the folder; beside an archive."""
    return folder / "labels.csv" if folder.is_dir() else folder.with_name(f"{folder.name}.labels.csv")


def name_of(folder: Path) -> str:
    """A name for results that is no preset's."""
    name = re.sub(r"[^\w-]+", "_", folder.resolve().stem).strip("_") or "images"
    taken = {*(make.__name__ for make in PRESETS), REFERENCE, "benchmarks"}
    return f"{name}_images" if name in taken else name


def recipe(survey: Survey, device: str = "cpu", fields: Mapping[str, Any] | None = None) -> Distill:
    """The three stages for these images, still without labels.

    Sizes follow `mini`'s (docs/mini.md), which were chosen on tinted MNIST; passes over the images shrink
    with their number, so that pretraining sees about 400,000 of them on a CPU (a few minutes of one core at
    32 pixels), 20 times as many on an accelerator.

    Args:
        survey: number and size of the images.
        device: kind of device, "cpu" or an accelerator.
        fields: config fields by name that are set otherwise, as `with_fields`; `flip` is set in all stages.

    Raises:
        ConfigError: for an unknown field or an impossible value.
    """
    count, fast = len(survey.names), device != "cpu"
    size = min(max(survey.side, 8), 128 if fast else 64)
    small = Network(depth=8, stem="stride2")
    teacher = Network(depth=18, stem="cifar" if size <= 64 else "imagenet") if fast else small
    batch = min(256 if fast else 64 if count < 10_000 else 128, count // 2)
    views = (20 if fast else 1) * (400_000 if size <= 40 else 200_000)
    crops = Augmentation(crop_area=0.3, color_strength=0.0)
    pretrain = Pretrain(
        data=replace(survey.data, image_size=size),
        network=teacher,
        augmentation=replace(crops, crop_area=0.2, color_strength=0.5),
        optimizer=adamw(1e-3 if fast else 4e-3, warmup_epochs=1.0),
        epochs=between(5, views // count, 300),
        batch_size=batch,
        temperature=0.2,
    )
    finetune = Finetune(
        pretrain=pretrain, augmentation=crops, optimizer=adamw(1e-3 if fast else 4e-3), fraction=1.0
    )
    distill = Distill(
        teacher=finetune,
        network=small,
        augmentation=crops,
        optimizer=adamw(8e-3),
        epochs=between(5, views // 4 // count, 100),
        batch_size=batch,
    )
    return overridden(distill, fields or {})


def adamw(learning_rate: float, warmup_epochs: float = 0.0) -> Optimizer:
    return Optimizer(
        optimizer="adamw", learning_rate=learning_rate, weight_decay=1e-4, warmup_epochs=warmup_epochs
    )


def between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))


def overridden(chain: Distill, fields: Mapping[str, Any]) -> Distill:
    """The chain with fields set by name; whether images may be mirrored holds for all its stages."""
    if "flip" in fields:
        fields = {"pretrain.flip": fields["flip"], "teacher.flip": fields["flip"], **fields}
    return with_fields(chain, fields)


def seconds_expected(chain: Distill, labels: int, device: torch.device) -> float:
    """About how long the three stages take, by a few steps of pretraining.

    A view costs the same in every stage, a teacher's answer a third of it.
    """
    from clrkit.data import load
    from clrkit.stages import begin, pretrain

    config = chain.teacher.pretrain
    data = load(config.images)
    training = begin(config, data, device)
    steps = pretrain(config, data, training)
    next(steps).loss.item()
    started = monotonic()
    last = [step for step, _ in zip(steps, range(TIMED_STEPS), strict=False)]
    if not last:
        return 0.0
    last[-1].loss.item()
    a_view = (monotonic() - started) / len(last) / (2 * config.batch_size)
    images = len(data.train)
    views = 2 * images * config.epochs + labels * chain.teacher.epochs + images * chain.epochs * 4 / 3
    return views * a_view


def expected(chain: Distill, store: Store, labels: int, device: torch.device) -> str:
    """How long it will take, in words."""
    if store.find(chain.teacher.pretrain):
        return "Pretraining is done; labels are learnt in a part of its time."
    took = duration(seconds_expected(chain, labels, device))
    return f"All three stages take about {took} on this {device.type}."


def known_rows(survey: Survey, labels: Path) -> list[Row]:
    """The labels there are: the CSV's where there is one, else those of class folders.

    Raises:
        DataError: for a CSV that cannot be read, or names an image that is not there.
    """
    if not labels.exists():
        return [{"file": name, "label": label, "part": ""} for name, label in survey.labels.items()]
    rows = read_table(labels)
    names = set(survey.names)
    for row in rows:
        if row["file"] in survey.broken:
            continue
        if row["file"] not in names:
            raise DataError(f"{labels} names {row['file']}, which is not among the images of {survey.root}.")
    return [row for row in rows if row["file"] in names]


def features(pretrained: Run, config: Pretrain, device: torch.device) -> Float[Tensor, "count dim"]:
    """The pretrained encoder's features of every image to train on, in the order of the data set."""
    from clrkit.evaluate import extract

    size, listing = config.data.image_size, list_images(config.images)
    part = listing.originals(listing.train).to_measure(size)
    return extract(pretrained.model().encoder.to(device), part, size, device)


def propose(
    survey: Survey, pretrain: Pretrain, pretrained: Run, labels: Path, budget: int, device: torch.device
) -> list[str]:
    """Add images to the CSV of labels, without a label, until it names `budget` images.

    Most are chosen to learn from (`clrkit.choose.typical`). Where there is no test folder, one in 5 is drawn
    at random instead, to measure on (part "test"): on typical images accuracy would look too good.

    Args:
        survey: of the images.
        pretrain: its recipe.
        pretrained: its run.
        labels: the CSV; what it holds already stays as it is.
        budget: images that shall have labels in the end.
        device: where features are computed.

    Returns:
        Names of the images that were added.
    """
    from clrkit.choose import typical

    rows = known_rows(survey, labels)
    missing = budget - len(rows)
    if missing <= 0:
        return []
    order = [file.name for file in list_images(pretrain.images).train]
    place = {name: index for index, name in enumerate(order)}
    taken = [place[row["file"]] for row in rows]
    measured = sum(row.get("part") == "test" for row in rows)
    apart = 0 if survey.test else min(max(0, round(budget / RANDOM_SHARE) - measured), missing)
    free = np.setdiff1d(np.arange(len(order)), taken)
    drawn = np.random.RandomState(pretrain.seed).permutation(free)[:apart].tolist()
    chosen = typical(
        features(pretrained, pretrain, device), missing - apart, [*taken, *drawn], seed=pretrain.seed
    )
    added = [row_of(order[index], "train") for index in chosen]
    added += [row_of(order[index], "test") for index in drawn]
    add_rows(labels, [*rows, *added])
    return [row["file"] for row in added]


def row_of(file: str, part: str) -> Row:
    return {"file": file, "label": "", "part": part}


def with_labels(
    chain: Distill,
    survey: Survey,
    rows: Sequence[Row],
    store: Store,
    labels: Path,
    classes: Sequence[str] = (),
    fields: Mapping[str, Any] | None = None,
) -> Distill:
    """The chain with the labels that there are, fine-tuned for as long as suits their number.

    Args:
        chain: by `recipe`.
        survey: of the images.
        rows: by `known_rows`; those without a label play no part.
        store: keeps a copy of the labels, named for its content, to which the runs belong.
        labels: the CSV, to be named where it is wrong.
        classes: names of all classes, if told.
        fields: as `recipe`; they hold for fine-tuning, too.

    Raises:
        ConfigError: for misspelt classes, or too few labels to train and to measure.
    """
    filled = [dict(row) for row in rows if row["label"]]
    check_names(labels, [row["label"] for row in filled], classes)
    if not survey.test:
        hold_out(filled)
    train = [row for row in filled if row.get("part") != "test" or survey.test]
    found = Counter(row["label"] for row in train)
    if len(found) < 2:
        only = f"only one class, {next(iter(found))}" if found else "no class"
        raise DataError(f"The labels to train on have {only}; at least two classes are needed.")
    if not survey.test and len(train) == len(filled):
        raise DataError(
            f"No label of {labels} is left to measure on; give two images or more of a class a label."
        )
    csv = kept(store, "labels", ".csv", as_csv(filled))
    batch = min(len(train), 32 if len(train) < 200 else 64)
    epochs = between(3, FINETUNE_STEPS // max(1, len(train) // batch), 150)
    data = replace(chain.images, labels_csv=str(csv))
    finetune = replace(
        chain.teacher,
        pretrain=replace(chain.teacher.pretrain, data=data),
        epochs=epochs,
        batch_size=batch,
    )
    return overridden(replace(chain, teacher=finetune), fields or {})


def hold_out(rows: Sequence[Row]) -> None:
    """Mark one in 5 images of every class that has two or more to measure on, unless some are marked."""
    if any(row.get("part") == "test" for row in rows):
        return
    counts = Counter(row["label"] for row in rows)
    numbers = {name: number for number, name in enumerate(sorted(counts))}
    index = np.array([numbers[r["label"]] if counts[r["label"]] > 1 else -1 for r in rows], dtype=np.int64)
    if not (index >= 0).any():
        return
    for place in stratified(index, 1 / MEASURED_SHARE, seed=0):
        rows[place]["part"] = "test"


def plan(survey: Survey, chain: Distill, rows: Sequence[Row]) -> list[str]:
    """What will be done, in words."""
    from clrkit.frames import network_name

    pretrain, filled = chain.teacher.pretrain, [row for row in rows if row["label"]]
    teacher, student = (network_name(to_dict(each.network)) for each in (pretrain, chain))
    waiting = len(rows) - len(filled)
    labels = (
        f"{len(filled):,} labels: {counted(Counter(row['label'] for row in filled))}"
        if filled
        else "No labels"
    )
    return [
        f"{labels}{f'; {waiting} more are asked for' if waiting else ''}.",
        f"Recipe: image_size {pretrain.data.image_size}; {teacher}, pretraining with epochs "
        f"{pretrain.epochs}, batch_size {pretrain.batch_size}; student {student}, distillation with epochs "
        f"{chain.epochs}.",
    ]
