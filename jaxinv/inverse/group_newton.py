r"""Newton's method on the variances of a few groups, for the group Lasso.

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
from jaxinv.inverse.duality_gap import correlate, duality_gap, gap_from_products, group_norms, safe_root

_matmul = partial(jnp.matmul, precision="highest")

_DAMPING = 0.1  # of Newton's matrix, relative to its diagonal, for each unit of the relative gap
_STIFFER = 10.0  # times the damping after a step that did not descend
_STIFFEST = 1e10


class _State(NamedTuple):
    variance: Float[Array, " slot"]
    objective: Float[Array, ""]
    factor: Float[Array, "unknown unknown"]
    correlation: Float[Array, "slot orientation time"]
    gap: Float[Array, ""]


def group_newton(
    gain: Float[Array, "slot orientation channel"],
    target: Float[Array, "channel time"],
    penalty: Float[Array, ""],
    start: Float[Array, " slot"],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> tuple[Float[Array, " slot"], Float[Array, "slot orientation time"], Int[Array, ""]]:
    r"""Variances, values and steps to the minimiser over these groups alone.

    It takes one step at least. The slope is bent so that for a single source one step is exact: the
    correlation's inverse is linear in its variance. Steps that do not descend are taken again with more
    damping.

    References:
        Bach et al. 2012, doi:10.1561/2200000015 (variational form); Moré & Sorensen 1983,
        doi:10.1137/0904038 (the inverse that is nearly linear).
    """
    few = gain.shape[0] * gain.shape[1] < len(target)
    evaluate, sensitivity = (_in_slots if few else _in_channels)(gain, target, penalty)
    rounding = 4 * jnp.finfo(gain.dtype).eps

    def step(loop):
        state, stiffness, steps = loop
        damping = stiffness * _DAMPING * jnp.minimum(state.gap, 1)
        trial = evaluate(_newton(penalty, state, sensitivity(state.factor, state.variance), damping))
        descends = trial.objective <= state.objective + rounding
        state = jax.tree.map(partial(jnp.where, descends), trial, state)
        stiffness = jnp.where(descends, jnp.maximum(stiffness / _STIFFER, 1), stiffness * _STIFFER)
        return state, jnp.minimum(stiffness, _STIFFEST), steps + 1

    def unfinished(loop):
        state, _, steps = loop
        return ((state.gap > tolerance) & (steps < max_steps)) | (steps == 0)

    first = (evaluate(start), jnp.ones((), gain.dtype), jnp.asarray(0, jnp.int32))
    state, _, steps = jax.lax.while_loop(unfinished, step, first)
    return state.variance, state.variance[:, None, None] * state.correlation, steps


def _in_channels(gain, target, penalty):
    r"""How to evaluate variances, and $A^T \Sigma^{-1} A$ of all columns, with factors of $\Sigma$."""
    flat = gain.reshape(-1, len(target))

    def evaluate(variance):
        columns = flat * _per_column(safe_root(variance), gain)
        factor = jnp.linalg.cholesky(jnp.eye(len(target), dtype=gain.dtype) + _matmul(columns.T, columns))
        white = solve_triangular(factor, target, lower=True)
        residual = solve_triangular(factor, white, lower=True, trans=1)
        correlation = correlate(gain, residual)
        norms = group_norms(correlation)
        objective = (jnp.sum(white**2) + penalty**2 * jnp.sum(variance)) / 2
        gap = duality_gap(target, penalty, residual, norms, penalty * jnp.vdot(variance, norms))
        return _State(variance, objective, factor, correlation, gap)

    def sensitivity(factor, _):
        white = solve_triangular(factor, flat.T, lower=True)
        return _matmul(white.T, white)

    return evaluate, sensitivity


def _in_slots(gain, target, penalty):
    r"""The same with factors of $I + \Gamma^{1/2} A^T A \Gamma^{1/2}$, for fewer columns than channels."""
    flat = gain.reshape(-1, len(target))
    gram, cross, power = _matmul(flat, flat.T), _matmul(flat, target), jnp.sum(target**2)

    def evaluate(variance):
        root = _per_column(safe_root(variance), gain)
        factor = jnp.linalg.cholesky(jnp.eye(len(flat), dtype=gain.dtype) + root * gram * root.T)
        white = solve_triangular(factor, root * cross, lower=True)
        value = root * solve_triangular(factor, white, lower=True, trans=1)
        flat_correlation = cross - _matmul(gram, value)
        correlation = flat_correlation.reshape(*gain.shape[:2], -1)
        norms = group_norms(correlation)
        objective = (power - jnp.sum(white**2) + penalty**2 * jnp.sum(variance)) / 2
        overlap = power - jnp.sum(cross * value)
        misfit = overlap - jnp.sum(flat_correlation * value)
        gap = gap_from_products(misfit, overlap, penalty, norms, penalty * jnp.vdot(variance, norms))
        return _State(variance, objective, factor, correlation, gap)

    def sensitivity(factor, variance):
        seen = solve_triangular(factor, _per_column(safe_root(variance), gain) * gram, lower=True)
        return gram - _matmul(seen.T, seen)

    return evaluate, sensitivity


def _per_column(values, gain):
    return jnp.repeat(values, gain.shape[1])[:, None]


def _newton(penalty, state, sensitivity, damping):
    """Variances after a damped step, kept at zero or above."""
    variance, correlation = state.variance, state.correlation
    norms = group_norms(correlation)
    n_slots, n_orient = correlation.shape[:2]
    flat = correlation.reshape(n_slots * n_orient, -1)
    products = sensitivity * _matmul(flat, flat.T)
    curvature = products.reshape(n_slots, n_orient, n_slots, n_orient).sum(axis=(1, 3))
    curvature = curvature + jnp.diag(damping * jnp.diag(curvature))
    above = norms > penalty
    slope = jnp.where(above, norms**2 / penalty, (norms + penalty) / 2) * (norms - penalty)
    change = bounded_quadratic(curvature, slope, -variance, (variance > 0) | above)
    return jnp.maximum(variance + change, 0)
