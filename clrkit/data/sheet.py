"""A CSV that people keep labels in, read and written so that what is not ours stays as it is.

Excel writes semicolons in half of Europe, and needs the byte order mark to see that a file is UTF-8.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from clrkit.errors import DataError, reason

NEEDED, OWN = frozenset(("file", "label")), ("label", "part")
DELIMITERS = (",", ";", "\t")


class Sheet(NamedTuple):
    """The rows of a CSV, and how its writer wrote it.

    Attributes:
        columns: names in their order.
        rows: values by column; around labels and parts blanks are taken away, file names may have some.
        delimiter: between cells.
        ending: of a line.
        mark: byte order mark, or nothing.
    """

    columns: tuple[str, ...]
    rows: list[dict[str, str]]
    delimiter: str = ","
    ending: str = "\n"
    mark: bytes = b""

    def content(self, rows: Sequence[dict[str, str]]) -> bytes:
        """Bytes of a CSV like this one with other rows; columns that only these have come last."""
        columns = dict.fromkeys([*self.columns, *(name for row in rows for name in row)])
        text = io.StringIO(newline="")
        writer = csv.DictWriter(
            text, list(columns), restval="", delimiter=self.delimiter, lineterminator=self.ending
        )
        writer.writeheader()
        writer.writerows(rows)
        return self.mark + text.getvalue().encode()


def read_sheet(path: str) -> Sheet:
    """A CSV that has the columns `file` and `label`, with commas, semicolons or tabs between.

    Raises:
        DataError: naming the file, and the line that holds more than can be kept.
    """
    try:
        content = Path(path).expanduser().read_bytes()
        text = content.decode("utf-8-sig")
        first = io.StringIO(text, newline="").readline()
        delimiter = delimiter_of(first)
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        columns = next(lines, [])
        check_columns(path, columns)
        rows = [row_of(path, lines.line_num, columns, cells) for cells in lines if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The CSV of labels {path} cannot be read: {reason(error)}.") from None
    ending = first[len(first.rstrip("\r\n")) :] or "\n"
    mark = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
    return Sheet(tuple(columns), rows, delimiter, ending, mark)


def delimiter_of(header: str) -> str:
    """What parts the names in the first line: that by which there are the needed ones, else a comma."""
    found = (each for each in DELIMITERS if set(next(csv.reader([header], delimiter=each), [])) >= NEEDED)
    return next(found, ",")


def check_columns(path: str, columns: Sequence[str]) -> None:
    """Whether the needed columns are there, and none twice. Raises DataError."""
    if not set(columns) >= NEEDED:
        near = {name.strip().casefold() for name in columns} >= NEEDED
        hint = "; write them in small letters, without blanks" if near else ""
        raise DataError(
            f"{path} needs the columns file and label; it has {', '.join(columns) or 'none'}{hint}."
        )
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise DataError(f"{path} has two columns {twice[0] or 'without a name'}; rename one.")


def row_of(path: str, line: int, columns: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    """A line's values by column, "" for those that it lacks. Raises DataError where it has more."""
    if len(cells) > len(columns):
        raise DataError(
            f"Line {line} of {path} has {len(cells)} cells, but there are {len(columns)} columns; "
            "a value that has the delimiter in it needs quotes around it."
        )
    row = dict.fromkeys(columns, "") | dict(zip(columns[: len(cells)], cells, strict=True))
    return row | {name: row[name].strip() for name in OWN if name in row}
