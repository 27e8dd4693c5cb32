"""Preconditioned conjugate gradients for many channels at once, with implicit derivatives.

Channels are solved in blocks, so that memory is bounded and a block that is done costs no more. In a block,
conjugate gradients run in single precision, for half the memory traffic; whenever they have taken some three
digits off the residual, it is computed anew in the precision of the loads, and they go on from there with
their last direction.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxinv.fem.multigrid import Hierarchy, VCycle
from jaxinv.fem.stiffness import Parameters, Stiffness
from jaxinv.kernels.csr_product import csr_product_inner

Columns = Float[Array, "node column"]

BLOCK = 80  # columns solved together, at most
LANES = 16  # a block is as wide as a multiple of this: rows that begin at a cache line go twice as fast
# Factor by which a round in single precision lowers the residual, at most. A smooth correction's residual is
# small beside it: its rounding can leave more than a thousandth.
ROUND = 1e-3
ROUND_ITERATIONS = 60  # of a round, at most
FAITHFUL = 1.5  # times what a round takes the residual for: with more left, its last direction is of no use
PROGRESS = 0.5  # a round that leaves more than this of every open column's residual got nowhere


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


class _Descent(NamedTuple):
    """Conjugate gradients within a round, in single precision, in units of the residual at its start."""

    iteration: Int[Array, ""]
    solution: Columns
    residual: Columns
    norm: Float[Array, " column"]
    direction: Columns
    inner: Float[Array, " column"]


class _Refinement(NamedTuple):
    """A block between two rounds, in the precision of the loads, with what the next round goes on from."""

    iteration: Int[Array, ""]
    solution: Columns
    residual: Columns
    norm: Float[Array, " column"]
    failures: Int[Array, ""]
    direction: Columns
    inner: Float[Array, " column"]


@jax.custom_jvp
def solve_poisson(
    stiffness: Stiffness,
    hierarchy: Hierarchy,
    conductivity: Float[Array, " tissue"],
    loads: Columns,
    guess: Columns,
    tolerance: Float[ArrayLike, ""],
    max_iterations: Int[ArrayLike, ""],
) -> tuple[Columns, SolveReport]:
    """Potentials u with K(σ) u = loads, each of zero mean.

    Differentiable in the conductivities and the loads, forwards, backwards and repeatedly, by one more
    solve with the same operator; guess, hierarchy, tolerance and report carry no derivative. Under jit
    tolerance and iterations may be traced: one compiled solve then serves them all.

    Args:
        stiffness: matrices of the tissues.
        hierarchy: for the multigrid cycle.
        conductivity: in S/m.
        loads: in A; made zero-sum first, as a solution exists for no other.
        guess: the solve starts at its best multiple in the energy norm, column by column.
        tolerance: relative residual at which a column is done.
        max_iterations: after which the solve stops, converged or not.

    Returns:
        The potentials, in V, NaN in columns that did not converge; and what was reached.
    """
    operator = _Operator.at(stiffness, hierarchy, conductivity)
    return _in_blocks(operator, loads, guess, tolerance, max_iterations)


@solve_poisson.defjvp
def _solve_jvp(primals, tangents):
    """K u̇ = ḃ − K̇ u, solved from zero; linear in the tangents and its own transpose."""
    stiffness, hierarchy, conductivity, loads, guess, tolerance, max_iterations = primals
    _, _, conductivity_dot, loads_dot, *_ = tangents
    potential, report = solve_poisson(
        stiffness, hierarchy, conductivity, loads, guess, tolerance, max_iterations
    )
    right = loads_dot - stiffness.product(stiffness.at(conductivity_dot), potential)
    entries = stiffness.at(conductivity)
    operator = _Operator.at(stiffness, hierarchy, jax.lax.stop_gradient(conductivity))

    def solve(_, columns):
        return _in_blocks(operator, columns, jnp.zeros_like(columns), tolerance, max_iterations)[0]

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


class _Operator(NamedTuple):
    """K(σ) in the precision of the loads; in single precision, and the cycle, with <x, K x> and <x, M x>."""

    product: Callable[[Columns], Columns]
    single: Callable[[Columns], tuple[Columns, Float[Array, " column"]]]
    precondition: Callable[[Columns], tuple[Columns, Float[Array, " column"]]]

    @classmethod
    def at(cls, stiffness: Stiffness, hierarchy: Hierarchy, conductivity: Parameters) -> "_Operator":
        entries = stiffness.at(conductivity)
        rounded = stiffness.astype(jnp.float32)
        single = (entries.astype(jnp.float32), stiffness.indices, stiffness.indptr)
        return cls(
            lambda x: stiffness.product(entries, x),
            lambda x: csr_product_inner(*single, x, against=x),
            VCycle.at(hierarchy, rounded, conductivity.astype(jnp.float32)),
        )


def _in_blocks(operator: _Operator, loads, guess, tolerance, max_iterations):
    """The columns in blocks of equal width, one after the other; the last may overlap the one before."""
    tolerance, max_iterations = jnp.asarray(tolerance, loads.dtype), jnp.asarray(max_iterations, jnp.int32)
    n_columns = loads.shape[1]
    n_blocks = max(-(-n_columns // BLOCK), 1)
    width = LANES * -(-n_columns // (n_blocks * LANES))
    padding = ((0, 0), (0, max(width - n_columns, 0)))
    loads, guess = jnp.pad(loads, padding), jnp.pad(guess, padding)
    last = loads.shape[1] - width

    def solve(number, found):
        first = jnp.minimum(number * width, last)
        block = [jax.lax.dynamic_slice_in_dim(columns, first, width, 1) for columns in (loads, guess)]
        solution, report = _refined(operator, *block, tolerance, max_iterations)
        return (
            jax.lax.dynamic_update_slice_in_dim(found[0], solution, first, 1),
            SolveReport(
                jax.lax.dynamic_update_slice_in_dim(found[1].converged, report.converged, first, 0),
                jnp.maximum(found[1].iterations, report.iterations),
                jax.lax.dynamic_update_slice_in_dim(found[1].residual, report.residual, first, 0),
            ),
        )

    none = SolveReport(
        jnp.zeros(loads.shape[1], bool), jnp.zeros((), jnp.int32), jnp.zeros(loads.shape[1], loads.dtype)
    )
    solution, report = jax.lax.fori_loop(0, n_blocks, solve, (jnp.zeros_like(loads), none))
    converged, residual = report.converged[:n_columns], report.residual[:n_columns]
    return solution[:, :n_columns], SolveReport(converged, report.iterations, residual)


def _refined(operator: _Operator, loads, guess, tolerance, max_iterations):
    """Rounds in single precision until every column's true residual is below the tolerance, or no more."""
    loads = loads - loads.mean(axis=0)
    scale = jnp.linalg.norm(loads, axis=0)
    loads = loads / jnp.where(scale > 0, scale, 1)
    image = operator.product(guess)
    energy = (guess * image).sum(axis=0)
    multiple = (guess * loads).sum(axis=0) / jnp.where(energy > 0, energy, 1)
    start, residual = multiple * guess, loads - multiple * image
    initial = _Refinement(
        jnp.zeros((), jnp.int32), start, residual, jnp.linalg.norm(residual, axis=0),
        jnp.zeros((), jnp.int32), jnp.zeros(loads.shape, jnp.float32), jnp.ones(scale.shape, jnp.float32),
    )  # fmt: skip

    def unfinished(state):
        return (state.iteration < max_iterations) & (state.norm > tolerance).any() & (state.failures < 2)

    def descend(state):
        open_ = state.norm > tolerance
        norm = jnp.where(open_, state.norm, 1)
        target = jnp.where(open_, jnp.clip(tolerance / (1.1 * norm), ROUND, 0.5), jnp.inf)
        begun = _Descent(
            state.iteration,
            jnp.zeros(loads.shape, jnp.float32),
            (state.residual / norm).astype(jnp.float32),
            jnp.where(open_, 1, 0).astype(jnp.float32),
            state.direction,
            state.inner,
        )
        last = jnp.minimum(state.iteration + ROUND_ITERATIONS, max_iterations)
        ended = _conjugate_gradients(operator, begun, target.astype(jnp.float32), last)
        solution = state.solution + ended.solution.astype(loads.dtype) * norm
        residual = loads - operator.product(solution)
        reached = jnp.linalg.norm(residual, axis=0)
        better = reached < state.norm
        kept = jnp.where(better, reached, state.norm)
        failed = (~open_ | (reached > PROGRESS * state.norm)).all()
        # the last direction is of use if rounding left the residual what the round took it for
        faithful = reached < FAITHFUL * norm * ended.norm
        # after a round that got nowhere the next one begins afresh; if that one does not either, it is over
        goes_on = better & (kept > 0) & ~failed & faithful
        ratio = jnp.where(goes_on, norm / jnp.where(goes_on, kept, 1), 0).astype(jnp.float32)
        return _Refinement(
            ended.iteration,
            jnp.where(better, solution, state.solution),
            jnp.where(better, residual, state.residual),
            kept,
            jnp.where(failed, state.failures + 1, 0),
            ended.direction * ratio,
            jnp.where(ratio > 0, ended.inner * ratio**2, 1),
        )

    final = jax.lax.while_loop(unfinished, descend, initial)
    converged = final.norm <= tolerance
    solution = (final.solution - final.solution.mean(axis=0)) * scale
    return jnp.where(converged, solution, jnp.nan), SolveReport(converged, final.iteration, final.norm)


def _conjugate_gradients(operator: _Operator, begun: _Descent, target, last) -> _Descent:
    """Conjugate gradients until every residual is below its target or iteration `last` is done.

    A column that is below its target no longer moves. The constant that a cycle may add is in the operator's
    kernel: it is taken out once, at the end of the solve.
    """

    def unfinished(state):
        return (state.iteration < last) & (state.norm > target).any()

    def step(state):
        active = state.norm > target
        preconditioned, inner = operator.precondition(state.residual)
        moved = preconditioned + inner / state.inner * state.direction
        direction = jnp.where(active, moved, state.direction)
        image, curvature = operator.single(direction)
        alpha = jnp.where(active & (curvature > 0), inner / jnp.where(curvature > 0, curvature, 1), 0)
        residual = state.residual - alpha * image
        return _Descent(
            state.iteration + 1, state.solution + alpha * direction, residual,
            jnp.linalg.norm(residual, axis=0), direction,
            jnp.where(active & (inner != 0), inner, state.inner),
        )  # fmt: skip

    return jax.lax.while_loop(unfinished, step, begun)
