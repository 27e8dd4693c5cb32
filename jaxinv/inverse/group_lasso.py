r"""The group Lasso by Newton's method on the variances of its sources, with a certified gap.

A group's norm is the least of a quadratic,
$\lambda \lVert X_s \rVert = \min_{\gamma_s \ge 0} (\lVert X_s \rVert^2 / \gamma_s + \lambda^2 \gamma_s) / 2$.
With $\gamma$ held, $X$ is a minimum-norm estimate, and what remains is convex in one variance a source,
whatever the number of orientations and time points:

$$\min_{\gamma \ge 0} \tfrac12 \mathrm{tr}(B^T \Sigma^{-1} B) + \tfrac{\lambda^2}{2} \sum_s \gamma_s, \qquad
\Sigma = I + \sum_s \gamma_s A_s A_s^T,$$

with the slope $\tfrac12 (\lambda^2 - \lVert A_s^T R \rVert^2)$, where $R = \Sigma^{-1} B$ is the residual.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int

from jaxinv.inverse.bounded_quadratic import bounded_quadratic

_matmul = partial(jnp.matmul, precision="highest")

_DAMPING = 0.1  # of Newton's matrix, relative to its diagonal, for each unit of the relative gap
_STIFFER = 10.0  # times the damping after a step that did not descend
_STIFFEST = 1e10
_FEW = (64,)  # slots that mostly suffice; a step's cost grows with their square


class GroupLassoSolution(NamedTuple):
    """The groups that may be active, in slots, and what the iteration reached."""

    index: Int[Array, " slot"]
    value: Float[Array, "slot orientation time"]
    gap: Float[Array, ""]
    steps: Int[Array, ""]


class _State(NamedTuple):
    variance: Float[Array, " source"]
    objective: Float[Array, ""]
    factor: Float[Array, "channel channel"]
    correlation: Float[Array, "source orientation time"]
    gap: Float[Array, ""]


def group_lasso(
    gain: Float[Array, "source orientation channel"],
    target: Float[Array, "channel time"],
    penalty: Float[Array, ""],
    start: Float[Array, " source"],
    tolerance: Float[Array, ""],
    max_iterations: Int[Array, ""],
    max_active: int,
) -> GroupLassoSolution:
    r"""Minimiser of $\tfrac12 \lVert B - \sum_s A_s X_s \rVert_F^2 + \lambda \sum_s \lVert X_s \rVert_F$.

    Every step sees all sources, for the duality gap, and moves those that are active or break their
    condition the most: few, until so many are active, then `max_active` at most. The slope is bent so that
    for a single source one step is exact: the correlation's inverse is linear in its variance. Steps that do
    not descend are taken again with more damping. The gap that is returned is evaluated anew from the values
    alone.

    Args:
        gain: $A$ transposed, with norms near one.
        target: $B$, of norm one (or zero).
        penalty: λ.
        start: variances to begin at, `max_active` of them positive at most.
        tolerance: on the gap over half the squared norm of the target.
        max_iterations: steps.
        max_active: slots.

    References:
        Bach et al. 2012, doi:10.1561/2200000015 (variational form); Moré & Sorensen 1983,
        doi:10.1137/0904038 (the inverse that is nearly linear).
    """
    evaluate = partial(_evaluate, gain, target, penalty)
    rounding = 4 * jnp.finfo(gain.dtype).eps

    def step(size, loop):
        state, stiffness, steps = loop
        slots = _working_set(state, size)
        damping = stiffness * _DAMPING * jnp.minimum(state.gap, 1)
        trial = evaluate(_newton(gain, penalty, state, slots, damping), slots)
        descends = trial.objective <= state.objective + rounding
        state = jax.tree.map(partial(jnp.where, descends), trial, state)
        stiffness = jnp.where(descends, jnp.maximum(stiffness / _STIFFER, 1), stiffness * _STIFFER)
        stiffness = jnp.minimum(stiffness, _STIFFEST)
        return state, stiffness, steps + 1

    def unfinished(size, loop):
        state, _, steps = loop
        room = (jnp.sum(state.variance > 0) < size) | (size == max_active)
        return (state.gap > tolerance) & (steps < max_iterations) & room

    first = evaluate(start, _largest(start, max_active))
    loop = (first, jnp.ones((), gain.dtype), jnp.asarray(0, jnp.int32))
    for size in (*(few for few in _FEW if few < max_active), max_active):
        loop = jax.lax.while_loop(partial(unfinished, size), partial(step, size), loop)
    state, _, steps = loop
    index = _largest(state.variance, max_active)
    value = state.variance[index][:, None, None] * state.correlation[index]
    return GroupLassoSolution(index, value, relative_gap(gain, target, penalty, index, value), steps)


def relative_gap(gain, target, penalty, index, value) -> Float[Array, ""]:
    """Primal minus dual objective, over half the squared norm of the target, which is one."""
    residual = target - jnp.einsum("soc,sot->ct", gain[index], value, precision="highest")
    penalties = penalty * jnp.sum(group_norms(value))
    return duality_gap(target, penalty, residual, group_norms(_correlate(gain, residual)), penalties)


def group_norms(groups: Float[Array, "source orientation time"]) -> Float[Array, " source"]:
    """Frobenius norm over orientations and time."""
    return jnp.sqrt(jnp.sum(groups**2, axis=(1, 2)))


def duality_gap(
    target: Float[Array, "channel *time"],
    penalty: Float[Array, ""],
    residual: Float[Array, "channel *time"],
    norms: Float[Array, " source"],
    penalties: Float[Array, ""],
) -> Float[Array, ""]:
    """Twice the primal minus the dual objective, from the norms of the groups' correlations."""
    largest = jnp.max(norms)
    inside = jnp.minimum(1, penalty / jnp.where(largest > 0, largest, 1))
    primal = jnp.sum(residual**2) / 2 + penalties
    dual = (jnp.sum(target**2) - jnp.sum((target - inside * residual) ** 2)) / 2
    return 2 * (primal - dual)


