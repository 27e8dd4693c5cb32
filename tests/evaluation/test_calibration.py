import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jaxinv.evaluation import PlattScaling, activity_score, choose_threshold


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def cases(rng, prevalence=0.5, n_cases=20, n_sources=150, levels=None):
    label = rng.random((n_cases, n_sources)) < prevalence
    score = rng.normal(size=label.shape) + 1.5 * label
    return (score if levels is None else np.round(score * levels) / levels), label


@pytest.mark.parametrize("prevalence", [0.5, 0.05])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_platt_scaling_is_logistic_regression_without_penalty(rng, prevalence, scale):
    score, label = cases(rng, prevalence, n_cases=200)
    ours = PlattScaling.fit(scale * score, label)
    oracle = LogisticRegression(C=np.inf, tol=1e-10).fit(score.reshape(-1, 1), label.ravel())
    assert scale * ours.slope == pytest.approx(oracle.coef_[0, 0], rel=2e-3)
    assert ours.intercept == pytest.approx(oracle.intercept_[0], rel=2e-3, abs=2e-3)


def test_scores_that_separate_the_labels_have_finite_parameters():
    score = np.linspace(-1, 1, 200)[None]
    scaling = PlattScaling.fit(score, score > 0)
    assert np.isfinite(scaling.slope)
    np.testing.assert_array_equal(np.asarray(scaling(score)) > 0.5, score > 0)


def test_scores_that_know_nothing_give_the_prevalence(rng):
    label = rng.random((50, 100)) < 0.2
    probability = PlattScaling.fit(np.zeros(label.shape), label)(np.zeros(3))
    np.testing.assert_allclose(probability, label.mean(), rtol=1e-3)


def test_a_fitted_scaling_passes_through_jit_as_an_argument(rng):
    score, label = cases(rng)
    scaling = PlattScaling.fit(score, label)
    jitted = jax.jit(lambda s, x: s(x))(scaling, jnp.asarray(score))
    np.testing.assert_allclose(jitted, scaling(jnp.asarray(score)), rtol=1e-6)


@pytest.mark.parametrize(
    ("score", "label", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 3)), "needs both kinds"),
        (np.ones((2, 3)), np.zeros((2, 2)), "one shape"),
        (np.full((1, 2), np.nan), np.array([[0, 1]]), "not finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(score, label, message):
    with pytest.raises(ValueError, match=message):
        PlattScaling.fit(score, label)


@pytest.mark.parametrize("criterion", ["accuracy", "f1"])
@pytest.mark.parametrize("levels", [None, 4])
def test_no_threshold_beats_the_chosen_one(rng, criterion, levels):
    """Brute force over every decision that a threshold can make, ties included."""
    score, label = cases(rng, 0.2, levels=levels)

    def value(threshold):
        decided = score >= threshold
        if criterion == "accuracy":
            return np.mean(decided == label)
        return np.mean(2 * (label & decided).sum(axis=1) / (label.sum(axis=1) + decided.sum(axis=1)))

    best = max(value(t) for t in [*np.unique(score)[:: 1 if levels else 23], np.inf])
    assert value(choose_threshold(score, label, criterion)) >= best - 1e-12


def test_nothing_is_decided_where_nothing_is_best():
    probability, label = np.array([[0.9, 0.8, 0.1]]), np.zeros((1, 3))
    assert not (probability >= choose_threshold(probability, label, "accuracy")).any()


def test_an_unknown_criterion_is_refused():
    with pytest.raises(ValueError, match="criterion"):
        choose_threshold(np.ones((1, 2)), np.ones((1, 2)), "recall")


@pytest.mark.parametrize("kind", ["signed", "magnitude"])
def test_the_score_does_not_see_the_amplitude(rng, kind):
    current = jnp.asarray(rng.normal(size=50), dtype=jnp.float32)
    score = activity_score(current, kind)
    np.testing.assert_allclose(activity_score(1e-20 * current, kind), score, rtol=1e-5)
    np.testing.assert_allclose(jnp.mean(score**2), 1, rtol=1e-5)
    assert not activity_score(jnp.zeros(3), kind).any()


def test_the_magnitude_of_a_free_orientation_is_its_norm(rng):
    current = jnp.asarray(rng.normal(size=(50, 3)), dtype=jnp.float32)
    expected = activity_score(jnp.linalg.norm(current, axis=1), "magnitude")
    np.testing.assert_allclose(activity_score(current, "magnitude"), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="no sign"):
        activity_score(current, "signed")
