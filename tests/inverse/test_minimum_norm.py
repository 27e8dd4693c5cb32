from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxinv.inverse import minimum_norm, minimum_norm_kernel

METHODS = ["MNE", "dSPM", "sLORETA"]


@pytest.mark.parametrize("orientation", ["fixed", "free"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("snr", "depth"), [(3.0, None), (1.0, 0.8)])
def test_it_agrees_with_mne_python(mne_problem, solve_with_mne, orientation, method, snr, depth):
    forwards, evoked, noise, reference = mne_problem
    leadfield = forwards[orientation]["sol"]["data"]
    if orientation == "free":
        leadfield = leadfield.reshape(19, 30, 3)
    estimator = minimum_norm(leadfield, noise.data, snr=snr, method=method, depth=depth)
    expected = solve_with_mne(orientation, snr, method, depth)
    found = estimator(reference @ evoked.data).current
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max(), rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("depth", [None, 0.8])
@pytest.mark.parametrize("loose", [0.2, 1.0])
def test_loose_orientation_agrees_with_mne_python(mne_problem, solve_with_mne, method, depth, loose):
    forwards, evoked, noise, reference = mne_problem
    leadfield = forwards["free"]["sol"]["data"].reshape(19, 30, 3)
    estimator = minimum_norm(
        leadfield, noise.data, method=method, depth=depth, loose=loose, normals=forwards["fixed"]["source_nn"]
    )
    expected = solve_with_mne("free", 3.0, method, depth, loose)
    found = estimator(reference @ evoked.data).current
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max(), rtol=1e-6)


def test_a_vanishing_share_of_tangential_variance_is_a_fixed_orientation(mne_problem):
    forwards, _, noise, _ = mne_problem
    normals = forwards["fixed"]["source_nn"]
    free = forwards["free"]["sol"]["data"].reshape(19, 30, 3)
    fixed = minimum_norm_kernel(jnp.einsum("csi,si->cs", free, normals), noise.data, method="MNE")
    loose = minimum_norm_kernel(free, noise.data, method="MNE", loose=1e-10, normals=normals)
    np.testing.assert_allclose(loose, fixed[:, None] * normals[:, :, None], atol=1e-6 * np.abs(fixed).max())


@pytest.fixture
def problem(key):
    """Average-referenced random leadfield with columns of very different size, and white noise."""
    reference = jnp.eye(12) - 1 / 12
    size = jnp.logspace(-1, 1, 40)
    return reference @ jax.random.normal(key, (12, 40)) * size, reference


@pytest.mark.parametrize("snr", [1.0, 3.0])
def test_orthonormal_leadfield_has_a_closed_form(key, snr):
    """L Lᵀ = I and C = I give W = Lᵀ / (1 + snr⁻²)."""
    leadfield = jnp.linalg.qr(jax.random.normal(key, (64, 8)))[0].T
    kernel = minimum_norm_kernel(leadfield, jnp.eye(8), snr=snr)
    np.testing.assert_allclose(kernel, leadfield.T / (1 + snr**-2), atol=1e-12)
    check_grads(partial(minimum_norm_kernel, noise_cov=jnp.eye(8), snr=snr), (leadfield,), order=1)


@pytest.mark.parametrize("depth", [None, 0.8])
@pytest.mark.parametrize("snr", [0.5, 3.0, 30.0])
def test_sloreta_localises_every_single_source_without_error(problem, snr, depth):
    leadfield, cov = problem
    estimate = minimum_norm(leadfield, cov, snr=snr, method="sLORETA", depth=depth)(leadfield).current
    np.testing.assert_array_equal(np.abs(estimate).argmax(0), np.arange(40))


