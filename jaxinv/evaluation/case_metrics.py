"""The figures of merit of the table: which they are, their units, and their values for each case."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from jaxinv import metrics
from jaxinv.evaluation.problem import FocalTruth
from jaxinv.head import SourceSpace


@dataclass(frozen=True)
class Metric:
    """One column of the table.

    Attributes:
        key: name in results.
        title: heading.
        unit: shown beside the title; "" where there is none.
        scale: from SI to that unit.
        better: which direction is good; "nominal" where a share should be what was promised.
        digits: after the decimal point.
    """

    key: str
    title: str
    better: Literal["higher", "lower", "nominal"]
    unit: str = ""
    scale: float = 1.0
    digits: int = 3

    def shown(self, value: float) -> str:
        """A value in SI, in the unit of the table."""
        return f"{self.scale * value:.{self.digits}f}"

    @property
    def aim(self) -> str:
        """What is good, in words."""
        return f"{LEVEL:g} is right" if self.better == "nominal" else f"{self.better} is better"


LEVEL = 0.9  # of the intervals whose coverage is counted

METRICS: tuple[Metric, ...] = (
    Metric("accuracy", "accuracy", "higher"),
    Metric("precision", "precision", "higher"),
    Metric("recall", "recall", "higher"),
    Metric("f1", "F1", "higher"),
    Metric("bce", "BCE", "lower", "nats"),
    Metric("skill", "BCE skill", "higher"),
    Metric("average_precision", "AP", "higher"),
    Metric("area_under_curve", "AUC", "higher"),
    Metric("coverage", f"truth in {LEVEL:.0%} intervals", "nominal"),
    Metric("localisation_error", "loc. error", "lower", "mm", 1e3, 1),
    Metric("node_volume_error", "volume error (nodes)", "lower", "cm³", 1e6, 2),
    Metric("cortex_volume_error", "volume error (cortex)", "lower", "cm³", 1e6, 2),
    Metric("peak_error", "peak error", "lower", "mm", 1e3, 1),
    Metric("assigned_error", "assigned error", "lower", "mm", 1e3, 1),
    Metric("earth_movers_distance", "EMD", "lower", "mm", 1e3, 1),
    Metric("spatial_dispersion", "dispersion", "lower", "mm", 1e3, 1),
    Metric("calibration_error", "calibration error", "lower"),  # of all cases together
)
SEPARATION = 20e-3  # m, between the peaks that are assigned to true sources


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
    focal: FocalTruth | None = None,
) -> dict[str, Float[np.ndarray, " case"]]:
    """Every metric that can be computed, for every case, in SI units.

    Args:
        label: the truth.
        probability: of being active, for the cross-entropy.
        prediction: decisions.
        sources: positions; area and thickness, where given, for the volume of cortex.
        node_volume: the paper's mean volume of a node, in m³.
        score: what orders the sources, 0 or more where `focal` is given; the probability when None.
        focal: true sources, where they are few: errors of peaks, dispersion and transport.
    """
    score = jnp.asarray(probability if score is None else score, jnp.float32)
    label = jnp.asarray(label, jnp.float32)
    positions = jnp.asarray(sources.positions, jnp.float32)
    patch = None
    if sources.area is not None and sources.thickness is not None:
        patch = jnp.asarray(np.asarray(sources.area) * np.asarray(sources.thickness), jnp.float32)
    node = None if node_volume is None else jnp.asarray(node_volume, jnp.float32)
    values = _all_cases(
        label, jnp.asarray(probability, jnp.float32), jnp.asarray(prediction), score, positions, node, patch
    )
    if focal is not None:
        places, present = jnp.asarray(focal.positions, jnp.float32), jnp.asarray(focal.present)
        values |= _focal_cases(score, positions, places, present)
        transport = partial(metrics.earth_movers_distance, positions=np.asarray(positions))
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # POT lets go of Python's lock
            values["earth_movers_distance"] = list(pool.map(transport, np.asarray(label), np.asarray(score)))
    return {m.key: np.asarray(values[m.key], dtype=np.float64) for m in METRICS if m.key in values}


def case_skills(
    loss: Float[np.ndarray, " case"],
    label: Num[Array, "case source"],
    prior: Float[np.ndarray, " source"],
) -> Float[np.ndarray, " case"]:
    """What each case adds to the skill against what is known of the sources before anything is measured.

    The skill is one minus a ratio of two means over the same cases. Its mean over these values is exact, and
    their spread is that of the ratio to first order: a case that is hard for both counts for neither.
    """
    label, prior = jnp.asarray(label, jnp.float32), jnp.asarray(prior, jnp.float32)
    reference = np.asarray(jax.vmap(metrics.binary_cross_entropy, (0, None))(label, prior), np.float64)
    skill = metrics.skill(loss.mean(), reference.mean())
    return skill - (loss - (1 - skill) * reference) / reference.mean()


def pooled_metrics(
    label: Num[Array, "case source"], probability: Float[Array, "case source"]
) -> dict[str, float]:
    """What has a value for all cases together alone: the expected calibration error."""
    return {
        "calibration_error": metrics.expected_calibration_error(np.asarray(probability), np.asarray(label))
    }


@jax.jit
def _focal_cases(score, positions, places, present):
    def one(case):
        s, x, there = case
        return {
            "peak_error": metrics.peak_error(s, positions, x, there),
            "assigned_error": metrics.assigned_localisation_error(s, positions, x, there, SEPARATION),
            "spatial_dispersion": metrics.spatial_dispersion(s, positions, x, there),
        }

    return jax.lax.map(one, (score, places, present), batch_size=16)


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
            "area_under_curve": metrics.area_under_curve(y, s),
            "localisation_error": metrics.localisation_error(y, d, positions),
        }
        if node is not None:
            values["node_volume_error"] = metrics.active_volume_error(y, d, node)
        if patch is not None:
            values["cortex_volume_error"] = metrics.active_volume_error(y, d, patch)
        return values

    return jax.lax.map(one, (label, probability, prediction, score), batch_size=16)
