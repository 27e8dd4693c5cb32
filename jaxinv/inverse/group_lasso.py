"""The group Lasso by working sets: a few groups are solved for, and all of them certify the gap."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinv.inverse.duality_gap import correlate, duality_gap, group_norms
from jaxinv.inverse.group_newton import group_newton

SLOTS = (32,)  # groups in a working set that mostly suffice; a step's cost grows with their square

_EARLY = 0.1  # of the gap over all groups, down to which a working set's own is solved


class GroupLassoSolution(NamedTuple):
    """The groups that may be active, in slots, and what the iteration reached."""

    index: Int[Array, " slot"]
    value: Float[Array, "slot orientation time"]
    gap: Float[Array, ""]
    steps: Int[Array, ""]


class _State(NamedTuple):
    variance: Float[Array, " source"]
    norms: Float[Array, " source"]
    found: GroupLassoSolution


def group_lasso(
    gain: Float[Array, "source orientation channel"],
    target: Float[Array, "channel time"],
    penalty: Float[Array, ""],
    norms: Float[Array, " source"],
    tolerance: Float[Array, ""],
    max_iterations: Int[Array, ""],
    max_active: int,
) -> GroupLassoSolution:
    r"""Minimiser of $\tfrac12 \lVert B - \sum_s A_s X_s \rVert_F^2 + \lambda \sum_s \lVert X_s \rVert_F$.

    A working set holds the groups that are active and those whose correlation with the residual is largest.
    Once its own problem is solved (`group_newton`), all groups are correlated with the residual of its
    values, which gives the duality gap and the next working set. It is small until so many groups are active,
    then `max_active`.

    Args:
        gain: $A$ transposed, with norms near one.
        target: $B$, of norm one (or zero).
        penalty: λ.
        norms: of the groups' correlations with the target.
        tolerance: on the gap over half the squared norm of the target.
        max_iterations: Newton steps in all.
        max_active: slots.

    References:
        Massias et al. 2018, arXiv:1802.07481 (working sets).
    """

    def solve(size, state):
        variance, norms, found = state
        index = _working_set(variance, norms, max_active)
        slots = index[:size]
        active = gain[slots]
        goal, left = jnp.maximum(tolerance, _EARLY * found.gap), max_iterations - found.steps
        inside, value, steps = group_newton(active, target, penalty, variance[slots], goal, left)
        norms, gap = certify(gain, target, penalty, active, value)
        value = jnp.pad(value, ((0, max_active - size), (0, 0), (0, 0)))
        found = GroupLassoSolution(index, value, gap, found.steps + steps)
        return _State(variance.at[slots].set(inside), norms, found)

    def unfinished(size, state):
        room = (jnp.sum(state.variance > 0) < size) | (size == max_active)
        return (state.found.gap > tolerance) & (state.found.steps < max_iterations) & room

    gap = duality_gap(target, penalty, target, norms, jnp.zeros((), gain.dtype))
    value = jnp.zeros((max_active, gain.shape[1], target.shape[1]), gain.dtype)
    start = GroupLassoSolution(jnp.arange(max_active, dtype=jnp.int32), value, gap, jnp.asarray(0, jnp.int32))
    state = _State(jnp.zeros(len(gain), gain.dtype), norms, start)
    for size in slot_sizes(max_active):
        state = jax.lax.while_loop(partial(unfinished, size), partial(solve, size), state)
    return state.found


def slot_sizes(max_active: int) -> tuple[int, ...]:
    """Of working sets, one after the other."""
    return (*(size for size in SLOTS if size < max_active), max_active)


def certify(
    gain: Float[Array, "source orientation channel"],
    target: Float[Array, "channel time"],
    penalty: Float[Array, ""],
    active: Float[Array, "slot orientation channel"],
    value: Float[Array, "slot orientation time"],
) -> tuple[Float[Array, " source"], Float[Array, ""]]:
    """Norms of all groups' correlations with the residual, and the gap, from the values alone."""
    n_times = target.shape[1]
    fields = jnp.matmul(active.reshape(-1, len(target)).T, value.reshape(-1, n_times), precision="highest")
    residual = target - fields
    norms = group_norms(correlate(gain, residual))
    return norms, duality_gap(target, penalty, residual, norms, penalty * jnp.sum(group_norms(value)))


def _working_set(variance, norms, size):
    """Active groups first, then those whose correlation is largest."""
    return largest(jnp.where(variance > 0, jnp.inf, norms), size)


def largest(values: Float[Array, " source"], size: int) -> Int[Array, " slot"]:
    """Indices of the largest.

    Ranked in single precision, and behind a barrier: else XLA sorts all of them on a CPU.
    """
    return jax.lax.optimization_barrier(jax.lax.top_k(values.astype(jnp.float32), size)[1])
