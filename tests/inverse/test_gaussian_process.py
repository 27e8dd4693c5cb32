import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gamma, kv

from jaxinv.inverse import MaternCorrelation, gaussian_process, minimum_norm


def sheet(n, step):
    """A triangulated square of n × n points."""
    index = np.arange(n * n).reshape(n, n)
    a, b, c, d = (x.ravel() for x in (index[:-1, :-1], index[1:, :-1], index[:-1, 1:], index[1:, 1:]))
    positions = np.stack([*np.meshgrid(range(n), range(n), indexing="ij"), np.zeros((n, n))], -1)
    return step * positions.reshape(-1, 3), np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])


def noise_of(key, n_channels):
    """An average-referenced noise covariance, and the reference."""
    reference = np.eye(n_channels) - 1 / n_channels
    root = reference @ np.asarray(jax.random.normal(key, (n_channels, 2 * n_channels)))
    return root @ root.T / n_channels, reference


@pytest.fixture
def problem(key):
    positions, faces = sheet(7, 2e-3)
    noise_cov, reference = noise_of(key, 10)
    leadfield = np.tensordot(reference, jax.random.normal(jax.random.key(1), (10, 49, 3)), 1)
    return leadfield, noise_cov, positions, faces


@pytest.mark.parametrize("smoothness", [1, 2, 3])
def test_far_from_edges_it_is_the_matern_correlation(smoothness):
    positions, faces = sheet(61, 1e-3)
    middle = 30 * 61 + 30
    column = np.zeros((61 * 61, 1))
    column[middle] = 1
    found = MaternCorrelation(positions, faces, length=6e-3, smoothness=smoothness).times(column)[:, 0]
    distance = np.linalg.norm(positions - positions[middle], axis=1)
    scaled = np.sqrt(2 * smoothness) * np.where(distance > 0, distance, 1e-9) / 6e-3
    expected = 2 ** (1 - smoothness) / gamma(smoothness) * scaled**smoothness * kv(smoothness, scaled)
    near = distance < 15e-3
    assert np.abs(found - expected)[near].max() < 0.03


@pytest.mark.parametrize("smoothness", [1, 2, 3])
def test_it_is_a_correlation_matrix_with_an_independent_lonely_vertex(smoothness):
    positions, faces = sheet(6, 1e-3)
    positions = np.concatenate([positions, [[1.0, 1.0, 1.0]]])
    found = MaternCorrelation(positions, faces, length=2e-3, smoothness=smoothness).times(np.eye(37))
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-12)
    assert np.linalg.eigvalsh(found)[0] > 0
    np.testing.assert_allclose(found[36], np.eye(37)[36], atol=1e-12)


def test_distance_is_along_the_surface():
    """Two sheets, close together in space, that do not touch."""
    positions, faces = sheet(6, 1e-3)
    both = np.concatenate([positions, positions + np.array([0, 0, 1e-5])])
    found = MaternCorrelation(both, np.concatenate([faces, faces + 36]), length=3e-3).times(np.eye(72))
    np.testing.assert_allclose(found[:36, 36:], 0, atol=1e-12)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("prior", [{}, {"depth": 0.8}, {"source_variance": np.arange(49.0)}])
