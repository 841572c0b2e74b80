"""Numbers and tables as text."""

import numpy as np
import pytest

from clrkit.results.text import Table, decimal, duration, megabytes, size_name, value


def test_an_error_follows_its_mean_where_there_is_one() -> None:
    assert value(54.04, 2.61) == "54.0 ± 2.6"
    assert value(54.04, float("nan")) == "54.0"
    assert megabytes(float("nan")) == "-"


@pytest.mark.parametrize(
    ("millions", "name"), [(0.0197, "20k"), (1.234, "1.2M"), (24.0, "24M"), (795.0, "795M")]
)
def test_sizes_are_named_briefly(millions: float, name: str) -> None:
    assert size_name(millions) == name


@pytest.mark.parametrize(("seconds", "text"), [(8.25, "8.2 s"), (720, "12.0 min"), (12_240, "3.4 h")])
def test_spans_of_time_have_a_fitting_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_mean_is_the_same_text_in_whatever_order_its_runs_were_added_up() -> None:
    assert 37.55 != np.nextafter(37.55, 38) == 37.550000000000004
    assert decimal(37.55) == decimal(37.550000000000004) == "37.5"
    assert (decimal(-0.25, 2), decimal(38.0)) == ("-0.25", "38.0")


def test_a_table_is_markdown_with_pipes_escaped() -> None:
    table = Table("t", "Title", "Remark.", ["a", "b"], [["1|2", "3"]])
    assert table.markdown() == "Remark.\n\n| a | b |\n| --- | --- |\n| 1\\|2 | 3 |\n"


def test_a_table_s_texts_are_no_markdown_but_its_strong_column_is_bold() -> None:
    table = Table("t", "Title", "Remark.", ["", "verdict"], [["*a* <b>", "good"]], strong="verdict")
    assert table.markdown().splitlines()[-1] == r"| \*a\* \<b\> | **good** |"
