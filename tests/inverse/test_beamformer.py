from functools import partial

import jax
import jax.numpy as jnp
import mne
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxinv.inverse import exclude_channels, lcmv, whitener

NORMALISATIONS = ["unit-gain", "unit-noise-gain", "unit-noise-gain-invariant"]


@pytest.fixture(params=["vector", "max-power", "fixed"])
def orientation(request):
    return request.param


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("reg", [0.05, 0.5])
def test_it_agrees_with_mne_python(mne_problem, orientation, normalisation, reg):
    """On average-referenced data, of a covariance of one rank less than channels."""
    forwards, evoked, noise, reference = mne_problem
    forward = forwards["fixed" if orientation == "fixed" else "free"]
    root = np.random.default_rng(1).normal(size=(19, 19))
    signal = 3e-7 * reference @ root
    data_cov = mne.Covariance(noise.data + signal @ signal.T, noise.ch_names, [], noise["projs"], nfree=1)
    with mne.use_log_level("ERROR"):
        filters = mne.beamformer.make_lcmv(
            evoked.info,
            forward,
            data_cov,
            reg=reg,
            noise_cov=noise,
            pick_ori=None if orientation == "fixed" else orientation,
            weight_norm=None if normalisation == "unit-gain" else normalisation,
        )
        expected = mne.beamformer.apply_lcmv(evoked, filters).data
    leadfield = forward["sol"]["data"]
    options = {"reg": reg, "normalisation": normalisation}
    if orientation == "fixed":
        found = lcmv(leadfield, data_cov.data, noise.data, **options)(reference @ evoked.data).current
    else:
        estimator = lcmv(
            leadfield.reshape(19, 30, 3), data_cov.data, noise.data, orientation=orientation, **options
        )
        found = estimator(reference @ evoked.data).current
    if orientation == "max-power":
        expected = expected[:, None] * filters["max_power_ori"][..., None]
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max(), rtol=1e-6)


def make_problem(free):
    """Average-referenced random leadfield of columns of different size, noise, and data of two sources."""
    rng = np.random.default_rng(2)
    reference = np.eye(12) - 1 / 12
    leadfield = rng.normal(size=(12, 40, 3) if free else (12, 40)) * np.logspace(-1, 1, 40).reshape(
        (40, 1) if free else 40
    )
    leadfield = np.tensordot(reference, leadfield, 1)
    root = reference @ rng.normal(size=(12, 12))
    cov = root @ root.T
    signal = leadfield[:, [10, 30]].reshape(12, -1)
    return leadfield, cov + 5 * signal @ signal.T, cov


@pytest.mark.parametrize("free", [False, True])
def test_unit_gain_passes_its_own_source(free):
    """w L = I."""
    leadfield, data_cov, noise_cov = make_problem(free)
    kernel = lcmv(leadfield, data_cov, noise_cov, normalisation="unit-gain").kernel
    gain = np.einsum("s...c,csd->s...d", kernel, leadfield.reshape(12, 40, -1))
    np.testing.assert_allclose(
        gain, np.ones((40, 1)) if not free else np.eye(3) * np.ones((40, 1, 1)), atol=1e-9
    )


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_max_power_passes_its_own_source_at_its_orientation_or_has_unit_noise(normalisation):
    leadfield, data_cov, noise_cov = make_problem(True)
    options = {"normalisation": normalisation, "orientation": "max-power"}
    kernel = np.asarray(lcmv(leadfield, data_cov, noise_cov, **options).kernel)
    pick, size, rows = (x.squeeze() for x in np.linalg.svd(kernel, full_matrices=False))
    np.testing.assert_allclose(size[:, 1:], 0, atol=1e-12 * size.max())
    pick, row = pick[:, :, 0], rows[:, 0] * size[:, :1]
    if normalisation == "unit-gain":
        np.testing.assert_allclose(np.einsum("sc,csi,si->s", row, leadfield, pick), 1, rtol=1e-9)
    else:
        np.testing.assert_allclose(np.einsum("sc,cd,sd->s", row, noise_cov, row), 1, rtol=1e-9)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_max_power_is_no_less_than_that_of_any_other_orientation(normalisation):
    leadfield, data_cov, noise_cov = make_problem(True)
    options = {"normalisation": normalisation, "reg": 0.0}

    def power(kernel):
        rows = np.asarray(kernel).reshape(40, -1, 12)
        return np.einsum("sic,cd,sid->s", rows, data_cov, rows)

    best = power(lcmv(leadfield, data_cov, noise_cov, orientation="max-power", **options).kernel)
    for axis in np.random.default_rng(3).normal(size=(20, 3)):
        fixed = leadfield @ (axis / np.linalg.norm(axis))
        assert (power(lcmv(fixed, data_cov, noise_cov, **options).kernel) < best * (1 + 1e-9)).all()


