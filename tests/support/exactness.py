"""How far clrkit is from the official code: what the tests compared, and the table made of it.

A test compares through the fixture `exact` (conftest.py). Every comparison becomes a `Deviation`; those of
one part and precision make one row of docs/exactness.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pytest
from session_table import DOCS, SessionTable, document
from torch import Tensor

HEADINGS = (
    "network",
    "batch norm",
    "head",
    "loss",
    "optimiser",
    "schedule",
    "augmentation",
    "evaluation",
    "distillation",
    "training step",
    "checkpoints",
)
TABLE = DOCS / "exactness.md"
COLUMNS = "| compared | precision | tensors | largest deviation | bound | remark |"

PREFACE = """\
# Equal to the official code

This page compares clrkit with the official SimCLRv2 code (google-research/simclr, commit 383d414, run with
TensorFlow 2.15.1 on a CPU) on the same weights and inputs. The tests make the tables: `make exactness` runs
them and writes this page, and `make test` fails if the page and the tests differ.

A deviation is max |ours - official| / max |official| of one tensor; a row shows the largest of its tensors.
Precision is that of our computation. The official values come from a float64 run if there is one (networks,
training steps), otherwise from a float32 run. They are stored as float32, so both are known to about 1e-7.
[tests/golden](../tests/golden/README.md) explains where the numbers come from, their layouts, and the formula
of the weights. Rows marked \\* need the whole set of official numbers, and that folder has a part of it; the
other rows are checked everywhere.

In training mode float32 is noisy, in the official code as much as in ours. A batch norm over few values, most
of all in the gate of selective kernels, amplifies rounding until a ReLU changes its sign, and gradients then
differ by percents. The rows "official float32" compare the official float32 run with the official float64
run. The float64 rows show that clrkit computes the same function.
"""
WHOLE_SET = "\\*"


@dataclass(frozen=True)
class Deviation:
    """Comparisons of one part in one precision.

    Attributes:
        part: heading and what was compared, "head: every tap in training mode".
        precision: numpy's name of our numbers' type.
        tensors: how many were compared.
        largest: deviation relative to the largest official value.
        bound: what the deviation may be.
        remark: why the bound is what it is; begins with * where the whole set of official numbers is needed.
    """

    part: str
    precision: str
    tensors: int
    largest: float
    bound: float
    remark: str = ""

    @classmethod
    def between(cls, part: str, ours: Any, official: Any, bound: float, remark: str = "") -> Self:
        """The deviation of one tensor, array or number from the official one of the same shape."""
        heading, _, what = part.partition(": ")
        assert heading in HEADINGS, f"{part!r} begins with none of the headings {', '.join(HEADINGS)}"
        assert what, f"{part!r} does not say what was compared"
        mine, theirs = array(ours), array(official)
        assert mine.shape == theirs.shape, f"{part}: shape {mine.shape}, official {theirs.shape}"
        return cls(part, mine.dtype.name, 1, relative(mine, theirs), bound, remark)

    def check(self) -> None:
        message = f"{self.part} ({self.precision}) deviates by {self.largest:.3g}, bound {self.bound:g}"
        assert self.largest <= self.bound, message

    def row(self) -> str:
        what = self.part.partition(": ")[2]
        cells = [what, self.precision, str(self.tensors), f"{self.largest:.1e}", f"{self.bound:.0e}"]
        return f"| {' | '.join([*cells, self.remark])} |".replace("  ", " ")


def array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)


def relative(ours: np.ndarray, official: np.ndarray) -> float:
    """Largest difference over the largest official value; of zeros, whether there is a difference."""
    if not official.size:
        return 0.0
    difference = float(np.abs(ours.astype(np.float64) - official.astype(np.float64)).max())
    scale = float(np.abs(official.astype(np.float64)).max())
    return difference / scale if scale else (0.0 if difference == 0 else np.inf)


def gathered(deviations: Iterable[Deviation]) -> list[Deviation]:
    """One deviation per part and precision, in the order of the table.

    Raises:
        ValueError: when a part has two bounds or two remarks.
    """
    rows: dict[tuple[int, str, str], Deviation] = {}
    for new in deviations:
        place = (HEADINGS.index(new.part.partition(": ")[0]), new.part, new.precision)
        old = rows.get(place, replace(new, tensors=0, largest=0.0))
        if (old.bound, old.remark) != (new.bound, new.remark):
            raise ValueError(f"{new.part} ({new.precision}) has two bounds or two remarks.")
        largest = max(old.largest, new.largest)
        rows[place] = replace(old, tensors=old.tensors + new.tensors, largest=largest)
    return [rows[place] for place in sorted(rows)]


def markdown(deviations: Iterable[Deviation]) -> str:
    """The document: preface, and a table under each heading."""
    rows = [(row.part, row.row()) for row in gathered(deviations)]
    return document(PREFACE, HEADINGS, f"{COLUMNS}\n| --- | --- | --: | --: | --: | --- |", rows)


def promises(text: str) -> set[tuple[str, ...]]:
    """What a table says will be compared: heading, part, precision, bound and remark of each row.

    Deviations differ a little by machine, and so are no part of it.
    """
    found: set[tuple[str, ...]] = set()
    heading = ""
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line[3:].lower()
        elif line.startswith("| ") and not line.startswith(("| ---", COLUMNS)):
            what, precision, _, _, bound, remark = (cell.strip() for cell in line.strip("|").split("|"))
            found.add((heading, what, precision, bound, remark))
    return found


def disagreement(deviations: Iterable[Deviation], table: str) -> str:
    """How a table differs from what was compared, in words; empty where it does not.

    Rows of the whole set may be missing from the comparisons.
    """
    made, committed = promises(markdown(deviations)), promises(table)
    unlisted = made - committed
    stale = {row for row in committed - made if not row[-1].startswith(WHOLE_SET)}
    lines = [f"  compared, not in the table: {' | '.join(row)}" for row in sorted(unlisted)]
    return "\n".join(lines + [f"  in the table, not compared: {' | '.join(row)}" for row in sorted(stale)])


class ExactnessTable(SessionTable):
    """docs/exactness.md."""

    name = "exactness"

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(config)
        self.deviations: list[Deviation] = []

    def note(self, value: dict[str, Any]) -> None:
        self.deviations.append(Deviation(**value))

    def markdown(self) -> str:
        return markdown(self.deviations)

    def disagreement(self, committed: str) -> str:
        return disagreement(self.deviations, committed)