def _correlate(gain, residual):
    flat = _matmul(gain.reshape(-1, gain.shape[2]), residual)
    return flat.reshape(*gain.shape[:2], -1)


def _working_set(state, size):
    """Active sources first, then those whose correlation is largest."""
    score = jnp.where(state.variance > 0, jnp.inf, group_norms(state.correlation))
    return _largest(score, size)


def _largest(values, size):
    """Indices of the largest; ranked in single precision, for which alone XLA has a fast way on a CPU."""
    return jax.lax.top_k(values.astype(jnp.float32), size)[1]


def _evaluate(gain, target, penalty, variance, slots):
    """The state at variances that are zero outside the slots."""
    columns = (gain[slots] * jnp.sqrt(variance[slots])[:, None, None]).reshape(-1, len(target))
    data_cov = jnp.eye(len(target), dtype=gain.dtype) + _matmul(columns.T, columns)
    factor = jnp.linalg.cholesky(data_cov)
    white = solve_triangular(factor, target, lower=True)
    residual = solve_triangular(factor, white, lower=True, trans=1)
    correlation = _correlate(gain, residual)
    norms = group_norms(correlation)
    objective = (jnp.sum(white**2) + penalty**2 * jnp.sum(variance)) / 2
    gap = duality_gap(target, penalty, residual, norms, penalty * jnp.vdot(variance, norms))
    return _State(variance, objective, factor, correlation, gap)


def _newton(gain, penalty, state, slots, damping):
    """Variances after a damped Newton step in the slots, kept at zero or above."""
    variance, correlation = state.variance[slots], state.correlation[slots]
    norms = group_norms(correlation)
    n_slots, n_orient = correlation.shape[:2]
    columns = gain[slots].reshape(n_slots * n_orient, -1).T
    white = solve_triangular(state.factor, columns, lower=True)
    flat = correlation.reshape(n_slots * n_orient, -1)
    products = _matmul(white.T, white) * _matmul(flat, flat.T)
    curvature = products.reshape(n_slots, n_orient, n_slots, n_orient).sum(axis=(1, 3))
    curvature = curvature + jnp.diag(damping * jnp.diag(curvature))
    above = norms > penalty
    slope = jnp.where(above, norms**2 / penalty, (norms + penalty) / 2) * (norms - penalty)
    allowed = (variance > 0) | above
    change = bounded_quadratic(curvature, slope, -variance, allowed)
    return state.variance.at[slots].set(jnp.maximum(variance + change, 0))
