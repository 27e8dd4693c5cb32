import numpy as np
import pytest

from jaxinv.simulate.gaussian_field import squared_exponential_factor


def covariance(positions, length):
    squared = ((positions[:, None] - positions[None]) ** 2).sum(-1)
    return np.exp(-squared / (2 * length**2))


@pytest.fixture
def positions():
    return np.random.default_rng(0).uniform(-0.07, 0.07, (400, 3))


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-6])
@pytest.mark.parametrize("length", [20e-3, 60e-3])
def test_factor_reproduces_the_covariance_to_the_stated_trace(positions, length, tolerance):
    """K − F Fᵀ is positive semidefinite with trace below tolerance · n."""
    factor = squared_exponential_factor(positions, length, tolerance=tolerance)
    missing = covariance(positions, length) - factor @ factor.T
    assert 0 <= np.trace(missing) <= tolerance * len(positions)
    assert np.linalg.eigvalsh(missing)[0] > -1e-10
    assert np.abs(missing).max() <= missing.diagonal().max() + 1e-10


def test_rank_is_close_to_the_best_possible(positions):
    """The eigenvalues tell the smallest rank that any factor of that trace can have."""
    spectrum = np.linalg.eigvalsh(covariance(positions, 60e-3))[::-1]
    best = np.searchsorted(-(400 - np.cumsum(spectrum)), -1e-3 * 400) + 1
    assert squared_exponential_factor(positions, 60e-3, tolerance=1e-3).shape[1] <= 1.6 * best


def test_far_points_are_independent_and_equal_points_are_one():
    factor = squared_exponential_factor(np.diag([1.0, 2.0, 3.0]), 1e-3)
    np.testing.assert_allclose(factor @ factor.T, np.eye(3), atol=1e-12)
    assert squared_exponential_factor(np.zeros((50, 3)), 1e-2).shape == (50, 1)


@pytest.mark.parametrize(
    "arguments", [{"length": 0.0}, {"length": np.nan}, {"length": 1.0, "tolerance": 1.0}]
)
def test_impossible_arguments_are_refused(positions, arguments):
    with pytest.raises(ValueError, match="must"):
        squared_exponential_factor(positions, **arguments)
