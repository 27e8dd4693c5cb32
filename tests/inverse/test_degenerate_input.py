"""What every estimator does with input at the edge of sense."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import inverse

N_CHANNELS, N_SIDE, N_TIMES = 12, 6, 40
BLIND = 7  # the source that no channel sees


def surface():
    """Positions and triangles of 36 sources."""
    index = np.arange(N_SIDE**2).reshape(N_SIDE, N_SIDE)
    a, b, c, d = (x.ravel() for x in (index[:-1, :-1], index[1:, :-1], index[:-1, 1:], index[1:, 1:]))
    grid = np.stack([*np.indices((N_SIDE, N_SIDE)), np.zeros((N_SIDE, N_SIDE))], -1)
    return 5e-3 * grid.reshape(-1, 3), np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])


def minimum_norm(method, **options):
    return lambda leadfield, noise_cov, data: inverse.minimum_norm(
        leadfield, noise_cov, method=method, **options
    )


ESTIMATORS = {
    "MNE": minimum_norm("MNE"),
    "MNE, depth": minimum_norm("MNE", depth=0.8),
    "dSPM": minimum_norm("dSPM"),
    "sLORETA": minimum_norm("sLORETA"),
    "eLORETA": minimum_norm("eLORETA"),
    "LORETA": lambda leadfield, noise_cov, data: inverse.loreta(leadfield, noise_cov, surface()[1]),
    "LORETA, depth": lambda leadfield, noise_cov, data: inverse.loreta(
        leadfield, noise_cov, surface()[1], depth=0.8
    ),
    "Gaussian process": lambda leadfield, noise_cov, data: inverse.gaussian_process(
        leadfield, noise_cov, *surface()
    ),
    "Gaussian process, depth": lambda leadfield, noise_cov, data: inverse.gaussian_process(
        leadfield, noise_cov, *surface(), depth=0.8
    ),
    "lasso": lambda leadfield, noise_cov, data: inverse.lasso(leadfield, noise_cov, tolerance=1e-9),
    "MxNE": lambda leadfield, noise_cov, data: inverse.mixed_norm(leadfield, noise_cov, tolerance=1e-9),
    "irMxNE": lambda leadfield, noise_cov, data: inverse.mixed_norm(
        leadfield, noise_cov, tolerance=1e-9, n_reweightings=5
    ),
    "gamma-MAP": lambda leadfield, noise_cov, data: inverse.sparse_bayes(
        leadfield, noise_cov, tolerance=1e-3, max_iterations=3000
    ),
    "LCMV": lambda leadfield, noise_cov, data: inverse.lcmv(
        leadfield, data @ data.T / data.shape[1], noise_cov, reg=0
    ),
    "MUSIC": lambda leadfield, noise_cov, data: inverse.music(leadfield, noise_cov, n_dipoles=2),
    "RAP-MUSIC": lambda leadfield, noise_cov, data: inverse.rap_music(leadfield, noise_cov, n_dipoles=2),
    "TRAP-MUSIC": lambda leadfield, noise_cov, data: inverse.trap_music(leadfield, noise_cov, n_dipoles=2),
}
CASES = [(name, False) for name in ESTIMATORS]
FREE = ("MNE, depth", "sLORETA", "eLORETA", "Gaussian process", "MxNE", "gamma-MAP", "LCMV", "RAP-MUSIC")
CASES += [(name, True) for name in FREE]
UNWEIGHTED = [case for case in CASES if not case[0].endswith("depth")]
NEIGHBOURS = [ESTIMATORS[name] for name in ESTIMATORS if name.startswith(("LORETA", "Gaussian process"))]


def named(case):
    return f"{case[0]}-{'free' if case[1] else 'fixed'}"


@pytest.fixture(params=CASES, ids=named)
def case(request):
    """A builder, and leadfield, noise covariance and measurements without a reference."""
    name, free = request.param
    rng = np.random.default_rng(0)
    leadfield = rng.normal(size=(N_CHANNELS, N_SIDE**2, 3))
    leadfield[:, BLIND] = 0
    root = rng.normal(size=(N_CHANNELS, 30))
    current = np.zeros((N_SIDE**2, 3, N_TIMES))
    current[[3, 20]] = rng.normal(size=(2, 1, N_TIMES)) * [[[1.0], [0.5], [0.2]]]
    if not free:
        current[:, 1:] = 0
    noise_cov = root @ root.T / 30
    noise = 0.2 * np.linalg.cholesky(noise_cov) @ rng.normal(size=(N_CHANNELS, N_TIMES))
    data = np.einsum("csx,sxt->ct", leadfield, current) + noise
    return ESTIMATORS[name], leadfield if free else leadfield[..., 0], noise_cov, data


def averaged(leadfield, noise_cov, data):
    """All three referenced to their average."""
    reference = np.eye(len(data)) - 1 / len(data)
    return np.tensordot(reference, leadfield, 1), reference @ noise_cov @ reference, reference @ data


def estimate(build, leadfield, noise_cov, data):
    return np.asarray(build(leadfield, noise_cov, data)(data).current)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_an_excluded_channel_is_as_if_it_were_not_there(case):
    """However wild it is, and though the average of all channels holds it."""
    build, leadfield, noise_cov, data = case
    kept = np.delete(np.arange(N_CHANNELS), 4)
    wild = data.copy()
    wild[4] = 1e3 * np.random.default_rng(1).normal(size=N_TIMES)
    full_leadfield, full_cov, full_data = averaged(leadfield, noise_cov, wild)
    found = estimate(build, full_leadfield, inverse.exclude_channels(full_cov, [4]), full_data)
    few = averaged(leadfield[kept], noise_cov[np.ix_(kept, kept)], data[kept])
    assert_close(found, estimate(build, *few))


@pytest.mark.parametrize("case", UNWEIGHTED, ids=named, indirect=True)
def test_a_channel_twice_is_as_if_it_were_there_once(case):
    """But for depth weights, which are norms over channels, as MNE-Python's are."""
    build, leadfield, noise_cov, data = case
    twice = np.append(np.arange(N_CHANNELS), 4)
    found = estimate(build, leadfield[twice], noise_cov[np.ix_(twice, twice)], data[twice])
    assert_close(found, estimate(build, leadfield, noise_cov, data))


