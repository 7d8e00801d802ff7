from __future__ import annotations

import numpy as np
import pytest

from clients.evaluation.bootstrap import estimate, percentile


def test_the_estimate_is_the_plain_mean_and_lies_in_its_interval() -> None:
    found = estimate([0.0, 1.0, 1.0, 0.0, 1.0])
    assert found is not None
    assert found.value == pytest.approx(0.6)
    assert found.low < 0.6 < found.high
    assert found.n == 5


def test_the_interval_is_about_two_standard_errors_wide() -> None:
    values = np.random.default_rng(3).normal(10.0, 2.0, size=400)
    found = estimate(values.tolist())
    assert found is not None
    error = values.std() / np.sqrt(len(values))
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.3 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.3 * error)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(1).random(50).tolist()
    assert estimate(values, seed=1) == estimate(values, seed=1)
    assert estimate(values, seed=1) != estimate(values, seed=2)


def test_equal_values_leave_no_doubt() -> None:
    found = estimate([0.25] * 10)
    assert found is not None
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)


def test_percentiles_are_of_the_values() -> None:
    found = estimate([float(n) for n in range(101)], percentile(95))
    assert found is not None
    assert found.value == 95.0
    assert found.low <= 95.0 <= found.high


def test_nothing_measured_is_none_not_zero() -> None:
    assert estimate([]) is None