def test_without_correlation_it_is_the_minimum_norm(problem, free, prior):
    leadfield, noise_cov, positions, faces = problem
    leadfield = leadfield if free else leadfield[..., 0]
    found = gaussian_process(leadfield, noise_cov, positions, faces, length=0, snr=2.0, **prior)
    expected = minimum_norm(leadfield, noise_cov, snr=2.0, **prior).kernel
    np.testing.assert_allclose(found.kernel, expected, atol=1e-10 * np.abs(expected).max())
    short = gaussian_process(leadfield, noise_cov, positions, faces, length=1e-7, snr=2.0, **prior)
    np.testing.assert_allclose(short.kernel, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("free", [False, True])
def test_mean_and_deviation_are_those_of_the_joint_normal_distribution(problem, free, key):
    """By conditioning in the space of sources, with the dense covariance."""
    leadfield, noise_cov, positions, faces = problem
    leadfield = leadfield if free else leadfield[..., :1]
    n_orientations = leadfield.shape[2]
    found = gaussian_process(
        leadfield if free else leadfield[..., 0], noise_cov, positions, faces,
        length=4e-3, smoothness=2, snr=2.0, depth=0.5,
    )  # fmt: skip
    amplitude = np.asarray(found.prior_std).reshape(49, n_orientations)[:, 0]
    correlation = MaternCorrelation(positions, faces, length=4e-3, smoothness=2).times(np.eye(49))
    prior = np.kron(amplitude[:, None] * correlation * amplitude, np.eye(n_orientations))
    gain = leadfield.reshape(10, -1)
    signal = gain @ prior @ gain.T
    np.testing.assert_allclose(np.trace(np.linalg.pinv(noise_cov) @ signal), 4 * 9, rtol=1e-9)
    weights = prior @ gain.T @ np.linalg.pinv(signal + noise_cov, rcond=1e-10)
    data = gain @ np.asarray(jax.random.normal(key, (gain.shape[1], 3)))
    estimate = found(data)
    shape = estimate.current.shape
    np.testing.assert_allclose(estimate.current, (weights @ data).reshape(shape), atol=1e-9)
    std = np.sqrt(np.diag(prior - weights @ gain @ prior)).reshape(*shape[:-1], 1)
    np.testing.assert_allclose(estimate.std, np.broadcast_to(std, shape), atol=1e-9)
    assert (found.std < found.prior_std).all()


def test_the_evidence_is_a_ratio_of_densities(problem):
    leadfield, noise_cov, positions, faces = problem
    found = gaussian_process(leadfield, noise_cov, positions, faces, length=4e-3, snr=2.0)
    data = leadfield[:, :3, 0] + noise_cov[:, :3]
    basis = np.linalg.eigh(noise_cov)[1][:, 1:]
    colouring = np.linalg.pinv(found.whitener)
    signal = colouring @ found.signal_cov @ colouring.T

    def log_density(covariance):
        inside = basis.T @ covariance @ basis
        quadratic = np.sum((basis.T @ data) * np.linalg.solve(inside, basis.T @ data))
        return -(quadratic + 3 * np.linalg.slogdet(inside)[1]) / 2

    expected = log_density(signal + noise_cov) - log_density(noise_cov)
    np.testing.assert_allclose(found.log_evidence(data), expected, rtol=1e-9)


def test_the_evidence_finds_the_length_of_a_field(key):
    positions, faces = sheet(15, 2e-3)
    noise_cov, reference = noise_of(key, 60)
    leadfield = reference @ np.asarray(jax.random.normal(jax.random.key(1), (60, 225)))
    correlation = MaternCorrelation(positions, faces, length=6e-3).times(np.eye(225))
    fields = np.linalg.cholesky(correlation) @ np.asarray(jax.random.normal(jax.random.key(2), (225, 40)))
    data = leadfield @ fields + noise_cov @ np.asarray(jax.random.normal(key, (60, 40)))
    lengths = [0, 2e-3, 6e-3, 20e-3]
    ratio = np.sqrt(np.trace(np.linalg.pinv(noise_cov) @ leadfield @ correlation @ leadfield.T) / 59)
    evidence = [
        gaussian_process(leadfield, noise_cov, positions, faces, length=length, snr=ratio).log_evidence(data)
        for length in lengths
    ]
    assert lengths[int(np.argmax(evidence))] == 6e-3


def test_float32_and_transformations(problem, key):
    leadfield, noise_cov, positions, faces = problem
    leadfield = leadfield * 1e3
    exact = gaussian_process(leadfield, noise_cov * 1e-12, positions, faces)
    single = (jnp.asarray(x, jnp.float32) for x in (leadfield, noise_cov * 1e-12))
    found = gaussian_process(*single, positions, faces)
    for name in ("kernel", "std", "prior_std"):
        value, expected = getattr(found, name), getattr(exact, name)
        assert value.dtype == jnp.float32
        assert np.linalg.norm(value - expected) < 1e-4 * np.linalg.norm(expected)
    data = jax.random.normal(key, (5, 10, 2))
    batch = jax.jit(jax.vmap(lambda y: exact(y)))(data)
    np.testing.assert_allclose(batch.current[3], exact(data[3]).current, rtol=1e-9)
    assert batch.std.shape == batch.current.shape
    slope = jax.grad(lambda y: jnp.sum(exact(y).current ** 2) + exact.log_evidence(y))(data[0])
    assert np.isfinite(slope).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": -1.0}, "length must be positive"),
        ({"smoothness": 1.5}, "smoothness must be an integer"),
        ({"snr": 0.0}, "snr"),
        ({"positions": np.zeros((48, 3))}, "positions must hold the leadfield's 49"),
        ({"positions": np.zeros((49, 2))}, r"positions must be finite and of shape"),
        ({"positions": np.zeros((49, 3))}, "have no area"),
        ({"positions": np.full((49, 3), np.nan)}, "positions must be finite"),
        ({"faces": np.zeros((5, 2), int)}, "faces must hold triangles"),
        ({"faces": np.array([[0, 1, 49]])}, "faces must index the 49 positions"),
    ],
)
def test_bad_input_is_refused(problem, change, message):
    arguments = dict(zip(("leadfield", "noise_cov", "positions", "faces"), problem)) | change
    with pytest.raises(ValueError, match=message):
        gaussian_process(**arguments)


def test_it_says_that_it_cannot_be_traced(problem):
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda gain: gaussian_process(gain, *problem[1:]).kernel)(problem[0])
