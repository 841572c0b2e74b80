"""Train a small model on your own images: read the labels, propose more, and add them to the recipe.

The data set is `images`: pretraining depends on the images alone, so labels can come later and change.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clrkit.config import Distill, Finetune, Pretrain
from clrkit.data.folders import list_images
from clrkit.data.splits import evaluation_split
from clrkit.data.subsets import stratified
from clrkit.errors import ConfigError, DataError
from clrkit.evaluate import extract
from clrkit.experiments.fields import to_dict
from clrkit.experiments.presets import PRESETS
from clrkit.own_images import active_learning
from clrkit.own_images.active_learning import MEASURED_SHARE, Features
from clrkit.own_images.label_csv import Row, add_rows, as_csv, check_names, editing, rare_labels, read_table
from clrkit.own_images.recipe import clamp, with_recipe_fields
from clrkit.own_images.scan import FolderScan, counted, keep_file, write_locked
from clrkit.results.records import network_name
from clrkit.runs.store import REFERENCE_FOLDER, Run, Store

FINETUNE_STEPS = 240


def labels_of(folder: Path) -> Path:
    """labels.csv in the folder; beside an archive."""
    folder = folder.expanduser()
    return folder / "labels.csv" if folder.is_dir() else folder.with_name(f"{folder.name}.labels.csv")


def name_of(folder: Path, given: str = "") -> str:
    """Choose a name for results: the given one, or else the folder's, that is not a preset's.

    Raises:
        ConfigError: if the given name is a path or taken.
    """
    taken = {*(make.__name__ for make in PRESETS), REFERENCE_FOLDER, "benchmarks"}
    if not given:
        folder = folder.expanduser().resolve()
        own = folder.stem if folder.is_file() else folder.name
        name = re.sub(r"[^\w-]+", "_", own).strip("_") or "images"
        return f"{name}_images" if name in taken else name
    if not re.fullmatch(r"\w([\w. -]*[\w-])?", given):
        raise ConfigError(
            f"Results cannot be named {given!r}; use letters, digits, -, _, . and blanks, and begin with a "
            "letter or a digit."
        )
    if given.casefold() in taken:
        raise ConfigError(f"Results cannot be named {given}, which is taken; choose another name.")
    return given


def known_rows(scan: FolderScan, labels: Path) -> list[Row]:
    """The labels of the CSV, and those of class folders for images that the CSV does not name.

    If the CSV contradicts every class folder that it names images of, folders are not classes.

    Raises:
        DataError: if the CSV cannot be read, or names an image that does not exist.
    """
    rows, names = read_table(labels), set(scan.names)
    for row in rows:
        if row["file"] not in names and row["file"] not in scan.broken:
            raise DataError(f"{labels} names {row['file']}, which is not among the images of {scan.root}.")
    rows = [row for row in rows if row["file"] in names]
    both = [row for row in rows if row["label"] and row["file"] in scan.labels]
    if both and all(row["label"] != scan.labels[row["file"]] for row in both):
        return rows
    named = {row["file"] for row in rows}
    by_folder = [(file, label) for file, label in scan.labels.items() if file not in named]
    return [*rows, *({"file": file, "label": label, "part": ""} for file, label in by_folder)]


def features(pretrained: Run, config: Pretrain, device: torch.device) -> Features:
    """The pretrained encoder's features of every training image, in the order of the data set."""
    size, listing = config.data.image_size, list_images(config.images)
    part = evaluation_split(listing.photos(listing.train), size)
    return extract(pretrained.model().encoder.to(device), part, size, device)


def propose(
    scan: FolderScan, pretrain: Pretrain, pretrained: Run, labels: Path, budget: int, device: torch.device
) -> list[str]:
    """Add unlabelled images to the CSV until it names `budget` images.

    Without a test folder, some of them are for measuring (part "test"), as in
    `clrkit.own_images.active_learning.propose_labels`.

    Args:
        scan: of the images.
        pretrain: the recipe's first stage.
        pretrained: its run.
        labels: the CSV; its rows stay as they are.
        budget: images with labels in the end.
        device: to compute features on.

    Returns:
        Names of the added images.
    """
    rows = known_rows(scan, labels)
    if len(rows) >= budget:
        return []
    order = [file.name for file in list_images(pretrain.images).train]
    place = {name: index for index, name in enumerate(order)}
    measured = [place[row["file"]] for row in rows if is_measured(row, scan)]
    learnt = [place[row["file"]] for row in rows if not is_measured(row, scan)]
    found, seed = features(pretrained, pretrain, device), pretrain.seed
    if scan.test:
        chosen = active_learning.typical(found, budget - len(rows), learnt, seed=seed)
        drawn = np.empty(0, dtype=np.int64)
    else:
        chosen, drawn = active_learning.propose_labels(found, budget, learnt, measured, seed)
    # Spread the drawn images evenly, so that a half-labelled list has some of both.
    after = (np.arange(len(drawn)) + 1) * len(chosen) // max(len(drawn), 1)
    added = [
        {"file": order[index], "label": "", "part": "test" if index in drawn else "train"}
        for index in np.insert(chosen, after, drawn)
    ]
    add_rows(labels, [*rows, *added])
    return [row["file"] for row in added]


