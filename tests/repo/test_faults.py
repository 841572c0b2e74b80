"""The table of faults: how records become rows, when a table is out of date, and that its tests are there."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from faults import HEADINGS, TABLE, Fault, FaultTable, disagreement, function_of, gathered, listed, markdown

FULL = Fault("store: a full disk", "a tmpfs of 1 MB", "nothing", "test_runs.py::test_full", 2)
KILL = Fault("training: a kill", "SIGKILL", "the steps since the last state", "test_resume.py::test_kill")


def test_a_fault_has_a_heading_a_way_a_cost_and_a_number():
    for broken, message in (
        ({"name": "shop: a full disk"}, "begins with none of the headings"),
        ({"name": "store"}, "lacks what, how, or what was lost"),
        ({"lost": ""}, "lacks what, how, or what was lost"),
        ({"injected": "a | b"}, "would break the table"),
        ({"times": 0}, "was not injected"),
    ):
        with pytest.raises(AssertionError, match=message):
            replace(FULL, **broken)


def test_a_test_is_its_file_and_function():
    assert function_of("tests/test_runs.py::test_full[a::b-3]") == "test_runs.py::test_full"


def test_injections_of_one_row_are_summed_and_rows_of_two_tests_are_two():
    other = replace(FULL, test="test_runs.py::test_other")
    assert gathered([FULL, KILL, other, replace(FULL, times=40)]) == [KILL, replace(FULL, times=42), other]


def test_a_table_says_what_it_was_made_of():
    many = replace(FULL, times=12_000)
    text = markdown([many, KILL])
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Training", "## Store"]
    row = "| a full disk | a tmpfs of 1 MB | 12,000 | nothing | [test_full](../tests/test_runs.py) |"
    assert row in text.splitlines()
    assert listed(text) == {many, KILL}


def test_a_table_is_out_of_date_when_it_lists_more_or_less_or_another_number():
    table, both = markdown([FULL, KILL]), (FULL.test, KILL.test)
    assert disagreement([FULL, KILL], table, both) == ""
    assert disagreement([FULL], table, both) == f"  in the table, not injected: {KILL.row()}"
    more = replace(FULL, times=3)
    assert disagreement([more, KILL], table, both).splitlines() == [
        f"  injected, not in the table: {more.row()}",
        f"  in the table, not injected: {FULL.row()}",
    ]


def test_rows_of_tests_that_did_not_run_are_left_alone():
    assert disagreement([FULL], markdown([FULL, KILL]), [FULL.test]) == ""


def report(nodeid: str, skipped: bool, *faults: Fault) -> SimpleNamespace:
    noted = [("faults", asdict(fault)) for fault in faults]
    return SimpleNamespace(nodeid=f"tests/{nodeid}", when="call", skipped=skipped, user_properties=noted)


def test_a_session_compares_the_tests_of_which_no_part_was_skipped(pytestconfig: pytest.Config):
    table = FaultTable(pytestconfig)
    table.pytest_runtest_logreport(report(f"{KILL.test}[a]", False, KILL))
    table.pytest_runtest_logreport(report(f"{KILL.test}[b]", True))
    table.pytest_runtest_logreport(report(FULL.test, False, FULL))
    twice = replace(KILL, times=2)
    assert table.disagreement(markdown([FULL, twice])) == ""
    assert table.disagreement(markdown([twice])) == f"  injected, not in the table: {FULL.row()}"
    assert listed(table.markdown()) == {FULL, KILL}


@pytest.mark.skipif(not TABLE.exists(), reason="docs/faults.md is not made yet")
def test_every_test_that_the_committed_table_names_is_there():
    rows = listed(TABLE.read_text())
    assert {fault.name.partition(": ")[0] for fault in rows} == set(HEADINGS)
    for fault in rows:
        file, _, function = fault.test.partition("::")
        assert re.search(rf"^def {function}\(", (Path(__file__).parents[1] / file).read_text(), re.M), (
            fault.test
        )
