from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxinv.inverse import whitener
from jaxinv.inverse.whitening import inverse_triangle

N = 10


def covariance(rank_lost, scale=1e-12, seed=0):
    """Random, with a range of N − rank_lost dimensions that is no coordinate plane."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(N, N - rank_lost))
    return scale * root @ root.T


@pytest.mark.parametrize("rank_lost", [0, 1, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_becomes_white_in_its_range(rank_lost, dtype):
    """W C Wᵀ is a projector of the rank of C, and Wᵀ W is its pseudo-inverse."""
    cov = covariance(rank_lost)
    white = whitener(jnp.asarray(cov, dtype))
    matrix = np.asarray(white.matrix, np.float64)
    precise = 1e-10 if dtype == np.float64 else 5e-3
    assert white.matrix.dtype == dtype
    assert white.rank == N - rank_lost
    projector = matrix @ cov @ matrix.T
    np.testing.assert_allclose(projector @ projector, projector, atol=precise)
    np.testing.assert_allclose(np.trace(projector), N - rank_lost, atol=10 * precise)
    inverse = np.linalg.pinv(cov, rcond=1e-8, hermitian=True)
    np.testing.assert_allclose(matrix.T @ matrix, inverse, atol=precise * np.abs(inverse).max())


def test_average_reference_rounded_to_float32_is_recognised_in_float64():
    """A null direction that rounding lifts to 1e-7 must not count as a noiseless channel."""
    reference = np.eye(N) - 1 / N
    rng = np.random.default_rng(0)
    for cov in (reference, reference @ np.diag(rng.uniform(0.5, 2, N)) @ reference):
        rounded = cov.astype(np.float32).astype(np.float64)
        assert whitener(rounded).rank == N - 1


def test_tolerance_decides_what_counts():
    spectrum = np.diag(10.0 ** -np.arange(N))
    assert whitener(spectrum).rank == 6
    assert whitener(spectrum, rtol=1e-3 * 0.99).rank == 4
    assert whitener(spectrum, rtol=1e-20).rank == N


def test_it_is_differentiable_where_all_eigenvalues_coincide():
    """d(Wᵀ W) = −C⁻¹ dC C⁻¹; a derivative through the eigenvectors would be NaN here."""

    def precision(root):
        cov = jnp.eye(N) + root + root.T
        matrix = whitener(cov).matrix
        return matrix.T @ matrix

    zero = jnp.zeros((N, N))
    check_grads(jax.jit(precision), (zero,), order=1)
    direction = jax.random.normal(jax.random.key(0), (N, N))
    tangent = jax.jvp(precision, (zero,), (direction,))[1]
    np.testing.assert_allclose(tangent, -(direction + direction.T), atol=1e-12)


def test_it_vmaps():
    covs = np.stack([covariance(1, seed=s) for s in range(3)])
    batched = jax.vmap(whitener)(covs)
    for i in range(3):
        np.testing.assert_allclose(batched.matrix[i], whitener(covs[i]).matrix, rtol=1e-6, atol=1e-3)
    np.testing.assert_array_equal(batched.rank, N - 1)


@pytest.mark.parametrize(
    ("cov", "message"),
    [
        (np.zeros((3, 3)), "zero"),
        (np.diag([1.0, np.nan, 1.0]), r"not finite.*\(1, 1\)"),
        (np.diag([1.0, -0.5, 1.0]), "negative eigenvalue"),
        (np.triu(np.ones((3, 3))), "symmetric"),
        (np.ones((3, 4)), "shape"),
        (np.float64(1.0), "shape"),
    ],
)
def test_what_is_no_covariance_is_refused(cov, message):
    with pytest.raises(ValueError, match=message):
        whitener(cov)


@pytest.mark.parametrize("cov", [np.zeros((3, 3)), np.diag([1.0, np.nan, 1.0])])
def test_under_a_transformation_what_is_no_covariance_gives_nan(cov):
    assert np.isnan(jax.jit(partial(whitener))(cov).matrix).any()


@pytest.mark.parametrize("n_channels", [1, 5, 96, 97, 230])
def test_inverse_triangle_is_the_inverse_of_the_cholesky_factor(key, n_channels):
    root = jax.random.normal(key, (n_channels, n_channels)) * jnp.logspace(0, 2, n_channels)
    cov = root @ root.T + jnp.eye(n_channels)
    expected = np.linalg.inv(np.linalg.cholesky(cov))
    for found in (inverse_triangle(cov), jax.vmap(inverse_triangle)(cov[None])[0]):
        np.testing.assert_allclose(found, expected, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("place", [0, 120])
def test_inverse_triangle_of_an_indefinite_matrix_is_not_finite(place):
    assert not jnp.isfinite(inverse_triangle(jnp.eye(149).at[place, place].set(-1))).all()


def test_inverse_triangle_is_differentiable_across_its_halves(key):
    direction = jax.random.normal(key, (100, 100))
    factor = lambda shift: inverse_triangle(jnp.eye(100) * 30 + shift * (direction + direction.T))  # noqa: E731
    check_grads(jax.jit(factor), (0.3,), order=1)
