import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from jaxinv.metrics import earth_movers_distance

EXACT = 0.0


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def linear_programme(truth, estimate, positions):
    """The definition, by another solver."""
    n = len(positions)
    marginals = np.concatenate([np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))])
    masses = np.concatenate([truth / truth.sum(), estimate / estimate.sum()])
    return linprog(cdist(positions, positions).ravel(), A_eq=marginals, b_eq=masses).fun


def head(rng, n_sources=1500):
    """Sources on a half sphere of 90 mm, one per 6 mm, and an estimate that is broad, as by minimum norm."""
    positions = rng.normal(size=(n_sources, 3))
    positions *= 0.09 / np.linalg.norm(positions, axis=1, keepdims=True)
    positions[:, 2] = np.abs(positions[:, 2])
    peak = positions[rng.integers(n_sources)]
    distance = np.linalg.norm(positions - peak, axis=1)
    return positions, rng.random(n_sources) * (0.05 + np.exp(-((distance / 0.04) ** 2)))


def patches(rng, positions, count, size):
    truth = np.zeros(len(positions))
    for centre in positions[rng.choice(len(positions), count, replace=False)]:
        truth[np.argsort(np.linalg.norm(positions - centre, axis=1))[:size]] = 1
    return truth


@pytest.mark.parametrize("n_active", [1, 2, 6, 12])
def test_distance_is_that_of_the_linear_programme(rng, n_active):
    positions, estimate = rng.normal(size=(12, 3)), rng.random(12)
    truth = np.where(np.arange(12) < n_active, rng.random(12), 0)
    expected = linear_programme(truth, estimate, positions)
    assert earth_movers_distance(truth, estimate, positions, tolerance=EXACT) == pytest.approx(
        expected, rel=1e-9
    )


def test_on_a_line_the_distance_is_that_of_scipy(rng):
    x, truth, estimate = rng.random(300), rng.random(300), rng.random(300)
    positions = np.stack([x, 0 * x, 0 * x], axis=1)
    expected = wasserstein_distance(x, x, truth, estimate)
    assert earth_movers_distance(truth, estimate, positions, tolerance=EXACT) == pytest.approx(
        expected, rel=1e-9
    )


def test_of_one_true_source_it_is_the_mean_distance(rng):
    positions, estimate = head(rng)
    truth = np.eye(len(positions))[5]
    mean = np.average(np.linalg.norm(positions - positions[5], axis=1), weights=estimate)
    assert earth_movers_distance(truth, estimate, positions) == pytest.approx(mean, rel=1e-12)


def test_a_shifted_distribution_is_as_far_as_it_was_shifted(rng):
    shift = np.array([3e-3, 4e-3, 0])
    place, mass = rng.normal(size=(20, 3)), rng.random(20)
    positions, nothing = np.concatenate([place, place + shift]), np.zeros(20)
    truth, estimate = np.concatenate([mass, nothing]), np.concatenate([nothing, mass])
    assert earth_movers_distance(truth, estimate, positions, tolerance=EXACT) == pytest.approx(5e-3)


@pytest.mark.parametrize(("count", "size"), [(2, 1), (4, 1), (1, 25), (4, 8)])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-4])
def test_error_is_within_the_tolerance(rng, count, size, tolerance):
    positions, estimate = head(rng)
    truth = patches(rng, positions, count, size)
    exact = earth_movers_distance(truth, estimate, positions, tolerance=EXACT)
    assert abs(earth_movers_distance(truth, estimate, positions, tolerance=tolerance) - exact) <= tolerance


def test_tolerance_beyond_rounding_ends(rng):
    positions, estimate = head(rng, 300)
    truth = patches(rng, positions, 4, 1)
    exact = earth_movers_distance(truth, estimate, positions, tolerance=EXACT)
    assert earth_movers_distance(truth, estimate, positions, tolerance=1e-18) == pytest.approx(
        exact, rel=1e-9
    )


def test_it_is_a_distance(rng):
    """Zero for equals, symmetric, and not more by a detour; also for supports in part the same."""
    positions = rng.normal(size=(40, 3))
    a, b, c = rng.random((3, 40)) * (rng.random((3, 40)) < 0.5)
    ab, ba, ac, cb = (
        earth_movers_distance(*pair, positions, tolerance=EXACT) for pair in ((a, b), (b, a), (a, c), (c, b))
    )
    assert earth_movers_distance(a, a, positions) == 0
    assert ab == pytest.approx(ba, rel=1e-12)
    assert 0 < ab <= ac + cb


def test_equals_but_for_their_scale_are_not_apart(rng):
    positions, estimate = head(rng)
    assert earth_movers_distance(estimate, 3e-9 * estimate, positions) == 0


def test_order_scale_and_place_do_not_matter(rng):
    positions, estimate = head(rng, 200)
    truth = patches(rng, positions, 3, 2)
    order, rotation = rng.permutation(200), np.linalg.qr(rng.normal(size=(3, 3)))[0]
    moved = earth_movers_distance(
        7 * truth[order], 1e-9 * estimate[order], 1e3 * (positions[order] @ rotation + 5), tolerance=EXACT
    )
    expected = earth_movers_distance(truth, estimate, positions, tolerance=EXACT)
    assert moved == pytest.approx(1e3 * expected, rel=1e-9)


def test_coincident_sources_are_one_place(rng):
    truth, estimate = np.array([1.0, 1, 0, 0]), np.array([0.0, 0, 1, 3])
    assert earth_movers_distance(truth, estimate, np.ones((4, 3))) == 0


def test_an_estimate_of_zeros_is_equal_everywhere(rng):
    positions, _ = head(rng, 100)
    truth = patches(rng, positions, 2, 3)
    constant = earth_movers_distance(truth, np.ones(100), positions)
    assert earth_movers_distance(truth, np.zeros(100), positions) == constant > 0


def test_without_a_true_source_or_finite_values_there_is_no_number(rng):
    positions, broken = rng.normal(size=(3, 3)), np.array([1.0, np.nan, 0])
    assert np.isnan(earth_movers_distance(np.zeros(3), np.ones(3), positions))
    assert np.isnan(earth_movers_distance(np.ones(3), broken, positions))
    assert np.isnan(earth_movers_distance(np.ones(3), np.array([1, np.inf, 0]), positions))


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="once a case"):
        earth_movers_distance(np.ones((2, 4)), np.ones((2, 4)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"\(4, 3\), not \(5, 3\)"):
        earth_movers_distance(np.ones(4), np.ones(4), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="magnitude"):
        earth_movers_distance(np.ones(4), -np.ones(4), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="tolerance"):
        earth_movers_distance(np.ones(4), np.ones(4), np.zeros((4, 3)), tolerance=-1.0)
