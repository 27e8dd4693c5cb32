from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from jax.test_util import check_grads

from jaxinv import metrics

DECISIONS = {
    metrics.accuracy: sklearn.metrics.accuracy_score,
    metrics.precision: partial(sklearn.metrics.precision_score, zero_division=0),
    metrics.recall: partial(sklearn.metrics.recall_score, zero_division=0),
    metrics.f1: partial(sklearn.metrics.f1_score, zero_division=0),
}


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    label = rng.random(200) < 0.3
    score = np.round(rng.random(200) * 0.6 + 0.3 * label, 1)  # eleven distinct values: many ties
    return label, score


@pytest.mark.parametrize("metric", DECISIONS)
@pytest.mark.parametrize("threshold", [0.0, 0.5, 2.0])
def test_decision_metrics_equal_those_of_scikit_learn(metric, threshold, case):
    label, score = case
    prediction = score >= threshold
    assert metric(label, prediction) == pytest.approx(DECISIONS[metric](label, prediction), abs=1e-15)


@pytest.mark.parametrize("metric", DECISIONS)
@pytest.mark.parametrize(("label", "prediction"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_decision_metrics_are_defined_on_constant_sets(metric, label, prediction):
    label, prediction = np.full(5, label), np.full(5, prediction)
    assert metric(label, prediction) == DECISIONS[metric](label, prediction)


@pytest.mark.parametrize(
    "kind", ["tied", "distinct", "constant", "perfect", "reversed", "infinite", "unsigned", "logical"]
)
def test_average_precision_equals_that_of_scikit_learn(kind, case):
    label, tied = case
    score = {
        "tied": tied,
        "distinct": tied + np.random.default_rng(1).random(200) * 1e-3,
        "constant": np.zeros(200),
        "perfect": label.astype(float),
        "reversed": 1 - label.astype(float),
        "infinite": np.where(tied > 0.5, -1e300, tied),
        "unsigned": np.round(200 * tied).astype(np.uint8),
        "logical": tied > 0.5,
    }[kind]
    expected = sklearn.metrics.average_precision_score(label, score)
    assert metrics.average_precision(label, score) == pytest.approx(expected, abs=1e-14)


def test_certain_probabilities_may_be_whole_numbers(case):
    label, score = case
    for metric in (metrics.binary_cross_entropy, metrics.brier):
        for certain in (score > 0.5, (score > 0.5).astype(int)):
            np.testing.assert_allclose(metric(label, certain), metric(label, certain.astype(float)))


def test_average_precision_does_not_depend_on_the_order_of_ties(case):
    label, score = case
    shuffled = np.random.default_rng(2).permutation(200)
    expected = float(metrics.average_precision(label, score))
    assert metrics.average_precision(label[shuffled], score[shuffled]) == pytest.approx(expected, abs=1e-14)


def test_average_precision_of_a_constant_guess_is_the_prevalence(case):
    label, _ = case
    assert metrics.average_precision(label, np.full(200, 0.5)) == pytest.approx(label.mean(), abs=1e-15)


def test_average_precision_without_an_active_source_is_zero():
    assert metrics.average_precision(np.zeros(4), np.arange(4.0)) == 0


def test_probability_metrics_equal_those_of_scikit_learn(case):
    label, probability = case
    expected = sklearn.metrics.log_loss(label, probability)
    assert metrics.binary_cross_entropy(label, probability) == pytest.approx(expected, abs=1e-13)
    expected = sklearn.metrics.brier_score_loss(label, probability)
    assert metrics.brier(label, probability) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(("dtype", "cost"), [(np.float32, 15.94), (np.float64, 36.04)])
def test_certain_error_costs_what_the_docstring_says(dtype, cost):
    certain = np.array([0.0, 1.0], dtype)
    assert metrics.binary_cross_entropy(np.array([1, 0]), certain) == pytest.approx(cost, abs=0.01)
    assert metrics.binary_cross_entropy(np.array([0, 1]), certain) < 1e-6


@pytest.mark.parametrize("metric", [metrics.binary_cross_entropy, metrics.brier, metrics.average_precision])
def test_nan_is_not_hidden(metric):
    assert np.isnan(metric(np.array([1, 0, 0]), np.array([0.1, np.nan, 0.3])))


@pytest.mark.parametrize("metric", [metrics.binary_cross_entropy, metrics.brier])
def test_probability_metrics_are_differentiable(metric, case):
    label, _ = case
    probability = np.random.default_rng(3).uniform(0.1, 0.9, 200)
    check_grads(partial(metric, label), (probability,), order=1)


def test_localisation_error_is_the_distance_of_centroids():
    """Centroids (1, 0, 0) and (1, 2, 0) of pairs of corners."""
    positions = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [2, 2, 0.0]])
    label, prediction = np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1])
    assert metrics.localisation_error(label, prediction, positions) == pytest.approx(2.0)
    assert metrics.localisation_error(label, label, positions) == 0


