import jax
import jax.numpy as jnp
import mne
import numpy as np
import pytest
from mne.inverse_sparse.mxne_optim import iterative_mixed_norm_solver, mixed_norm_solver

from jaxinv.inverse import ConvergenceError, lasso, mixed_norm, whitener

ORIENTATIONS = ["fixed", "free"]
N_SOURCES = 60


def make_problem(key, orientation, n_times=4):
    """Average-referenced random leadfield, coloured noise of one rank less, three sources in a window."""
    keys = jax.random.split(key, 4)
    n_orient = 1 if orientation == "fixed" else 3
    reference = jnp.eye(12) - 1 / 12
    leadfield = 300 * reference @ jax.random.normal(keys[0], (12, N_SOURCES * n_orient))
    root = 1e-7 * reference @ jax.random.normal(keys[1], (12, 200))
    current = jnp.zeros((N_SOURCES, n_orient, n_times))
    current = current.at[jnp.array([3, 20, 41])].set(
        1e-7 * jax.random.normal(keys[2], (3, n_orient, n_times))
    )
    noise = root @ jax.random.normal(keys[3], (200, n_times))
    data = leadfield @ current.reshape(-1, n_times) + noise
    if orientation == "free":
        leadfield = leadfield.reshape(12, N_SOURCES, 3)
    return leadfield, root @ root.T, data


@pytest.fixture(params=ORIENTATIONS)
def problem(key, request):
    return make_problem(key, request.param)


def white_arrays(leadfield, cov, data):
    """Gain and data as MNE-Python's solvers want them, scaled so that the smallest penalty is 100."""
    matrix = np.asarray(whitener(cov).matrix)
    white = matrix @ np.asarray(data).reshape(12, -1)
    gain = matrix @ np.asarray(leadfield).reshape(12, -1)
    unit = group_norms(gain.T @ white, leadfield).max() / 100
    return gain / unit, white, unit


def group_norms(rows, leadfield):
    return np.linalg.norm(np.asarray(rows).reshape(leadfield.shape[1], -1), axis=1)


def solve_with_mne(leadfield, cov, data, alpha, n_solves=1, debias=False):
    gain, white, unit = white_arrays(leadfield, cov, data)
    options = {"tol": 1e-12 * np.sum(white**2), "debias": debias, "n_orient": leadfield[0, 0].size}
    with mne.use_log_level("ERROR"):
        if n_solves == 1:
            value, active, _ = mixed_norm_solver(white, gain, 100 * alpha, solver="bcd", **options)
        else:
            value, active, _ = iterative_mixed_norm_solver(
                white, gain, 100 * alpha, n_solves, solver="bcd", **options
            )
    current = np.zeros((gain.shape[1], white.shape[1]))
    current[active] = value / unit
    return current.reshape(*leadfield.shape[1:], *data.shape[1:])


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.3, 0.7])
def test_it_agrees_with_mne_python_on_arrays(problem, alpha):
    leadfield, cov, data = problem
    expected = solve_with_mne(leadfield, cov, data, alpha)
    found = mixed_norm(leadfield, cov, alpha=alpha, tolerance=1e-12, max_active=40)(data).current
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    strong = group_norms(expected, leadfield) > 1e-3 * np.abs(expected).max()
    assert 0 < strong.sum() <= 40
    np.testing.assert_array_equal(group_norms(found, leadfield) > 5e-4 * np.abs(expected).max(), strong)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(("depth", "n_solves"), [(None, 1), (0.8, 1), (0.8, 4)])
def test_it_agrees_with_mne_python_on_its_own_objects(mne_problem, orientation, depth, n_solves):
    forwards, evoked, noise, reference = mne_problem
    leadfield = forwards[orientation]["sol"]["data"]
    if orientation == "free":
        leadfield = leadfield.reshape(19, 30, 3)
    with mne.use_log_level("ERROR"):
        dipoles = mne.inverse_sparse.mixed_norm(
            evoked,
            forwards[orientation],
            noise,
            alpha=30.0,
            loose=0.0 if orientation == "fixed" else 1.0,
            depth=depth,
            tol=1e-12,
            debias=False,
            n_mxne_iter=n_solves,
            solver="bcd",
            pick_ori=None if orientation == "fixed" else "vector",
        )
    expected = np.zeros((*leadfield.shape[1:], 3))
    expected[np.concatenate([np.atleast_1d(v) for v in dipoles.vertices])] = dipoles.data
    estimator = mixed_norm(
        leadfield, noise.data, alpha=0.3, depth=depth, tolerance=1e-12, n_reweightings=n_solves
    )
    found = estimator(reference @ evoked.data).current
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("n_solves", [2, 3, 10])
def test_reweighting_agrees_with_mne_python(problem, n_solves):
    leadfield, cov, data = problem
    expected = solve_with_mne(leadfield, cov, data, 0.1, n_solves)
    estimator = mixed_norm(leadfield, cov, alpha=0.1, tolerance=1e-12, n_reweightings=n_solves)
    found = estimator(data).current
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    alone = mixed_norm(leadfield, cov, alpha=0.1)(data).current
    assert (group_norms(found, leadfield) > 0).sum() <= (group_norms(alone, leadfield) > 0).sum()


