"""Numbers as text (means with errors, times, sizes), and a table of texts as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        name: a short name to find it by.
        title: shown above it, unless a section's title says the same.
        remark: what its numbers are.
        columns: their names.
        rows: the cells, a text each.
        strong: the column that is set in bold, if any.
    """

    name: str
    title: str
    remark: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: str | None = None

    def markdown(self) -> str:
        """The remark and the table as Markdown, without the title."""
        bold = [column == self.strong for column in self.columns]
        lines = [list(map(verbatim, self.columns)), ["---"] * len(self.columns)]
        for row in self.rows:
            cells = zip(map(verbatim, row), bold, strict=True)
            lines.append([f"**{text}**" if strong else text for text, strong in cells])
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{verbatim(self.remark)}\n\n{body}\n"

    def _repr_markdown_(self) -> str:
        return f"**{self.title}.** {self.markdown()}"


def verbatim(text: str) -> str:
    """Escape a text for Markdown and join its lines, so that it is shown as it is."""
    return re.sub(r"([\\`*_\[\]<>&|])", r"\\\1", " ".join(text.split()))


def value(mean: float, error: float) -> str:
    """A mean with its error, if there is one."""
    return decimal(mean) if pd.isna(error) else f"{decimal(mean)} ± {decimal(error)}"


def decimal(number: float, digits: int = 1) -> str:
    """A number with a fixed number of decimals, independent of the order in which its runs were added.

    37.55 is a float just above or below it, depending on that order; rounding to 9 digits removes this.
    """
    return f"{round(number, 9):.{digits}f}"


def megabytes(count: float) -> str:
    """A size of memory; "-" if unknown."""
    return "-" if pd.isna(count) else f"{count:,.0f} MB"


def duration(seconds: float) -> str:
    """A time span as 8.2 s, 12.0 min or 3.4 h."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def size_name(millions: float) -> str:
    """A number of parameters as 20k, 1.2M or 24M."""
    if millions < 1:
        return f"{1000 * millions:.0f}k"
    return f"{millions:.1f}M" if millions < 10 else f"{millions:.0f}M"
