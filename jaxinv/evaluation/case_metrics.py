"""The figures of merit of the table: which they are, their units, and their values for each case."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from jaxinv import metrics
from jaxinv.head import SourceSpace


@dataclass(frozen=True)
class Metric:
    """One column of the table.

    Attributes:
        key: name in results.
        title: heading.
        unit: shown beside the title; "" where there is none.
        scale: from SI to that unit.
        better: which direction is good.
        digits: after the decimal point.
    """

    key: str
    title: str
    better: Literal["higher", "lower"]
    unit: str = ""
    scale: float = 1.0
    digits: int = 3

    def shown(self, value: float) -> str:
        """A value in SI, in the unit of the table."""
        return f"{self.scale * value:.{self.digits}f}"


METRICS: tuple[Metric, ...] = (
    Metric("accuracy", "accuracy", "higher"),
    Metric("precision", "precision", "higher"),
    Metric("recall", "recall", "higher"),
    Metric("f1", "F1", "higher"),
    Metric("bce", "BCE", "lower", "nats"),
    Metric("average_precision", "AP", "higher"),
    Metric("localisation_error", "loc. error", "lower", "mm", 1e3, 1),
    Metric("node_volume_error", "volume error (nodes)", "lower", "cm³", 1e6, 2),
    Metric("cortex_volume_error", "volume error (cortex)", "lower", "cm³", 1e6, 2),
)


def metric(key: str) -> Metric:
    """The metric of that key.

    Raises:
        ValueError: if there is none.
    """
    for known in METRICS:
        if known.key == key:
            return known
    raise ValueError(f"unknown metric {key!r}; known are {[m.key for m in METRICS]}")


def case_metrics(
    label: Num[Array, "case source"],
    probability: Float[Array, "case source"],
    prediction: Bool[Array, "case source"],
    sources: SourceSpace,
    node_volume: float | None = None,
    *,
    score: Float[Array, "case source"] | None = None,
) -> dict[str, Float[np.ndarray, " case"]]:
    """Every metric that can be computed, for every case, in SI units.

    Args:
        label: the truth.
        probability: of being active, for the cross-entropy.
        prediction: decisions.
        sources: positions; area and thickness, where given, for the volume of cortex.
        node_volume: the paper's mean volume of a node, in m³.
        score: what orders the sources for the average precision; the probability when None.
    """
    score = probability if score is None else score
    positions = jnp.asarray(sources.positions, jnp.float32)
    patch = None
    if sources.area is not None and sources.thickness is not None:
        patch = jnp.asarray(np.asarray(sources.area) * np.asarray(sources.thickness), jnp.float32)
    node = None if node_volume is None else jnp.asarray(node_volume, jnp.float32)
    values = _all_cases(
        jnp.asarray(label, jnp.float32), jnp.asarray(probability, jnp.float32), jnp.asarray(prediction),
        jnp.asarray(score, jnp.float32), positions, node, patch,
    )  # fmt: skip
    return {m.key: np.asarray(values[m.key], dtype=np.float64) for m in METRICS if m.key in values}


@jax.jit
def _all_cases(label, probability, prediction, score, positions, node, patch):
    def one(case):
        y, p, d, s = case
        values = {
            "accuracy": metrics.accuracy(y, d),
            "precision": metrics.precision(y, d),
            "recall": metrics.recall(y, d),
            "f1": metrics.f1(y, d),
            "bce": metrics.binary_cross_entropy(y, p),
            "average_precision": metrics.average_precision(y, s),
            "localisation_error": metrics.localisation_error(y, d, positions),
        }
        if node is not None:
            values["node_volume_error"] = metrics.active_volume_error(y, d, node)
        if patch is not None:
            values["cortex_volume_error"] = metrics.active_volume_error(y, d, patch)
        return values

    return jax.lax.map(one, (label, probability, prediction, score), batch_size=16)
