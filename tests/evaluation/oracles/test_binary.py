import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv.evaluation.oracles import binary_map_baseline, binary_map_oracle


def cross_entropy(probability, truth):
    """Expected over the posterior that is the truth, in nats a node."""
    probability = np.clip(np.asarray(probability), 1e-9, 1 - 1e-9)
    return -np.mean(truth * np.log(probability) + (1 - truth) * np.log(1 - probability))


@pytest.fixture(scope="module")
def enumerated(toy):
    """Signals of the 4096 patterns, how probable each is, and the nodes that are active in it in the mean."""
    code = 2 ** np.arange(12) @ (toy.field > 0)
    count = np.bincount(code, minlength=4096)
    active = np.stack([np.bincount(code, node, 4096) for node in toy.node_label])
    patterns = np.arange(4096) >> np.arange(12)[:, None] & 1
    return toy.leadfield @ patterns, count, active


@pytest.fixture(scope="module")
def cases(toy):
    rng = np.random.default_rng(1)
    return np.stack([toy.measured(toy.leadfield @ (toy.field[:, k] > 0), rng) for k in range(16)])


def test_it_is_the_posterior_over_all_patterns(toy, enumerated, cases):
    """Twelve sources: the sharp sampler has that posterior."""
    signals, count, active = enumerated
    arrays = toy.leadfield, toy.factor, toy.node_factor, toy.noise_cov
    exact = binary_map_oracle(*arrays, exact=True, n_chains=16, n_sweeps=2000, n_burn_in=50, n_steps=4)
    baseline = binary_map_baseline(*arrays)
    likelihood = np.exp([toy.log_likelihood(signals, measured) for measured in cases])
    truth = (likelihood @ active.T) / (likelihood @ count)[:, None]
    least = cross_entropy(truth, truth)
    found = exact.solve(cases.T)
    np.testing.assert_allclose(found.probability.T, truth, atol=0.06)
    assert cross_entropy(found.probability.T, truth) - least < 0.003
    assert np.max(found.error) < 0.005
    assert np.max(found.r_hat) < 1.2
    assert cross_entropy(baseline(cases.T).probability.T, truth) - least > 0.1


@pytest.fixture(scope="module")
def line():
    """400 sources on a line, 12 channels, 10 dB; 24 cases."""
    rng = np.random.default_rng(2)
    place, sensor = np.linspace(0, 8, 400), np.linspace(0, 8, 12)[:, None]
    values, vectors = np.linalg.eigh(np.exp(-((place[:, None] - place) ** 2) / 2))
    factor = vectors[:, -25:] * np.sqrt(values[-25:])
    leadfield = np.exp(-((sensor - place) ** 2))
    leadfield -= leadfield.mean(axis=0)
    active = factor @ rng.normal(size=(25, 24)) > 0
    signal = leadfield @ active
    reference = np.eye(12) - 1 / 12
    noise_cov = 0.1 * np.mean(signal**2) * reference
    data = signal + np.sqrt(0.1 * np.mean(signal**2)) * reference @ rng.normal(size=signal.shape)
    return leadfield, factor, factor[::10], noise_cov, data, active[::10]


def test_softening_hardly_matters_among_many_sources(line):
    """Soft labels of groups and sharp ones judge the truth alike, and better than the baseline."""
    *arrays, data, truth = line
    soft = binary_map_oracle(*arrays, n_sweeps=200, n_groups=150)(data).probability
    sharp = binary_map_oracle(*arrays, exact=True, n_sweeps=200)(data).probability
    assert abs(cross_entropy(soft, truth) - cross_entropy(sharp, truth)) < 0.01
    assert cross_entropy(soft, truth) < cross_entropy(binary_map_baseline(*arrays)(data).probability, truth)


def test_units_seeds_and_batches(line):
    leadfield, factor, nodes, noise_cov, data, _ = line
    options = {"n_chains": 2, "n_sweeps": 12, "n_burn_in": 4, "n_steps": 3}
    once = binary_map_oracle(leadfield, factor, nodes, noise_cov, **options)
    found = once(data[:, :3])
    assert found.probability.shape == found.current.shape == found.std.shape == (40, 3)
    assert once.solve(data[:, :3]).error.shape == (3,)
    many = jax.jit(jax.vmap(lambda oracle, y: oracle(y), in_axes=(None, 0)))(once, jnp.asarray(data.T[:3]))
    np.testing.assert_allclose(many.current, found.current.T, atol=1e-2)
    other = binary_map_oracle(leadfield, factor, nodes, noise_cov, seed=1, **options)(data[:, :3])
    assert not np.allclose(other.current, found.current, atol=1e-2)
    volts = binary_map_oracle(1e-6 * leadfield, 3 * factor, nodes, 1e-12 * noise_cov, **options)
    np.testing.assert_allclose(volts.soft.gain, once.soft.gain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.0}, "width must be positive"),
        ({"n_chains": 3}, "n_chains must be even"),
        ({"n_burn_in": 138}, "n_burn_in must be from 0 to n_sweeps - 4 = 136"),
        ({"n_steps": 0}, "n_steps must be 1 or more"),
        ({"n_groups": 0}, "n_groups must be 1 or more"),
        ({"factor": np.ones((3, 12))}, "factor must have a row for each of 12"),
        ({"node_factor": np.ones((3, 2))}, "node_factor must be a matrix of shape"),
    ],
)
def test_bad_arguments_are_refused(toy, options, message):
    names = ("leadfield", "factor", "node_factor", "noise_cov")
    with pytest.raises(ValueError, match=message):
        binary_map_oracle(**({name: getattr(toy, name) for name in names} | options))