@pytest.mark.parametrize("free", [False, True])
def test_unit_noise_gain_gives_noise_unit_variance(free):
    """w C wᵀ = 1; invariant: the three do not correlate."""
    leadfield, data_cov, noise_cov = make_problem(free)
    kernel = lcmv(leadfield, data_cov, noise_cov, normalisation="unit-noise-gain").kernel
    np.testing.assert_allclose(np.einsum("...c,cd,...d->...", kernel, noise_cov, kernel), 1, rtol=1e-9)
    kernel = np.asarray(lcmv(leadfield, data_cov, noise_cov).kernel).reshape(40, -1, 12)
    noise = np.einsum("sic,cd,sjd->sij", kernel, noise_cov, kernel)
    np.testing.assert_allclose(noise, np.eye(kernel.shape[1]) * np.ones((40, 1, 1)), atol=1e-9)


def test_invariant_normalisation_turns_with_the_axes():
    leadfield, data_cov, noise_cov = make_problem(True)
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    base = np.asarray(lcmv(leadfield, data_cov, noise_cov).kernel)
    turned = lcmv(leadfield @ turn, data_cov, noise_cov).kernel
    np.testing.assert_allclose(turned, np.einsum("ij,sic->sjc", turn, base), atol=1e-9)


@pytest.mark.parametrize("orientation", ["vector", "max-power"])
@pytest.mark.parametrize("free", [False, True])
def test_a_single_source_has_the_greatest_normalised_power_at_its_own_place(free, orientation):
    if not free and orientation == "max-power":
        pytest.skip("nothing to choose")
    leadfield, _, noise_cov = make_problem(free)
    axis = np.array([0.6, 0.0, 0.8]) if free else 1.0
    white = whitener(noise_cov).matrix
    for source in range(0, 40, 3):
        topography = leadfield[:, source] @ axis if free else leadfield[:, source]
        topography = 30 * topography / np.linalg.norm(white @ topography)
        data_cov = noise_cov + np.outer(topography, topography)
        estimator = lcmv(leadfield, data_cov, noise_cov, reg=0.0, orientation=orientation)
        kernel = np.asarray(estimator.kernel).reshape(40, -1, 12)
        if orientation == "vector" and free:
            kernel = np.asarray(lcmv(leadfield @ axis, data_cov, noise_cov, reg=0.0).kernel)[:, None]
        power = np.einsum("sic,cd,sid->s", kernel, data_cov, kernel)
        assert power.argmax() == source


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_units_scale_as_they_should(orientation, normalisation):
    leadfield, data_cov, noise_cov = make_problem(orientation != "fixed")
    how = {} if orientation == "fixed" else {"orientation": orientation}
    make = partial(lcmv, normalisation=normalisation, **how)
    data = leadfield.reshape(12, -1)[:, 3]
    base = make(leadfield, data_cov, noise_cov)(data).current
    microvolts = make(1e6 * leadfield, 1e12 * data_cov, 1e12 * noise_cov)(1e6 * data).current
    nanoamperes = make(1e-9 * leadfield, data_cov, noise_cov)(data).current
    atol = 1e-9 * np.abs(base).max()
    np.testing.assert_allclose(microvolts, base, atol=atol)
    unit = 1e9 if normalisation == "unit-gain" else 1
    np.testing.assert_allclose(nanoamperes, unit * base, atol=unit * atol)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_source_that_no_channel_sees_stays_at_zero(orientation, normalisation):
    leadfield, data_cov, noise_cov = make_problem(orientation != "fixed")
    leadfield[:, 5] = 0
    how = {} if orientation == "fixed" else {"orientation": orientation}
    kernel = lcmv(leadfield, data_cov, noise_cov, normalisation=normalisation, **how).kernel
    assert jnp.isfinite(kernel).all()
    assert not kernel[5].any()
    assert kernel[6].any()


def test_zero_regularisation_wants_a_data_covariance_of_full_rank():
    leadfield, _, noise_cov = make_problem(False)
    poor = np.outer(leadfield[:, 3], leadfield[:, 3])
    assert jnp.isfinite(lcmv(leadfield, poor, noise_cov).kernel).all()
    with pytest.raises(ValueError, match="data_cov lacks ranks"):
        lcmv(leadfield, poor, noise_cov, reg=0.0)


