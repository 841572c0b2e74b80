"""The CSV of labels that people fill in: columns `file` and `label`, and `part` ("test": measured only).

Every writer takes the file's lock, reads the file again and replaces it as a whole, so no label is lost.
Separator, encoding and further columns stay as they are.
"""

from __future__ import annotations

import codecs
import difflib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pandas as pd
from filelock import Timeout

from clrkit.config import known
from clrkit.errors import DataError, reason
from clrkit.files import write_atomically
from clrkit.runs.store import file_lock

COLUMNS = ("file", "label", "part")
SEPARATORS = (",", ";", "\t")
LOCK_SECONDS = 10.0
SIMILAR = 0.7  # similarity (difflib) above which one class name may be another one misspelt

Row = dict[str, str]


@dataclass(frozen=True)
class LabelTable:
    """The rows of a CSV, and how to write them back."""

    rows: list[Row]
    columns: Sequence[str] = COLUMNS
    separator: str = ","
    encoding: str = "utf-8"

    def content(self, rows: Sequence[Row]) -> bytes:
        """The bytes of this CSV with other rows; columns that only these have come last."""
        columns = list(dict.fromkeys([*self.columns, *(name for row in rows for name in row)]))
        cells = [[row.get(name, "") for name in columns] for row in rows]
        frame = pd.DataFrame(cells, columns=columns)
        return frame.to_csv(index=False, sep=self.separator, lineterminator="\n").encode(self.encoding)


def parse(path: Path) -> LabelTable:
    """Read a CSV with the columns `file` and `label`, separated by commas, semicolons or tabs.

    Raises:
        DataError: if the file cannot be read, or would lose something when it is written back.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
        separator = separator_of(text.partition("\n")[0].strip())
        cells = pd.read_csv(io.StringIO(text), sep=separator, header=None, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} needs the columns file and label; it is empty.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not in UTF-8; save it as CSV UTF-8.") from None
    except (OSError, pd.errors.ParserError) as error:
        raise DataError(
            f"The CSV of labels {path} cannot be read: {reason(error).strip()}. A value that contains the "
            "separator needs quotes."
        ) from None
    cells = cells.fillna("")  # the end of a short line
    columns = cells.iloc[0].tolist()
    check_columns(path, columns)
    frame = cells.iloc[1:].set_axis(columns, axis=1)
    for name in {"label", "part"} & set(columns):
        frame[name] = frame[name].str.strip()
    encoding = "utf-8-sig" if content.startswith(codecs.BOM_UTF8) else "utf-8"
    rows = cast(list[Row], frame.to_dict("records"))
    return LabelTable(rows, columns, separator, encoding)


def separator_of(header: str) -> str:
    """The separator that splits a header into the needed columns; a comma if none does."""
    names = {each: {name.strip('"') for name in header.split(each)} for each in SEPARATORS}
    return next((each for each in SEPARATORS if {"file", "label"} <= names[each]), ",")


def check_columns(path: Path, columns: Sequence[str]) -> None:
    """Raise DataError if a needed column is missing, or two columns have one name."""
    if not {"file", "label"} <= set(columns):
        raise DataError(
            f"{path} needs the columns file and label, in small letters; it has {', '.join(columns)}."
        )
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise DataError(f"{path} has two columns {twice[0] or 'without a name'}; rename one.")


def read_table(path: Path) -> list[Row]:
    """Read the rows, one per image; none if the file does not exist.

    Raises:
        DataError: if the file is not a CSV of labels, or gives an image two labels.
    """
    return merged(path, parse(path).rows) if path.exists() else []


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

    Raises:
        DataError: as `read_table`, and if the file cannot be written.
    """
    path = path.resolve()
    try:
        with file_lock(path.with_name(path.name + ".lock"), LOCK_SECONDS):
            mode = path.stat().st_mode if path.exists() else None
            table = LabelTable([]) if mode is None else parse(path)
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
    return LabelTable([]).content(rows)


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
