"""Intervals and tests over a few repetitions: Student's t, and Holm's correction for several tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95


def mean_and_half_width(differences: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The mean and half of its two-sided 95% interval by Student's t with n - 1 degrees of freedom.

    Args:
        differences: two or more independent values. Where all are equal the half width is 0.
    """
    values = np.asarray(differences, dtype=float)
    quantile = stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2)
    return float(values.mean()), float(quantile * standard_error(values))


def p_below(differences: Sequence[float] | np.ndarray, bound: float) -> float:
    """One-sided p-value of Student's t test against "the mean is at least `bound`"; small if it lies below.

    Args:
        differences: two or more independent values, not all equal.
    """
    values = np.asarray(differences, dtype=float)
    return float(stdtr(len(values) - 1, (values.mean() - bound) / standard_error(values)))


def standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number by Holm's step-down procedure, in the given order.

    Rejecting where an adjusted value is at most a level keeps the chance of any wrong rejection at that
    level, whatever the tests have in common (Holm, 1979).
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted
