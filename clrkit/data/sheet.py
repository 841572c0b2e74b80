"""Read and write the CSV that people keep labels in; its separator, encoding and other columns stay.

Excel writes semicolons in half of Europe, and needs the byte order mark to recognise UTF-8.
"""

from __future__ import annotations

import csv
import io
from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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
        table = pd.DataFrame([""])
        if text.strip():
            table = pd.read_csv(
                io.StringIO(text, newline=""),
                sep=separator,
                header=None,
                dtype=str,
                keep_default_na=False,
                engine="python",
            )
    except (OSError, ValueError, csv.Error) as error:  # pandas raises ValueErrors
        raise DataError(f"The CSV of labels {path} cannot be read: {reason(error)}.") from None
    columns, *cells = table.fillna("").to_numpy().tolist()
    if not {"file", "label"} <= set(columns):
        found = f"{', '.join(columns)} (capital letters count)" if any(columns) else "none"
        raise DataError(f"{path} needs the columns file and label; it has {found}.")
    if repeated := [name for name in columns if columns.count(name) > 1]:
        raise DataError(f"{path} has two columns {repeated[0] or 'without a name'}; rename one.")
    rows = [dict(zip(columns, line, strict=True)) for line in cells]
    for row in rows:
        row.update({name: row[name].strip() for name in ("label", "part") if name in row})
    encoding = "utf-8-sig" if content.startswith(BOM_UTF8) else "utf-8"
    return Sheet(tuple(columns), rows, separator, "\r\n" if b"\r\n" in content else "\n", encoding)
