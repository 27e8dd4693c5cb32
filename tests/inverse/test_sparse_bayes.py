import jax
import jax.numpy as jnp
import mne
import numpy as np
import pytest
import scipy.stats
from mne.inverse_sparse._gamma_map import _gamma_map_opt

from jaxinv.inverse import ConvergenceError, sparse_bayes, whitener

UPDATES = ["EM", "MacKay", "Champagne", "LowSNR-BSI"]


def make_problem(free=False):
    """Average-referenced random leadfield of 200 sources, two active, coloured noise of one rank less."""
    rng = np.random.default_rng(0)
    reference = np.eye(12) - 1 / 12
    leadfield = 300 * np.tensordot(reference, rng.normal(size=(12, 200, 3) if free else (12, 200)), 1)
    root = 1e-7 * reference @ (np.eye(12) + 0.2 * rng.normal(size=(12, 12)))
    current = np.zeros((*leadfield.shape[1:], 6))
    current[[30, 150]] = 1e-8 * rng.normal(size=current[[30, 150]].shape)
    data = np.tensordot(leadfield, current, current.ndim - 1) + root @ rng.normal(size=(12, 6))
    return leadfield, root @ root.T, data


@pytest.mark.parametrize(
    ("update", "mode", "free"), [("MacKay", 1, False), ("Champagne", 2, False), ("MacKay", 1, True)]
)
def test_it_agrees_with_mne_python(update, mode, free):
    """MNE-Python divides the step of a group of three by three, as if the data's power were a third.

    Its other rule adds the roots of the three powers in a group, which bounds no evidence: not compared.
    """
    group = 3 if free else 1
    leadfield, cov, data = make_problem(free)
    options = {"update": update, "tolerance": 1e-9, "pruning": 1e-12, "max_iterations": 100_000}
    solution = sparse_bayes(leadfield, cov, **options).solve(data)
    assert solution.converged
    matrix = np.asarray(whitener(cov).matrix)
    gain, white = matrix @ leadfield.reshape(12, -1), np.sqrt(group) * matrix @ data
    with mne.use_log_level("ERROR"):
        found, active = _gamma_map_opt(
            white, gain, 1.0, tol=1e-10, maxit=20_000, update_mode=mode, group_size=3 if free else 1
        )
    expected = np.zeros((gain.shape[1], 6))
    expected[active] = found / np.sqrt(group)
    current = np.asarray(solution.current).reshape(-1, 6)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(current, expected, atol=1e-4 * scale)
    strong = np.abs(expected).max(1) > 1e-3 * scale
    np.testing.assert_array_equal(np.abs(current).max(1) > 1e-3 * scale, strong)
    assert strong.sum() < 40


@pytest.mark.parametrize("update", ["EM", "MacKay", "Champagne"])
def test_orthonormal_leadfield_has_a_closed_form(update):
    """L = I and C = I: the variance is the mean power less the noise, or zero."""
    data = np.random.default_rng(1).normal(size=(20, 4)) * np.linspace(0.5, 4, 20)[:, None]
    options = {"update": update, "tolerance": 1e-9, "max_iterations": 200_000, "pruning": 1e-9}
    solution = sparse_bayes(np.eye(20), np.eye(20), **options).solve(data)
    variance = np.maximum(np.mean(data**2, axis=1) - 1, 0)
    atol = 2e-4 if update == "EM" else 1e-4  # variances that go to zero do so like one over the iterations
    np.testing.assert_allclose(solution.variance, variance, atol=atol)
    shrinkage = (variance / (1 + variance))[:, None]
    np.testing.assert_allclose(solution.current, shrinkage * data, atol=1e-3)
    np.testing.assert_allclose(solution.std[:, :1] ** 2, shrinkage, atol=1e-3)


def test_lowsnr_bsi_on_an_orthonormal_leadfield_has_a_closed_form():
    """v + p / (1 + v) is smallest at v = √p − 1, or zero."""
    data = np.random.default_rng(1).normal(size=(20, 4)) * np.linspace(0.5, 4, 20)[:, None]
    solution = sparse_bayes(np.eye(20), np.eye(20), update="LowSNR-BSI", tolerance=1e-9).solve(data)
    expected = np.maximum(np.sqrt(np.mean(data**2, axis=1)) - 1, 0)
    np.testing.assert_allclose(solution.variance, expected, atol=1e-4)


@pytest.mark.parametrize("learn_noise", [False, "homoscedastic", "heteroscedastic"])
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("update", ["EM", "Champagne", "LowSNR-BSI"])
def test_the_cost_never_rises(update, free, learn_noise):
    if update == "LowSNR-BSI" and learn_noise:
        pytest.skip("takes the noise as given")
    leadfield, cov, data = make_problem(free)
    estimator = sparse_bayes(
        leadfield, cov, update=update, learn_noise=learn_noise, pruning=0, tolerance=1e-12
    )
    steps = [0, 1, 2, 3, 4, 6, 10, 20, 50, 100]
    costs = [estimator.replace(max_iterations=jnp.int32(n)).solve(data).cost for n in steps]
    assert np.isfinite(costs).all()
    assert (np.diff(costs) < 1e-10).all()
    assert costs[-1] < costs[0] - 1


