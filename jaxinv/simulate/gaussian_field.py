"""A smooth Gaussian random field on scattered points, as a factor that turns white numbers into it."""

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dpstrf

_CANDIDATES = 256  # pivots looked at together: matrix products instead of matrix–vector ones
_GREED = 0.3  # a pivot is taken if what is left of its variance is at least this share of the largest left


def squared_exponential_factor(
    positions: Float[np.ndarray, "source 3"], length: float, *, tolerance: float = 1e-3
) -> Float[np.ndarray, "source rank"]:
    r"""Low-rank factor $F$ of a squared-exponential covariance: $F z$, $z \sim N(0, I)$, is the field.

    $F F^T \approx K$, $K_{ij} = \exp(-\lVert x_i - x_j \rVert^2 / 2 \ell^2)$, by pivoted Cholesky in blocks.
    $K - F F^T$ is positive semidefinite, so its trace bounds every error: no entry is off by more than the
    largest variance left, and the variances (1 each) lose `tolerance` on average. The rank grows with
    $(\text{extent} / \ell)^{2 \ldots 3}$ and with $\log^{1.5}(1 / \text{tolerance})$; time with its square.

    Args:
        positions: in m.
        length: $\ell$, in m, > 0.
        tolerance: trace of $K - F F^T$ over that of $K$, in (0, 1).

    Returns:
        $F$, float64.

    Raises:
        ValueError: if `length` or `tolerance` is out of its range.

    References:
        Harbrecht, Peters & Schneider 2012, doi:10.1016/j.apnum.2011.10.001.
    """
    if not 0 < length < np.inf:
        raise ValueError(f"length must be positive, in m; found {length}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie in (0, 1); found {tolerance}")
    points = np.asarray(positions, dtype=np.float64) / length
    factor = np.empty((len(points), 0))
    variance_left = np.ones(len(points))
    while variance_left.mean() > tolerance:
        pivots, chol, columns = _next_pivots(points, factor, variance_left)
        new = solve_triangular(chol, columns.T, lower=True, check_finite=False).T
        factor = np.hstack([factor, new])
        variance_left = np.maximum(variance_left - np.einsum("sr,sr->s", new, new), 0)
        variance_left[pivots] = 0
    return factor


def _next_pivots(points, factor, variance_left):
    """Points of large variance left that do not explain each other, with their residual columns."""
    candidates = np.argsort(-variance_left)[: 8 * _CANDIDATES : 8]
    candidates = candidates[variance_left[candidates] > 0]
    block = _residual(points, factor, candidates, candidates)
    chol, order, rank, _ = dpstrf(block, tol=_GREED * variance_left.max(), lower=1)
    pivots = candidates[order[:rank] - 1]
    return pivots, np.tril(chol[:rank, :rank]), _residual(points, factor, slice(None), pivots)


def _residual(points, factor, rows, columns):
    """Part of the covariance that the factor does not hold yet."""
    a, b = points[rows], points[columns]
    squared = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * a @ b.T
    return np.exp(-np.maximum(squared, 0) / 2) - factor[rows] @ factor[columns].T
