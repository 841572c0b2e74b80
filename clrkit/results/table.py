"""A table as text, and what its cells say: means with their errors, times, sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Table:
    """A table as plain text: a title, a remark, the names of the columns, and rows of cells.

    `strong` is the column whose cells are shown in bold.
    """

    name: str
    title: str
    remark: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: str | None = None

    def markdown(self) -> str:
        """As a Markdown table without the title."""
        rows = [
            [self.cell(name, text) for name, text in zip(self.columns, row, strict=True)] for row in self.rows
        ]
        lines = [list(map(verbatim, self.columns)), ["---"] * len(self.columns), *rows]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{verbatim(self.remark)}\n\n{body}\n"

    def cell(self, column: str, text: str) -> str:
        return f"**{verbatim(text)}**" if column == self.strong else verbatim(text)

    def _repr_markdown_(self) -> str:
        return f"**{self.title}.** {self.markdown()}"


def verbatim(text: str) -> str:
    """A text as Markdown shows it: without tags, links, emphasis, cells or lines of its own."""
    return re.sub(r"([\\`*_\[\]<>&|])", r"\\\1", " ".join(text.split()))


def value(mean: float, stderr: float) -> str:
    """A mean with its standard error, if there is one."""
    return decimal(mean) if pd.isna(stderr) else f"{decimal(mean)} ± {decimal(stderr)}"


def decimal(number: float, digits: int = 1) -> str:
    """A number to that many decimals, a mean of the same runs always alike.

    37.55 is a float just above or below it, by the order in which runs were added up.
    """
    return f"{round(number, 9):.{digits}f}"


def megabytes(count: float) -> str:
    """A size of memory, or that it is not known."""
    return "-" if pd.isna(count) else f"{count:,.0f} MB"


def duration(seconds: float) -> str:
    """A span of time as 8.2 s, 12 min or 3.4 h."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
