"""Preconditioned conjugate gradients for all channels at once, with implicit derivatives."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.fem.multigrid import Hierarchy, v_cycle
from jaxinv.fem.stiffness import Stiffness

Columns = Float[Array, "node column"]

DRIFT = 10  # in single precision the recurrence's residual may fall this far below the true one


class SolveReport(NamedTuple):
    """What an iterative solve reached.

    Attributes:
        converged: whether each column's relative residual is below the tolerance.
        iterations: that were taken, for all columns together.
        residual: relative residual of each column, computed anew from the solution.
    """

    converged: Bool[Array, " column"]
    iterations: Int[Array, ""]
    residual: Float[Array, " column"]


class _State(NamedTuple):
    iteration: Int[Array, ""]
    solution: Columns
    residual: Columns
    direction: Columns
    inner: Float[Array, " column"]
    norm: Float[Array, " column"]


@partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def solve_poisson(
    stiffness: Stiffness,
    hierarchy: Hierarchy,
    conductivity: Float[Array, " tissue"],
    loads: Columns,
    guess: Columns,
    tolerance: float,
    max_iterations: int,
) -> tuple[Columns, SolveReport]:
    """Potentials u with K(σ) u = loads, each of zero mean.

    Differentiable in the conductivities and the loads, forwards, backwards and repeatedly, by one more
    solve with the same operator; guess, hierarchy and report carry no derivative.

    Args:
        stiffness: matrices of the tissues.
        hierarchy: for the multigrid cycle.
        conductivity: in S/m.
        loads: in A; made zero-sum first, as a solution exists for no other.
        guess: where to start.
        tolerance: relative residual at which a column is done.
        max_iterations: after which the solve stops, converged or not.

    Returns:
        The potentials, in V, NaN in columns that did not converge; and what was reached.
    """
    loads = loads - loads.mean(axis=0)
    product, precondition = _operator(stiffness, hierarchy, conductivity)
    return _conjugate_gradients(product, precondition, loads, guess, tolerance, max_iterations)


@solve_poisson.defjvp
def _solve_jvp(tolerance, max_iterations, primals, tangents):
    """K u̇ = ḃ − K̇ u, solved from zero; linear in the tangents and its own transpose."""
    stiffness, hierarchy, conductivity, loads, guess = primals
    _, _, conductivity_dot, loads_dot, _ = tangents
    potential, report = solve_poisson(
        stiffness, hierarchy, conductivity, loads, guess, tolerance, max_iterations
    )
    right = loads_dot - stiffness.product(stiffness.at(conductivity_dot), potential)
    right = right - right.mean(axis=0)
    entries = stiffness.at(conductivity)
    product, precondition = _operator(stiffness, hierarchy, jax.lax.stop_gradient(conductivity))

    def solve(_, columns):
        return _conjugate_gradients(
            product, precondition, columns, jnp.zeros_like(columns), tolerance, max_iterations
        )[0]

    tangent = jax.lax.custom_linear_solve(
        lambda x: stiffness.product(entries, x), right, solve, symmetric=True
    )
    return (potential, report), (tangent, _no_tangent(report))


def _no_tangent(report: SolveReport) -> SolveReport:
    def zeros(value):
        if jnp.issubdtype(value.dtype, jnp.floating):
            return jnp.zeros_like(value)
        return jnp.zeros(value.shape, jax.dtypes.float0)

    return jax.tree.map(zeros, report)


def _operator(stiffness, hierarchy, conductivity) -> tuple[Callable, Callable]:
    entries = stiffness.at(conductivity)
    return lambda x: stiffness.product(entries, x), v_cycle(hierarchy, stiffness, conductivity)


def _conjugate_gradients(product, precondition, loads, start, tolerance, max_iterations):
    """Conjugate gradients; a column that has converged no longer moves.

    The constant that a cycle may add is in the operator's kernel: it is taken out once, at the end.
    """
    scale = jnp.linalg.norm(loads, axis=0)
    safe = jnp.where(scale > 0, scale, 1)
    loads, start = loads / safe, start / safe
    residual = loads - product(start)
    initial = _State(
        jnp.zeros((), dtype=jnp.int32), start, residual, jnp.zeros_like(loads),
        jnp.ones_like(scale), jnp.linalg.norm(residual, axis=0),
    )  # fmt: skip

    def unfinished(state):
        return (state.iteration < max_iterations) & (state.norm > tolerance).any()

    def step(state):
        active = state.norm > tolerance
        preconditioned = precondition(state.residual)
        inner = (preconditioned * state.residual).sum(axis=0)
        beta = jnp.where(state.iteration == 0, 0, inner / state.inner)
        direction = preconditioned + beta * state.direction
        image = product(direction)
        curvature = (direction * image).sum(axis=0)
        alpha = jnp.where(active & (curvature > 0), inner / jnp.where(curvature > 0, curvature, 1), 0)
        residual = state.residual - alpha * image
        return _State(
            state.iteration + 1, state.solution + alpha * direction, residual, direction,
            jnp.where(inner != 0, inner, 1), jnp.linalg.norm(residual, axis=0),
        )  # fmt: skip

    final = jax.lax.while_loop(unfinished, step, initial)
    true = jnp.linalg.norm(loads - product(final.solution), axis=0)
    converged = (final.norm <= tolerance) & (true <= DRIFT * tolerance)
    solution = (final.solution - final.solution.mean(axis=0)) * scale
    return jnp.where(converged, solution, jnp.nan), SolveReport(converged, final.iteration, true)