def is_measured(row: Row, scan: FolderScan) -> bool:
    """Whether an image is for measuring; with a test folder, none is."""
    return row.get("part") == "test" and not scan.test


def with_labels(
    chain: Distill,
    scan: FolderScan,
    rows: Sequence[Row],
    store: Store,
    labels: Path,
    classes: Sequence[str] = (),
    fields: Mapping[str, Any] | None = None,
) -> Distill:
    """The chain with labels, and with a length of fine-tuning that suits their number.

    Args:
        chain: by `clrkit.own_images.recipe.recipe`.
        scan: of the images.
        rows: by `known_rows`; rows without a label are ignored.
        store: keeps a copy of the labels, named by its content, which the runs refer to.
        labels: the CSV; images chosen for measuring are marked in it.
        classes: all class names, if known.
        fields: as in `recipe`; they override the length of fine-tuning, too.

    Raises:
        ConfigError: for an unknown class, or too few labels to train and to measure.
    """
    check_names(labels, [row["label"] for row in rows if row["label"]], classes)
    if not scan.test and not any(is_measured(row, scan) for row in rows):
        rows = keep_to_measure(labels, rows)
    filled = [row for row in rows if row["label"]]
    train = [row for row in filled if not is_measured(row, scan)]
    check_enough(labels, train, measured=scan.test or len(filled) - len(train))
    csv = keep_file(store, "labels", ".csv", as_csv(filled))
    data = replace(chain.images, labels_csv=str(csv))
    teacher = finetuning(chain.teacher, len(train))
    teacher = replace(teacher, pretrain=replace(teacher.pretrain, data=data))
    return with_recipe_fields(replace(chain, teacher=teacher), fields or {})


def keep_to_measure(labels: Path, rows: Sequence[Row]) -> list[Row]:
    """Mark one in 5 images of every class with two or more labels as part "test", in the CSV, too.

    So accuracy is measured on the same images when more labels come.
    """
    given = Counter(row["label"] for row in rows if row["label"])
    numbers = {name: number for number, name in enumerate(sorted(given)) if given[name] > 1}
    index = np.array([numbers.get(row["label"], -1) for row in rows], dtype=np.int64)
    held = {rows[place]["file"] for place in stratified(index, 1 / MEASURED_SHARE, seed=0)}
    if labels.exists() and held:
        add_rows(labels, [row for row in rows if row["file"] in held])  # labelled by class folders
        with editing(labels) as table:
            for row in table:
                if row["file"] in held:
                    row["part"] = "test"
    return [row | {"part": "test"} if row["file"] in held else row for row in rows]


def check_enough(labels: Path, train: Sequence[Row], measured: int) -> None:
    """Raise DataError without labels of two classes to train on, or any to measure on."""
    found = sorted({row["label"] for row in train})
    if len(found) < 2:
        only = f"only one class, {found[0]}" if found else "no class"
        raise DataError(f"The labels to train on have {only}; at least two classes are needed.")
    if not measured:
        raise DataError(
            f"{labels} has no label to measure on; label two or more images of a class, and those with "
            "part test."
        )


def finetuning(teacher: Finetune, labels: int) -> Finetune:
    """Fine-tuning with a batch size and length that suit the number of labels."""
    batch = min(labels, 32 if labels < 200 else 64)
    epochs = clamp(FINETUNE_STEPS // max(1, labels // batch), 3, 150)
    return replace(teacher, epochs=epochs, batch_size=batch)


def plan(scan: FolderScan, chain: Distill, rows: Sequence[Row], classes: Sequence[str] = ()) -> list[str]:
    """Sentences on labels and recipe, and, unless all classes are known, on names that may be misspelt."""
    pretrain, given = chain.teacher.pretrain, [row["label"] for row in rows if row["label"]]
    teacher, student = (network_name(to_dict(each.network)) for each in (pretrain, chain))
    waiting = len(rows) - len(given)
    ignored = len(scan.labels.keys() - {row["file"] for row in rows})
    labels = f"{len(given):,} labels: {counted(given)}" if given else "No labels"
    lines = [f"{labels}{f'; {waiting} images wait for a label' if waiting else ''}."]
    if ignored:
        lines.append(
            f"{ignored:,} images lie in class folders but have no label, because the CSV gives images of "
            "these folders other labels."
        )
    if not classes and (rare := rare_labels(given)):
        lines.append(rare)
    recipe = (
        f"Recipe: image_size {pretrain.data.image_size}; {teacher}, pretraining with epochs "
        f"{pretrain.epochs}, batch_size {pretrain.batch_size}; student {student}, distillation with epochs "
        f"{chain.epochs}."
    )
    return [*lines, recipe]


def exported(run: Run, store: Store) -> Path:
    """The folder of a run's export, written once even if two processes ask for it."""
    from clrkit.export.export import export

    target = store.folder / f"model-{run.key}"

    def write() -> None:
        if not target.exists():
            export(run.folder, target)

    write_locked(store, write)
    return target
