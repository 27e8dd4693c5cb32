"""Means over cases with bootstrap intervals, and paired comparisons of two methods."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap

from jaxinv.evaluation.case_metrics import Metric

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean over cases and its bootstrap interval.

    Attributes:
        mean: over the cases for which the metric is defined.
        low: lower end of the interval.
        high: upper end.
        cases: how many those are.
    """

    mean: float
    low: float
    high: float
    cases: int


@dataclass(frozen=True)
class Comparison:
    """One method against another on the same cases.

    Attributes:
        verdict: "beats" or "loses to" where the interval of the difference leaves 0 out, else "ties with".
        difference: first minus second.
    """

    verdict: Literal["beats", "loses to", "ties with"]
    difference: Interval


def mean_interval(values: Float[np.ndarray, " case"], *, seed: int = 0) -> Interval:
    """Mean with the 95 % percentile interval of 2,000 resamples of the cases.

    A case for which the metric is not defined (NaN) is left out, and `Interval.cases` tells.

    Raises:
        ValueError: if it is defined for no case.
    """
    defined = np.asarray(values)[~np.isnan(values)]
    if defined.size == 0:
        raise ValueError("the metric is defined for none of the cases")
    if np.ptp(defined) == 0:
        return Interval(float(defined[0]), float(defined[0]), float(defined[0]), defined.size)
    found = bootstrap(
        (defined,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="percentile",
        rng=np.random.default_rng(seed), batch=256,
    )  # fmt: skip
    low, high = found.confidence_interval
    return Interval(float(defined.mean()), float(low), float(high), defined.size)


def better_than(
    first: Float[np.ndarray, " case"], second: Float[np.ndarray, " case"], metric: Metric, *, seed: int = 0
) -> Comparison:
    """Whether the first method beats the second, by the paired bootstrap of the difference.

    Args:
        first: values of the metric for each case, in SI.
        second: those of the other method; where one has fewer cases they must be the first of the other's.
        metric: says which direction is better.
        seed: of the resampling.
    """
    shared = min(len(first), len(second))
    difference = mean_interval(first[:shared] - second[:shared], seed=seed)
    if difference.low <= 0 <= difference.high:
        return Comparison("ties with", difference)
    wins = (difference.mean > 0) == (metric.better == "higher")
    return Comparison("beats" if wins else "loses to", difference)
