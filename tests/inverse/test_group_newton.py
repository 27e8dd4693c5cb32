import jax
import jax.numpy as jnp
import mne
import numpy as np
import pytest
from mne.inverse_sparse.mxne_optim import mixed_norm_solver

from jaxinv.inverse import mixed_norm
from jaxinv.inverse.duality_gap import group_norms
from jaxinv.inverse.group_newton import group_newton


def make_problem(key, n_orient, n_channels):
    """Ten groups with strong and weak fields, the last one twice, and one that no channel sees."""
    keys = jax.random.split(key, 2)
    gain = jax.random.normal(keys[0], (10, n_orient, n_channels)) * jnp.linspace(0.3, 1, 10)[:, None, None]
    gain = jnp.concatenate([gain, gain[-1:], jnp.zeros_like(gain[:1])]) / n_channels**0.5
    target = jax.random.normal(keys[1], (n_channels, 4))
    return gain, target / jnp.linalg.norm(target)


def solve(gain, target, share=0.3):
    penalty = share * jnp.max(group_norms(gain @ target))
    start = jnp.zeros(len(gain))
    variance, value, steps = group_newton(gain, target, penalty, start, jnp.asarray(1e-13), jnp.asarray(60))
    return penalty, variance, value, steps


@pytest.mark.parametrize("n_orient", [1, 3])
@pytest.mark.parametrize("n_channels", [9, 50])
def test_optimality_conditions_hold_with_fewer_and_with_more_columns_than_channels(key, n_orient, n_channels):
    """‖A_sᵀ R‖ ≤ λ, and A_sᵀ R = λ X_s / ‖X_s‖ where X_s ≠ 0."""
    gain, target = make_problem(key, n_orient, n_channels)
    penalty, variance, value, steps = solve(gain, target)
    correlation = gain @ (target - jnp.einsum("soc,sot->ct", gain, value))
    norms = group_norms(value)
    active = norms > 1e-6 * norms.max()
    assert steps < 60
    assert 0 < active.sum() < 11
    assert not variance[-1]
    assert group_norms(correlation).max() <= penalty * (1 + 1e-5)
    expected = penalty * value[active] / norms[active][:, None, None]
    np.testing.assert_allclose(correlation[active], expected, atol=1e-4 * penalty)


@pytest.mark.parametrize("n_orient", [1, 3])
def test_channels_without_signal_change_nothing(key, n_orient):
    """With enough of them there are fewer columns than channels, and factors are of the columns' size."""
    gain, target = make_problem(key, n_orient, 9)
    silent = jnp.pad(gain, ((0, 0), (0, 0), (0, 40))), jnp.pad(target, ((0, 40), (0, 0)))
    few, many = (solve(*problem)[2] for problem in ((gain, target), silent))
    fields = [jnp.einsum("soc,sot->ct", gain, value) for value in (few, many)]
    np.testing.assert_allclose(*fields, atol=1e-6)


def test_derivatives_and_batches_agree_with_single_solves(key):
    gain, target = make_problem(key, 1, 50)
    gain = gain[:-2]
    direction = jax.random.normal(key, gain.shape) / 7

    def field(step):
        value = solve(gain + step * direction, target)[2]
        return jnp.einsum("soc,sot->ct", gain, value)

    _, slope = jax.jvp(field, (0.0,), (1.0,))
    central = (field(1e-4) - field(-1e-4)) / 2e-4
    np.testing.assert_allclose(slope, central, atol=1e-4 * np.abs(central).max())
    steps = jnp.array([0.0, 0.1, 0.2])
    np.testing.assert_allclose(jax.vmap(field)(steps), [field(step) for step in steps], atol=1e-7)


@pytest.mark.parametrize("n_orient", [1, 3])
@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_working_sets_smaller_than_channels_find_what_mne_python_finds(n_orient, alpha):
    rng = np.random.default_rng(0)
    gain = rng.normal(size=(110, 150 * n_orient))
    truth = np.zeros((150 * n_orient, 3))
    truth[rng.choice(150, 6) * n_orient] = 1 + rng.uniform(size=(6, 3))
    data = gain @ truth + rng.normal(size=(110, 3))
    correlation = np.linalg.norm((gain.T @ data).reshape(150, -1), axis=1).max() / 100
    options = {"tol": 1e-12 * np.sum(data**2), "debias": False, "n_orient": n_orient, "solver": "bcd"}
    with mne.use_log_level("ERROR"):
        value, active, _ = mixed_norm_solver(data, gain / correlation, 100 * alpha, **options)
    expected = np.zeros_like(truth)
    expected[active] = value / correlation
    leadfield = gain if n_orient == 1 else gain.reshape(110, 150, 3)
    solution = mixed_norm(leadfield, np.eye(110), alpha=alpha, tolerance=1e-12).solve(data)
    assert solution.converged
    found = np.asarray(solution.current).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
