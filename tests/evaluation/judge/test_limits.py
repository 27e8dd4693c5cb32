import numpy as np
import pytest
from scipy.special import logsumexp

from jaxinv.evaluation.judge import Cell
from jaxinv.evaluation.judge.cases import AMPLITUDE, pose
from jaxinv.evaluation.judge.cells import N_TIMES
from jaxinv.evaluation.judge.limits import PLACES, oracle_result
from jaxinv.evaluation.judge.world import make_world
from jaxinv.simulate.activity import NOMINAL_MOMENT


def posed(cell, toy_heads, n_test=40):
    worlds = [make_world(cell, toy_heads[seed], {}) for seed in (1, 2, 3)]
    return pose(cell, tuple(worlds[:1]), tuple(worlds[1:]), 8, n_test, 0)


def test_a_dipole_of_one_sample_is_weighed_by_its_field_and_by_its_amplitude(toy_heads):
    """Against sums over all sources, both signs, and amplitudes between a half and one and a half."""
    cases = posed(Cell("A", 0, "crime"), toy_heads)
    found, drawn = oracle_result(cases).probability, cases.test
    for k, probability in enumerate(found):
        world = cases.worlds[drawn.world[k]]
        fields = NOMINAL_MOMENT * np.asarray(world.leadfields[0], np.float64)
        precision = np.linalg.pinv(world.noise_cov, rcond=1e-9) / drawn.noise_level[k] ** 2
        amplitude = np.sqrt(drawn.signal_power[k] / np.mean(fields**2, axis=0))
        possible = (amplitude >= AMPLITUDE[0]) & (amplitude <= AMPLITUDE[1])
        y, a = np.asarray(drawn.batch.measurements[k], np.float64), fields * amplitude
        linear, square = y @ precision @ a, np.sum(a * (precision @ a), axis=0)
        evidence = logsumexp([linear - square / 2, -linear - square / 2], axis=0) + np.log(amplitude)
        evidence = np.where(possible, evidence, -np.inf)
        expected = np.exp(evidence - logsumexp(evidence))
        np.testing.assert_allclose(probability, expected, atol=0.03)


@pytest.mark.parametrize(
    "cell", [Cell("A", 5), Cell("A", 5, n_times=N_TIMES), Cell("A", 0, noise="1/f", n_times=N_TIMES)]
)
def test_a_dipole_oracle_is_right_as_often_as_it_says(cell, toy_heads):
    cases = posed(cell, toy_heads, 300)
    found = np.asarray(oracle_result(cases).probability)
    truth = np.asarray(cases.test.batch.activity).argmax(axis=1)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-3)
    best = found.argmax(axis=1)
    assert abs(found.max(axis=1).mean() - np.mean(best == truth)) < 0.1


def test_places_in_a_triangle_are_centroids_of_what_is_nearest_each_corner():
    share = np.random.default_rng(0).dirichlet(np.ones(3), 200_000)
    nearest = share.argmax(axis=1)
    for corner, place in enumerate(PLACES):
        np.testing.assert_allclose(share[nearest == corner].mean(axis=0), place, atol=3e-3)
