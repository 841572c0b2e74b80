"""Read and write the CSV that people keep labels in; its separator, encoding and other columns stay.

Excel writes semicolons in half of Europe, and needs the byte order mark to recognise UTF-8.
"""

from __future__ import annotations

import csv
import io
from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clrkit.errors import DataError, reason

SEPARATORS = ",;\t"


class Sheet(NamedTuple):
    """The rows of a CSV, and how they are written.

    Attributes:
        columns: names in their order.
        rows: values by column, labels and parts without surrounding blanks (file names may have some).
        separator, ending, encoding: of the cells, of the lines, and of the file.
    """

    columns: tuple[str, ...]
    rows: list[dict[str, str]]
    separator: str = ","
    ending: str = "\n"
    encoding: str = "utf-8"

    def content(self, rows: Sequence[dict[str, str]]) -> bytes:
        """Return the bytes of a CSV like this one with other rows; new columns come last."""
        import pandas as pd

        columns = list(dict.fromkeys([*self.columns, *(name for row in rows for name in row)]))
        table = pd.DataFrame([[row.get(name, "") for name in columns] for row in rows], columns=columns)
        text: str = table.to_csv(index=False, sep=self.separator, lineterminator=self.ending)
        return text.encode(self.encoding)


def read_sheet(path: str) -> Sheet:
    """Read a CSV with the columns `file` and `label`, separated by commas, semicolons or tabs.

    Raises:
        DataError: if the file cannot be read, lacks a column, or has a row with too many cells.
    """
    import pandas as pd

    try:
        content = Path(path).expanduser().read_bytes()
        text = content.decode("utf-8-sig")
        separator = max(SEPARATORS, key=text.partition("\n")[0].count)
        # pandas would rename a repeated column, so the names are read as the first row.
        as_text: dict[str, Any] = {"header": None, "dtype": str, "keep_default_na": False, "engine": "python"}
        cells = io.StringIO(text if text.strip() else separator, newline="")
        table = pd.read_csv(cells, sep=separator, **as_text)
    except (OSError, ValueError, csv.Error) as error:  # pandas raises ValueErrors
        raise DataError(f"The CSV of labels {path} cannot be read: {reason(error)}.") from None
    columns, *lines = table.fillna("").to_numpy().tolist()
    if not {"file", "label"} <= set(columns):
        found = f"{', '.join(columns)} (capital letters count)" if any(columns) else "none"
        raise DataError(f"{path} needs the columns file and label; it has {found}.")
    if repeated := [name for name in columns if columns.count(name) > 1]:
        raise DataError(f"{path} has two columns {repeated[0] or 'without a name'}; rename one.")
    rows = [dict(zip(columns, line, strict=True)) for line in lines]
    for row in rows:
        row.update({name: row[name].strip() for name in ("label", "part") if name in row})
    encoding = "utf-8-sig" if content.startswith(BOM_UTF8) else "utf-8"
    return Sheet(tuple(columns), rows, separator, "\r\n" if b"\r\n" in content else "\n", encoding)


def read_labels(path: str) -> dict[str, str]:
    """Labels by file name. Raises DataError as `read_sheet`, and for none, or two of one file."""
    labels: dict[str, str] = {}
    for row in read_sheet(path).rows:
        file, label = row["file"], row["label"]
        if not label:
            raise DataError(f"{path} gives {file or 'a row without a file'} no label.")
        if labels.setdefault(file, label) != label:
            raise DataError(f"{path} gives {file} two labels, {labels[file]} and {label}.")
    if not labels:
        raise DataError(f"{path} labels no image.")
    return labels
