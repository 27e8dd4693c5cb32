"""How well a score finds a few true sources: pure functions of one case, to `vmap`.

`score` is anything that orders the nodes. True sources have places of their own, which need not be nodes, and
are padded: `present` says which of them count. Without a true source there is nothing to localise, and the
result is NaN; so it is for a score that is NaN.
"""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

Score = Float[Array, " node"]
Places = Float[Array, "node 3"]
TruePlaces = Float[Array, "true 3"]
Present = Bool[Array, " true"]
Scalar = Float[Array, ""]

MOST_ASSIGNED = 4


def area_under_curve(label: Num[Array, " node"] | Bool[Array, " node"], score: Score) -> Scalar:
    """Area under the receiver operating characteristic, exact.

    The share of pairs of an active and an inactive node in which the active one has the larger score; equal
    scores count half. NaN where all nodes are active, or none.

    Raises:
        ValueError: for arrays of different shapes; so do all functions of this module.

    References:
        Hanley & McNeil 1982, doi:10.1148/radiology.143.1.7063747.
    """
    label, score = jnp.asarray(label) != 0, jnp.asarray(score)
    if label.shape != score.shape or label.ndim != 1:
        raise ValueError(
            "label and score must both have shape (node,), "
            f"not {label.shape} and {score.shape}; vmap over cases"
        )
    order = jnp.argsort(score)
    ranked, active = score[order], label[order]
    inactive = jnp.cumsum(~active)
    differs = ranked[1:] != ranked[:-1]
    first, last = jnp.append(True, differs), jnp.append(differs, True)
    below = jax.lax.cummax(jnp.where(first, jnp.where(active, inactive, inactive - 1), 0))
    not_above = jax.lax.cummin(jnp.where(last, inactive, inactive[-1]), reverse=True)
    n_inactive, n_active = inactive[-1], jnp.sum(active)
    beaten = (below + not_above) / (2 * jnp.maximum(n_inactive, 1))
    area = jnp.sum(jnp.where(active, beaten, 0)) / jnp.maximum(n_active, 1)
    undefined = (n_active == 0) | (n_inactive == 0) | jnp.isnan(score).any()
    return jnp.where(undefined, jnp.nan, area)


def peak_error(score: Score, positions: Places, true_positions: TruePlaces, present: Present) -> Scalar:
    """Distance of the node with the largest score from the nearest true source, in m.

    Where several nodes share the largest score, the mean of their distances: a constant guess errs by the
    mean over all nodes.

    Args:
        score: orders the nodes.
        positions: of nodes, in m.
        true_positions: in m; padding may hold anything.
        present: which of them are true sources.
    """
    score, positions, true_positions, present = _checked(score, positions, true_positions, present)
    distance = _distance_to_nearest(positions, true_positions, present)
    largest = score == jnp.max(score)
    error = jnp.sum(jnp.where(largest, distance, 0)) / jnp.maximum(jnp.sum(largest), 1)
    return _defined(error, score, present)


def spatial_dispersion(
    score: Score, positions: Places, true_positions: TruePlaces, present: Present
) -> Scalar:
    r"""Spread of a score around the true sources, in m.

    $\sqrt{\sum_i d_i^2 s_i^2 / \sum_i s_i^2}$, where $d_i$ is the distance of node $i$ from the nearest true
    source. For one true source it is equation 12 of Molins et al. Free of the scale and the sign of $s$;
    differentiable in it where the result is not 0. A score of zeros is taken as constant.

    Args:
        score: $s$, an amplitude or a probability.
        positions: of nodes, in m.
        true_positions: in m; padding may hold anything.
        present: which of them are true sources.

    References:
        Molins et al. 2008, doi:10.1016/j.neuroimage.2008.05.064.
    """
    score, positions, true_positions, present = _checked(score, positions, true_positions, present)
    distance = _distance_to_nearest(positions, true_positions, present)
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(score)))
    power = jnp.where(largest > 0, score / jnp.where(largest > 0, largest, 1), 1) ** 2
    distance = jnp.where(present.any(), distance, 0)
    return _defined(jnp.sqrt(jnp.sum(distance**2 * power) / jnp.sum(power)), score, present)


def assigned_localisation_error(
    score: Score,
    positions: Places,
    true_positions: TruePlaces,
    present: Present,
    separation: float | Float[Array, ""],
) -> Scalar:
    """Mean distance of peaks and true sources, each peak assigned to one source, in m.

    As many peaks are taken as there are true sources: the node with the largest score, then that with the
    largest of those no closer than `separation` to a peak, and so on; of equal scores the first in order. Of
    all assignments, the one with the least total distance.

    Args:
        score: orders the nodes.
        positions: of nodes, in m.
        true_positions: in m, four at most; padding may hold anything.
        present: which of them are true sources.
        separation: least distance between two peaks, in m.

    Returns:
        The error; NaN also where the nodes have no room for as many peaks.

    Raises:
        ValueError: for more than four places of true sources.
    """
    score, positions, true_positions, present = _checked(score, positions, true_positions, present)
    n = len(present)
    if n > MOST_ASSIGNED:
        raise ValueError(
            f"true_positions has room for {n} sources, of which at most {MOST_ASSIGNED} can be assigned: "
            "pad to fewer"
        )
    peaks, found = _peaks(score, positions, n, separation)
    wanted = jnp.arange(n) < jnp.sum(present)
    distance = jnp.linalg.norm(peaks[:, None] - true_positions, axis=-1)
    distance = jnp.where(wanted[:, None] & present, distance, 0)
    distance = jnp.where(wanted[:, None] == present, distance, jnp.inf)  # padding goes with padding
    assignments = np.array(list(permutations(range(n))))
    least = jnp.min(jnp.sum(distance[np.arange(n), assignments], axis=1))
    error = jnp.where((found | ~wanted).all(), least / jnp.maximum(jnp.sum(present), 1), jnp.nan)
    return _defined(error, score, present)


def _peaks(score, positions, count: int, separation) -> tuple[Float[Array, "count 3"], Bool[Array, " count"]]:
    """Largest scores first, kept apart; and whether a node was left to take."""
    free = jnp.ones(len(score), bool)
    peaks, found = [], []
    for _ in range(count):
        peak = jnp.argmax(jnp.where(free, score, -jnp.inf))
        found.append(free.any())
        peaks.append(positions[peak])
        apart = jnp.linalg.norm(positions - positions[peak], axis=-1) >= separation
        free = (free & apart).at[peak].set(False)
    return jnp.stack(peaks), jnp.stack(found)


def _distance_to_nearest(positions, true_positions, present) -> Float[Array, " node"]:
    distance = jnp.linalg.norm(positions[:, None] - true_positions, axis=-1)
    return jnp.min(jnp.where(present, distance, jnp.inf), axis=1)


def _defined(error, score, present) -> Scalar:
    return jnp.where(present.any() & ~jnp.isnan(score).any(), error, jnp.nan)


def _checked(score, positions, true_positions, present):
    score, positions, true_positions, present = (
        jnp.asarray(x) for x in (score, positions, true_positions, present)
    )
    if score.ndim != 1 or positions.shape != (*score.shape, 3):
        raise ValueError(
            "score and positions must have shapes (node,) and (node, 3), "
            f"not {score.shape} and {positions.shape}; vmap over cases"
        )
    if present.ndim != 1 or not len(present) or true_positions.shape != (*present.shape, 3):
        raise ValueError(
            "present and true_positions must have shapes (true,) and (true, 3) with room for one source, "
            f"not {present.shape} and {true_positions.shape}; vmap over cases"
        )
    return score, positions, true_positions, present != 0
