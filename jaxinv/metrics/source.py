"""How far an estimated set of active sources is from the true one: pure functions of one case, to `vmap`.

`label` is the truth and `prediction` a decision, both non-zero where a source is active; `probability` is in
[0, 1]; `score` is anything that orders the sources. Where a ratio has an empty denominator it is 0, as in
scikit-learn. A `probability` or `score` that is NaN gives NaN.
"""

import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Bool, Float, Num

Active = Num[Array, " source"] | Bool[Array, " source"]
Scalar = Float[Array, ""]


def accuracy(label: Active, prediction: Active) -> Scalar:
    """Share of the sources whose state is predicted.

    Raises:
        ValueError: for arrays of different shapes; so do all functions of this module.
    """
    label, prediction = _both_active(label, prediction)
    return _ratio(jnp.sum(label == prediction), label.size)


def precision(label: Active, prediction: Active) -> Scalar:
    """Share of the predicted sources that are active; 0 when nothing is predicted."""
    label, prediction = _both_active(label, prediction)
    return _ratio(jnp.sum(label & prediction), jnp.sum(prediction))


def recall(label: Active, prediction: Active) -> Scalar:
    """Share of the active sources that are predicted; 0 when nothing is active."""
    label, prediction = _both_active(label, prediction)
    return _ratio(jnp.sum(label & prediction), jnp.sum(label))


def f1(label: Active, prediction: Active) -> Scalar:
    """Harmonic mean of precision and recall; 0 when nothing is active and nothing predicted."""
    label, prediction = _both_active(label, prediction)
    return _ratio(2 * jnp.sum(label & prediction), jnp.sum(label) + jnp.sum(prediction))


def binary_cross_entropy(label: Active, probability: Float[Array, " source"]) -> Scalar:
    """Mean negative log-likelihood of the labels, in nats; differentiable in `probability`.

    Probabilities are kept one machine epsilon of their dtype away from 0 and 1, so that a certain error
    costs a finite 15.9 nats in float32 and 36.0 in float64.
    """
    _check_same_shape(label, probability)
    label, probability = (jnp.asarray(label) != 0), jnp.asarray(probability)
    probability = probability.astype(jnp.result_type(probability, float))
    epsilon = jnp.finfo(probability.dtype).eps
    p = jnp.clip(probability, epsilon, 1 - epsilon)
    return -jnp.mean(xlogy(label.astype(p.dtype), p) + xlogy(1 - label.astype(p.dtype), 1 - p))


def brier(label: Active, probability: Float[Array, " source"]) -> Scalar:
    """Mean squared difference of probability and label; differentiable in `probability`.

    References:
        Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    _check_same_shape(label, probability)
    return jnp.mean((1.0 * jnp.asarray(probability) - (jnp.asarray(label) != 0)) ** 2)


def average_precision(label: Active, score: Float[Array, " source"]) -> Scalar:
    r"""Area under the precision–recall steps, $\sum_k (R_k - R_{k-1}) P_k$, exact.

    One step for each *distinct* score, so that equal scores are predicted together whatever their order.
    0 when nothing is active. The score of a constant guess is the share of active sources.
    """
    _check_same_shape(label, score)
    score = jnp.asarray(score)
    order = jnp.argsort(score, descending=True)
    ranked = score[order]
    hits = jnp.cumsum((jnp.asarray(label) != 0)[order].astype(jnp.int32))
    last_of_its_score = jnp.append(ranked[1:] != ranked[:-1], True)
    hits_at_steps = jnp.where(last_of_its_score, hits, 0)
    hits_before = jnp.append(0, jnp.maximum.accumulate(hits_at_steps)[:-1])
    gained = jnp.where(last_of_its_score, hits - hits_before, 0)
    area = jnp.sum(gained * (hits / jnp.arange(1, len(ranked) + 1)))
    return jnp.where(jnp.isnan(score).any(), jnp.nan, _ratio(area, hits[-1]))


def localisation_error(
    label: Active, prediction: Active, positions: Float[Array, "source 3"]
) -> Float[Array, ""]:
    r"""Distance of the centroids of the true and the predicted active set, in m.

    $\lVert c_{gt} - c_{pred} \rVert$ with $c = |A|^{-1} \sum_{i \in A} x_i$. An empty prediction counts as
    the worst that any other could get: the distance from the true centroid to the source farthest from it.
    Without an active source there is nothing to localise, and the result is NaN. On half-active maps this
    metric can be won by a guess: both centroids are close to the head's.

    Args:
        label: the true active set.
        prediction: the predicted one.
        positions: in m.
    """
    label, prediction = _both_active(label, prediction)
    positions = jnp.asarray(positions)
    if positions.shape != (*label.shape, 3):
        raise ValueError(f"positions must have shape {(*label.shape, 3)}, not {positions.shape}")
    truth = _centroid(label, positions)
    error = jnp.linalg.norm(_centroid(prediction, positions) - truth)
    worst = jnp.max(jnp.linalg.norm(positions - truth, axis=-1))
    return jnp.where(prediction.any(), error, worst)


def active_volume_error(
    label: Active, prediction: Active, node_volume: Float[Array, ""] | Float[Array, " source"]
) -> Float[Array, ""]:
    r"""Difference of the true and the predicted active volume, $|V_{pred} - V_{gt}|$, in m³.

    With a scalar `node_volume` $\bar V$, the mean over nodes, $V = |A| \bar V$; with one volume a source, for
    example area × cortical thickness, $V = \sum_{i \in A} V_i$. An empty prediction has no volume and errs by
    the whole true one.

    Args:
        label: the true active set.
        prediction: the predicted one.
        node_volume: in m³; differentiable.
    """
    label, prediction = _both_active(label, prediction)
    node_volume = jnp.asarray(node_volume)
    if node_volume.shape not in ((), label.shape):
        raise ValueError(f"node_volume must be a scalar or have shape {label.shape}, not {node_volume.shape}")
    return jnp.abs(jnp.sum((prediction.astype(jnp.int8) - label.astype(jnp.int8)) * node_volume))


def _check_same_shape(label, other) -> None:
    if jnp.shape(label) != jnp.shape(other) or jnp.ndim(label) != 1:
        raise ValueError(
            "label and prediction must both have shape (source,), "
            f"not {jnp.shape(label)} and {jnp.shape(other)}; vmap over cases"
        )


def _both_active(label, prediction):
    _check_same_shape(label, prediction)
    return jnp.asarray(label) != 0, jnp.asarray(prediction) != 0


def _ratio(part, whole):
    return jnp.where(whole > 0, part / jnp.maximum(whole, 1), 0.0)


def _centroid(active, positions):
    total = jnp.matmul(active.astype(positions.dtype), positions, precision="highest")
    return total / jnp.sum(active)
