"""The CSV of labels that people fill in: columns file and label, and part for what is measured on.

Whoever writes it holds its lock, reads it anew, and replaces it whole: what others wrote is not lost.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from clrkit.config import known
from clrkit.folders import read_rows
from clrkit.images import DataError, reason
from clrkit.runs import locked, write_whole

COLUMNS = ("file", "label", "part")
LOCK_SECONDS = 10.0
TYPING_ERROR = 0.8  # similarity of names from which the rarer may be the other misspelt

Row = dict[str, str]


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV of labels, none where there is no file; an image that is named twice has one row.

    Raises:
        DataError: for a file that is no such CSV, or gives an image two labels.
    """
    rows: dict[str, Row] = {}
    for row in read_rows(str(path)) if path.exists() else []:
        if not row["file"]:
            raise DataError(f"{path} has a row that names no file.")
        first = rows.setdefault(row["file"], row)
        if first["label"] and row["label"] not in ("", first["label"]):
            raise DataError(f"{path} gives {row['file']} two labels, {first['label']} and {row['label']}.")
        first["label"] = first["label"] or row["label"]
    return list(rows.values())


@contextmanager
def editing(path: Path) -> Iterator[list[Row]]:
    """The rows to be changed in place, under the file's lock; written when the block ends, if they changed.

    Raises:
        DataError: as `read_table`, and for a file that cannot be written.
    """
    path = path.resolve()
    try:
        with locked(path.with_name(path.name + ".lock"), LOCK_SECONDS):
            rows = read_table(path)
            before = [dict(row) for row in rows]
            yield rows
            if rows != before:
                write_whole(path, as_csv(rows))
    except Timeout:
        raise DataError(f"Another process holds {path}; try again.") from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {reason(error)}; --labels names another place for the labels."
        ) from None


def as_csv(rows: Sequence[Row]) -> bytes:
    """The table's bytes, with every column that any row has."""
    columns = dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def set_label(path: Path, file: str, label: str) -> None:
    """Give one image of the CSV a label, or take it away ("")."""
    with editing(path) as rows:
        for row in rows:
            if row["file"] == file:
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
    for label in sorted(counts):
        if classes:
            known(label, list(classes), f"label in {path}")
        elif (first := alike.setdefault("".join(label.split()).casefold(), label)) != label:
            raise DataError(
                f"{path} has the labels {first} ({counts[first]}) and {label} ({counts[label]}), which "
                "differ in capitals or blanks alone; write them alike, or name all classes if both are meant."
            )


def doubts(labels: Sequence[str]) -> list[str]:
    """A sentence for every name that one image has and that may be a commoner one misspelt.

    class_1 and class_2 differ on purpose.
    """
    counts = Counter(labels)
    words = [name for name in counts if not name[-1:].isdigit()]
    common = [name for name in words if counts[name] > 1]
    near = {name: close(name, common) for name in sorted(words) if counts[name] == 1}
    return [
        f"One image is labelled {name}, {counts[other]} are {other}: if that is misspelt, mend it."
        for name, other in near.items()
        if other
    ]


def close(label: str, names: Sequence[str]) -> str:
    """The name that is most like the label, or ""."""
    folded = {name.casefold(): name for name in names if name != label}
    near = difflib.get_close_matches(label.casefold(), list(folded), n=1, cutoff=TYPING_ERROR)
    return folded[near[0]] if near else ""