def test_reweighting_finds_the_sources_and_stops_when_they_stay(problem):
    leadfield, cov, data = problem
    few, many = (
        mixed_norm(leadfield, cov, alpha=0.1, n_reweightings=n, tolerance=1e-9).solve(data)
        for n in (100, 10_000)
    )
    assert few.iterations == many.iterations
    assert set(np.flatnonzero(group_norms(few.current, leadfield))) == {3, 20, 41}


def fit(leadfield, cov, data, current):
    gain, white, unit = white_arrays(leadfield, cov, data)
    return np.linalg.norm(white - unit * gain @ np.asarray(current).reshape(-1, 4))


@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_debiasing_fits_no_worse_than_mne_python_and_as_well_as_it_can(problem, alpha):
    """Time courses are multiplied by factors of one or more; MNE-Python may end too early."""
    leadfield, cov, data = problem
    biased = mixed_norm(leadfield, cov, alpha=alpha, tolerance=1e-12)(data).current
    found = mixed_norm(leadfield, cov, alpha=alpha, tolerance=1e-12, debias=True)(data).current
    expected = solve_with_mne(leadfield, cov, data, alpha, debias=True)
    ours, theirs = (fit(leadfield, cov, data, x) for x in (found, expected))
    assert ours < theirs * (1 + 1e-9)
    if alpha == 0.5:
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())

    gain, white, unit = white_arrays(leadfield, cov, data)
    norms = group_norms(biased, leadfield)
    active = norms > 0
    factor = group_norms(found, leadfield)[active] / norms[active]
    assert (factor >= 1 - 1e-12).all()
    residual = white - unit * gain @ np.asarray(found).reshape(-1, 4)
    pull = np.sum((unit * gain.T @ residual * np.asarray(biased).reshape(-1, 4)).reshape(len(active), -1), 1)
    scale = np.sum(white**2)
    assert np.abs(pull[active][factor > 1 + 1e-9]).max() < 1e-9 * scale
    assert pull[active].max() < 1e-9 * scale


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.5])
def test_optimality_conditions_hold(problem, alpha):
    """‖A_sᵀ R‖ ≤ λ, and A_sᵀ R = λ X_s / ‖X_s‖ where X_s ≠ 0."""
    leadfield, cov, data = problem
    gain, white, unit = white_arrays(leadfield, cov, data)
    x = np.asarray(mixed_norm(leadfield, cov, alpha=alpha, tolerance=1e-13, max_active=50)(data).current)
    correlation = gain.T @ (white - unit * gain @ x.reshape(-1, 4)) / (100 * alpha)
    correlation = correlation.reshape(N_SOURCES, -1)
    norms = group_norms(x, leadfield)
    active = norms > 1e-6 * norms.max()
    assert group_norms(correlation, leadfield).max() <= 1 + 1e-5
    direction = x.reshape(N_SOURCES, -1)[active] / norms[active][:, None]
    np.testing.assert_allclose(correlation[active], direction, atol=1e-4)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("copies", [1, 2])
def test_gap_bounds_the_error_of_the_objective(problem, tolerance, copies):
    """Also where every source is there twice, and the minimiser is not unique."""
    leadfield, cov, data = problem
    gain, white, unit = white_arrays(leadfield, cov, data)

    def objective(x):
        residual = white - unit * gain @ np.asarray(x).reshape(-1, 4)
        return np.sum(residual**2) / 2 + 10 * unit * group_norms(x, leadfield).sum()

    best = objective(mixed_norm(leadfield, cov, alpha=0.1, tolerance=1e-13)(data).current)
    several = jnp.concatenate([leadfield] * copies, axis=1)
    solution = mixed_norm(several, cov, alpha=0.1, tolerance=tolerance, max_active=40).solve(data)
    assert solution.converged
    x = solution.current.reshape(copies, N_SOURCES, -1).sum(0)
    assert -1e-9 <= (objective(x) - best) / (np.sum(white**2) / 2) <= tolerance


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_one_topography_of_fixed_orientation_is_the_lasso(key, alpha):
    leadfield, cov, data = make_problem(key, "fixed")
    expected = lasso(leadfield, cov, alpha=alpha, tolerance=1e-12)(data[:, 0]).current
    found = mixed_norm(leadfield, cov, alpha=alpha, tolerance=1e-13)(data[:, 0]).current
    assert found.shape == (N_SOURCES,)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("n_times", [4, 30])
