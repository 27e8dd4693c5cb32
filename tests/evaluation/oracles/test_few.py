import itertools

import jax
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from jaxinv.evaluation.oracles import few_sources_oracle

N_CHANNELS, N_ATOMS, N_NODES, N_TIMES, SPREAD = 5, 8, 6, 6, 0.3
TIME = np.arange(N_TIMES)
COURSE = 2 * np.exp(-((TIME[:, None] - TIME) ** 2) / 8)
NOISE_COURSE = np.exp(-np.abs(TIME[:, None] - TIME) / 2)
SWEEPS = {"n_chains": 8, "n_sweeps": 300, "n_burn_in": 40}


@pytest.fixture(scope="module")
def fields():
    return np.random.default_rng(0).normal(size=(N_CHANNELS, N_ATOMS))


@pytest.fixture(scope="module")
def members():
    found = np.random.default_rng(1).random((N_ATOMS, N_NODES)) < 0.3
    found[:, 5] = False
    found[0, 5] = True
    return found


@pytest.fixture(scope="module")
def noise_cov():
    root = np.random.default_rng(2).normal(size=(N_CHANNELS, N_CHANNELS))
    return 0.05 * root @ root.T + 0.3 * np.eye(N_CHANNELS)


def enumerated(members, counts, log_density):
    """Probabilities of the nodes, by all ways to put so many atoms into slots."""
    log_posterior, active = [], []
    for count in range(counts[0], counts[1] + 1):
        for atoms in itertools.product(range(N_ATOMS), repeat=count):
            log_posterior.append(log_density(list(atoms)) - count * np.log(N_ATOMS))
            active.append(members[list(atoms)].any(axis=0))
    return np.exp(log_posterior - logsumexp(log_posterior)) @ np.array(active)


@pytest.mark.parametrize("counts", [(1, 1), (1, 2), (2, 3)])
def test_one_sample_is_a_sum_over_sets_of_atoms_and_signs(fields, members, noise_cov, counts):
    rng = np.random.default_rng(3)
    truth = rng.choice(N_ATOMS, counts[1])
    data = fields[:, truth] @ rng.choice([-1, 1], counts[1]) + rng.multivariate_normal(
        np.zeros(N_CHANNELS), noise_cov
    )

    def log_density(atoms):
        seen = fields[:, atoms]
        cov = SPREAD**2 * seen @ seen.T + noise_cov
        signs = np.array(list(itertools.product((-1, 1), repeat=len(atoms))))
        return logsumexp(multivariate_normal.logpdf(data - signs @ seen.T, cov=cov)) - len(atoms) * np.log(2)

    oracle = few_sources_oracle(fields, csr_array(members), noise_cov, counts, spread=SPREAD, **SWEEPS)
    found = oracle.solve(data)
    np.testing.assert_allclose(found.probability, enumerated(members, counts, log_density), atol=0.03)
    assert 0 <= found.error < 2e-3
    np.testing.assert_array_equal(oracle(data[:, None]).probability, found.probability)


@pytest.mark.parametrize("noise_course", [None, NOISE_COURSE])
def test_a_window_is_weighed_by_dense_normal_densities(fields, members, noise_cov, noise_course):
    rng = np.random.default_rng(4)
    course = np.linalg.cholesky(COURSE + 1e-9 * np.eye(N_TIMES)) @ rng.normal(size=(N_TIMES, 2))
    data = 0.3 * fields[:, [1, 6]] @ course.T + 0.5 * rng.normal(size=(N_CHANNELS, N_TIMES))
    noise = np.kron(noise_cov, np.eye(N_TIMES) if noise_course is None else noise_course)

    def log_density(atoms):
        seen = fields[:, atoms]
        return multivariate_normal.logpdf(data.ravel(), cov=np.kron(seen @ seen.T, COURSE) + noise)

    oracle = few_sources_oracle(
        fields, members, noise_cov, (1, 2), course_cov=COURSE, noise_course_cov=noise_course, **SWEEPS
    )
    np.testing.assert_allclose(oracle(data).probability, enumerated(members, (1, 2), log_density), atol=0.02)


def test_amplitudes_and_noise_have_one_unit(fields, members, noise_cov):
    data = fields[:, 2] + fields[:, 5]
    once = few_sources_oracle(fields, members, noise_cov, (1, 2), spread=SPREAD, **SWEEPS)
    again = few_sources_oracle(1e3 * fields, members, 1e-12 * noise_cov, (1, 2), spread=SPREAD, **SWEEPS)
    again = again.replace(amplitude=np.float32(1e-9))
    np.testing.assert_allclose(again(1e-6 * data).probability, once(data).probability, atol=0.03)


def test_it_is_single_precision_and_the_same_when_mapped(fields, members, noise_cov):
    oracle = few_sources_oracle(fields, members, noise_cov, (1, 2), spread=SPREAD)
    data = np.random.default_rng(5).normal(size=(3, N_CHANNELS))
    mapped = jax.vmap(oracle)(data).probability
    assert mapped.dtype == np.float32
    for one, measured in zip(mapped, data):
        np.testing.assert_allclose(oracle(measured).probability, one, atol=1e-5)


def test_it_is_right_as_often_as_it_says(fields, members, noise_cov):
    rng = np.random.default_rng(6)
    count = rng.integers(1, 3, 1000)
    amplitude = rng.choice([-1, 1], (1000, 2)) * (1 + SPREAD * rng.normal(size=(1000, 2)))
    amplitude[count == 1, 1] = 0
    atoms = rng.integers(0, N_ATOMS, (1000, 2))
    active = members[atoms[:, 0]] | (members[atoms[:, 1]] & (count == 2)[:, None])
    data = np.einsum("csk,sk->sc", fields[:, atoms], amplitude)
    data += rng.multivariate_normal(np.zeros(N_CHANNELS), noise_cov, 1000)
    oracle = few_sources_oracle(fields, members, noise_cov, (1, 2), spread=SPREAD)
    probability = np.asarray(jax.jit(jax.vmap(oracle))(data).probability)
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        near = (probability >= low) & (probability < low + 0.2)
        error = 3 * np.sqrt(0.25 / near.sum()) + 0.01
        assert abs(active[near].mean() - probability[near].mean()) < error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": np.ones((3, 4))}, "a row for each of 8 atoms"),
        ({"counts": (0, 2)}, "fewest and the most"),
        ({"counts": (3, 2)}, "fewest and the most"),
        ({"spread": -1.0}, "spread must not be negative"),
        ({"n_chains": 3}, "n_chains must be even"),
        ({"n_burn_in": 40}, "n_burn_in must be from 0 to n_sweeps"),
        ({"noise_course_cov": NOISE_COURSE}, "give course_cov too"),
        ({"fields": np.zeros((N_CHANNELS, N_ATOMS))}, "zero everywhere"),
    ],
)
def test_arguments_that_do_not_fit_are_named(fields, members, noise_cov, options, message):
    given = {"fields": fields, "members": members, "noise_cov": noise_cov, "counts": (1, 2), **options}
    with pytest.raises(ValueError, match=message):
        few_sources_oracle(**given)


def test_windows_of_another_length_are_refused(fields, members, noise_cov):
    oracle = few_sources_oracle(fields, members, noise_cov, (1, 2), course_cov=COURSE)
    with pytest.raises(ValueError, match="courses are of 6"):
        oracle(np.ones((N_CHANNELS, 5)))
