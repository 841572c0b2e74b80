"""The CSV of labels that people fill in: columns `file` and `label`, and `part` ("test": measured only).

Every writer takes the file's lock, reads the file again and replaces it as a whole, so no label is lost.
Separator, encoding and further columns stay as they are.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from clrkit.data.files import file_lock, write_atomically
from clrkit.data.sheet import Sheet, read_sheet
from clrkit.errors import DataError, known, reason

COLUMNS = ("file", "label", "part")
LOCK_SECONDS = 10.0
SIMILAR = 0.7  # similarity (difflib) above which one class name may be another one misspelt

Row = dict[str, str]


def read_table(path: Path) -> list[Row]:
    """Read the rows, one per image; none if the file does not exist.

    Raises:
        DataError: if the file is not a CSV of labels, or gives an image two labels.
    """
    return merged(path, read_sheet(str(path)).rows) if path.exists() else []


def merged(path: Path, rows: Sequence[Row]) -> list[Row]:
    """Join the rows of each image: its first row, with the label that any of its rows has."""
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
    """Lock the CSV and yield its rows to be changed in place; write them at the end if they changed.

    The file keeps its columns, separator, line ends, encoding and permissions.

    Raises:
        DataError: as `read_table`, and if the file cannot be written.
    """
    path = path.resolve()
    try:
        with file_lock(path.with_name(path.name + ".lock"), LOCK_SECONDS):
            mode = path.stat().st_mode if path.exists() else None
            table = Sheet(COLUMNS, []) if mode is None else read_sheet(str(path))
            merged(path, table.rows)
            rows = [dict(row) for row in table.rows]
            yield rows
            if rows != table.rows:
                write_atomically(path, table.content(rows))
                if mode is not None:
                    path.chmod(mode)
    except Timeout:
        raise DataError(f"Another process is writing {path}; try again.") from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {reason(error)}; choose another file with --labels."
        ) from None


def as_csv(rows: Sequence[Row]) -> bytes:
    """The bytes of a new CSV with every column that any row has."""
    return Sheet(COLUMNS, []).content(rows)


def set_label(path: Path, file: str, label: str, seen: str) -> None:
    """Set the label of one image ("" removes it), if it still has the label that was `seen`.

    Raises:
        DataError: if the image has no row or another label by now, and as `editing`.
    """
    with editing(path) as rows:
        own = [row for row in rows if row["file"] == file]
        if not own:
            raise DataError(f"{path} no longer has a row for {file}.")
        now = next((row["label"] for row in own if row["label"]), "")
        if now != seen:
            raise DataError(f"{file} was labelled {now or 'none'} in {path} meanwhile.")
        for row in own:
            row["label"] = label.strip()


def add_rows(path: Path, added: Sequence[Row]) -> None:
    """Append the rows of images that the CSV does not have yet."""
    with editing(path) as rows:
        named = {row["file"] for row in rows}
        rows += [row for row in added if row["file"] not in named]


def check_names(path: Path, labels: Sequence[str], classes: Sequence[str]) -> None:
    """Check that labels are among the classes, or else that none differ in capitals or blanks alone.

    Args:
        path: of the CSV, for the message.
        labels: of the images, none empty.
        classes: all class names; empty if not known.

    Raises:
        ConfigError: naming the label, and the nearest class.
    """
    alike: dict[str, str] = {}
    for label in sorted(set(labels)):
        if classes:
            known(label, list(classes), f"label in {path}")
        elif (first := alike.setdefault("".join(label.split()).casefold(), label)) != label:
            raise DataError(
                f"{path} has the labels {first} and {label}, which differ only in capitals or blanks; write "
                "them alike, or name all classes if you mean both."
            )


def rare_labels(labels: Sequence[str]) -> str:
    """A sentence on classes with a single image, each with the nearest other class; "" without any."""
    counts = Counter(labels)
    rare = [
        f"{name} (did you mean {near}?)" if (near := nearest(name, [*counts])) else name
        for name in sorted(counts)
        if counts[name] == 1
    ]
    return f"Classes with a single label are hard to learn: {', '.join(rare)}." if rare else ""


def nearest(label: str, names: Sequence[str]) -> str:
    """The other name that is most like a label; "" if none is, or if both end in digits: part_1, part_2."""
    folded = {name.casefold(): name for name in names if name != label and not name[-1:].isdigit()}
    near = difflib.get_close_matches(label.casefold(), list(folded), n=1, cutoff=SIMILAR)
    return folded[near[0]] if near else ""
