"""From an estimate to a decision: score, probability, threshold. Fitted on validation cases alone."""

from typing import Literal

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num
from scipy.optimize import minimize
from scipy.special import expit

Labels = Num[np.ndarray, "case source"] | Bool[np.ndarray, "case source"]


def activity_score(
    current: Float[Array, "source *orientation_and_time"], kind: Literal["signed", "magnitude"]
) -> Float[Array, " source"]:
    """What orders the sources of one case by how active they seem, free of the case's amplitude.

    Args:
        current: an estimate, in A m, of fixed or free orientation, of one sample or several.
        kind: "signed" where a larger current means active and a smaller one inactive (half-active maps,
            their mean subtracted); "magnitude" where any current means active (focal sources). The norm over
            orientations and samples has no sign and needs "magnitude".

    Returns:
        The score, divided by its root mean square over sources; zeros stay zeros.

    Raises:
        ValueError: for an unknown kind, or a signed score of free orientation or several samples.
    """
    if kind not in ("signed", "magnitude"):
        raise ValueError(f'kind must be "signed" or "magnitude", not {kind!r}')
    current = jnp.asarray(current, dtype=jnp.float32)
    if current.ndim > 1:
        if kind == "signed":
            raise ValueError(
                'a current of free orientation or of several samples has no sign: use kind="magnitude"'
            )
        current = current.reshape(len(current), -1)
        current = current / jnp.max(jnp.abs(current), initial=jnp.finfo(current.dtype).tiny)
        current = jnp.linalg.norm(current, axis=1)
    largest = jnp.max(jnp.abs(current))
    score = current / jnp.where(largest > 0, largest, 1.0)
    score = jnp.abs(score) if kind == "magnitude" else score
    power = jnp.mean(score**2)
    return score / jnp.sqrt(jnp.where(power > 0, power, 1.0))


@flax.struct.dataclass
class PlattScaling:
    r"""A logistic of two parameters that turns a score into a probability: $p = \sigma(a s + b)$.

    Attributes:
        slope: $a$.
        intercept: $b$.

    References:
        Platt 1999, in Advances in Large Margin Classifiers, 61-74.
    """

    slope: Float[Array, ""]
    intercept: Float[Array, ""]

    @classmethod
    def fit(cls, score: Float[np.ndarray, "case source"], label: Labels) -> "PlattScaling":
        r"""The most likely parameters, by Newton's method in a trust region, in float64 on the host.

        Labels are softened to $(N_+ + 1)/(N_+ + 2)$ and $1/(N_- + 2)$ as Platt has it, so that scores that
        separate the labels still have finite parameters.

        Raises:
            ValueError: for different shapes, a score that is not finite, or labels that are all alike.
        """
        score, label = np.asarray(score, dtype=np.float64).ravel(), np.asarray(label).ravel() != 0
        if score.shape != label.shape:
            raise ValueError(f"score and label must have one shape, not {score.size} and {label.size} values")
        if not np.isfinite(score).all():
            raise ValueError(f"score has {np.sum(~np.isfinite(score))} values that are not finite")
        n_active, n = int(label.sum()), label.size
        if n_active in (0, n):
            raise ValueError(f"{n_active} of {n} labels are active: calibration needs both kinds")
        target = np.where(label, (n_active + 1) / (n_active + 2), 1 / (n - n_active + 2))
        scale = score.std() or 1.0
        design = np.stack([score / scale, np.ones(n)])

        def loss(parameters):
            return np.mean(np.logaddexp(0, z := parameters @ design) - target * z)

        def gradient(parameters):
            return design @ (expit(parameters @ design) - target) / n

        def hessian(parameters):
            p = expit(parameters @ design)
            return (design * p * (1 - p)) @ design.T / n

        prevalence = n_active / n
        start = np.array([0.0, np.log(prevalence / (1 - prevalence))])
        found = minimize(
            loss, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-8}
        )
        slope, intercept = found.x
        return cls(jnp.float32(slope / scale), jnp.float32(intercept))

    def __call__(self, score: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Probability of being active."""
        z = self.slope * score + self.intercept
        return 1 / (1 + jnp.exp(-z))


def choose_threshold(
    probability: Float[np.ndarray, "case source"], label: Labels, criterion: Literal["accuracy", "f1"]
) -> float:
    """The threshold t, of all, for which the decisions `probability >= t` are best on average over cases.

    Exact: as t falls, each source of each case changes that case's value once, and the changes are summed in
    order. "accuracy" suits half-active maps, where both kinds of error weigh the same; "f1" suits focal
    sources, where a decision for nothing is nearly always accurate. Of equally good thresholds, the highest;
    each lies midway between two neighbouring probabilities.

    Raises:
        ValueError: for different shapes or an unknown criterion.
    """
    probability, label = np.asarray(probability, dtype=np.float64), np.asarray(label) != 0
    if probability.shape != label.shape or probability.ndim != 2:
        raise ValueError(
            "probability and label must both have shape (case, source), "
            f"not {probability.shape} and {label.shape}"
        )
    order = np.argsort(-probability, axis=1, kind="stable")
    ranked = np.take_along_axis(probability, order, axis=1).ravel()
    gained = np.diff(_value_after_each(np.take_along_axis(label, order, axis=1), criterion), axis=1).ravel()
    order = np.argsort(-ranked, kind="stable")
    ranked, value = ranked[order], np.cumsum(gained[order])
    last_of_its_value = np.append(ranked[1:] < ranked[:-1], True)
    ranked, value = ranked[last_of_its_value], value[last_of_its_value]
    best = int(np.argmax(value))
    if value[best] <= 0:  # deciding for no source is best
        return float(np.nextafter(ranked[0], np.inf))
    below = ranked[best + 1] if best + 1 < len(ranked) else ranked[best]
    return float((ranked[best] + below) / 2)


def _value_after_each(ranked_label: Bool[np.ndarray, "case source"], criterion: str):
    """Criterion of each case when its first 0, 1, 2, … sources are taken for active."""
    hits = np.concatenate([np.zeros((len(ranked_label), 1)), np.cumsum(ranked_label, axis=1)], axis=1)
    taken = np.arange(hits.shape[1])
    active = hits[:, -1:]
    if criterion == "f1":
        return 2 * hits / np.maximum(active + taken, 1)
    if criterion == "accuracy":
        return (hits.shape[1] - 1 - active - taken + 2 * hits) / (hits.shape[1] - 1)
    raise ValueError(f'criterion must be "accuracy" or "f1", not {criterion!r}')
