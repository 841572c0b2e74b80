"""What goes wrong, and what it costs: the faults that tests injected, and the table made of them.

A test that has injected a fault and asserted what was lost records it through the fixture `fault`
(conftest.py). Records of one test that are alike but for their number make one row of docs/faults.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from session_table import DOCS, SessionTable, document

HEADINGS = ("training", "store", "processes", "cluster", "numerics", "outside files")
TABLE = DOCS / "faults.md"
COLUMNS = "| fault | how injected | how often | what was lost | test |"

PREFACE = """\
# Through every fault

What can go wrong, how the tests make it go wrong, how often, and what is lost. The tests make this table: the
test that a row names records the row after it has asserted what was lost. `make faults` runs the tests and
writes this page, and `make test` fails if the page and the tests differ.
"""


@dataclass(frozen=True)
class Fault:
    """A fault that a test injected and survived.

    Attributes:
        name: heading and what goes wrong, "store: a full disk while a state is written".
        injected: how, "a tmpfs of 1 MB".
        lost: what was lost, as the test asserts it: "nothing", "the steps since the last state".
        test: file and function of the test, "test_runs.py::test_a_full_disk".
        times: how many injections the test made.
    """

    name: str
    injected: str
    lost: str
    test: str
    times: int = 1

    def __post_init__(self) -> None:
        heading, _, what = self.name.partition(": ")
        assert heading in HEADINGS, f"{self.name!r} begins with none of the headings {', '.join(HEADINGS)}"
        assert all((what, self.injected, self.lost)), f"{self.name!r} lacks what, how, or what was lost"
        assert "|" not in self.name + self.injected + self.lost, f"{self.name!r} would break the table: |"
        assert self.times > 0, f"{self.name!r} was not injected"

    def row(self) -> str:
        file, _, function = self.test.partition("::")
        what, link = self.name.partition(": ")[2], f"[{function}](../tests/{file})"
        return f"| {what} | {self.injected} | {self.times:,} | {self.lost} | {link} |"


def function_of(nodeid: str) -> str:
    """File and function of a test: "tests/test_runs.py::test_x[a]" is "test_runs.py::test_x"."""
    file, _, function = nodeid.partition("::")
    return f"{file.removeprefix('tests/')}::{function.partition('[')[0]}"


def gathered(faults: Iterable[Fault]) -> list[Fault]:
    """One fault for each row, the injections of equal ones summed, in the order of the table."""
    rows: dict[tuple[Any, ...], Fault] = {}
    for new in faults:
        heading = HEADINGS.index(new.name.partition(": ")[0])
        place = (heading, new.name, new.injected, new.lost, new.test)
        before = rows[place].times if place in rows else 0
        rows[place] = replace(new, times=before + new.times)
    return [rows[place] for place in sorted(rows)]


def markdown(faults: Iterable[Fault]) -> str:
    """The document: preface, and a table under each heading."""
    rows = [(row.name, row.row()) for row in gathered(faults)]
    return document(PREFACE, HEADINGS, f"{COLUMNS}\n| --- | --- | --: | --- | --- |", rows)


def listed(text: str) -> set[Fault]:
    """The faults that a document lists."""
    found: set[Fault] = set()
    heading = ""
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line[3:].lower()
        elif line.startswith("| ") and not line.startswith(("| ---", COLUMNS)):
            what, injected, times, lost, link = (cell.strip() for cell in line.strip("|").split("|"))
            function, _, file = link.strip("[)").partition("](../tests/")
            test = f"{file}::{function}"
            found.add(Fault(f"{heading}: {what}", injected, lost, test, int(times.replace(",", ""))))
    return found


def disagreement(faults: Iterable[Fault], table: str, ran: Collection[str]) -> str:
    """How a table differs from what the tests that `ran`, whole, recorded, in words; empty where it does not.

    Rows of other tests are left alone.
    """
    made = {fault for fault in gathered(faults) if fault.test in ran}
    committed = {fault for fault in listed(table) if fault.test in ran}
    lines = [f"  injected, not in the table: {fault.row()}" for fault in gathered(made - committed)]
    return "\n".join(
        lines + [f"  in the table, not injected: {fault.row()}" for fault in gathered(committed - made)]
    )


class FaultTable(SessionTable):
    """docs/faults.md, of the tests of which no part was skipped."""

    name = "faults"

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(config)
        self.faults: list[Fault] = []
        self.ran: set[str] = set()
        self.skipped: set[str] = set()

    def note(self, value: dict[str, Any]) -> None:
        self.faults.append(Fault(**value))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        super().pytest_runtest_logreport(report)
        (self.skipped if report.skipped else self.ran).add(function_of(report.nodeid))

    def markdown(self) -> str:
        return markdown(self.faults)

    def disagreement(self, committed: str) -> str:
        return disagreement(self.faults, committed, self.ran - self.skipped)
