from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from jaxinv.evaluation.oracles import marginal_map_oracle, signed_map_oracle

N_CHANNELS, RANK = 6, 10
FEW = {"n_first": 64, "n_rounds": 1, "n_kept": 16}


@flax.struct.dataclass
class Mixed:
    """Fields that change with the ratio of two conductivities, and with their size."""

    parts: jax.Array

    def __call__(self, conductivity):
        outer, inner = conductivity
        return jnp.tensordot(jnp.stack([1 / outer, inner / outer**2]), self.parts, axes=1)


@pytest.fixture(scope="module")
def problem():
    """Fields, nodes, noise and measurements of draws of the prior."""
    rng = np.random.default_rng(0)
    reference = np.eye(N_CHANNELS) - 1 / N_CHANNELS
    field_of = Mixed(jnp.asarray(reference @ rng.normal(size=(2, N_CHANNELS, RANK))))
    conductivity = np.array([[0.5, 0.2], [1.5, 3.0], [0.3, 0.9]])
    fields = np.stack([field_of(each) for each in conductivity])
    noise = 0.3 * reference @ rng.normal(size=(N_CHANNELS, 3))
    data = np.einsum("ncr,rn->cn", fields, rng.normal(size=(RANK, 3))) + noise
    return field_of, rng.normal(size=(8, RANK)), 0.09 * reference, data


def test_a_box_of_one_point_is_a_known_head(problem):
    field_of, nodes, noise_cov, data = problem
    point = np.array([0.5, 0.2])
    found = marginal_map_oracle(field_of, point, point, nodes, noise_cov, **FEW).solve(data)
    known = signed_map_oracle(field_of(point), nodes, noise_cov)(data)
    np.testing.assert_allclose(found.probability, known.probability, atol=1e-10)
    np.testing.assert_allclose(found.std, known.std, atol=1e-8)
    np.testing.assert_allclose(found.conductivity, np.broadcast_to(point[:, None], (2, 3)), rtol=1e-10)


@pytest.mark.parametrize("free", [(0,), (0, 1)])
def test_it_is_an_integral_over_the_box(problem, free):
    """Against a dense midpoint rule over the logarithms."""
    field_of, nodes, noise_cov, data = problem
    low, high, n = np.array([0.2, 0.1]), np.array([2.0, 4.0]), 40
    high[[k for k in range(2) if k not in free]] = low[[k for k in range(2) if k not in free]]
    middle = (np.arange(n) + 0.5) / n
    grid = np.stack([axis.ravel() for axis in np.meshgrid(middle, middle)], axis=1)
    points = low * (high / low) ** grid
    pseudo = np.linalg.pinv(noise_cov, 1e-8)
    root = np.linalg.cholesky(pseudo + 1e-13 * np.eye(N_CHANNELS)).T
    for measured in data.T[:2]:
        logs, active = [], []
        for point in points:
            white = root @ np.asarray(field_of(point))
            cov = white @ white.T + np.eye(N_CHANNELS)
            log_det = np.linalg.slogdet(cov)[1]
            logs.append(-(log_det + root @ measured @ np.linalg.solve(cov, root @ measured)) / 2)
            gain = nodes @ white.T @ np.linalg.inv(cov)
            variance = np.sum(nodes**2, axis=1) - np.einsum("nc,cr,nr->n", gain, white, nodes)
            active.append(norm.cdf(gain @ root @ measured / np.sqrt(variance)))
        weight = np.exp(np.array(logs) - logsumexp(logs))
        oracle = marginal_map_oracle(field_of, low, high, nodes, noise_cov, n_kept=256)
        found = oracle.solve(measured)
        np.testing.assert_allclose(found.probability, weight @ np.array(active), atol=0.02)
        np.testing.assert_allclose(np.log(found.conductivity), weight @ np.log(points), atol=0.1)
        assert found.ess > 50


def test_later_rounds_make_more_draws_count():
    """Three conductivities that measurements tell well."""
    rng = np.random.default_rng(1)
    parts = jnp.asarray(rng.normal(size=(3, 30, 4)))
    field_of = partial(_powers, parts)
    nodes, noise_cov = rng.normal(size=(5, 4)), 0.04 * np.eye(30)
    data = np.asarray(field_of(jnp.array([0.3, 0.8, 0.5]))) @ rng.normal(size=4) + 0.2 * rng.normal(size=30)
    make = partial(marginal_map_oracle, field_of, 0.1 * np.ones(3), np.ones(3), nodes, noise_cov)
    few = make(n_rounds=0).solve(data)
    many = make(n_rounds=4).solve(data)
    assert few.ess < 30
    assert many.ess > max(50, 3 * few.ess)
    np.testing.assert_allclose(many.conductivity, [0.3, 0.8, 0.5], rtol=0.5)


def _powers(parts, conductivity):
    return jnp.tensordot(conductivity, parts, axes=1)


def test_it_jits_and_vmaps(problem):
    field_of, nodes, noise_cov, data = problem
    low, high = np.array([0.2, 0.1]), np.array([2.0, 4.0])
    oracle = marginal_map_oracle(field_of, low, high, nodes, noise_cov, **FEW)
    found = oracle.solve(data)
    assert found.probability.shape == found.std.shape == (8, 3)
    many = jax.jit(jax.vmap(lambda oracle, y: oracle(y), in_axes=(None, 0)))(oracle, data.T)
    np.testing.assert_allclose(many.probability, found.probability.T, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": np.array([0.0, 0.1])}, "must be positive"),
        ({"low": np.array([3.0, 0.1])}, "must not be above high"),
        ({"n_first": 8}, "n_first must be 32 or more"),
        ({"n_draws": 0}, "n_draws must be 1 or more"),
        ({"node_factor": np.ones((3, 2))}, "node_factor must be a matrix of shape"),
        ({"noise_cov": np.eye(3)}, "noise_cov must have shape"),
    ],
)
def test_bad_arguments_are_refused(problem, options, message):
    field_of, nodes, noise_cov, _ = problem
    arguments = {"field_of": field_of, "low": np.array([0.2, 0.1]), "high": np.array([2.0, 4.0])}
    with pytest.raises(ValueError, match=message):
        marginal_map_oracle(**(arguments | {"node_factor": nodes, "noise_cov": noise_cov} | options))
