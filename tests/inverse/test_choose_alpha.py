import jax
import jax.numpy as jnp
import mne
import numpy as np
import pytest
from mne.inverse_sparse.mxne_inverse import _compute_mxne_sure

from jaxinv.inverse import choose_alpha, mixed_norm

ALPHAS = np.array([0.7, 0.4, 0.25, 0.15, 0.08])


@pytest.fixture
def problem(key):
    """White noise of variance one, so that nothing depends on the whitener; three sources."""
    keys = jax.random.split(key, 3)
    leadfield = jax.random.normal(keys[0], (12, 40))
    current = jnp.zeros((40, 4)).at[jnp.array([3, 20, 31])].set(3 * jax.random.normal(keys[1], (3, 4)))
    return leadfield, leadfield @ current, jax.random.normal(keys[2], (12, 4))


class Direction:
    """A generator of random numbers that gives what it was made with."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def standard_normal(self, shape):
        assert shape == self.values.shape
        return self.values


def test_it_agrees_with_mne_python(problem, key):
    """The same random direction, so the same choice and the same current."""
    leadfield, clean, noise = problem
    data = np.asarray(clean + noise)
    unit = np.linalg.norm(leadfield.T @ data, axis=1).max() / 100
    with mne.use_log_level("ERROR"):
        value, active, best = _compute_mxne_sure(
            data,
            np.asarray(leadfield) / unit,
            100 * ALPHAS,
            sigma=1,
            n_mxne_iter=1,
            maxit=3000,
            tol=1e-10,
            n_orient=1,
            active_set_size=10,
            debias=False,
            solver="bcd",
            dgap_freq=10,
            rng=Direction(jax.random.normal(key, data.shape)),
            verbose=False,
        )
    estimator = mixed_norm(leadfield, jnp.eye(12), tolerance=1e-12)
    curve = choose_alpha(key, estimator, data, ALPHAS)
    assert curve.converged.all()
    assert curve.alpha == best / 100
    current = estimator.replace(alpha=curve.alpha)(data).current
    np.testing.assert_allclose(current[active], value / unit, atol=1e-5 * np.abs(current).max())


def test_risk_is_unbiased(problem, key):
    """Its mean over noise is the mean squared error of the field."""
    leadfield, clean, _ = problem
    estimator = mixed_norm(leadfield, jnp.eye(12), tolerance=1e-8)
    alphas = jnp.array([0.5, 0.15])

    def both(key):
        data = clean + jax.random.normal(key, clean.shape)
        risk = choose_alpha(jax.random.fold_in(key, 1), estimator, data, alphas).risk
        found = jnp.stack([leadfield @ estimator.replace(alpha=a).solve(data).current for a in alphas])
        return risk, jnp.mean((found - clean) ** 2, axis=(1, 2))

    risk, truth = jax.jit(lambda keys: jax.lax.map(both, keys))(jax.random.split(key, 200))
    error = np.std(risk - truth, axis=0) / np.sqrt(200)
    assert (error < 0.1).all()
    assert (np.abs(np.mean(risk - truth, axis=0)) < 4 * error).all()


def test_it_takes_free_orientation_one_topography_and_a_covariance_of_lower_rank(key):
    reference = jnp.eye(12) - 1 / 12
    leadfield = jnp.einsum("ij,jsk->isk", reference, jax.random.normal(key, (12, 20, 3)))
    data = leadfield[:, 4, 0] * 5 + reference @ jax.random.normal(jax.random.key(1), (12,))
    curve = choose_alpha(key, mixed_norm(leadfield, reference), data)
    scaled = choose_alpha(key, mixed_norm(1e9 * leadfield, 1e-12 * reference), 1e-6 * data)
    assert curve.alphas.shape == curve.risk.shape == (15,)
    assert curve.alpha == curve.alphas[np.argmin(curve.risk)]
    np.testing.assert_allclose(scaled.risk, curve.risk, rtol=1e-3)


def test_what_does_not_converge_is_not_chosen(problem, key):
    leadfield, clean, noise = problem
    estimator = mixed_norm(leadfield, jnp.eye(12), max_iterations=1, tolerance=1e-12)
    curve = choose_alpha(key, estimator, clean + noise, ALPHAS)
    assert not curve.converged.any()
    assert np.isnan(curve.alpha)


@pytest.mark.parametrize("alphas", [[0.5, 1.5], [0.0], [], 0.5])
def test_alphas_out_of_range_are_refused(problem, key, alphas):
    leadfield, clean, _ = problem
    with pytest.raises(ValueError, match="alphas must be"):
        choose_alpha(key, mixed_norm(leadfield, jnp.eye(12)), clean, alphas)
