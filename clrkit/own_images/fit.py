"""A small model from one's own images: a recipe that suits them, the labels they have or get, and the runs.

The data set is `images`: pretraining depends on the images alone, so labels can come later and change.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clrkit.config import Distill, Finetune, Pretrain, to_dict
from clrkit.data.folders import list_images
from clrkit.data.sources import evaluation_split
from clrkit.data.subsets import stratified
from clrkit.errors import ConfigError, DataError
from clrkit.experiments.presets import PRESETS
from clrkit.own_images.label_csv import Row, add_rows, as_csv, check_names, doubts, editing, read_table
from clrkit.own_images.recipe import between, overridden
from clrkit.own_images.scan import FolderScan, counted, kept, written
from clrkit.runs.checksums import REFERENCE
from clrkit.runs.store import Run, Store

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

    from clrkit.own_images.active_learning import Indices, Proposal

MEASURED_SHARE = 5  # one in so many labelled images is measured on where nothing else is
FINETUNE_STEPS = 240


def labels_of(folder: Path) -> Path:
    """labels.csv in the folder; beside an archive."""
    folder = folder.expanduser()
    return folder / "labels.csv" if folder.is_dir() else folder.with_name(f"{folder.name}.labels.csv")


def name_of(folder: Path, given: str = "") -> str:
    """A name for results that is no preset's: the one that is given, else the folder's.

    Raises:
        ConfigError: for a name that is a path, or taken.
    """
    taken = {*(make.__name__ for make in PRESETS), REFERENCE, "benchmarks"}
    if given:
        return checked_name(given, taken)
    folder = folder.expanduser().resolve()
    own = folder.stem if folder.is_file() else folder.name
    name = re.sub(r"[^\w-]+", "_", own).strip("_") or "images"
    return f"{name}_images" if name in taken else name


def checked_name(name: str, taken: Set[str]) -> str:
    """The name, if results can have it. Raises ConfigError."""
    if not re.fullmatch(r"\w([\w. -]*[\w-])?", name):
        raise ConfigError(
            f"Results cannot be named {name!r}; a name has letters, digits, -, _, . and blanks, and begins "
            "with a letter or a digit."
        )
    if name.casefold() in taken:
        raise ConfigError(f"Results cannot be named {name}, which others have; choose another name.")
    return name


def known_rows(survey: FolderScan, labels: Path) -> list[Row]:
    """The labels there are: the CSV's, and for images it does not name those of class folders.

    Where the CSV gives images of class folders other labels throughout, the folders are no classes.

    Raises:
        DataError: for a CSV that cannot be read, or names an image that is not there.
    """
    rows = read_table(labels)
    names = set(survey.names)
    for row in rows:
        if row["file"] in survey.broken:
            continue
        if row["file"] not in names:
            raise DataError(f"{labels} names {row['file']}, which is not among the images of {survey.root}.")
    rows = [row for row in rows if row["file"] in names]
    return [
        *rows,
        *({"file": file, "label": survey.labels[file], "part": ""} for file in unnamed(survey, rows)),
    ]


def unnamed(survey: FolderScan, rows: Sequence[Row]) -> list[str]:
    """Images of class folders that the rows do not name; none where by the rows folders are no classes."""
    both = [
        row["label"] == survey.labels[row["file"]]
        for row in rows
        if row["label"] and row["file"] in survey.labels
    ]
    named = {row["file"] for row in rows}
    return [file for file in survey.labels if file not in named] if any(both) or not both else []


def features(pretrained: Run, config: Pretrain, device: torch.device) -> Float[Tensor, "count dim"]:
    """The pretrained encoder's features of every image to train on, in the order of the data set."""
    from clrkit.evaluate import extract

    size, listing = config.data.image_size, list_images(config.images)
    part = evaluation_split(*listing.images(listing.train), size)
    return extract(pretrained.model().encoder.to(device), part, size, device)


