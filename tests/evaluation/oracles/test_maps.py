import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxinv.evaluation.oracles import binary_map_baseline, signed_map_oracle


@pytest.mark.parametrize("case", range(3))
def test_signed_maps_are_weighted_draws_of_the_prior(toy, case):
    """Within the Monte Carlo error of a million draws."""
    oracle = signed_map_oracle(toy.leadfield @ toy.factor, toy.node_factor, toy.noise_cov)
    signals = toy.leadfield @ toy.field
    measured = toy.measured(signals[:, case], np.random.default_rng(case))
    weight = np.exp(toy.log_likelihood(signals, measured))
    weight /= weight.sum()
    found = oracle(measured)
    tolerance = 4 * np.sqrt(np.sum(weight**2))
    np.testing.assert_allclose(found.probability, toy.node_label @ weight, atol=tolerance)
    mean = toy.node_factor @ np.linalg.solve(toy.factor, toy.field @ weight)
    np.testing.assert_allclose(found.current, mean, atol=tolerance)


@pytest.mark.parametrize("rank", [2, 9])
def test_signed_maps_condition_a_joint_gaussian(rank):
    """Fewer and more numbers than channels; noise of full rank."""
    rng = np.random.default_rng(rank)
    fields, nodes, root = rng.normal(size=(5, rank)), rng.normal(size=(7, rank)), rng.normal(size=(5, 5))
    cov, measured = root @ root.T + np.eye(5), rng.normal(size=5)
    inverse = np.linalg.inv(fields @ fields.T + cov)
    mean = nodes @ fields.T @ inverse @ measured
    posterior = nodes @ (np.eye(rank) - fields.T @ inverse @ fields) @ nodes.T
    found = signed_map_oracle(fields, nodes, cov)(measured)
    np.testing.assert_allclose(found.current, mean, atol=1e-10)
    np.testing.assert_allclose(found.std, np.sqrt(np.diag(posterior)), atol=1e-8)
    np.testing.assert_allclose(found.probability, norm.cdf(mean / np.sqrt(np.diag(posterior))), atol=1e-8)


def test_signed_maps_are_calibrated():
    """Of the nodes given a probability, that share is active."""
    rng = np.random.default_rng(0)
    fields, nodes = rng.normal(size=(6, 20)), rng.normal(size=(30, 20))
    white = rng.normal(size=(20, 3000))
    measured = fields @ white + 2 * rng.normal(size=(6, 3000))
    probability = np.asarray(signed_map_oracle(fields, nodes, 4 * np.eye(6))(measured).probability)
    bins = np.digitize(probability, np.linspace(0, 1, 11))
    active = nodes @ white > 0
    for k in range(1, 11):
        assert abs(probability[bins == k].mean() - active[bins == k].mean()) < 0.02


def test_the_baseline_has_the_first_two_moments_of_half_active_maps(toy):
    """Kernel, offset and deviation are those of a regression over draws of the prior."""
    oracle = binary_map_baseline(toy.leadfield, toy.factor, toy.node_factor, toy.noise_cov)
    signals = toy.leadfield @ (toy.field > 0)
    nodes = toy.node_factor @ np.linalg.solve(toy.factor, toy.field)
    np.testing.assert_allclose(oracle.offset, signals.mean(axis=1), atol=5e-3)
    n = signals.shape[1]
    deviation = signals - signals.mean(axis=1, keepdims=True)
    cross = nodes @ deviation.T / n
    kernel = cross @ np.linalg.pinv(deviation @ deviation.T / n + toy.noise_cov, 1e-8)
    np.testing.assert_allclose(oracle.kernel, kernel, atol=0.01 * np.abs(kernel).max())
    variance = np.mean(nodes**2, axis=1) - np.sum(kernel * cross, axis=1)
    np.testing.assert_allclose(oracle.std, np.sqrt(variance), rtol=0.01)


def test_a_field_that_is_always_zero_is_never_active():
    nodes = np.array([[1.0, 0.0], [0.0, 0.0]])
    found = signed_map_oracle(np.ones((2, 2)), nodes, np.eye(2))(np.array([3.0, 3.0]))
    assert found.probability[0] > 0.5
    assert found.probability[1] == 0


def test_maps_jit_and_vmap(toy):
    """Samples beside one another are those of one after the other; precision is that of the fields."""
    for make, gain in ((signed_map_oracle, toy.leadfield @ toy.factor), (binary_map_baseline, toy.leadfield)):
        extra = () if make is signed_map_oracle else (toy.factor,)
        oracle = make(gain, *extra, toy.node_factor, toy.noise_cov)
        data = np.random.default_rng(0).normal(size=(4, 3))
        one = np.stack([oracle(sample).probability for sample in data.T], axis=1)
        np.testing.assert_allclose(oracle(data).probability, one, atol=1e-12)
        many = jax.jit(jax.vmap(lambda oracle, y: oracle(y), in_axes=(None, 0)))(oracle, data.T)
        np.testing.assert_allclose(many.probability, one.T, atol=1e-12)
        single = make(jnp.float32(gain), *extra, toy.node_factor, jnp.float32(toy.noise_cov))
        assert single(np.float32(data)).probability.dtype == jnp.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"node_factor": np.ones((6, 3))}, "node_factor must be a matrix of shape"),
        ({"leadfield": np.zeros((4, 12))}, "leadfield are zero everywhere"),
        ({"leadfield": np.full((4, 12), np.nan)}, "not finite"),
        ({"factor": np.ones((11, 12))}, "a row for each of 12"),
        ({"noise_cov": np.eye(5)}, "noise_cov must have shape"),
    ],
)
def test_bad_arguments_are_refused(toy, change, message):
    names = ("leadfield", "factor", "node_factor", "noise_cov")
    arguments = {name: getattr(toy, name) for name in names} | change
    with pytest.raises(ValueError, match=message):
        binary_map_baseline(**arguments)


def test_oracles_are_built_on_the_host(toy):
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda a: signed_map_oracle(a, toy.node_factor, toy.noise_cov))(toy.leadfield @ toy.factor)