@pytest.mark.parametrize("normalisation", ["unit-gain", "unit-noise-gain-invariant"])
def test_it_vmaps_and_is_differentiable(orientation, normalisation):
    leadfield, data_cov, noise_cov = make_problem(orientation != "fixed")
    leadfield = leadfield[:, 10:14]
    how = {} if orientation == "fixed" else {"orientation": orientation}
    make = partial(lcmv, normalisation=normalisation, **how)
    kernels = jax.jit(jax.vmap(lambda d: make(leadfield, d, noise_cov).kernel))(
        jnp.stack([data_cov, noise_cov])
    )
    expected = make(leadfield, data_cov, noise_cov).kernel
    np.testing.assert_allclose(kernels[0], expected, atol=1e-9 * np.abs(expected).max())

    def kernel(scale, tilt):
        tilted = data_cov + tilt * noise_cov @ data_cov @ noise_cov
        return make(leadfield * scale, tilted, noise_cov).kernel

    check_grads(jax.jit(kernel), (1.1, 0.02), order=1, modes=["rev"], rtol=1e-4)


def test_float32_stays_float32_and_costs_little(orientation):
    problem = make_problem(orientation != "fixed")
    how = {} if orientation == "fixed" else {"orientation": orientation}
    single = lcmv(*(np.float32(x) for x in problem), **how).kernel
    double = lcmv(*problem, **how).kernel
    assert single.dtype == jnp.float32
    assert np.linalg.norm(single - double) < 1e-3 * np.linalg.norm(double)


@pytest.mark.parametrize(
    ("data_cov", "options", "message"),
    [
        (np.eye(4), {}, "data_cov must have shape"),
        (np.zeros((3, 3)), {}, "data_cov is zero"),
        (np.diag([1, np.nan, 1]), {}, r"data_cov has 1 values.*\(1, 1\)"),
        (np.eye(3), {"reg": -1.0}, "reg"),
        (np.eye(3), {"normalisation": "nai"}, "nai"),
        (np.eye(3), {"orientation": "normal"}, "normal"),
        (np.eye(3), {"orientation": "max-power"}, "free orientation"),
    ],
)
def test_what_cannot_be_filtered_is_refused(data_cov, options, message):
    with pytest.raises(ValueError, match=message):
        lcmv(np.ones((3, 4)), data_cov, np.eye(3), **options)


def test_derivatives_in_float32_at_physical_units():
    """Unit gain is inverse to the leadfield's scale."""
    leadfield = jnp.float32(1e3 * np.random.default_rng(0).normal(size=(20, 5)))
    cov = jnp.float32(1e-14 * np.eye(20))

    def total(scale):
        return jnp.sum(lcmv(scale * leadfield, cov, cov, normalisation="unit-gain").kernel)

    found, value = float(jax.grad(total)(jnp.float32(1))), float(total(jnp.float32(1)))
    assert found == pytest.approx(-value, rel=1e-4)


def test_an_orientation_that_is_not_seen_stays_so_in_float32():
    rng, unseen = np.random.default_rng(0), np.array([0.48, 0.6, 0.64])
    leadfield = rng.normal(size=(20, 50, 3)) @ (np.eye(3) - np.outer(unseen, unseen))
    arrays = (np.float32(a) for a in (leadfield, 2 * np.eye(20), np.eye(20)))
    kernel = np.asarray(lcmv(*arrays, normalisation="unit-gain").kernel)
    assert np.abs(np.einsum("sic,i->sc", kernel, unseen)).max() < 1e-5 * np.abs(kernel).max()


def test_a_channel_that_is_excluded_does_not_change_the_loading():
    rng, kept = np.random.default_rng(0), np.delete(np.arange(12), 4)
    leadfield, data_cov = rng.normal(size=(12, 30)), np.cov(rng.normal(size=(12, 200)))
    whole, part = np.eye(12) - 1 / 12, np.eye(11) - 1 / 11
    noise_cov = exclude_channels(whole, [4])
    found = lcmv(whole @ leadfield, whole @ data_cov @ whole, noise_cov, normalisation="unit-gain").kernel
    rest = part @ data_cov[np.ix_(kept, kept)] @ part
    expected = lcmv(part @ leadfield[kept], rest, part, normalisation="unit-gain").kernel
    np.testing.assert_allclose(found[:, kept], expected, atol=1e-10 * np.abs(expected).max())
