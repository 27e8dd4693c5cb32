"""Preconditioned conjugate gradients for all channels at once, with implicit derivatives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.fem.multigrid import Hierarchy, v_cycle
from jaxinv.fem.stiffness import Stiffness

Columns = Float[Array, "node column"]


class SolveReport(NamedTuple):
    """What an iterative solve reached.

    Attributes:
        converged: whether each column's relative residual is below the tolerance.
        iterations: that were taken, for all columns together.
        residual: relative residual of each column.
    """

    converged: Bool[Array, " column"]
    iterations: Int[Array, ""]
    residual: Float[Array, " column"]


class _State(NamedTuple):
    iteration: Int[Array, ""]
    solution: Columns
    residual: Columns
    direction: Columns
    preconditioned: Columns
    inner: Float[Array, " column"]
    norm: Float[Array, " column"]


def solve_poisson(
    stiffness: Stiffness,
    hierarchy: Hierarchy,
    conductivity: Float[Array, " tissue"],
    loads: Columns,
    guess: Columns | None = None,
    *,
    tolerance: float,
    max_iterations: int,
) -> tuple[Columns, SolveReport]:
    """Potentials u with K(σ) u = loads, each of zero mean.

    Differentiable in the conductivities and the loads, forwards and backwards, by solving again with
    the same operator; the guess and the report carry no derivative.

    Args:
        stiffness: matrices of the tissues.
        hierarchy: of the matrix at some conductivity near.
        conductivity: in S/m.
        loads: in A; made zero-sum first, as a solution exists for no other.
        guess: where to start; zero when None.
        tolerance: relative residual at which a column is done.
        max_iterations: after which the solve stops, converged or not.

    Returns:
        The potentials, in V, and what was reached; the caller looks at it.
    """
    entries = stiffness.at(conductivity)
    loads = loads - loads.mean(axis=0)
    start = jnp.zeros_like(loads) if guess is None else jax.lax.stop_gradient(guess)

    def solve(matvec, right):
        # the solver must not be differentiated through: operator and guess are constants to it
        fixed = jax.lax.stop_gradient(entries)
        return _conjugate_gradients(
            lambda x: stiffness.product(fixed, x),
            lambda r: v_cycle(hierarchy, lambda x: stiffness.product(fixed, x), fixed[stiffness.diagonal], r),
            right,
            start if right.shape == start.shape else jnp.zeros_like(right),
            tolerance,
            max_iterations,
        )

    return jax.lax.custom_linear_solve(
        lambda x: stiffness.product(entries, x), loads, solve, symmetric=True, has_aux=True
    )


def _conjugate_gradients(product, precondition, loads, start, tolerance, max_iterations):
    """Flexible conjugate gradients; a column that has converged no longer moves."""
    scale = jnp.linalg.norm(loads, axis=0)
    safe = jnp.where(scale > 0, scale, 1)
    loads, start = loads / safe, start / safe
    residual = loads - product(start)
    nothing = jnp.zeros_like(loads)
    initial = _State(
        jnp.zeros((), dtype=jnp.int32), start, residual, nothing, nothing,
        jnp.ones_like(scale), jnp.linalg.norm(residual, axis=0),
    )  # fmt: skip

    def unfinished(state):
        return (state.iteration < max_iterations) & (state.norm > tolerance).any()

    def step(state):
        active = state.norm > tolerance
        # the preconditioner sees residuals of unit size, which keeps it accurate in single precision
        size = jnp.where(state.norm > 0, state.norm, 1)
        z = precondition(state.residual / size) * size
        z = z - z.mean(axis=0)
        inner = (z * state.residual).sum(axis=0)
        change = ((z - state.preconditioned) * state.residual).sum(axis=0)
        beta = jnp.where(state.iteration == 0, 0, change / state.inner)  # Polak-Ribière
        direction = z + beta * state.direction
        image = product(direction)
        curvature = (direction * image).sum(axis=0)
        alpha = jnp.where(active & (curvature > 0), inner / jnp.where(curvature > 0, curvature, 1), 0)
        residual = state.residual - alpha * image
        return _State(
            state.iteration + 1, state.solution + alpha * direction, residual, direction, z,
            jnp.where(inner != 0, inner, 1), jnp.linalg.norm(residual, axis=0),
        )  # fmt: skip

    final = jax.lax.while_loop(unfinished, step, initial)
    solution = (final.solution - final.solution.mean(axis=0)) * scale
    return solution, SolveReport(final.norm <= tolerance, final.iteration, final.norm)