def test_rotating_time_rotates_the_current(key, n_times):
    """More time points than channels are first reduced, which is such a rotation."""
    leadfield, cov, data = make_problem(key, "free", n_times)
    rotation = jnp.linalg.qr(jax.random.normal(key, (n_times, n_times)))[0]
    estimator = mixed_norm(leadfield, cov, alpha=0.2, tolerance=1e-12, n_reweightings=2, debias=True)
    straight = estimator(data).current @ rotation
    np.testing.assert_allclose(estimator(data @ rotation).current, straight, atol=1e-6 * straight.max())
    silence = jnp.concatenate([data, jnp.zeros((12, 20))], axis=1)
    padded = estimator(silence).current
    np.testing.assert_allclose(padded[..., :n_times] @ rotation, straight, atol=1e-6 * straight.max())
    np.testing.assert_allclose(padded[..., n_times:], 0, atol=1e-9 * straight.max())


def test_rotating_the_axes_of_free_orientation_rotates_the_current(key):
    leadfield, cov, data = make_problem(key, "free")
    rotation = jnp.linalg.qr(jax.random.normal(key, (3, 3)))[0]
    straight = mixed_norm(leadfield, cov, alpha=0.2, depth=0.8, tolerance=1e-12)(data).current
    turned = mixed_norm(leadfield @ rotation, cov, alpha=0.2, depth=0.8, tolerance=1e-12)(data).current
    back = jnp.einsum("ij,sjt->sit", rotation, turned)
    np.testing.assert_allclose(back, straight, atol=1e-6 * np.abs(straight).max())


def test_units_and_the_size_of_the_data_do_not_matter(problem):
    leadfield, cov, data = problem
    base = mixed_norm(leadfield, cov, n_reweightings=2)(data).current
    microvolts = mixed_norm(1e6 * leadfield, 1e12 * cov, n_reweightings=2)(1e6 * data).current
    nanoamperes = mixed_norm(1e-9 * leadfield, cov, n_reweightings=2)(data).current
    np.testing.assert_allclose(microvolts, base, atol=1e-6 * np.abs(base).max())
    np.testing.assert_allclose(nanoamperes, 1e9 * base, atol=1e3 * np.abs(base).max())


def test_alpha_close_to_one_gives_almost_zero_and_beyond_is_refused(problem):
    leadfield, cov, data = problem
    current = mixed_norm(leadfield, cov, alpha=1 - 1e-6)(data).current
    assert (group_norms(current, leadfield) > 0).sum() <= 1
    half = mixed_norm(leadfield, cov, alpha=0.5)(data).current
    assert np.abs(current).max() < 1e-4 * np.abs(half).max()


def test_batch_and_single_problems_agree(problem):
    leadfield, cov, data = problem
    estimator = mixed_norm(leadfield, cov, alpha=0.1, tolerance=1e-10, n_reweightings=3, debias=True)
    series = jnp.stack([data, data[:, ::-1], 1e3 * data + data[::-1], jnp.zeros_like(data)])
    batch = jax.jit(jax.vmap(lambda e, y: e(y).current, (None, 0)))(estimator, series)
    for i in range(4):
        alone = estimator(series[i]).current
        np.testing.assert_allclose(batch[i], alone, atol=1e-5 * np.abs(alone).max())


def test_it_batches_over_alpha_and_leadfields(problem):
    leadfield, cov, data = problem
    alphas = jnp.array([0.1, 0.4])

    def solve(scale, alpha):
        return mixed_norm(leadfield * scale, cov, alpha=alpha)(data).current

    batch = jax.vmap(solve)(jnp.array([1.0, 2.0]), alphas)
    for i in range(2):
        alone = solve(1.0 + i, float(alphas[i]))
        np.testing.assert_allclose(batch[i], alone, atol=1e-4 * np.abs(alone).max())


