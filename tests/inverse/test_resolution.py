from functools import partial

import jax
import jax.numpy as jnp
import mne
import numpy as np
import pytest

from jaxinv.inverse import (
    cross_talk,
    minimum_norm_kernel,
    point_spread,
    resolution_errors,
    resolution_matrix,
)


@pytest.fixture(scope="module", params=["fixed", "free"])
def resolved(request, mne_problem):
    """Kernel and leadfield of ours, and MNE-Python's resolution matrix with its source space."""
    forwards, evoked, noise, _ = mne_problem
    fixed = request.param == "fixed"
    forward = forwards[request.param]
    leadfield = forward["sol"]["data"]
    leadfield = leadfield if fixed else leadfield.reshape(19, 30, 3)
    kernel = minimum_norm_kernel(leadfield, noise.data, method="sLORETA")
    with mne.use_log_level("ERROR"):
        operator = mne.minimum_norm.make_inverse_operator(
            evoked.info, forward, noise, loose=0.0 if fixed else 1.0, fixed=fixed, depth=None
        )
        matrix = mne.minimum_norm.make_inverse_resolution_matrix(forward, operator, "sLORETA", 1 / 9)
    return kernel, leadfield, matrix, forward["src"]


def test_the_matrix_is_mne_pythons(resolved):
    kernel, leadfield, expected, _ = resolved
    found = resolution_matrix(kernel, leadfield).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def test_point_spread_and_cross_talk_are_mne_pythons(resolved):
    """MNE-Python takes the norm of the three components that a function has at a location."""
    kernel, leadfield, matrix, src = resolved
    free = leadfield.ndim == 3
    for ours, theirs in (
        (point_spread, mne.minimum_norm.get_point_spread),
        (cross_talk, mne.minimum_norm.get_cross_talk),
    ):
        found = ours(kernel, leadfield, jnp.array([4, 17]))
        found = found if ours is point_spread else jnp.moveaxis(found, (0, 1), (-2, -1)) if free else found.T
        found = jnp.linalg.norm(found, axis=1) if free else found
        expected = theirs(matrix, src, [4, 17]).data
        np.testing.assert_allclose(
            found.reshape(expected.shape), expected, atol=1e-6 * np.abs(expected).max()
        )


@pytest.mark.parametrize("function", ["point spread", "cross-talk"])
def test_errors_are_those_that_the_whole_matrix_gives(resolved, function):
    kernel, leadfield, matrix, src = resolved
    positions = src[0]["rr"][src[0]["vertno"]]
    found = resolution_errors(kernel, leadfield, positions, function=function)
    power = (matrix**2).reshape(30, matrix.shape[0] // 30, 30, -1).sum(axis=(1, 3))
    power = power if function == "point spread" else power.T
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1)
    np.testing.assert_allclose(found.peak, distance[power.argmax(0), np.arange(30)], atol=1e-12)
    spread = np.sqrt((power * distance**2).sum(0) / power.sum(0))
    np.testing.assert_allclose(found.dispersion, spread, rtol=1e-6)
    if function == "point spread":
        assert not found.peak.any()  # sLORETA


def test_errors_are_mne_pythons_metrics(key):
    """In cm, and on a cortical surface in two halves, the one kind of source space that it takes."""
    leadfield = jax.random.normal(key, (8, 150))
    kernel = minimum_norm_kernel(leadfield, jnp.eye(8))
    positions = jax.random.normal(jax.random.key(1), (150, 3)) * 0.05
    half = lambda rr: {"vertno": np.arange(75), "rr": np.asarray(rr), "type": "surf", "id": 101, "nuse": 75}  # noqa: E731
    src = mne.SourceSpaces([half(positions[:75]), {**half(positions[75:]), "id": 102}])
    matrix = np.asarray(resolution_matrix(kernel, leadfield))
    for function, name in (("point spread", "psf"), ("cross-talk", "ctf")):
        found = resolution_errors(kernel, leadfield, positions, function=function)
        metric = partial(mne.minimum_norm.resolution_metrics, matrix, src, name)
        np.testing.assert_allclose(found.peak * 100, metric("peak_err").data[:, 0], atol=1e-10)
        np.testing.assert_allclose(found.dispersion * 100, metric("sd_ext").data[:, 0], rtol=1e-10)


def test_point_spread_and_cross_talk_are_columns_and_rows(key):
    """A free kernel on a fixed leadfield too."""
    kernel = jax.random.normal(key, (9, 3, 5))
    leadfield = jax.random.normal(key, (5, 9))
    matrix = resolution_matrix(kernel, leadfield)
    assert matrix.shape == (9, 3, 9)
    np.testing.assert_allclose(point_spread(kernel, leadfield, 2), matrix[..., 2], rtol=1e-12)
    np.testing.assert_allclose(cross_talk(kernel, leadfield, jnp.array([2, 5])), matrix[jnp.array([2, 5])])


def test_perfect_resolution_has_no_error_and_a_blind_source_has_none_to_give():
    positions = jnp.eye(3)
    found = resolution_errors(jnp.diag(jnp.array([1.0, 1.0, 0.0])), jnp.eye(3), positions)
    np.testing.assert_array_equal(found.peak, [0, 0, np.nan])
    np.testing.assert_array_equal(found.dispersion, [0, 0, np.nan])


def test_errors_jit_and_vmap(key):
    kernels = jax.random.normal(key, (2, 6, 4))
    leadfield, positions = jax.random.normal(key, (4, 6)), jax.random.normal(key, (6, 3))
    batched = jax.jit(jax.vmap(resolution_errors, (0, None, None)))(kernels, leadfield, positions)
    for kernel, peak in zip(kernels, batched.peak):
        np.testing.assert_allclose(peak, resolution_errors(kernel, leadfield, positions).peak, rtol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "leadfield", "message"),
    [
        (np.ones((4, 3)), np.ones((2, 4)), "share channels and sources"),
        (np.ones((5, 3)), np.ones((3, 4)), "share channels and sources"),
        (np.ones(3), np.ones((3, 4)), "kernel must have shape"),
    ],
)
def test_what_does_not_fit_is_refused(kernel, leadfield, message):
    with pytest.raises(ValueError, match=message):
        resolution_matrix(kernel, leadfield)
    with pytest.raises(ValueError, match="index must be of the 4"):
        point_spread(np.ones((4, 3)), np.ones((3, 4)), 4)
    with pytest.raises(ValueError, match="positions"):
        resolution_errors(np.ones((4, 3)), np.ones((3, 4)), np.ones((3, 3)))
