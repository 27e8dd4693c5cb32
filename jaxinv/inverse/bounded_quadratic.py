"""The minimum of a small convex quadratic above a bound in every variable, by block principal pivoting."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Bool, Float

_matmul = partial(jnp.matmul, precision="highest")

_MAX_PIVOTS = 50
_PATIENCE = 3  # exchanges of whole sets that may fail to improve before one variable at a time is exchanged


def bounded_quadratic(
    matrix: Float[Array, "unknown unknown"],
    slope: Float[Array, " unknown"],
    lower: Float[Array, " unknown"],
    allowed: Bool[Array, " unknown"],
) -> Float[Array, " unknown"]:
    r"""Minimiser of $\tfrac12 x^T H x - b^T x$ with $x \ge l$; what is not `allowed` stays at its bound.

    Variables that break their condition (below the bound, or held at it by a slope that pulls away) change
    sides all at once, one Cholesky factor an exchange. Where that does not end, it returns its last point,
    moved into the bounds: the caller checks what it gains.

    References:
        Júdice & Pires 1994, doi:10.1016/0305-0548(94)90106-6; Kim & Park 2011, doi:10.1137/110821172.
    """
    rounding = 10 * jnp.finfo(matrix.dtype).eps
    number = jnp.arange(len(slope))

    def solve(free):
        fixed = jnp.where(free, 0, lower)
        both = free[:, None] & free
        reduced = jnp.where(both, matrix, 0) + jnp.diag(jnp.where(free, 0, 1).astype(matrix.dtype))
        right = jnp.where(free, slope - _matmul(matrix, fixed), 0)
        x = jnp.where(free, cho_solve(cho_factor(reduced), right), lower)
        pull = slope - _matmul(matrix, x)
        below = free & (x < lower - rounding * jnp.max(jnp.abs(x)))
        return x, below | (allowed & ~free & (pull > rounding * jnp.max(jnp.abs(slope))))

    def exchange(state):
        free, _, wrong, fewest, patience, pivots = state
        count = wrong.sum()
        better = count < fewest
        one = wrong & (number == jnp.max(jnp.where(wrong, number, -1)))
        free = free ^ jnp.where(better | (patience > 0), wrong, one)
        patience = jnp.where(better, _PATIENCE, jnp.maximum(patience - 1, 0))
        return free, *solve(free), jnp.minimum(count, fewest), patience, pivots + 1

    def unfinished(state):
        _, _, wrong, _, _, pivots = state
        return wrong.any() & (pivots < _MAX_PIVOTS)

    free = allowed & ((lower < 0) | (slope > 0))
    start = (free, *solve(free), jnp.asarray(len(slope) + 1), jnp.asarray(_PATIENCE), jnp.asarray(0))
    return jnp.maximum(jax.lax.while_loop(unfinished, exchange, start)[1], lower)
