"""The group Lasso by working sets: a few groups are solved for, and all of them certify the gap."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.inverse.duality_gap import correlate, duality_gap, group_norms, safe_root
from jaxinv.inverse.group_newton import group_newton

SLOTS = (32,)  # groups in a working set that mostly suffice; a step's cost grows with their square

_EARLY = 0.1  # of the gap over all groups, down to which a working set's own is solved


class GroupLassoSolution(NamedTuple):
    """The groups that may be active, in slots, and what the iteration reached."""

    index: Int[Array, " slot"]
    value: Float[Array, "slot orientation time"]
    gap: Float[Array, ""]
    steps: Int[Array, ""]


class Ranking(NamedTuple):
    """Groups by their correlation with a residual.

    Attributes:
        index: those kept and those whose correlation is largest.
        exact: norms of their correlations.
        norms: of all groups' correlations, or a little above where single precision has found them.
    """

    index: Int[Array, " slot"]
    exact: Float[Array, " slot"]
    norms: Float[Array, " source"]


class _State(NamedTuple):
    variance: Float[Array, " source"]
    ranking: Ranking
    found: GroupLassoSolution


def rank(
    gain: Float[Array, "source orientation channel"],
    coarse: Float[Array, "channel column"],
    residual: Float[Array, "channel time"],
    kept: Bool[Array, " source"],
    size: int,
) -> Ranking:
    """Groups whose correlations are largest, and bounds of all, from a pass over all in single precision.

    Args:
        gain: with norms of one at most.
        coarse: the same in single precision, channel by channel, which is how products with it are fastest.
        residual: what they are correlated with.
        kept: groups that come first, whatever their correlation.
        size: how many are ranked.
    """
    columns = jnp.matmul(residual.T.astype(coarse.dtype), coarse, precision="highest")
    rough = safe_root(jnp.sum(columns**2, axis=0).reshape(len(gain), -1).sum(axis=1))
    index = largest(jnp.where(kept, jnp.inf, rough), size)
    exact = group_norms(correlate(gain[index], residual))
    n_terms = gain.shape[2] + gain.shape[1] * residual.shape[1] + 4  # each rounded once
    margin = n_terms * jnp.finfo(coarse.dtype).eps / 2 * jnp.linalg.norm(residual)
    return Ranking(index, exact, (rough + margin).at[index].set(exact))


def group_lasso(
    gain: Float[Array, "source orientation channel"],
    coarse: Float[Array, "channel column"],
    target: Float[Array, "channel time"],
    penalty: Float[Array, ""],
    ranking: Ranking,
    tolerance: Float[Array, ""],
    max_iterations: Int[Array, ""],
) -> GroupLassoSolution:
    r"""Minimiser of $\tfrac12 \lVert B - \sum_s A_s X_s \rVert_F^2 + \lambda \sum_s \lVert X_s \rVert_F$.

    A working set holds the groups that are active and those whose correlation with the residual is largest.
    Once its own problem is solved (`group_newton`), all groups are correlated with the residual of its
    values, which gives the duality gap and the next working set. It is small until so many groups are active,
    then it has all slots of the ranking. Groups outside the next working set enter the gap with upper bounds,
    so that it stays a bound.

    Args:
        gain: $A$ transposed, with norms of one at most.
        coarse: the same in single precision, channel by channel.
        target: $B$, of norm one (or zero).
        penalty: λ.
        ranking: of the groups' correlations with the target.
        tolerance: on the gap over half the squared norm of the target.
        max_iterations: Newton steps in all.

    References:
        Massias et al. 2018, arXiv:1802.07481 (working sets).
    """
    max_active = len(ranking.index)

    def solve(size, state):
        variance, ranking, found = state
        slots = ranking.index[:size]
        active = gain[slots]
        goal, left = jnp.maximum(tolerance, _EARLY * found.gap), max_iterations - found.steps
        inside, value, steps = group_newton(active, target, penalty, variance[slots], goal, left)
        variance = variance.at[slots].set(inside)
        residual = target - fields(active, value)
        following = rank(gain, coarse, residual, variance > 0, max_active)
        gap = gap_of(target, penalty, residual, following.norms, value)
        value = jnp.pad(value, ((0, max_active - size), (0, 0), (0, 0)))
        found = GroupLassoSolution(ranking.index, value, gap, found.steps + steps)
        return _State(variance, following, found)

    def unfinished(size, state):
        room = (jnp.sum(state.variance > 0) < size) | (size == max_active)
        return (state.found.gap > tolerance) & (state.found.steps < max_iterations) & room

    value = jnp.zeros((max_active, gain.shape[1], target.shape[1]), gain.dtype)
    gap = gap_of(target, penalty, target, ranking.norms, value)
    start = GroupLassoSolution(ranking.index, value, gap, jnp.asarray(0, jnp.int32))
    state = _State(jnp.zeros(len(gain), gain.dtype), ranking, start)
    for size in slot_sizes(max_active):
        state = jax.lax.while_loop(partial(unfinished, size), partial(solve, size), state)
    return state.found


def slot_sizes(max_active: int) -> tuple[int, ...]:
    """Of working sets, one after the other."""
    return (*(size for size in SLOTS if size < max_active), max_active)


def fields(
    active: Float[Array, "slot orientation channel"], value: Float[Array, "slot orientation time"]
) -> Float[Array, "channel time"]:
    """What the values give at the channels."""
    columns = active.reshape(-1, active.shape[2]).T
    return jnp.matmul(columns, value.reshape(columns.shape[1], -1), precision="highest")


def gap_of(
    target: Float[Array, "channel time"],
    penalty: Float[Array, ""],
    residual: Float[Array, "channel time"],
    norms: Float[Array, " source"],
    value: Float[Array, "slot orientation time"],
) -> Float[Array, ""]:
    """Duality gap of values, from their residual and the norms of its correlations with all groups."""
    return duality_gap(target, penalty, residual, norms, penalty * jnp.sum(group_norms(value)))


def largest(values: Float[Array, " source"], size: int) -> Int[Array, " slot"]:
    """Indices of the largest.

    Ranked in single precision, and behind a barrier: else XLA sorts all of them on a CPU.
    """
    return jax.lax.optimization_barrier(jax.lax.top_k(values.astype(jnp.float32), size)[1])