def test_source_variance_weighs_as_scaled_columns_do(problem):
    """A variance v is a column times √v, and the estimate times √v."""
    leadfield, cov = problem
    variance = jnp.linspace(0, 3, 40)
    weighted = minimum_norm_kernel(leadfield, cov, source_variance=variance)
    scaled = minimum_norm_kernel(leadfield * jnp.sqrt(variance), cov) * jnp.sqrt(variance)[:, None]
    np.testing.assert_allclose(weighted, scaled, atol=1e-12 * np.abs(scaled).max())
    assert not weighted[0].any()

    def total(variance):
        kernel = minimum_norm_kernel(leadfield, cov, source_variance=variance, method="dSPM")
        return jnp.sum(kernel[1:] ** 2)

    assert jnp.isfinite(jax.jit(jax.grad(total))(variance)).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_channel_that_is_there_twice_with_the_same_noise_changes_nothing(problem, method):
    leadfield, cov = problem
    twice = jnp.array([*range(12), 4])
    data = leadfield[:, 7]
    once = minimum_norm(leadfield, cov, method=method)(data).current
    both = minimum_norm(leadfield[twice], cov[jnp.ix_(twice, twice)], method=method)(data[twice]).current
    np.testing.assert_allclose(both, once, atol=1e-9 * np.abs(once).max())


@pytest.mark.parametrize("method", METHODS)
def test_turning_the_axes_turns_a_loose_estimate(key, method):
    leadfield = jax.random.normal(key, (9, 14, 3))
    normals = jax.random.normal(jax.random.key(1), (14, 3))
    normals /= jnp.linalg.norm(normals, axis=1, keepdims=True)
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(2), (3, 3)))[0]
    options = {"method": method, "loose": 0.3, "depth": 0.8}
    kernel = minimum_norm_kernel(leadfield, jnp.eye(9), normals=normals, **options)
    turned = minimum_norm_kernel(leadfield @ turn, jnp.eye(9), normals=normals @ turn, **options)
    np.testing.assert_allclose(turned, turn.T @ kernel, atol=1e-12 * np.abs(kernel).max())


def test_sloreta_localises_every_free_source_without_error(key):
    leadfield = jax.random.normal(key, (20, 15, 3)) * jnp.logspace(-1, 1, 15)[:, None]
    estimator = minimum_norm(leadfield, jnp.eye(20), method="sLORETA", depth=0.8)
    current = estimator(leadfield.reshape(20, -1)).current.reshape(15, 3, 15, 3)
    np.testing.assert_array_equal(
        jnp.sum(current**2, axis=1).argmax(axis=0), np.repeat(np.arange(15)[:, None], 3, 1)
    )


@pytest.mark.parametrize("loose", [None, 0.2])
def test_blockwise_sloreta_localises_every_orientation_of_every_source(key, loose):
    """Where sums of variances do not: topographies of neighbours are alike, as those of a head are."""
    places = jnp.linspace(0, 1, 25)
    smooth = jnp.exp(-(((jnp.linspace(0, 1, 12)[:, None] - places) / 0.2) ** 2))
    leadfield = smooth[..., None] * (1 + jax.random.normal(key, (12, 1, 3)) * jnp.array([1, 0.3, 0.05]))
    leadfield = leadfield + 0.05 * jax.random.normal(key, (12, 25, 3))
    normals = jax.random.normal(key, (25, 3))
    normals = normals / jnp.linalg.norm(normals, axis=1, keepdims=True)
    directions = jax.random.normal(jax.random.key(1), (40, 3))
    data = jnp.einsum("csx,nx->csn", leadfield, directions).reshape(12, -1)

    def missed(**options):
        estimator = minimum_norm(
            leadfield, jnp.eye(12), method="sLORETA", loose=loose, normals=normals, **options
        )
        size = jnp.linalg.norm(estimator(data).current, axis=1).reshape(25, 25, 40)
        return (size.argmax(axis=0) != np.arange(25)[:, None]).sum()

    assert missed(blockwise=True) == 0
    assert missed() > 0


@pytest.mark.parametrize("method", ["dSPM", "sLORETA"])
def test_blockwise_rows_of_a_location_have_unit_covariance(key, method):
    """Of noise alone for dSPM, of noise and prior for sLORETA, up to what `snr` scales."""
    leadfield = jax.random.normal(key, (10, 6, 3))
    snr, cov = 2.0, jnp.eye(10)
    kernel = np.asarray(minimum_norm(leadfield, cov, snr=snr, method=method, blockwise=True).kernel)
    gain = leadfield.reshape(10, -1)
    prior = gain @ gain.T * 10 / jnp.sum(gain**2)
    assumed = cov if method == "dSPM" else snr**2 * prior + cov
    found = np.einsum("sic,cd,sjd->sij", kernel, assumed, kernel)
    np.testing.assert_allclose(found, np.broadcast_to(np.eye(3), found.shape), atol=1e-9)
    leadfield = leadfield.at[:, 2].set(0)
    blind = minimum_norm(leadfield, cov, method=method, blockwise=True).kernel
    assert not blind[2].any()
    assert np.isfinite(blind).all()