def test_localisation_error_of_an_empty_prediction_is_the_worst_of_all():
    rng = np.random.default_rng(4)
    positions, label = rng.normal(size=(30, 3)), rng.random(30) < 0.2
    worst = metrics.localisation_error(label, np.zeros(30), positions)
    for prediction in [*np.eye(30), *(rng.random((100, 30)) < 0.1)]:
        if prediction.any():
            assert metrics.localisation_error(label, prediction, positions) <= worst + 1e-12
    assert worst == pytest.approx(np.linalg.norm(positions - positions[label].mean(0), axis=1).max())


def test_localisation_error_without_a_true_source_is_not_a_number():
    assert np.isnan(metrics.localisation_error(np.zeros(3), np.ones(3), np.eye(3)))


def test_localisation_error_moves_with_the_head_and_scales_with_the_unit(case):
    label, score = case
    rng = np.random.default_rng(5)
    positions, rotation = rng.normal(size=(200, 3)), np.linalg.qr(rng.normal(size=(3, 3)))[0]
    error = float(metrics.localisation_error(label, score > 0.5, positions))
    moved = metrics.localisation_error(label, score > 0.5, 1e3 * (positions @ rotation.T + 7))
    assert moved == pytest.approx(1e3 * error, rel=1e-9)


def test_active_volume_error_counts_nodes_or_their_volumes():
    label, prediction = np.array([1, 1, 1, 0]), np.array([0, 0, 1, 1])
    assert metrics.active_volume_error(label, prediction, 2.0) == pytest.approx(2.0)
    assert metrics.active_volume_error(label, prediction, np.array([1, 2, 4, 8.0])) == pytest.approx(5.0)
    assert metrics.active_volume_error(label, np.zeros(4), 2.0) == pytest.approx(6.0)


def test_the_two_volumes_agree_when_all_nodes_are_equal(case):
    label, score = case
    one = float(metrics.active_volume_error(label, score > 0.4, 0.3))
    assert metrics.active_volume_error(label, score > 0.4, np.full(200, 0.3)) == pytest.approx(one, rel=1e-12)


@pytest.mark.parametrize(
    "metric",
    [
        *DECISIONS,
        metrics.binary_cross_entropy,
        metrics.brier,
        metrics.average_precision,
        partial(metrics.localisation_error, positions=jnp.arange(30.0).reshape(10, 3)),
        partial(metrics.active_volume_error, node_volume=jnp.arange(10.0)),
    ],
)
def test_metrics_vmap_and_jit_to_the_same_numbers(metric, key):
    keys = jax.random.split(key)
    label = jax.random.bernoulli(keys[0], 0.5, (6, 10))
    other = jax.random.bernoulli(keys[1], 0.5, (6, 10)).astype(jnp.float32)
    batched = jax.jit(jax.vmap(metric))(label, other)
    single = np.array([metric(a, b) for a, b in zip(label, other)])
    np.testing.assert_allclose(batched, single, rtol=1e-6)


@pytest.mark.parametrize("metric", [*DECISIONS, metrics.average_precision, metrics.brier])
def test_shapes_that_differ_are_refused(metric):
    with pytest.raises(ValueError, match=r"\(source,\).*\(4,\) and \(5,\)"):
        metric(np.zeros(4), np.zeros(5))


def test_spatial_metrics_refuse_arrays_of_the_wrong_length():
    with pytest.raises(ValueError, match="positions"):
        metrics.localisation_error(np.ones(4), np.ones(4), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="node_volume"):
        metrics.active_volume_error(np.ones(4), np.ones(4), np.zeros(5))