def test_a_projected_covariance_loses_what_was_projected(case):
    """Measurements along two lost directions change nothing."""
    build, leadfield, noise_cov, data = case
    lost = np.linalg.qr(np.random.default_rng(2).normal(size=(N_CHANNELS, 2)))[0]
    projector = np.eye(N_CHANNELS) - lost @ lost.T
    cov = projector @ noise_cov @ projector
    estimator = build(np.tensordot(projector, leadfield, 1), cov, projector @ data)
    expected = np.asarray(estimator(projector @ data).current)
    assert_close(np.asarray(estimator(projector @ data + lost @ np.ones((2, N_TIMES))).current), expected)


def test_zeros_give_zeros(case):
    build, leadfield, noise_cov, data = case
    estimator = build(*averaged(leadfield, noise_cov, data))
    assert not np.asarray(estimator(np.zeros_like(data)).current).any()


def test_a_source_that_no_channel_sees_is_silent(case):
    """Or, where neighbours are alike, what its neighbours say; nothing is infinite."""
    build, leadfield, noise_cov, data = case
    found = estimate(build, *averaged(leadfield, noise_cov, data))
    assert np.isfinite(found).all()
    if build not in NEIGHBOURS:
        assert not found[BLIND].any()


def test_what_is_not_finite_is_refused_before_any_work(case):
    build, leadfield, noise_cov, data = case
    estimator = build(*averaged(leadfield, noise_cov, data))
    for bad in (np.nan, np.inf):
        spoilt = data.copy()
        spoilt[3, 5] = bad
        with pytest.raises(ValueError, match=r"measurements has 1 values that are not finite.*\(3, 5\)"):
            estimator(spoilt)
    with pytest.raises(ValueError, match="measurements is complex"):
        estimator(data + 1j)
    with pytest.raises(ValueError, match="have no sample"):
        estimator(data[:, :0])
    leadfield = leadfield.copy()
    leadfield[2, 1] = np.nan
    with pytest.raises(ValueError, match="leadfield has"):
        build(leadfield, noise_cov, data)


def test_under_a_transformation_only_spoilt_samples_are_spoilt():
    """Of linear methods; values cannot be looked at there."""
    estimator = inverse.LinearEstimator(jnp.ones((5, N_CHANNELS)))
    data = jnp.ones((N_CHANNELS, 3)).at[2, 1].set(jnp.nan)
    found = jax.jit(lambda e, y: e(y).current)(estimator, data)
    np.testing.assert_array_equal(np.isnan(found).any(axis=0), [False, True, False])


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("method", [inverse.rap_music, inverse.trap_music])
def test_under_a_transformation_a_spoilt_scan_finds_nothing(method, free):
    leadfield = np.random.default_rng(0).normal(size=(N_CHANNELS, 20, 3))
    estimator = method(leadfield if free else leadfield[..., 0], np.eye(N_CHANNELS), n_dipoles=2)
    data = jnp.ones((N_CHANNELS, 3)).at[2, 1].set(jnp.nan)
    assert np.isnan(jax.jit(lambda e, y: e(y).current)(estimator, data)).all()


