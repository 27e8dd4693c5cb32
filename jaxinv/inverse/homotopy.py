"""The Lasso's path of solutions, followed from the penalty that gives zero down to the one asked for."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Bool, Float, Int

_matmul = partial(jnp.matmul, precision="highest")


class _Path(NamedTuple):
    """A corner of the path: which columns are active (in slots, as many as channels), and their state."""

    index: Int[Array, " slot"]
    active: Bool[Array, " slot"]
    sign: Float[Array, " slot"]
    value: Float[Array, " slot"]
    penalty: Float[Array, ""]
    dropped: Int[Array, ""]
    steps: Int[Array, ""]


def lasso_path_end(
    gain: Float[Array, "channel source"],
    target: Float[Array, " channel"],
    penalty: Float[Array, ""],
    max_steps: int | Int[Array, ""],
) -> tuple[Float[Array, " source"], Int[Array, ""]]:
    r"""Minimiser of $\tfrac12 \lVert b - A x \rVert^2 + \lambda \lVert x \rVert_1$ by homotopy (LARS).

    The path is piecewise linear in $\lambda$; at each corner one column joins or leaves, so that it takes
    about as many steps as sources are active. Exact but for rounding, which it does not correct: the caller
    checks the duality gap. Where rounding breaks it (columns that depend on each other), or `max_steps` are
    not enough, it returns the last good corner.

    Returns:
        $x$, and the number of steps.

    References:
        Efron et al. 2004, doi:10.1214/009053604000000067.
    """
    n_channels, n_sources = gain.shape
    correlation = _matmul(gain.T, target)
    first = jnp.argmax(jnp.abs(correlation)).astype(jnp.int32)
    slot = jnp.arange(n_channels, dtype=jnp.int32)
    empty = jnp.zeros(n_channels, gain.dtype)
    start = _Path(
        index=jnp.where(slot == 0, first, n_sources),
        active=slot == 0,
        sign=jnp.where(slot == 0, jnp.sign(correlation[first]), empty),
        value=empty,
        penalty=jnp.abs(correlation[first]),
        dropped=jnp.int32(-1),
        steps=jnp.int32(0),
    )

    def unfinished(path):
        return (path.penalty > penalty) & (path.steps < max_steps) & (path.active.sum() < n_channels)

    end = jax.lax.while_loop(unfinished, partial(_next_corner, gain, target, penalty), start)
    value = jnp.where(end.active, end.value, 0)
    return jnp.zeros(n_sources, gain.dtype).at[end.index].add(value, mode="drop"), end.steps


def _next_corner(gain, target, penalty, path):
    columns = jnp.where(path.active, gain[:, jnp.minimum(path.index, gain.shape[1] - 1)], 0)
    slope = _slope(columns, path)
    correlation = _matmul(gain.T, target - _matmul(columns, path.value))
    bend = _matmul(gain.T, _matmul(columns, slope))

    join_at, joins = _first_join(correlation, bend, path)
    leave_at, leaves = _first_leave(slope, path)
    length = jnp.minimum(jnp.minimum(join_at, leave_at), path.penalty - penalty)
    value = path.value + length * slope
    moved = path._replace(value=value, penalty=path.penalty - length, dropped=jnp.int32(-1))

    free = jnp.argmin(path.active)
    joined = moved._replace(
        index=path.index.at[free].set(joins),
        active=path.active.at[free].set(True),
        sign=path.sign.at[free].set(jnp.sign(correlation[joins] - length * bend[joins])),
        value=value.at[free].set(0),
    )
    left = moved._replace(
        index=path.index.at[leaves].set(gain.shape[1]),
        active=path.active.at[leaves].set(False),
        value=value.at[leaves].set(0),
        dropped=path.index[leaves],
    )
    reached = length >= path.penalty - penalty
    corner = _choose(reached, moved._replace(penalty=penalty), _choose(leave_at < join_at, left, joined))
    broken = ~jnp.isfinite(value).all()
    corner = _choose(broken, path._replace(penalty=-jnp.ones_like(penalty)), corner)
    return corner._replace(steps=path.steps + 1)


def _slope(columns, path):
    """Change of the active values as the penalty falls by one: the Gram matrix's solve of the signs."""
    gram = _matmul(columns.T, columns) + jnp.diag(jnp.where(path.active, 0, 1).astype(columns.dtype))
    return cho_solve(cho_factor(gram), jnp.where(path.active, path.sign, 0))


def _first_join(correlation, bend, path):
    """Where the penalty first meets the correlation of an inactive column, and which."""
    up = _meeting(path.penalty - correlation, 1 - bend)
    down = _meeting(path.penalty + correlation, 1 + bend)
    meets = jnp.minimum(up, down).at[path.index].set(jnp.inf, mode="drop")
    meets = meets.at[jnp.where(path.dropped < 0, len(bend), path.dropped)].set(jnp.inf, mode="drop")
    joins = jnp.argmin(meets).astype(jnp.int32)
    return meets[joins], joins


def _first_leave(slope, path):
    """Where an active value first passes through zero, and in which slot."""
    towards_zero = path.active & (slope * path.value < 0)
    passes = jnp.where(towards_zero, -path.value / jnp.where(towards_zero, slope, 1), jnp.inf)
    leaves = jnp.argmin(passes)
    return passes[leaves], leaves


def _meeting(distance, speed):
    closing = speed > 0
    return jnp.where(closing, jnp.maximum(distance, 0) / jnp.where(closing, speed, 1), jnp.inf)


def _choose(condition, yes, no):
    return jax.tree.map(partial(jnp.where, condition), yes, no)
