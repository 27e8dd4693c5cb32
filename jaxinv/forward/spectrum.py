"""Certified bounds on the largest eigenvalue of a symmetric operator, by block Lanczos iteration."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

STARTS = 16  # random starting vectors, independent of each other
FAILURE = 1e-10  # probability with which the bound is too low


def eigenvalue_bound(
    apply: Callable[[Float[np.ndarray, "row start"]], Float[np.ndarray, "row start"]],
    size: int,
    *,
    steps: int,
    seed: int = 0,
) -> float:
    """An upper bound on the largest eigenvalue of a positive semidefinite operator.

    The largest Ritz value of block Lanczos from `STARTS` random vectors, which lies below the eigenvalue,
    over one minus the relative error that it exceeds with a probability of less than `FAILURE`. Of a small
    operator it is the eigenvalue itself.

    Args:
        apply: the operator on columns.
        size: of its vectors.
        steps: applications of the operator.
        seed: of the starting vectors.

    References:
        Kuczyński & Woźniakowski 1992, doi:10.1137/0613066: for one start the error exceeds ε with a
        probability of at most 1.648 √size exp(-√ε (2 steps - 1)).
    """
    if size <= STARTS * steps:
        return float(np.linalg.eigvalsh(np.asarray(apply(np.eye(size)), dtype=np.float64))[-1])
    block = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, STARTS)))[0]
    basis, images = np.empty((size, 0)), np.empty((size, 0))
    for _ in range(steps):
        image = np.asarray(apply(block), dtype=np.float64)
        basis, images = np.hstack([basis, block]), np.hstack([images, image])
        block = image
        for _ in range(2):  # twice is enough for orthogonality to rounding
            block = np.linalg.qr(block - basis @ (basis.T @ block))[0]
    projected = basis.T @ images
    largest = np.linalg.eigvalsh((projected + projected.T) / 2)[-1]
    return float(largest / (1 - relative_error(size, steps)))


def relative_error(size: int, steps: int) -> float:
    """By how much the largest Ritz value may lie below the eigenvalue."""
    root = math.log(1.648 * math.sqrt(size) / FAILURE ** (1 / STARTS)) / (2 * steps - 1)
    if root >= 1:
        raise ValueError(f"steps={steps} are too few for a vector of {size}")
    return root**2
