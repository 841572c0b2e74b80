import numpy as np
import pytest
from scipy import stats

from clrkit.results.statistics import holm, mean_and_half_width, p_below


@pytest.mark.parametrize("values", [[1.0, 2.0], [3.0, 5.0, 10.0], list(np.arange(10.0) ** 2)])
def test_the_interval_is_students(values: list[float]) -> None:
    mean, half_width = mean_and_half_width(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high))


def test_equal_values_have_an_interval_without_width() -> None:
    assert mean_and_half_width([2.0, 2.0, 2.0]) == (2.0, 0.0)


@pytest.mark.parametrize("bound", [-3.0, 0.0, 4.5])
def test_the_p_value_is_that_of_students_one_sided_test(bound: float) -> None:
    values = [-1.0, 0.5, 2.0, 2.5]
    expected = stats.ttest_1samp(values, bound, alternative="less").pvalue
    assert p_below(values, bound) == pytest.approx(expected)


def test_holm_multiplies_by_the_tests_that_are_left_and_never_falls() -> None:
    # By hand: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 = 0.04 rises to the 0.06 before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