def propose(
    survey: FolderScan, pretrain: Pretrain, pretrained: Run, labels: Path, budget: int, device: torch.device
) -> list[str]:
    """Add images to the CSV of labels, without a label, until it names `budget` images.

    Where there is no test folder some of them are there to be measured on
    (`clrkit.own_images.active_learning.ask`), part "test".

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
    from clrkit.own_images.active_learning import ask, typical

    rows = known_rows(survey, labels)
    if len(rows) >= budget:
        return []
    order = [file.name for file in list_images(pretrain.images).train]
    place = {name: index for index, name in enumerate(order)}
    measured = [place[row["file"]] for row in rows if is_measured(row, survey)]
    learnt = [place[row["file"]] for row in rows if not is_measured(row, survey)]
    found, seed = features(pretrained, pretrain, device), pretrain.seed
    if survey.test:
        chosen, drawn = typical(found, budget - len(rows), learnt, seed=seed), np.empty(0, dtype=np.int64)
    else:
        chosen, drawn = ask(found, budget, learnt, measured, seed)
    added = [row_of(order[index], "test" if index in drawn else "train") for index in spread(chosen, drawn)]
    add_rows(labels, [*rows, *added])
    return [row["file"] for row in added]


def is_measured(row: Row, survey: FolderScan) -> bool:
    """Whether an image is kept to measure on, as none is where there is a test folder."""
    return row.get("part") == "test" and not survey.test


def spread(chosen: Indices, drawn: Proposal) -> np.ndarray:
    """Both in one order, `drawn` spread evenly over `chosen`: who stops half-way has labelled of both."""
    after = (np.arange(len(drawn)) + 1) * len(chosen) // max(len(drawn), 1)
    return np.insert(chosen, after, drawn)


def row_of(file: str, part: str) -> Row:
    return {"file": file, "label": "", "part": part}


def with_labels(
    chain: Distill,
    survey: FolderScan,
    rows: Sequence[Row],
    store: Store,
    labels: Path,
    classes: Sequence[str] = (),
    fields: Mapping[str, Any] | None = None,
) -> Distill:
    """The chain with the labels that there are, fine-tuned for as long as suits their number.

    Args:
        chain: by `clrkit.own_images.recipe.recipe`.
        survey: of the images.
        rows: by `known_rows`; those without a label play no part.
        store: keeps a copy of the labels, named for its content, to which the runs belong.
        labels: the CSV, to be named where it is wrong; it is told what is kept to measure on.
        classes: names of all classes, if told.
        fields: as `recipe`; they hold for fine-tuning, too.

    Raises:
        ConfigError: for misspelt classes, or too few labels to train and to measure.
    """
    check_names(labels, [row["label"] for row in rows if row["label"]], classes)
    if not survey.test and not any(is_measured(row, survey) for row in rows):
        rows = keep_to_measure(labels, rows)
    filled = [row for row in rows if row["label"]]
    train = [row for row in filled if not is_measured(row, survey)]
    check_enough(labels, train, measured=survey.test or len(filled) - len(train))
    csv = kept(store, "labels", ".csv", as_csv(filled))
    teacher = suited(chain.teacher, len(train))
    data = replace(chain.images, labels_csv=str(csv))
    teacher = replace(teacher, pretrain=replace(teacher.pretrain, data=data))
    return overridden(replace(chain, teacher=teacher), fields or {})


def keep_to_measure(labels: Path, rows: Sequence[Row]) -> list[Row]:
    """The rows with one in 5 images of every class that has two or more marked to be measured on.

    The CSV says so from then on: accuracy stays that on the same images when more labels come.
    """
    given = Counter(row["label"] for row in rows if row["label"])
    numbers = {name: number for number, name in enumerate(sorted(given)) if given[name] > 1}
    index = np.array([numbers.get(row["label"], -1) for row in rows], dtype=np.int64)
    held = {rows[place]["file"] for place in stratified(index, 1 / MEASURED_SHARE, seed=0)}
    if labels.exists() and held:
        add_rows(labels, [row for row in rows if row["file"] in held])  # of class folders, perhaps
        with editing(labels) as table:
            mark(table, held)
    copies = [dict(row) for row in rows]
    mark(copies, held)
    return copies


def mark(rows: Sequence[Row], held: Set[str]) -> None:
    for row in rows:
        if row["file"] in held:
            row["part"] = "test"


def check_enough(labels: Path, train: Sequence[Row], measured: int) -> None:
    """Whether there are labels of two classes to train on, and some to measure. Raises DataError."""
    found = Counter(row["label"] for row in train)
    if len(found) < 2:
        only = f"only one class, {next(iter(found))}" if found else "no class"
        raise DataError(f"The labels to train on have {only}; at least two classes are needed.")
    if not measured:
        raise DataError(
            f"No label of {labels} is left to measure on; give two images or more of a class a label, and "
            "those whose part is test theirs."
        )


def suited(teacher: Finetune, labels: int) -> Finetune:
    """Fine-tuning in batches and for as long as suits the number of labels."""
    batch = min(labels, 32 if labels < 200 else 64)
    epochs = between(3, FINETUNE_STEPS // max(1, labels // batch), 150)
    return replace(teacher, epochs=epochs, batch_size=batch)


def plan(survey: FolderScan, chain: Distill, rows: Sequence[Row], classes: Sequence[str] = ()) -> list[str]:
    """What will be done, in words; and, unless all classes are told, which of them may be misspelt."""
    from clrkit.results.records import network_name

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
        *apart_from_folders(survey, rows),
        *([] if classes else doubts([row["label"] for row in filled])),
        f"Recipe: image_size {pretrain.data.image_size}; {teacher}, pretraining with epochs "
        f"{pretrain.epochs}, batch_size {pretrain.batch_size}; student {student}, distillation with epochs "
        f"{chain.epochs}.",
    ]


def apart_from_folders(survey: FolderScan, rows: Sequence[Row]) -> list[str]:
    """A sentence where labels by class folders play no part because the CSV says otherwise throughout."""
    left = len(survey.labels.keys() - {row["file"] for row in rows})
    if not left:
        return []
    return [
        f"{left:,} images lie in class folders and have no label: the CSV gives images of these folders "
        "other labels than the folders' names."
    ]


def exported(run: Run, store: Store) -> Path:
    """The folder of a run's export, which is written once, whoever asks first."""
    from clrkit.export.export import export

    target = store.folder / f"model-{run.key}"

    def write() -> None:
        if not target.exists():
            export(run.folder, target)

    written(store, write)
    return target