@pytest.mark.parametrize(
    ("method", "shape"), [("MNE", (5, 6, 3)), ("eLORETA", (5, 6, 3)), ("sLORETA", (5, 6))]
)
def test_blockwise_needs_something_to_standardise(method, shape):
    with pytest.raises(ValueError, match="blockwise is for dSPM and sLORETA of free orientation"):
        minimum_norm(np.ones(shape), np.eye(5), method=method, blockwise=True)


def test_minimum_norm_prefers_strong_columns_and_depth_weighting_less_so(problem):
    leadfield, cov = problem
    hits = [
        (
            np.abs(minimum_norm(leadfield, cov, depth=depth)(leadfield).current).argmax(0) == np.arange(40)
        ).sum()
        for depth in (None, 0.8)
    ]
    assert hits[0] < hits[1] <= 40


def test_dspm_of_pure_noise_has_unit_variance(problem):
    """Rows of the dSPM kernel K satisfy diag(K C Kᵀ) = 1."""
    leadfield, cov = problem
    kernel = minimum_norm_kernel(leadfield, cov, method="dSPM")
    np.testing.assert_allclose(jnp.diag(kernel @ cov @ kernel.T), 1, rtol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_units_of_volt_and_ampere_scale_as_they_should(problem, method):
    """Statistics have no unit; current is in A m."""
    leadfield, cov = problem
    data = leadfield[:, 3]
    base = minimum_norm(leadfield, cov, method=method)(data).current
    microvolts = minimum_norm(1e6 * leadfield, 1e12 * cov, method=method)(1e6 * data).current
    nanoamperes = minimum_norm(1e-9 * leadfield, cov, method=method)(data).current
    np.testing.assert_allclose(microvolts, base, rtol=1e-9)
    np.testing.assert_allclose(nanoamperes, base * (1e9 if method == "MNE" else 1), rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("free", [False, True])
def test_source_that_no_channel_sees_stays_at_zero(problem, method, free):
    leadfield, cov = problem
    blind = leadfield.at[:, 5].set(0)
    blind = jnp.stack([blind, blind[:, ::-1].at[:, 5].set(0), blind * 2], -1) if free else blind
    for depth in (None, 0.8):
        kernel = minimum_norm_kernel(blind, cov, method=method, depth=depth)
        assert jnp.isfinite(kernel).all()
        assert not kernel[5].any()
        assert kernel[6].any()


@pytest.mark.parametrize("method", ["dSPM", "sLORETA"])
def test_it_is_differentiable_in_leadfield_covariance_and_snr(method):
    """At white noise, where all eigenvalues of the covariance coincide."""
    leadfield = jax.random.normal(jax.random.key(3), (5, 9))
    direction = jax.random.normal(jax.random.key(4), (5, 5))

    def kernel(leadfield, shift, snr):
        cov = jnp.eye(5) + shift * (direction + direction.T)
        return minimum_norm_kernel(leadfield, cov, snr=snr, method=method)

    check_grads(jax.jit(kernel), (leadfield, 0.0, 2.0), order=1, modes=["rev"])


def test_it_is_differentiable_with_a_blind_source_and_lost_ranks(problem):
    leadfield, cov = problem
    blind = leadfield.at[:, 5].set(0)

    def total(scale):
        return jnp.sum(minimum_norm_kernel(blind * scale, cov, method="sLORETA", depth=0.5) ** 2)

    assert jnp.isfinite(jax.jit(jax.grad(total))(jnp.full(40, 2.0))).all()


@pytest.mark.parametrize("method", METHODS)
def test_it_vmaps_over_leadfields(problem, method):
    leadfield, cov = problem
    batch = jnp.stack([leadfield, 2 * leadfield[:, ::-1]])
    batched = jax.vmap(partial(minimum_norm_kernel, method=method), (0, None))(batch, cov)
    for one, kernel in zip(batch, batched):
        expected = minimum_norm_kernel(one, cov, method=method)
        np.testing.assert_allclose(kernel, expected, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("method", METHODS)
def test_float32_stays_float32_and_costs_a_few_thousandths_at_most(problem, method):
    leadfield, cov = (x * scale for x, scale in zip(problem, (1e3, 1e-14)))
    exact = minimum_norm_kernel(leadfield, cov, method=method)
    single = minimum_norm_kernel(leadfield.astype(jnp.float32), cov.astype(jnp.float32), method=method)
    assert single.dtype == jnp.float32
    assert np.linalg.norm(single - exact) < 1e-4 * np.linalg.norm(exact)


def test_zero_measurements_give_zero(problem):
    assert not minimum_norm(*problem)(jnp.zeros(12)).current.any()


@pytest.mark.parametrize(
    ("leadfield", "cov", "options", "message"),
    [
        (np.ones((3, 4, 2)), np.eye(3), {}, "leadfield must have shape"),
        (np.ones(3), np.eye(3), {}, "leadfield must have shape"),
        (np.ones((3, 0)), np.eye(3), {}, "leadfield must have shape"),
        (np.where(np.eye(3, 4), np.nan, 1), np.eye(3), {}, r"leadfield has 3 values.*\(0, 0\)"),
        (np.zeros((3, 4)), np.eye(3), {}, "leadfield is zero"),
        (np.ones((3, 4)), np.eye(4), {}, "noise_cov must have shape"),
        (np.ones((3, 4)), np.zeros((3, 3)), {}, "noise_cov is zero"),
        (np.ones((3, 4)), np.eye(3), {"snr": 0.0}, "snr"),
        (np.ones((3, 4)), np.eye(3), {"snr": np.nan}, "snr"),
        (np.ones((3, 4)), np.eye(3), {"method": "LORETA"}, "LORETA"),
        (np.ones((3, 4)), np.eye(3), {"depth": 2.0}, "depth"),
        (np.ones((3, 4)), np.eye(3), {"loose": 0.2}, "free orientation"),
        (np.ones((3, 4, 3)), np.eye(3), {"loose": 0.2}, "needs normals"),
        (np.ones((3, 4, 3)), np.eye(3), {"loose": 0.0}, "loose must be"),
        (np.ones((3, 4, 3)), np.eye(3), {"loose": 0.2, "normals": np.ones((4, 3))}, "unit vectors"),
        (np.ones((3, 4)), np.eye(3), {"source_variance": np.ones(3)}, "one a source"),
        (np.ones((3, 4)), np.eye(3), {"source_variance": -np.ones(4)}, "4 values that are negative"),
        (np.ones((3, 4)), np.eye(3), {"source_variance": np.zeros(4)}, "zero everywhere"),
        (np.ones((3, 4)), np.eye(3), {"method": "eLORETA", "depth": 0.8}, "leave depth"),
    ],
)
def test_what_cannot_be_inverted_is_refused(leadfield, cov, options, message):
    with pytest.raises(ValueError, match=message):
        minimum_norm(leadfield, cov, **options)


@pytest.mark.parametrize("method", ["MNE", "dSPM", "sLORETA"])
def test_derivatives_in_float32_at_physical_units(method):
    """Their squares exceed what float32 holds. A minimum norm is inverse to the scale of the leadfield."""
    leadfield = jnp.float32(100 * np.random.default_rng(0).normal(size=(32, 500)))
    noise_cov = jnp.float32(1e-12 * np.eye(32))

    def total(scale):
        return jnp.sum(minimum_norm_kernel(scale * leadfield, noise_cov, method=method)[0])

    found, value = float(jax.grad(total)(jnp.float32(1))), float(total(jnp.float32(1)))
    assert found == pytest.approx(-value if method == "MNE" else 0, abs=1e-3 * abs(value))
