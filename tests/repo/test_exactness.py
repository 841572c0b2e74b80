"""The table of deviations: what counts as equal, how comparisons become rows, when a table is out of date."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from exactness import TABLE, Deviation, disagreement, gathered, markdown, promises

PART = "head: every tap"
ONES = np.ones((2, 3))


def test_a_deviation_is_relative_to_the_largest_official_value():
    official = np.array([4.0, -2.0, 0.0])
    ours = torch.tensor([4.0, -2.0, 0.5], dtype=torch.float64)
    assert Deviation.between(PART, ours, official, 1e-5).largest == 0.125
    assert Deviation.between(PART, ours, official, 1e-5).precision == "float64"


@pytest.mark.parametrize(("ours", "largest"), [(0.0, 0.0), (1e-9, np.inf)])
def test_where_the_official_value_is_zero_ours_has_to_be(ours, largest):
    assert Deviation.between(PART, ours, 0.0, 1e-5).largest == largest


def test_other_shapes_and_other_headings_are_no_comparison():
    with pytest.raises(AssertionError, match=r"shape \(2, 3\), official \(3, 2\)"):
        Deviation.between(PART, ONES, ONES.T, 1e-5)
    with pytest.raises(AssertionError, match="begins with none of the headings"):
        Deviation.between("tail: every tap", ONES, ONES, 1e-5)
    with pytest.raises(AssertionError, match="does not say what"):
        Deviation.between("head", ONES, ONES, 1e-5)


@pytest.mark.parametrize("ours", [ONES * 1.001, ONES * np.nan])
def test_more_than_the_bound_is_not_equal_nor_is_nan(ours):
    with pytest.raises(AssertionError, match=r"head: every tap \(float64\) deviates by .* bound 1e-05"):
        Deviation.between(PART, ours, ONES, 1e-5).check()


def test_comparisons_of_a_part_are_one_row_for_each_precision():
    near, far = Deviation(PART, "float32", 1, 1e-7, 1e-5), Deviation(PART, "float32", 1, 3e-6, 1e-5)
    double = replace(near, precision="float64")
    assert gathered([near, double, far]) == [replace(far, tensors=2), double]
    with pytest.raises(ValueError, match="two bounds"):
        gathered([near, replace(near, bound=1e-4)])


def test_headings_come_in_the_order_of_the_method_and_only_where_they_have_rows():
    rows = [Deviation(f"{name}: x", "float64", 1, 0.0, 1e-5) for name in ("schedule", "network", "head")]
    headings = [line for line in markdown(rows).splitlines() if line.startswith("## ")]
    assert headings == ["## Network", "## Head", "## Schedule"]


def test_a_table_is_out_of_date_when_it_lists_more_or_less_or_another_bound():
    rows = [Deviation(f"head: {name}", "float64", 1, 1e-8, 1e-5, "why") for name in "abc"]
    table = markdown(rows)
    assert disagreement([replace(row, largest=2e-8, tensors=7) for row in rows], table) == ""
    assert disagreement(rows[1:], table) == "  in the table, not compared: head | a | float64 | 1e-05 | why"
    other = disagreement([*rows[:2], replace(rows[2], bound=1e-3)], table)
    assert other.splitlines() == [
        "  compared, not in the table: head | c | float64 | 1e-03 | why",
        "  in the table, not compared: head | c | float64 | 1e-05 | why",
    ]


def test_rows_of_the_whole_set_may_be_missing_where_it_is():
    row = Deviation(PART, "float32", 1, 0.0, 1e-5)
    table = markdown([row, replace(row, part="head: more", remark=r"\*")])
    assert disagreement([row], table) == ""


def test_the_committed_table_keeps_to_its_bounds():
    rows = [line.split("|") for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    numbers = [
        (float(cells[4]), float(cells[5])) for cells in rows if "e" in cells[5] and "bound" not in cells[5]
    ]
    assert len(numbers) == len(promises(TABLE.read_text()))
    assert all(deviation <= bound for deviation, bound in numbers)
