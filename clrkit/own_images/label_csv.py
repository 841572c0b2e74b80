"""The CSV of labels that people fill in: columns file and label, and part for what is measured on.

Whoever writes it holds its lock, reads it anew, and replaces it whole: what others wrote is not lost, be it
labels, columns of their own, or the form of the file.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from clrkit.config import known
from clrkit.data.sheet import Sheet, read_sheet
from clrkit.errors import DataError, reason
from clrkit.files import write_atomically
from clrkit.runs.store import file_lock

COLUMNS = ("file", "label", "part")
LOCK_SECONDS = 10.0
TYPING_ERROR = 0.8  # similarity of names from which the rarer may be the other misspelt

Row = dict[str, str]


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV of labels, none where there is no file; an image that is named twice has one row.

    Raises:
        DataError: for a file that is no such CSV, or gives an image two labels.
    """
    return merged(path, read_sheet(str(path)).rows) if path.exists() else []


def merged(path: Path, rows: Sequence[Row]) -> list[Row]:
    """One row for every image: its first, with the label that any has. Raises as `read_table`."""
    found: dict[str, Row] = {}
    for row in rows:
        if not row["file"]:
            raise DataError(f"{path} has a row that names no file.")
        first = found.setdefault(row["file"], dict(row))
        if first["label"] and row["label"] not in ("", first["label"]):
            raise DataError(f"{path} gives {row['file']} two labels, {first['label']} and {row['label']}.")
        first["label"] = first["label"] or row["label"]
    return list(found.values())


@contextmanager
def editing(path: Path) -> Iterator[list[Row]]:
    """All rows, to be changed in place under the file's lock; written when the block ends, if they changed.

    The file keeps its columns, separator, line ends, encoding and permissions.

    Raises:
        DataError: as `read_table`, and for a file that cannot be written.
    """
    path = path.resolve()
    try:
        with file_lock(path.with_name(path.name + ".lock"), LOCK_SECONDS):
            there = path.exists()
            sheet = read_sheet(str(path)) if there else Sheet(COLUMNS, [])
            merged(path, sheet.rows)
            rows = [dict(row) for row in sheet.rows]
            yield rows
            if rows != sheet.rows:
                mode = path.stat().st_mode if there else None
                write_atomically(path, sheet.content(rows))
                if mode:
                    path.chmod(mode)
    except Timeout:
        raise DataError(f"Another process holds {path}; try again.") from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {reason(error)}; --labels names another place for the labels."
        ) from None


def as_csv(rows: Sequence[Row]) -> bytes:
    """A table's bytes, with every column that any row has."""
    return Sheet(COLUMNS, []).content(rows)


def set_label(path: Path, file: str, label: str, seen: str) -> None:
    """Give one image of the CSV a label, or take it away ("").

    Args:
        path: the CSV.
        file: name of the image.
        label: the new one.
        seen: the one it replaces.

    Raises:
        DataError: where the image has no row, or another label than was seen; and as `editing`.
    """
    with editing(path) as rows:
        own = [row for row in rows if row["file"] == file]
        if not own:
            raise DataError(f"{path} has no row for {file} any more.")
        now = next((row["label"] for row in own if row["label"]), "")
        if now != seen:
            raise DataError(f"{file} was given the label {now or 'none'} meanwhile, in {path}.")
        for row in own:
            row["label"] = label.strip()


def add_rows(path: Path, added: Sequence[Row]) -> None:
    """Append rows of images that the CSV does not name yet."""
    with editing(path) as rows:
        named = {row["file"] for row in rows}
        rows += [row for row in added if row["file"] not in named]


def check_names(path: Path, labels: Sequence[str], classes: Sequence[str]) -> None:
    """Whether the labels are names of classes, and none is another one in other capitals or blanks.

    Args:
        path: of the CSV, for the message.
        labels: of the images, none empty.
        classes: all that there are, if told; then any two of them may be alike.

    Raises:
        ConfigError: naming the label and the name it is near to.
    """
    alike = dict[str, str]()
    counts = Counter(labels)
    strangers = [f"{label} ({counts[label]})" for label in sorted(counts) if label not in classes]
    if classes and len(strangers) > 1:
        raise DataError(
            f"{path} has labels that are none of the classes named ({', '.join(classes)}): "
            f"{', '.join(strangers)}."
        )
    for label in sorted(counts):
        if classes:
            known(label, list(classes), f"label in {path}")
        elif (first := alike.setdefault("".join(label.split()).casefold(), label)) != label:
            raise DataError(
                f"{path} has the labels {first} ({counts[first]}) and {label} ({counts[label]}), which "
                "differ in capitals or blanks alone; write them alike, or name all classes if both are meant."
            )


def doubts(labels: Sequence[str]) -> list[str]:
    """A sentence for every name that one image has and that may be a commoner one misspelt, and for the rest.

    class_1 and class_2 differ on purpose.
    """
    counts = Counter(labels)
    words = [name for name in counts if not name[-1:].isdigit()]
    common = [name for name in words if counts[name] > 1]
    near = {name: close(name, common) for name in sorted(words) if counts[name] == 1}
    said = [
        f"One image is labelled {name}, {counts[other]} are {other}: if that is misspelt, mend it."
        for name, other in near.items()
        if other
    ]
    alone = [name for name in sorted(counts) if counts[name] == 1 and not near.get(name)]
    return [
        *said,
        *([f"Classes with a single label are hardly learnt: {', '.join(alone)}."] if alone else []),
    ]


def close(label: str, names: Sequence[str]) -> str:
    """The name that is most like the label, or ""."""
    folded = {name.casefold(): name for name in names if name != label}
    near = [name for name in folded if swapped(label.casefold(), name)]
    near += difflib.get_close_matches(label.casefold(), list(folded), n=1, cutoff=TYPING_ERROR)
    return folded[near[0]] if near else ""


def swapped(one: str, other: str) -> bool:
    """Whether the words differ in the order of two neighbouring letters: zreo and zero."""
    return any(
        one[:place] + one[place + 1] + one[place] + one[place + 2 :] == other for place in range(len(one) - 1)
    )
