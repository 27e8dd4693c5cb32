"""How far mass must be carried from an estimate to the truth: on the host, by network simplex."""

import numpy as np
import ot
from jaxtyping import Float, Int, Num
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

BOXES_PER_SIDE = 8  # of the first cells, along the longest side
MOST_PIVOTS = 10**7  # of the network simplex


def earth_movers_distance(
    truth: Num[np.ndarray, " source"],
    estimate: Num[np.ndarray, " source"],
    positions: Float[np.ndarray, "source 3"],
    *,
    tolerance: float = 1e-4,
) -> float:
    r"""Wasserstein-1 distance of the true and the estimated distribution over sources, in m.

    $\min_{T \ge 0} \sum_{ij} T_{ij} \lVert x_i - x_j \rVert$ over the plans $T$ that carry the estimate to
    the truth, each divided by its sum. What both have at one source stays there, which is no approximation.
    Where the truth is one source, the result is the estimate's mean distance from it. Otherwise the sources
    of the larger side are put into cells. The plan between cells gives an upper bound; its prices, applied to
    every single source, give a lower one. Cells are split where the bounds differ until these are at most
    twice `tolerance` apart, and their mean is returned. Symmetric in truth and estimate. The time grows with
    the number of sources of the smaller side: some 20 ms for 100 of 5,000, a second for 2,000.

    Args:
        truth: 0 or more; any unit, for example labels. Without an active source the result is NaN.
        estimate: 0 or more; any unit. An estimate of zeros has equal mass everywhere.
        positions: in m.
        tolerance: largest error of the result, in m; 0 gives every source a cell of its own from the start.

    Returns:
        The distance; NaN where a value is not finite.

    Raises:
        ValueError: for arrays of other shapes, or negative values.

    References:
        Rubner et al. 2000, doi:10.1023/A:1026543900054; Bonneel et al. 2011, doi:10.1145/2070781.2024192.
    """
    truth, estimate, positions = (np.asarray(x, dtype=np.float64) for x in (truth, estimate, positions))
    _check(truth, estimate, positions, tolerance)
    if not (np.isfinite(truth).all() and np.isfinite(estimate).all() and truth.any()):
        return float("nan")
    if not estimate.any():
        estimate = np.ones_like(estimate)
    surplus = _distribution(truth) - _distribution(estimate)
    surplus[np.abs(surplus) <= 1e-12 * _distribution(truth)] = 0  # equal but for rounding
    few, many = np.flatnonzero(surplus > 0), np.flatnonzero(surplus < 0)
    if not (few.size and many.size):
        return 0.0
    if few.size > many.size:
        few, many = many, few
    carried = np.abs(surplus[few]).sum()
    distance = cdist(positions[many], positions[few])
    supply, demand = _distribution(np.abs(surplus[few])), _distribution(np.abs(surplus[many]))
    if few.size == 1:
        return float(carried * (demand @ distance[:, 0]))
    return float(carried * _refined(supply, demand, distance, positions[many], tolerance / carried))


def _refined(few, many, distance, places, tolerance: float) -> float:
    """Mean of a lower and an upper bound on the least cost, at most `2 * tolerance` apart."""
    cell = _boxes(places) if tolerance > 0 else np.arange(len(many))
    while True:
        lower, upper, gap, cheapest = _bounds(few, many, distance, cell)
        if upper - lower <= 2 * tolerance or len(gap) == len(many):
            return (lower + upper) / 2
        finer = _split(cell, gap, cheapest, tolerance)
        cell = finer if finer.max() > cell.max() else np.arange(len(many))


def _bounds(few, many, distance, cell: Int[np.ndarray, " many"]):
    """Lower and upper bound on the least cost, what each cell adds to their gap, and each source's partner.

    A plan between cells, each cell's mass carried in the proportions of its sources, is a plan between
    sources, and costs the mean distance. Prices of `few` leave every source of `many` its cheapest partner:
    feasible in the dual problem. A cell whose sources share one cheapest partner adds nothing to the gap.
    """
    weight = csr_array((many, (cell, np.arange(len(many)))))
    mass = weight.sum(axis=1)
    mean_distance = (weight @ distance) / mass[:, None]
    upper, solution = ot.emd2(
        mass / mass.sum(), few, mean_distance, numItermax=MOST_PIVOTS, log=True, center_dual=False
    )
    price = solution["v"]
    reduced = distance - price
    cheapest = np.argmin(reduced, axis=1)
    cost = many * reduced[np.arange(len(many)), cheapest]
    gap = mass * np.min(mean_distance - price, axis=1) - np.bincount(cell, cost)
    return max(few @ price + cost.sum(), 0.0), upper, gap, cheapest


def _split(cell, gap, cheapest, tolerance: float) -> Int[np.ndarray, " many"]:
    """Parts, by cheapest partner, the cells with the largest gaps; the others' gaps sum to `tolerance`."""
    ascending = np.argsort(gap)
    parted = np.empty(len(gap), bool)
    parted[ascending] = np.cumsum(gap[ascending]) > tolerance
    pair = cell * (cheapest.max() + 1) + np.where(parted[cell], cheapest, 0)
    return np.unique(pair, return_inverse=True)[1]


def _boxes(places: Float[np.ndarray, "many 3"]) -> Int[np.ndarray, " many"]:
    """Number of the box of each place, of those that are not empty."""
    low, side = places.min(axis=0), np.ptp(places, axis=0).max() / BOXES_PER_SIDE
    box = np.floor((places - low) / (side or 1.0)).astype(int)
    return np.unique(box @ [1, 100, 10_000], return_inverse=True)[1]


def _distribution(mass: Float[np.ndarray, " source"]) -> Float[np.ndarray, " source"]:
    mass = mass / mass.max()
    return mass / mass.sum()


def _check(truth, estimate, positions, tolerance: float) -> None:
    if truth.ndim != 1 or truth.shape != estimate.shape:
        raise ValueError(
            f"truth and estimate must both have shape (source,), not {truth.shape} and {estimate.shape}; "
            "call once a case"
        )
    if positions.shape != (*truth.shape, 3):
        raise ValueError(f"positions must have shape {(*truth.shape, 3)}, not {positions.shape}")
    if (truth < 0).any() or (estimate < 0).any():
        raise ValueError("truth and estimate must not be negative: take the magnitude of a current")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, not {tolerance}")
