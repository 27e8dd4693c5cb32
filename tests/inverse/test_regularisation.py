import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxinv.inverse import choose_snr, minimum_norm_kernel
from jaxinv.inverse.regularisation import spectrum_of
from jaxinv.inverse.whitening import whitener

TRIED = jnp.geomspace(0.1, 30, 25)


@pytest.fixture
def problem(key):
    """Average-referenced random leadfield, coloured noise without that rank, and data of known SNR."""
    reference = jnp.eye(12) - 1 / 12
    leadfield = reference @ jax.random.normal(key, (12, 40)) * jnp.logspace(-1, 0.5, 40)
    root = reference @ jnp.diag(jnp.linspace(0.5, 2, 12))
    noise = root @ jax.random.normal(jax.random.key(1), (12, 4))
    data = leadfield @ jax.random.normal(jax.random.key(2), (40, 4)) + noise
    return leadfield, root @ root.T, data


def test_cross_validation_agrees_with_the_hat_matrix_of_every_kernel(problem):
    """H is the whitened leadfield after the kernel; all of it formed, one ratio after the other."""
    leadfield, cov, data = problem
    choice = choose_snr(leadfield, cov, data, tried=TRIED)
    white = whitener(cov).matrix
    for snr, score in zip(TRIED, choice.score):
        kernel = minimum_norm_kernel(leadfield, cov, snr=float(snr))
        residual = white @ (data - leadfield @ kernel @ data)
        hat = white @ leadfield @ kernel @ jnp.linalg.pinv(white)
        expected = (jnp.sum(residual**2) / 11) / ((11 - jnp.trace(hat)) / 11) ** 2
        np.testing.assert_allclose(score, expected, rtol=1e-8)
    assert choice.snr == TRIED[jnp.argmin(choice.score)]


def test_cross_validation_is_leave_one_out_where_all_channels_have_equal_leverage(key):
    """With L Lᵀ = I, the generalised and the ordinary cross-validation coincide: both are ‖y‖²/n."""
    leadfield = jnp.linalg.qr(jax.random.normal(key, (20, 6)))[0].T
    data = jax.random.normal(key, (6,))
    score = choose_snr(leadfield, jnp.eye(6), data, tried=TRIED).score
    np.testing.assert_allclose(score, jnp.sum(data**2) / 6, rtol=1e-12)


def test_norms_of_the_curve_are_those_of_the_estimate(problem):
    leadfield, cov, data = problem
    variance = jnp.linspace(0.5, 2, 40)
    spectrum = spectrum_of(leadfield, cov, data, source_variance=variance)
    white = whitener(cov).matrix
    scale = 11 / jnp.sum((white @ leadfield) ** 2 * variance)
    for snr in (0.3, 2.0, 9.0):
        current = minimum_norm_kernel(leadfield, cov, snr=snr, source_variance=variance) @ data
        residual = jnp.sum((white @ (data - leadfield @ current)) ** 2)
        np.testing.assert_allclose(spectrum.residual(snr), residual, rtol=1e-8)
        size = jnp.sum(current**2 / variance[:, None]) / scale
        np.testing.assert_allclose(spectrum.size(snr), size, rtol=1e-8)


def test_curvature_agrees_with_differences_along_the_curve(problem):
    spectrum = spectrum_of(*problem)
    logs = jnp.linspace(-1.0, 3.0, 4001)
    across = jnp.log(jax.vmap(spectrum.residual)(jnp.exp(logs))) / 2
    along = jnp.log(jax.vmap(spectrum.size)(jnp.exp(logs))) / 2
    first, second = (np.gradient(x, logs) for x in (across, along))
    # Towards stronger regularisation an L is turned to the left, which counts as positive.
    turning = second * np.gradient(first, logs) - first * np.gradient(second, logs)
    expected = turning / (first**2 + second**2) ** 1.5
    found = jax.vmap(spectrum.curvature)(jnp.exp(logs))
    np.testing.assert_allclose(found[10:-10], expected[10:-10], atol=1e-4 * np.abs(expected).max())


