import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv.inverse import loreta, minimum_norm_kernel
from jaxinv.inverse.loreta import laplacian_covariance_times


def grid(n):
    """Triangles of an n × n grid, and positions of its points."""
    index = np.arange(n * n).reshape(n, n)
    corners = [index[:-1, :-1], index[1:, :-1], index[:-1, 1:], index[1:, 1:]]
    a, b, c, d = (corner.ravel() for corner in corners)
    positions = np.stack(np.meshgrid(range(n), range(n), indexing="ij"), -1).reshape(-1, 2)
    return np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)]), positions


def edges_of(faces):
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return np.unique(np.sort(edges, 1), axis=0)


def dense_covariance(edges, n_sources, length):
    """(BᵀB)⁻¹ with B = (1 + κ) I − mean over neighbours, by a dense inverse."""
    adjacency = np.zeros((n_sources, n_sources))
    adjacency[edges[:, 0], edges[:, 1]] = adjacency[edges[:, 1], edges[:, 0]] = 1
    mean = adjacency / np.maximum(adjacency.sum(1), 1)[:, None]
    operator = (1 + 1 / (4 * length**2)) * np.eye(n_sources) - mean
    return np.linalg.inv(operator.T @ operator)


@pytest.fixture
def problem(key):
    faces, _ = grid(7)
    reference = jnp.eye(10) - 1 / 10
    return reference @ jax.random.normal(key, (10, 49)) * jnp.logspace(-1, 1, 49), reference, faces


def test_sparse_solves_agree_with_a_dense_inverse():
    """With one source that has no neighbour."""
    faces, _ = grid(5)
    covariance = laplacian_covariance_times(faces, np.eye(26), length=3.0)
    expected = dense_covariance(edges_of(faces), 26, 3.0)
    np.testing.assert_allclose(covariance, expected, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("depth", [None, 0.8])
def test_the_kernel_is_the_minimum_norm_of_that_covariance(problem, depth):
    """As a minimum norm of independent sources seen through the covariance's root."""
    leadfield, cov, faces = problem
    found = loreta(leadfield, cov, faces, snr=2.0, depth=depth, length=4.0).kernel
    power = jnp.sum(leadfield**2, axis=0)
    weight = jnp.ones(49)
    if depth is not None:
        limit = jnp.min(jnp.where(1 / power > 100 / power.max(), 1 / power, jnp.inf))
        weight = jnp.minimum(1 / power / limit, 1) ** (depth / 2)
    root = weight[:, None] * np.linalg.cholesky(dense_covariance(edges_of(faces), 49, 4.0))
    expected = root @ minimum_norm_kernel(leadfield @ root, cov, snr=2.0)
    np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(expected).max())


def test_edges_say_the_same_as_faces(problem):
    leadfield, cov, faces = problem
    by_faces = loreta(leadfield, cov, faces).kernel
    by_edges = loreta(leadfield, cov, edges_of(faces)).kernel
    np.testing.assert_allclose(by_edges, by_faces, atol=1e-12 * np.abs(by_faces).max())


def test_free_components_are_smoothed_alike(problem, key):
    leadfield, cov, faces = problem
    free = jnp.stack([leadfield, leadfield[:, ::-1], 0 * leadfield], -1)
    kernel = loreta(free, cov, faces).kernel
    assert kernel.shape == (49, 3, 10)
    assert not kernel[:, 2].any()
    turn = jnp.linalg.qr(jax.random.normal(key, (3, 3)))[0]
    turned = loreta(free @ turn, cov, faces).kernel
    np.testing.assert_allclose(turned, turn.T @ kernel, atol=1e-9 * np.abs(kernel).max())


def test_estimates_are_smoother_than_a_minimum_norm(problem):
    leadfield, cov, faces = problem
    edges, data = edges_of(faces), leadfield[:, 24]

    def roughness(kernel):
        current = kernel @ data
        return jnp.sum((current[edges[:, 0]] - current[edges[:, 1]]) ** 2) / jnp.sum(current**2)

    smooth = loreta(leadfield, cov, faces, snr=10.0).kernel
    assert roughness(smooth) < 0.3 * roughness(minimum_norm_kernel(leadfield, cov, snr=10.0))


def test_float32_stays_float32_and_zeros_give_zeros(problem):
    leadfield, cov, faces = problem
    exact = loreta(leadfield, cov, faces)
    single = loreta(leadfield.astype(jnp.float32), cov.astype(jnp.float32), faces)
    assert single.kernel.dtype == jnp.float32
    assert np.linalg.norm(single.kernel - exact.kernel) < 1e-4 * np.linalg.norm(exact.kernel)
    assert not exact(jnp.zeros((10, 3))).current.any()


@pytest.mark.parametrize(
    ("mesh", "options", "message"),
    [
        (np.ones((3, 4), int), {}, r"mesh must hold indices"),
        (np.ones((3, 3)), {}, r"mesh must hold indices"),
        (np.array([[0, 99]]), {}, "mesh must index the 49 sources"),
        (np.array([[0, 1]]), {"length": 0.0}, "length"),
        (np.array([[0, 1]]), {"snr": 0.0}, "snr"),
    ],
)
def test_what_is_no_mesh_is_refused(problem, mesh, options, message):
    with pytest.raises(ValueError, match=message):
        loreta(*problem[:2], mesh, **options)


def test_it_says_that_it_cannot_be_traced(problem):
    leadfield, cov, faces = problem
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda gain: loreta(gain, cov, faces).kernel)(leadfield)
