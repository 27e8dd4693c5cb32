import jax
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from jaxinv.evaluation.oracles import dipole_oracle

N_CHANNELS, NODE = 4, np.array([0, 0, 2, 1, 2, 2, 4])
POWER = 2.5


@pytest.fixture(scope="module")
def fields():
    return np.random.default_rng(0).normal(size=(N_CHANNELS, len(NODE)))


@pytest.fixture(scope="module")
def noise_cov():
    root = np.random.default_rng(1).normal(size=(N_CHANNELS, N_CHANNELS))
    return root @ root.T + np.eye(N_CHANNELS)


def summed(log_evidence, weight):
    """Of atoms, to the probabilities of five nodes."""
    log_posterior = log_evidence + np.log(weight)
    share = np.exp(log_posterior - logsumexp(log_posterior))
    return np.bincount(NODE, share, 5)


@pytest.mark.parametrize("weight", [None, np.arange(1.0, 8.0)])
def test_one_sample_is_a_sum_over_atoms_and_signs(fields, noise_cov, weight):
    data = np.random.default_rng(2).normal(size=N_CHANNELS) * 2
    amplitude = np.sqrt(POWER / np.mean(fields**2, axis=0))
    evidence = [
        logsumexp([multivariate_normal.logpdf(data, sign * a * field, noise_cov) for sign in (-1, 1)])
        for a, field in zip(amplitude, fields.T)
    ]
    expected = summed(np.array(evidence), np.ones(len(NODE)) if weight is None else weight)
    oracle = dipole_oracle(fields, NODE, 5, noise_cov, POWER, weight=weight)
    for shape in ((N_CHANNELS,), (N_CHANNELS, 1)):
        found = oracle(data.reshape(shape))
        np.testing.assert_allclose(found.probability, expected, atol=1e-10)
        np.testing.assert_array_equal(found.current, found.probability)
    assert found.probability[3] == 0


@pytest.mark.parametrize("smooth", [False, True])
def test_a_window_is_weighed_by_dense_normal_densities(fields, noise_cov, smooth):
    time = np.arange(5)
    course = 3 * np.exp(-((time[:, None] - time) ** 2) / 8) if smooth else None
    data = np.random.default_rng(3).normal(size=(N_CHANNELS, 5))
    unit = np.eye(5) if course is None else course / np.mean(np.diag(course))
    evidence = []
    for field in fields.T:
        scaled = field * np.sqrt(POWER / np.mean(field**2))
        cov = np.kron(np.outer(scaled, scaled), unit) + np.kron(noise_cov, np.eye(5))
        evidence.append(multivariate_normal.logpdf(data.ravel(), cov=cov))
    expected = summed(np.array(evidence), np.ones(len(NODE)))
    found = dipole_oracle(fields, NODE, 5, noise_cov, POWER, course_cov=course)(data)
    np.testing.assert_allclose(found.probability, expected, atol=1e-10)


def test_power_and_noise_have_one_unit_and_a_reference_is_allowed(fields):
    """Scaling measurements changes nothing; nor does what the reference removes."""
    reference = np.eye(N_CHANNELS) - 1 / N_CHANNELS
    data = reference @ np.random.default_rng(4).normal(size=N_CHANNELS)
    once = dipole_oracle(reference @ fields, NODE, 5, reference, POWER)(data).probability
    again = dipole_oracle(1e3 * reference @ fields, NODE, 5, 1e-12 * reference, 1e-12 * POWER)
    np.testing.assert_allclose(again(1e-6 * data + 1e-6).probability, once, atol=1e-8)


def test_it_is_right_as_often_as_it_says(fields, noise_cov):
    rng = np.random.default_rng(5)
    atom = rng.integers(0, len(NODE), 4000)
    amplitude = np.sqrt(POWER / np.mean(fields**2, axis=0))[atom] * rng.choice([-1, 1], 4000)
    data = fields[:, atom] * amplitude + np.linalg.cholesky(noise_cov) @ rng.normal(size=(N_CHANNELS, 4000))
    oracle = dipole_oracle(fields, NODE, 5, noise_cov, POWER)
    probability = np.asarray(jax.jit(jax.vmap(oracle))(data.T).probability)
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-10)
    best = probability.argmax(axis=1)
    assert abs(probability.max(axis=1).mean() - np.mean(best == NODE[atom])) < 0.03


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"node": NODE[:3]}, "an index for each of 7 atoms"),
        ({"node": NODE + 1}, "must index the 5 nodes"),
        ({"signal_power": 0.0}, "signal_power must be positive"),
        ({"weight": -np.ones(7)}, "none negative"),
        ({"fields": np.eye(4, 7)}, "no channel sees"),
        ({"course_cov": np.triu(np.ones((3, 3)))}, "course_cov is not symmetric"),
    ],
)
def test_bad_arguments_are_refused(fields, noise_cov, options, message):
    arguments = {"fields": fields, "node": NODE, "n_nodes": 5, "noise_cov": noise_cov, "signal_power": POWER}
    with pytest.raises(ValueError, match=message):
        dipole_oracle(**(arguments | options))


def test_a_window_of_another_length_is_refused(fields, noise_cov):
    oracle = dipole_oracle(fields, NODE, 5, noise_cov, POWER, course_cov=np.eye(3))
    with pytest.raises(ValueError, match=r"4 samples, course_cov 3"):
        oracle(np.ones((4, 4)))