def test_an_ideal_corner_is_found():
    """One strong eigenvalue holds all signal, the others noise alone: the corner lies between them."""
    leadfield = jnp.diag(jnp.array([100.0, 1.0, 1.0, 1.0, 1.0, 1.0]))
    data = jnp.array([100.0, 0.1, 0.1, -0.1, 0.1, -0.1])
    chosen = choose_snr(leadfield, jnp.eye(6), data, by="L-curve", tried=jnp.geomspace(1e-2, 1e4, 400)).snr
    variance = 6 * jnp.array([1.0, 1e-4]) / (1 + 5e-4)
    assert variance[0] ** -0.5 < chosen < variance[1] ** -0.5


def test_more_noise_asks_for_a_lower_ratio(problem):
    leadfield, cov, _ = problem
    signal = leadfield @ jax.random.normal(jax.random.key(5), (40, 200))
    noise = jnp.linalg.cholesky(cov + 1e-9 * jnp.eye(12)) @ jax.random.normal(jax.random.key(6), (12, 200))
    chosen = [choose_snr(leadfield, cov, signal + level * noise).snr for level in (0.3, 3.0, 30.0)]
    assert chosen[0] > chosen[1] > chosen[2]


def test_cross_validation_finds_the_ratio_that_the_data_were_drawn_with(key):
    """Sources and noise drawn from the model: the chosen ratio is near the true one."""
    leadfield = jax.random.normal(key, (30, 60)) * jnp.logspace(-2, 0, 60)
    scale = jnp.sqrt(30 / jnp.sum(leadfield**2))
    source, noise = jax.random.normal(jax.random.key(1), (60, 500)), jax.random.normal(key, (30, 500))
    for snr in (0.5, 5.0):
        data = snr * scale * leadfield @ source + noise
        np.testing.assert_allclose(choose_snr(leadfield, jnp.eye(30), data).snr, snr, rtol=0.25)


@pytest.mark.parametrize("by", ["cross-validation", "L-curve"])
def test_the_scale_of_measurements_does_not_change_the_choice(problem, by):
    leadfield, cov, data = problem
    base = choose_snr(leadfield, cov, data, by=by)
    assert choose_snr(leadfield, cov, 1e-3 * data, by=by).snr == base.snr
    assert choose_snr(leadfield * 1e6, cov, data, by=by).snr == base.snr


@pytest.mark.parametrize("by", ["cross-validation", "L-curve"])
def test_it_jits_vmaps_and_differentiates_in_the_measurements(problem, by):
    leadfield, cov, data = problem
    options = {"by": by, "tried": TRIED}
    batched = jax.jit(jax.vmap(lambda y: choose_snr(leadfield, cov, y, **options), 1))(data)
    for column, snr in zip(data.T, batched.snr):
        assert choose_snr(leadfield, cov, column, **options).snr == snr
    check_grads(lambda y: choose_snr(leadfield, cov, y, **options).score, (data,), order=1, rtol=1e-4)


@pytest.mark.parametrize("free", [False, True])
def test_float32_makes_nearly_the_same_choice(problem, free):
    leadfield, cov, data = problem
    leadfield = jnp.stack([leadfield, leadfield[:, ::-1], leadfield**2], -1) if free else leadfield
    exact = choose_snr(leadfield * 1e6, cov * 1e-12, data * 1e-6)
    single = choose_snr(*(jnp.float32(x) for x in (leadfield * 1e6, cov * 1e-12, data * 1e-6)))
    assert single.score.dtype == jnp.float32
    np.testing.assert_allclose(single.score, exact.score, rtol=1e-3)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (np.zeros(12), {}, "measurements are zero"),
        (np.ones(11), {}, "measurements must have shape"),
        (np.arange(12.0), {"by": "luck"}, "by must be"),
        (np.arange(12.0), {"tried": np.array([0.0, 1.0])}, "positive ratios"),
        (np.arange(12.0), {"depth": 3.0}, "depth"),
    ],
)
def test_what_says_nothing_is_refused(problem, data, options, message):
    with pytest.raises(ValueError, match=message):
        choose_snr(*problem[:2], data, **options)


def test_no_power_is_lost_where_few_sources_are_seen():
    rng, reference = np.random.default_rng(0), np.eye(8) - 1 / 8
    leadfield, measurements = reference @ rng.normal(size=(8, 1)), reference @ rng.normal(size=8)
    white = whitener(reference).matrix @ measurements
    power = spectrum_of(leadfield, reference, measurements).power
    np.testing.assert_allclose(power.sum(), white @ white, rtol=1e-9)
    with pytest.raises(ValueError, match="vector of positive ratios"):
        choose_snr(leadfield, reference, measurements, tried=[])