@pytest.mark.parametrize("by", ["cross-validation", "L-curve"])
@pytest.mark.parametrize("value", [jnp.nan, 0.0])
def test_under_a_transformation_no_ratio_is_chosen_by_nothing(by, value):
    leadfield = np.random.default_rng(0).normal(size=(N_CHANNELS, 20))
    choose = jax.jit(lambda y: inverse.choose_snr(leadfield, np.eye(N_CHANNELS), y, by=by).snr)
    assert np.isnan(choose(jnp.full(N_CHANNELS, value)))


class Recording:
    """A series that is read in blocks; it notes how much was asked for at once."""

    def __init__(self, data):
        self.data, self.shape, self.most = data, data.shape, 0

    def __getitem__(self, index):
        part = self.data[index]
        self.most = max(self.most, part.shape[1])
        return part


@pytest.mark.parametrize("size", [7, 40, 1000])
def test_a_long_series_is_estimated_in_blocks(size):
    rng = np.random.default_rng(0)
    estimator = inverse.minimum_norm(rng.normal(size=(N_CHANNELS, 20)), np.eye(N_CHANNELS))
    series = Recording(rng.normal(size=(N_CHANNELS, 100)))
    found = np.full((20, 100), np.nan)
    for block, part in inverse.in_blocks(estimator, series, size):
        found[:, block] = part.current
    np.testing.assert_allclose(found, estimator(series.data).current, atol=1e-12)
    assert series.most <= size
    for bad in (0, 2.5):
        with pytest.raises(ValueError, match="size must be a whole number, 1 or more"):
            next(inverse.in_blocks(estimator, series, bad))
    with pytest.raises(ValueError, match=r"measurements must have shape \(channel, time\)"):
        next(inverse.in_blocks(estimator, series.data[:, 0], size))


def test_no_block_is_much_shorter_than_the_others():
    """MUSIC needs as many samples as dipoles."""
    rng = np.random.default_rng(0)
    estimator = inverse.music(rng.normal(size=(N_CHANNELS, 20)), np.eye(N_CHANNELS), n_dipoles=3)
    blocks = [block for block, _ in inverse.in_blocks(estimator, rng.normal(size=(N_CHANNELS, 40)), 13)]
    assert [block.stop - block.start for block in blocks] == [10, 10, 10, 10]


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ([12], "must be indices of the 12"),
        ([-1], "must be indices"),
        ([1.5], "must be indices"),
        (["Fp1"], "must be indices"),
        ([True, False], "must be indices"),
        (range(11), "1 of 12"),
    ],
)
def test_channels_that_cannot_be_excluded(channels, message):
    with pytest.raises(ValueError, match=message):
        inverse.exclude_channels(np.eye(N_CHANNELS), channels)


@pytest.mark.parametrize("build", [
    lambda leadfield, cov: inverse.loreta(leadfield, cov, None),
    lambda leadfield, cov: inverse.gaussian_process(leadfield, cov, np.zeros((20, 3)), None),
])  # fmt: skip
def test_sources_without_triangles_are_refused(build):
    with pytest.raises(ValueError, match="is None: the sources have no triangles"):
        build(np.ones((N_CHANNELS, 20)), np.eye(N_CHANNELS))


def test_channels_may_be_excluded_by_a_mask():
    cov, mask = np.eye(N_CHANNELS), np.arange(N_CHANNELS) % 5 == 3
    expected = inverse.exclude_channels(cov, [3, 8])
    np.testing.assert_array_equal(inverse.exclude_channels(cov, mask), expected)
    np.testing.assert_array_equal(
        inverse.exclude_channels(cov, np.zeros(0, int)), inverse.exclude_channels(cov, [])
    )


def test_channels_without_a_common_reference_are_left_as_they_are():
    cov = inverse.exclude_channels(2 * np.eye(4), [1], rereference=False)
    np.testing.assert_array_equal(cov, 2 * np.diag([1.0, 0, 1, 1]))


def test_integers_are_refused(case):
    build, leadfield, noise_cov, data = case
    with pytest.raises(ValueError, match=r"give leadfield\.astype\(float\)"):
        build(np.round(9 * leadfield).astype(int), noise_cov, data)
    with pytest.raises(ValueError, match=r"give noise_cov\.astype\(float\)"):
        build(leadfield, np.eye(N_CHANNELS, dtype=int), data)