@pytest.mark.parametrize("options", [{"max_iterations": 1}, {"max_active": 1}])
def test_what_does_not_converge_is_never_silent(problem, options):
    leadfield, cov, data = problem
    estimator = mixed_norm(leadfield, cov, alpha=0.05, tolerance=1e-12, **options)
    solution = estimator.solve(data)
    assert not solution.converged
    assert solution.gap > 1e-12
    assert np.isfinite(solution.current).all()
    with pytest.raises(ConvergenceError, match="max_active"):
        estimator(data)
    assert np.isnan(jax.jit(lambda e, y: e(y))(estimator, data).current).all()


def test_nan_measurements_are_refused_or_give_nan(problem):
    leadfield, cov, data = problem
    estimator = mixed_norm(leadfield, cov)
    broken = data.at[3, 1].set(jnp.nan)
    with pytest.raises(ValueError, match=r"measurements has 1 values.*\(3, 1\)"):
        estimator(broken)
    assert np.isnan(jax.jit(lambda e, y: e(y))(estimator, broken).current).all()


@pytest.mark.parametrize("depth", [None, 0.8])
def test_zero_measurements_and_blind_sources_give_zero(problem, depth):
    leadfield, cov, data = problem
    blind = mixed_norm(leadfield.at[:, 3].set(0), cov, depth=depth, n_reweightings=2, debias=True)
    assert not blind(data).current[3].any()
    silent = blind.solve(jnp.zeros((12, 2)))
    assert silent.converged
    assert not silent.current.any()


def test_float32_reaches_the_tolerance_and_the_same_current(problem):
    leadfield, cov, data = problem
    options = {"alpha": 0.2, "n_reweightings": 2}
    single = mixed_norm(leadfield.astype(jnp.float32), cov.astype(jnp.float32), tolerance=1e-5, **options)
    single = single.solve(data)
    double = mixed_norm(leadfield, cov, tolerance=1e-12, **options).solve(data)
    assert single.current.dtype == jnp.float32
    assert single.converged
    assert np.linalg.norm(single.current - double.current) < 2e-2 * np.linalg.norm(double.current)


@pytest.mark.parametrize(
    ("leadfield", "cov", "options", "message"),
    [
        (np.ones((3, 4, 2)), np.eye(3), {}, "leadfield must have shape"),
        (np.full((3, 4), np.nan), np.eye(3), {}, "not finite"),
        (np.zeros((3, 4)), np.eye(3), {}, "leadfield is zero"),
        (np.ones((3, 4)), np.eye(2), {}, "noise_cov must have shape"),
        (np.ones((3, 4)), np.eye(3), {"alpha": 0.0}, "alpha"),
        (np.ones((3, 4)), np.eye(3), {"alpha": 1.0}, "alpha"),
        (np.ones((3, 4)), np.eye(3), {"tolerance": -1.0}, "tolerance"),
        (np.ones((3, 4)), np.eye(3), {"max_iterations": 0}, "max_iterations"),
        (np.ones((3, 4)), np.eye(3), {"max_active": 0}, "max_active"),
        (np.ones((3, 4)), np.eye(3), {"n_reweightings": 0}, "n_reweightings"),
        (np.ones((3, 4)), np.eye(3), {"depth": 1.5}, "depth"),
    ],
)
def test_what_cannot_be_inverted_is_refused(leadfield, cov, options, message):
    with pytest.raises(ValueError, match=message):
        mixed_norm(leadfield, cov, **options)


def test_measurements_of_another_shape_are_refused(problem):
    leadfield, cov, _ = problem
    with pytest.raises(ValueError, match="12 channels"):
        mixed_norm(leadfield, cov)(np.ones(11))


def test_derivatives_are_those_of_what_was_found(key):
    """Forward-mode, through reweightings, against central differences, with most sources silent."""
    leadfield, cov, data = make_problem(key, "fixed")
    estimator = mixed_norm(leadfield, cov, alpha=0.3, tolerance=1e-12, n_reweightings=2)
    step = 0.2 * jax.random.normal(key, data.shape) * data

    def solve(share):
        return estimator.solve(data + share * step).current

    _, slope = jax.jvp(solve, (0.0,), (1.0,))
    central = (solve(1e-4) - solve(-1e-4)) / 2e-4
    np.testing.assert_allclose(slope, central, atol=1e-5 * np.abs(central).max())


def test_a_reweighting_that_leaves_nothing_is_zero():
    estimator = mixed_norm(np.eye(4), np.eye(4), alpha=0.9, n_reweightings=10)
    found = estimator.solve(np.array([3.0, 0, 0, 0]))
    assert found.converged
    assert not found.current.any()
