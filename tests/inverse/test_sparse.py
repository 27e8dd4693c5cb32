import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model

from jaxinv.inverse import ConvergenceError, lasso, whitener
from jaxinv.inverse.homotopy import lasso_path_end
from jaxinv.inverse.sparse import fista


@pytest.fixture
def problem(key):
    """Average-referenced random leadfield, coloured noise of one rank less, three topographies."""
    keys = jax.random.split(key, 4)
    reference = jnp.eye(12) - 1 / 12
    leadfield = 300 * reference @ jax.random.normal(keys[0], (12, 40))
    root = 1e-7 * reference @ jax.random.normal(keys[1], (12, 30))
    current = 1e-8 * jax.random.normal(keys[2], (40, 3)) * (jax.random.uniform(keys[3], (40, 1)) < 0.1)
    return leadfield, root @ root.T, leadfield @ current + root[:, :3]


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.5])
def test_it_agrees_with_scikit_learn(problem, alpha):
    leadfield, cov, data = problem
    solution = lasso(leadfield, cov, alpha=alpha, tolerance=1e-12).solve(data)
    assert solution.converged.all()
    matrix = np.asarray(whitener(cov).matrix)
    scale = 1e8  # scikit-learn's absolute tolerances want numbers near one
    gain, white = matrix @ leadfield / scale, matrix @ data
    for i in range(3):
        penalty = alpha * np.abs(gain.T @ white[:, i]).max()
        oracle = sklearn.linear_model.Lasso(penalty / 12, fit_intercept=False, tol=1e-14, max_iter=100_000)
        expected = oracle.fit(gain, white[:, i]).coef_ / scale
        np.testing.assert_allclose(solution.current[:, i], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_optimality_conditions_hold(problem, alpha):
    """|Aᵀ r| ≤ λ, with equality and the sign of x where x ≠ 0."""
    leadfield, cov, data = problem
    matrix, y = whitener(cov).matrix, data[:, 0]
    x = lasso(leadfield, cov, alpha=alpha, tolerance=1e-12)(y).current
    gain, white = matrix @ leadfield, matrix @ y
    correlation = gain.T @ (white - gain @ x) / (alpha * np.abs(gain.T @ white).max())
    active = np.abs(x) > 1e-6 * np.abs(x).max()
    assert np.abs(correlation).max() <= 1 + 1e-5
    np.testing.assert_allclose(correlation[active], np.sign(x[active]), atol=1e-5)
    assert 0 < active.sum() <= 12


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
def test_columns_that_depend_on_each_other_are_left_to_fista_and_its_gap_bounds_the_error(problem, tolerance):
    """Every column twice: the path breaks where both want to join, and the minimum is that of one copy."""
    leadfield, cov, data = problem
    matrix, y = whitener(cov).matrix, data[:, 0]
    gain, white = matrix @ leadfield, matrix @ y

    def objective(x):
        penalty = 0.1 * np.abs(gain.T @ white).max()
        return np.sum((white - gain @ x) ** 2) / 2 + penalty * np.abs(x).sum()

    best = objective(lasso(leadfield, cov, tolerance=1e-12).solve(y).current)
    twice = lasso(jnp.concatenate([leadfield, leadfield], axis=1), cov, tolerance=tolerance).solve(y)
    assert twice.converged
    assert objective(twice.current[:40] + twice.current[40:]) - best <= tolerance * np.sum(white**2) / 2


def test_fista_alone_finds_the_end_of_the_path(problem):
    """From zero, without the homotopy, on the normalised problem."""
    leadfield, cov, data = problem
    estimator = lasso(leadfield, cov)
    target = estimator.whitener @ data[:, 0]
    target = target / jnp.linalg.norm(target)
    penalty = 0.1 * jnp.abs(estimator.gain.T @ target).max()
    end, steps = lasso_path_end(estimator.gain, target, penalty, 100)
    iterate, gap, _ = jax.jit(fista)(
        estimator.gain, target, penalty, jnp.zeros(40), jnp.int32(0), 1e-13, 100_000
    )
    assert gap <= 1e-13
    assert 0 < steps < 30
    np.testing.assert_allclose(iterate, end, atol=1e-5 * np.abs(end).max())


def test_orthonormal_leadfield_has_a_closed_form(key):
    """A = I: the soft threshold of the data."""
    data = jax.random.normal(key, (6,))
    threshold = 0.3 * np.abs(data).max()
    expected = np.sign(data) * np.maximum(np.abs(data) - threshold, 0)
    found = lasso(jnp.eye(6), jnp.eye(6), alpha=0.3, tolerance=1e-12)(data).current
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_strongest_source_alone_is_found_and_scales_with_the_data(problem):
    """Its column has the largest correlation with itself; the penalty takes a share alpha of its current."""
    leadfield, cov, _ = problem
    strongest = int(jnp.linalg.norm(whitener(cov).matrix @ leadfield, axis=0).argmax())
    estimator = lasso(leadfield, cov, alpha=0.9, tolerance=1e-10)
    topography = 1e-8 * leadfield[:, strongest]
    current = estimator(topography).current
    np.testing.assert_array_equal(np.flatnonzero(current), [strongest])
    np.testing.assert_allclose(current[strongest], 0.1 * 1e-8, rtol=1e-4)
    np.testing.assert_allclose(estimator(1e3 * topography).current, 1e3 * current, rtol=1e-9)


def test_series_batch_and_single_topographies_agree(problem):
    leadfield, cov, data = problem
    estimator = lasso(leadfield, cov, tolerance=1e-10)
    series = estimator.solve(data)
    batch = jax.jit(jax.vmap(lambda e, y: e(y), (None, 1)))(estimator, data).current
    assert series.gap.shape == series.iterations.shape == series.converged.shape == (3,)
    assert len(set(series.iterations.tolist())) > 1
    for i in range(3):
        alone = estimator.solve(data[:, i])
        scale = np.abs(alone.current).max()
        np.testing.assert_allclose(series.current[:, i], alone.current, atol=1e-9 * scale)
        np.testing.assert_allclose(batch[i], alone.current, atol=1e-9 * scale)


def test_what_does_not_converge_is_never_silent(problem):
    leadfield, cov, data = problem
    estimator = lasso(leadfield, cov, alpha=0.01, tolerance=1e-12, max_iterations=10)
    solution = estimator.solve(data)
    assert not solution.converged.any()
    assert (solution.iterations == 10).all()
    assert np.isfinite(solution.current).all()
    with pytest.raises(ConvergenceError, match="raise max_iterations"):
        estimator(data)
    assert np.isnan(jax.jit(lambda e, y: e(y))(estimator, data).current).all()


def test_zero_measurements_and_blind_sources_give_zero(problem):
    leadfield, cov, data = problem
    blind = lasso(leadfield.at[:, 5].set(0), cov)
    assert not blind(data).current[5].any()
    silent = blind.solve(jnp.zeros(12))
    assert silent.converged
    assert silent.iterations == 0
    assert not silent.current.any()


def test_float32_reaches_the_tolerance_and_the_same_current(problem):
    leadfield, cov, data = problem
    single = lasso(leadfield.astype(jnp.float32), cov.astype(jnp.float32), tolerance=1e-5).solve(data)
    double = lasso(leadfield, cov, tolerance=1e-12).solve(data)
    assert single.current.dtype == jnp.float32
    assert single.converged.all()
    assert np.linalg.norm(single.current - double.current) < 2e-2 * np.linalg.norm(double.current)


@pytest.mark.parametrize(
    ("leadfield", "cov", "options", "message"),
    [
        (np.ones((3, 4, 3)), np.eye(3), {}, "fixed orientation"),
        (np.full((3, 4), np.nan), np.eye(3), {}, "not finite"),
        (np.zeros((3, 4)), np.eye(3), {}, "leadfield is zero"),
        (np.ones((3, 4)), np.eye(2), {}, "noise_cov must have shape"),
        (np.ones((3, 4)), np.zeros((3, 3)), {}, "noise_cov is zero"),
        (np.ones((3, 4)), np.eye(3), {"alpha": 0.0}, "alpha"),
        (np.ones((3, 4)), np.eye(3), {"alpha": 1.0}, "alpha"),
        (np.ones((3, 4)), np.eye(3), {"tolerance": -1.0}, "tolerance"),
        (np.ones((3, 4)), np.eye(3), {"max_iterations": 0}, "max_iterations"),
    ],
)
def test_what_cannot_be_inverted_is_refused(leadfield, cov, options, message):
    with pytest.raises(ValueError, match=message):
        lasso(leadfield, cov, **options)


def test_measurements_of_another_shape_are_refused(problem):
    leadfield, cov, _ = problem
    with pytest.raises(ValueError, match="12 channels"):
        lasso(leadfield, cov).solve(np.ones(11))
