import numpy as np
import pytest

from jaxinv.evaluation import better_than, mean_interval
from jaxinv.evaluation.case_metrics import metric


def test_the_interval_is_that_of_the_normal_theory():
    values = np.random.default_rng(1).normal(3, 2, size=400)
    found = mean_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert mean_interval(values) == found


def test_a_constant_has_no_width():
    found = mean_interval(np.full(7, 0.25))
    assert (found.mean, found.low, found.high, found.cases) == (0.25, 0.25, 0.25, 7)


def test_cases_without_a_value_are_left_out_and_counted():
    assert mean_interval(np.array([1.0, np.nan, 1.0])).cases == 2
    with pytest.raises(ValueError, match="none of the cases"):
        mean_interval(np.array([np.nan]))


def test_a_paired_comparison_sees_what_the_spread_of_cases_hides():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 1, size=200)
    first, second = hard + 0.02, hard + rng.normal(0, 0.02, size=200)
    assert better_than(first, second, metric("accuracy")).verdict == "beats"
    assert better_than(first, second, metric("bce")).verdict == "loses to"
    assert better_than(second, first, metric("bce")).verdict == "beats"


def test_noise_is_a_tie_and_fewer_cases_are_the_first_ones():
    first = np.tile([1.0, -1.0], 50)
    assert better_than(first, np.zeros(100), metric("f1")).verdict == "ties with"
    assert better_than(first, np.zeros(10), metric("f1")).difference.cases == 10