@pytest.mark.parametrize("learn_noise", [False, "homoscedastic", "heteroscedastic"])
def test_cost_mean_and_deviation_are_those_of_the_gaussian(learn_noise):
    """Of (y, x) with the variances found, by dense formulas without whitening."""
    rng = np.random.default_rng(2)
    leadfield, root = rng.normal(size=(6, 10)), rng.normal(size=(6, 6))
    cov, data = root @ root.T, rng.normal(size=(6, 30))
    solution = sparse_bayes(leadfield, cov, learn_noise=learn_noise, max_iterations=7).solve(data)
    prior = np.diag(solution.variance)
    total = leadfield @ prior @ leadfield.T + solution.noise_cov
    density = scipy.stats.multivariate_normal(np.zeros(6), total).logpdf(data.T).mean()
    np.testing.assert_allclose(solution.cost, -density - np.linalg.slogdet(cov)[1] / 2, rtol=1e-9)
    kernel = prior @ leadfield.T @ np.linalg.inv(total)
    np.testing.assert_allclose(solution.current, kernel @ data, atol=1e-9)
    posterior = np.sqrt(np.maximum(np.diag(prior - kernel @ leadfield @ prior), 0))
    np.testing.assert_allclose(solution.std[:, 3], posterior, atol=1e-7)
    if not learn_noise:
        np.testing.assert_allclose(solution.noise_cov, cov, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("update", ["EM", "Champagne"])
def test_noise_variance_is_learned(update):
    """One source, that is silent, 4,000 samples: the noise is their covariance, of the given kind."""
    rng = np.random.default_rng(3)
    reference = np.eye(8) - 1 / 8
    deviation = np.linspace(0.5, 2, 8)
    data = reference @ (deviation[:, None] * rng.normal(size=(8, 4000)))
    leadfield = reference @ rng.normal(size=(8, 1))
    options = {"update": update, "tolerance": 1e-7, "pruning": 0}
    each = sparse_bayes(leadfield, reference, learn_noise="heteroscedastic", **options).solve(data)
    expected = reference @ np.diag(deviation**2) @ reference
    np.testing.assert_allclose(each.noise_cov, expected, atol=0.15)
    one = sparse_bayes(leadfield, reference, learn_noise="homoscedastic", **options).solve(data)
    # The source explains a little of noise that is not of the given kind.
    np.testing.assert_allclose(one.noise_cov, reference * np.mean(np.sum(data**2, 0)) / 7, atol=0.06)


def test_a_wrong_noise_level_does_not_matter_when_it_is_learned():
    leadfield, cov, _ = make_problem()
    rng = np.random.default_rng(4)
    leadfield = leadfield[:, 30:33]
    noise = np.linalg.cholesky(cov + 1e-9 * np.trace(cov) * np.eye(12)) @ rng.normal(size=(12, 100))
    data = noise + 1e-8 * leadfield[:, :1] * rng.normal(size=100)
    levels = [
        sparse_bayes(leadfield, scale * cov, learn_noise="homoscedastic", tolerance=1e-8)
        .solve(data)
        .noise_cov
        for scale in (0.3, 3.0)
    ]
    np.testing.assert_allclose(levels[0], levels[1], atol=0.05 * np.abs(levels[0]).max())


@pytest.mark.parametrize("update", ["EM", "MacKay", "Champagne"])
@pytest.mark.parametrize("free", [False, True])
def test_noiseless_sources_are_found(update, free):
    leadfield, cov, _ = make_problem(free)
    rng = np.random.default_rng(5)
    moment = 1e-7 * rng.normal(size=(2, 3, 8) if free else (2, 8))
    data = np.tensordot(leadfield[:, [30, 150]], moment, moment.ndim - 1)
    solution = sparse_bayes(leadfield, cov, update=update, tolerance=1e-3).solve(data)
    strongest = np.sort(np.argsort(solution.variance)[-2:])
    np.testing.assert_array_equal(strongest, [30, 150])
    atol = (0.3 if update == "EM" else 0.02) * np.abs(moment).max()
    np.testing.assert_allclose(solution.current[strongest], moment, atol=atol)


@pytest.mark.parametrize("update", UPDATES)
def test_volts_and_microvolts_give_the_same_current(update):
    leadfield, cov, data = make_problem()
    options = {"update": update, "max_iterations": 30}
    base = sparse_bayes(leadfield, cov, **options).solve(data)
    other = sparse_bayes(1e3 * leadfield, 1e12 * cov, **options).solve(1e6 * data)
    scale = np.abs(base.current).max()
    np.testing.assert_allclose(other.current, 1e3 * base.current, atol=1e-6 * 1e3 * scale)
    np.testing.assert_allclose(other.cost, base.cost, rtol=1e-9)


def test_many_samples_count_by_their_second_moments_alone():
    """60 samples, more than channels, in another order and rotated, give the same variances."""
    leadfield, cov, data = make_problem()
    rng = np.random.default_rng(6)
    rotation = np.linalg.qr(rng.normal(size=(60, 60)))[0]
    series = data @ rng.normal(size=(6, 60))
    estimator = sparse_bayes(leadfield, cov, max_iterations=40)
    first, second = estimator.solve(series), estimator.solve(series @ rotation)
    np.testing.assert_allclose(second.variance, first.variance, atol=1e-6 * first.variance.max())
    scale = np.abs(first.current).max()
    np.testing.assert_allclose(second.current, first.current @ rotation, atol=1e-6 * scale)


@pytest.mark.parametrize("free", [False, True])
def test_batch_and_single_measurements_agree(free):
    leadfield, cov, data = make_problem(free)
    estimator = sparse_bayes(leadfield, cov, update="MacKay", tolerance=1e-2)
    batch = jax.jit(jax.vmap(lambda e, y: e(y), (None, 1)))(estimator, data)
    for i in range(6):
        alone = estimator(data[:, i])
        assert alone.current.shape == alone.std.shape == leadfield.shape[1:]
        scale = np.abs(alone.current).max()
        np.testing.assert_allclose(batch.current[i], alone.current, atol=1e-6 * scale)
        np.testing.assert_allclose(batch.std[i], alone.std, atol=1e-6 * scale)
    series = estimator(data)
    assert series.current.shape == series.std.shape == (*leadfield.shape[1:], 6)


def test_what_does_not_converge_is_never_silent():
    leadfield, cov, data = make_problem()
    estimator = sparse_bayes(leadfield, cov, tolerance=1e-12, max_iterations=5)
    solution = estimator.solve(data)
    assert not solution.converged
    assert solution.iterations == 5
    assert np.isfinite(solution.current).all()
    with pytest.raises(ConvergenceError, match="raise max_iterations"):
        estimator(data)
    silent = jax.jit(lambda e, y: e(y))(estimator, data)
    assert np.isnan(silent.current).all()
    assert np.isnan(silent.std).all()


@pytest.mark.parametrize("update", UPDATES)
def test_zero_measurements_and_blind_sources_give_zero(update):
    leadfield, cov, data = make_problem()
    leadfield[:, 5] = 0
    estimator = sparse_bayes(leadfield, cov, update=update, tolerance=1e-2)
    assert not estimator.solve(data).current[5].any()
    silent = estimator(np.zeros((12, 2)))
    assert not silent.current.any()


@pytest.mark.parametrize("learn_noise", [False, "heteroscedastic"])
def test_float32_gives_the_same_current(learn_noise):
    leadfield, cov, data = make_problem()
    options = {"learn_noise": learn_noise, "max_iterations": 20}
    single = sparse_bayes(np.float32(leadfield), np.float32(cov), **options).solve(data)
    double = sparse_bayes(leadfield, cov, **options).solve(data)
    assert single.current.dtype == jnp.float32
    assert np.linalg.norm(single.current - double.current) < 1e-2 * np.linalg.norm(double.current)


def test_derivatives_are_finite_and_those_of_what_was_reached():
    """Fewer sources than channels are left, most of them at zero."""
    leadfield, cov, data = make_problem()
    estimator = sparse_bayes(leadfield, cov, tolerance=1e-9, max_iterations=100_000)
    change = np.random.default_rng(3).normal(size=data.shape) * np.abs(data).max()

    def solve(y):
        solution = estimator.solve(y)
        return solution.current, solution.std

    _, found = jax.jvp(solve, (jnp.asarray(data),), (jnp.asarray(change),))
    above, below = (solve(data + sign * 1e-4 * change) for sign in (1, -1))
    for tangent, high, low in zip(found, above, below):
        expected = (high - low) / 2e-4
        assert np.linalg.norm(tangent - expected) < 1e-2 * np.linalg.norm(expected)


def test_measurements_without_a_number_end_at_once():
    leadfield, cov, data = make_problem()
    solution = jax.jit(sparse_bayes(leadfield, cov).solve)(np.full_like(data, np.nan))
    assert solution.iterations < 3
    assert not solution.converged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update": "gamma"}, "gamma"),
        ({"learn_noise": "all"}, "all"),
        ({"learn_noise": "homoscedastic", "update": "LowSNR-BSI"}, "LowSNR-BSI takes the noise as given"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"pruning": 1.0}, "pruning"),
        ({"max_iterations": 0}, "max_iterations"),
    ],
)
def test_what_cannot_be_done_is_refused(options, message):
    leadfield, cov, _ = make_problem()
    with pytest.raises(ValueError, match=message):
        sparse_bayes(leadfield, cov, **options)


def test_measurements_that_do_not_fit_are_refused():
    leadfield, cov, data = make_problem()
    with pytest.raises(ValueError, match="12 channels"):
        sparse_bayes(leadfield, cov)(data[1:])
    data[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"measurements has 1 values.*\(3, 1\)"):
        sparse_bayes(leadfield, cov)(data)
