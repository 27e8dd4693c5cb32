"""The offline stage of the reduced model: where to solve, and what to keep of a solution."""

from collections.abc import Callable
from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinv.fem.multigrid import Hierarchy, VCycle
from jaxinv.fem.stiffness import Stiffness
from jaxinv.forward.exact import MAX_ITERATIONS, solve
from jaxinv.forward.hypercircle import Hypercircle, build_hypercircle, square_root
from jaxinv.forward.tissue_basis import TissueBasis, TissueMatrices

# Relative residual of solutions, over the relative error in energy that the tolerance allows: what is left is
# a few percent of the bound. Double precision reaches no less than the least.
SOLVED_TO, LEAST_RESIDUAL = 4e-4, 1e-12
PROBED_TO = 1e-4  # relative residual of the solution that says how much energy a row has
PADDING = 16  # the models are padded to a multiple of this many modes, so that few shapes are compiled
CANDIDATES = 8  # conductivities whose bounds are looked at together


@dataclass(frozen=True)
class OfflineProblem:
    """What is reduced: loads of channels, and the rows that are wanted of their potentials.

    Attributes:
        stiffness: of the head's parameters, in float64.
        tissues: one matrix a tissue: K(σ) is their sum with the conductivities as factors.
        hierarchy: of the multigrid cycle.
        parameters: from conductivities to what `stiffness` takes.
        rows: from potentials (node, channel) to leadfield rows (channel, row).
        row_limit: bound on the norm of a row over the energy norm of its potential, at `row_least`.
        row_least: conductivities highest in the sources' tissue, lowest elsewhere.
        cycle: of the multigrid at `center`.
        cycle_floor: least eigenvalue of the cycle times K there.
        center: conductivities in the middle of the box, in S/m.
        training: conductivities at which the bound must hold, in S/m.
    """

    stiffness: Stiffness
    tissues: TissueMatrices
    hierarchy: Hierarchy
    parameters: Callable[[Float[Array, " tissue"]], Array]
    rows: Callable[[Float[Array, "node channel"]], Float[Array, "channel row"]]
    row_limit: float
    row_least: Float[np.ndarray, " tissue"]
    cycle: VCycle
    cycle_floor: float
    center: Float[np.ndarray, " tissue"]
    training: Float[np.ndarray, "case tissue"]


@flax.struct.dataclass
class ReducedBlock:
    """What is known of some channels: the model, and the rows of its basis. A pytree.

    Attributes:
        model: of the potentials.
        rows: of the potentials in the model's basis.
        conductivities: solved at, in S/m.
        bound: largest bound over the training conductivities, relative to the row.
        row_limit: of the bound.
    """

    model: Hypercircle
    rows: Float[Array, "channel mode row"]
    conductivities: Float[Array, "solution tissue"]
    bound: float
    row_limit: float


def row_bounds(
    model: Hypercircle,
    row_root: Float[Array, "channel mode mode"],
    row_limit: Float[Array, ""],
    row_least: Float[Array, " tissue"],
    conductivity: Float[Array, " tissue"],
) -> tuple[Float[Array, " channel"], Float[Array, " channel"]]:
    """Bound on the error of each row from its potential's, in V/(A m), and the norm of the row."""
    coefficients = model.coefficients(conductivity)
    error = model.energy_error(conductivity, coefficients)
    norm = jnp.linalg.norm(jnp.einsum("cij,cj->ci", row_root, coefficients, precision="highest"), axis=1)
    return error * row_factor(row_limit, conductivity, row_least), norm


def row_factor(
    row_limit: Float[Array, ""], conductivity: Float[Array, " tissue"], row_least: Float[Array, " tissue"]
) -> Float[Array, ""]:
    """Norm of a row over the energy norm of its potential, at most, at any conductivities.

    As K(σ) exceeds K(`row_least`) times the least ratio of the conductivities, which within the box is that
    of the sources' tissue.
    """
    return row_limit / jnp.sqrt(jnp.min(conductivity / row_least))


def relative(error: Float[Array, "..."], least: Float[Array, "..."]) -> Float[Array, "..."]:
    """Error over the least norm that the true row can have; infinite where that is not positive."""
    return jnp.where(least > 0, error / jnp.where(least > 0, least, 1), jnp.inf)


@jax.jit
def _largest_bounds(model, row_root, row_limit, row_least, conductivities):
    """Largest bound over the channels relative to the exact row, for each of the conductivities."""

    def one(conductivity):
        error, norm = row_bounds(model, row_root, row_limit, row_least, conductivity)
        return relative(error, norm - error).max()

    return jax.lax.map(one, conductivities)


def reduce_block(
    problem: OfflineProblem,
    loads: Float[Array, "node channel"],
    *,
    tolerance: float,
    max_modes: int,
    report: Callable[[int, float], None],
) -> ReducedBlock:
    """Solve some channels at conductivities chosen one by one where the bound is largest.

    Args:
        problem: the head.
        loads: right-hand sides in A, each of zero sum and none zero.
        tolerance: bound to reach at every training conductivity, relative to the row.
        max_modes: most solutions.
        report: told the number of solutions and the bound after each.

    Raises:
        RuntimeError: if a solve does not converge, or `max_modes` do not reach the tolerance.
    """
    residual = max(SOLVED_TO * _energy_tolerance(problem, loads, tolerance), LEAST_RESIDUAL)
    collected = _Collected.empty(problem, loads)
    bounds = np.full(len(problem.training), np.inf)
    used = np.zeros(len(bounds), bool)
    conductivity = problem.center
    while True:
        collected.solve(problem, loads, conductivity, residual)
        try:
            model, rows_root = collected.model(problem.center)
        except np.linalg.LinAlgError as error:
            raise RuntimeError(
                f"the reduced model's bound is {bounds.max():.1e} after {len(collected.basis) - 1} "
                f"solutions, not {tolerance:g} as the tolerance asks, and one more differs from them by no "
                "more than the solver's error: raise the tolerance, or narrow low and high"
            ) from error
        worst = _refresh(bounds, model, rows_root, problem, tolerance)
        report(len(collected.basis), float(bounds[worst]))
        if bounds[worst] <= tolerance:
            return collected.finished(problem, float(bounds[worst]))
        if used[worst] or len(collected.basis) == max_modes:
            raise RuntimeError(
                f"the reduced model's bound is {bounds[worst]:.1e} after {len(collected.basis)} solutions, "
                f"not {tolerance:g} as the tolerance asks: raise the tolerance or max_modes, or narrow low "
                "and high"
            )
        used[worst] = True
        conductivity = problem.training[worst]


def _energy_tolerance(problem: OfflineProblem, loads, tolerance: float) -> float:
    """Relative error in energy that the tolerance of rows allows, at the center; small where rows are."""
    potential = solved(
        problem.stiffness, problem.hierarchy, problem.parameters(jnp.asarray(problem.center)), loads,
        jnp.zeros_like(loads), PROBED_TO, at=f"at {problem.center.tolist()} S/m",
    )  # fmt: skip
    norm = jnp.linalg.norm(problem.rows(potential), axis=1)
    energy = jnp.sqrt(_dot(potential, loads))
    factor = row_factor(problem.row_limit, problem.center, problem.row_least)
    return tolerance * float(jnp.min(norm / (factor * energy)))


def _refresh(bounds, model, rows_root, problem, tolerance) -> int:
    """Index of the largest bound. Another mode hardly raises one: while some are above the tolerance only the
    largest are computed anew, and at last all of them.
    """
    fresh = np.zeros(len(bounds), bool)
    while True:
        worst = int(np.argmax(bounds))
        if fresh.all() or (fresh[worst] and bounds[worst] > tolerance):
            return worst
        stale = np.flatnonzero(~fresh)
        chosen = stale[np.argsort(-bounds[stale])][:CANDIDATES]
        chosen = np.resize(chosen, CANDIDATES)
        bounds[chosen] = _largest_bounds(
            model, rows_root, problem.row_limit, problem.row_least, jnp.asarray(problem.training[chosen])
        )
        fresh[chosen] = True


@dataclass
class _Collected:
    """The solutions of a block and their products, which grow by one with each solve."""

    basis: TissueBasis
    energy: np.ndarray  # (channel, tissue, mode, mode)
    load: np.ndarray  # (channel, mode)
    solutions: np.ndarray  # (channel, solution, mode)
    conductivities: list
    imbalance: np.ndarray  # (channel, solution)
    rows: list  # (channel, row), one a mode
    row_products: np.ndarray  # (channel, mode, mode)
    change: np.ndarray | None = None
    current: Hypercircle | None = None

    @classmethod
    def empty(cls, problem, loads) -> "_Collected":
        channels, tissues = loads.shape[1], len(problem.center)
        return cls(
            TissueBasis(problem.tissues, channels),
            np.zeros((channels, tissues, 0, 0)), np.zeros((channels, 0)), np.zeros((channels, 0, 0)), [],
            np.zeros((channels, 0)), [], np.zeros((channels, 0, 0)),
        )  # fmt: skip

    def solve(self, problem: OfflineProblem, loads, conductivity, residual: float) -> None:
        """Solve at a conductivity to a relative residual; add what is new in the solution to the basis."""
        n_channels = loads.shape[1]
        known = np.zeros((n_channels, len(self.basis)))
        guess = jnp.zeros_like(loads)
        if self.current is not None:
            found = np.asarray(self.current.coefficients(jnp.asarray(conductivity)))
            known = np.einsum("cij,cj->ci", self.change, found[:, : len(self.basis)])
            guess = self.basis.combined(known)
        parameters = problem.parameters(jnp.asarray(conductivity))
        solution = solved(
            problem.stiffness, problem.hierarchy, parameters, loads, guess, residual,
            at=f"at {np.asarray(conductivity).tolist()} S/m",
        )  # fmt: skip
        mode, step = _new_mode(solution, guess, loads)
        rest = _residual(problem.stiffness, parameters, loads, guess, mode, step)
        left = np.asarray(_dual_square(problem.cycle, rest))
        self._append(problem, loads, mode, known, np.asarray(step), conductivity)
        self.imbalance = np.hstack([self.imbalance, np.sqrt(left / problem.cycle_floor)[:, None]])

    def _append(self, problem, loads, mode, known, step, conductivity) -> None:
        self.energy = _bordered(self.energy, self.basis.append(mode))
        self.load = np.hstack([self.load, np.asarray(_dot(mode, loads))[:, None]])
        n = len(self.basis)
        solutions = np.zeros((len(step), n, n))
        solutions[:, : n - 1, : n - 1] = self.solutions
        solutions[:, n - 1, : n - 1] = known
        solutions[:, n - 1, n - 1] = step
        self.solutions = solutions
        self.conductivities.append(np.asarray(conductivity))
        row = np.asarray(problem.rows(mode))
        self.rows.append(row)
        overlap = np.stack([np.einsum("cs,cs->c", row, other) for other in self.rows], axis=1)
        self.row_products = _bordered(self.row_products, overlap)

    def model(self, center) -> tuple[Hypercircle, Float[Array, "channel mode mode"]]:
        """The model of what was collected, padded; and a root of the products of its rows."""
        conductivities = np.stack(self.conductivities)
        exact, self.change = build_hypercircle(
            self.energy, self.load, self.solutions, conductivities, self.imbalance, center
        )
        root = square_root(np.swapaxes(self.change, 1, 2) @ self.row_products @ self.change)
        n_modes = -(-len(self.basis) // PADDING) * PADDING
        self.current = jax.tree.map(jnp.asarray, exact.padded(n_modes))
        width = n_modes - root.shape[-1]
        return self.current, jnp.asarray(np.pad(root, ((0, 0), (0, width), (0, width))))

    def finished(self, problem, bound) -> ReducedBlock:
        """The models without padding."""
        conductivities = np.stack(self.conductivities)
        model, change = build_hypercircle(
            self.energy, self.load, self.solutions, conductivities, self.imbalance, problem.center
        )
        rows = np.swapaxes(change, 1, 2) @ np.stack(self.rows, axis=1)
        return ReducedBlock(model, rows, conductivities, bound, problem.row_limit)


def _bordered(matrices, column):
    """Symmetric matrices (..., mode, mode) with one row and column more, (..., mode + 1)."""
    n = column.shape[-1]
    grown = np.zeros((*matrices.shape[:-2], n, n))
    grown[..., : n - 1, : n - 1] = matrices
    grown[..., n - 1, :] = column
    grown[..., :, n - 1] = column
    return grown


def solved(
    stiffness: Stiffness,
    hierarchy: Hierarchy,
    parameters: Array,
    loads: Float[Array, "node column"],
    guess: Float[Array, "node column"],
    residual: float,
    *,
    at: str,
) -> Float[Array, "node column"]:
    """Potentials to a relative residual.

    Raises:
        RuntimeError: if a column does not converge; `at` says where.
    """
    found, report = solve(stiffness, hierarchy, parameters, loads, guess, residual, MAX_ITERATIONS)
    if not bool(report.converged.all()):
        raise RuntimeError(
            f"the solver did not converge {at}: the largest relative residual is "
            f"{float(report.residual.max()):.1e} after {int(report.iterations)} iterations; look for badly "
            "shaped cells, or narrow low and high"
        )
    return found


@jax.jit
def _new_mode(solution, guess, loads):
    """What a solution adds to its guess, of unit length; and the length.

    A guess that was good enough already gains the load instead, of which the solution takes nothing.
    """
    new = solution - guess
    step = jnp.linalg.norm(new, axis=0)
    mode = jnp.where(step > 0, new, loads)
    return mode / jnp.linalg.norm(mode, axis=0), step


@jax.jit
def _residual(stiffness, parameters, loads, guess, mode, step):
    """Of the solution as the basis holds it."""
    return loads - stiffness.product(stiffness.at(parameters), guess + step * mode)


@jax.jit
def _dot(mode, loads):
    return (mode * loads).sum(axis=0)


@jax.jit
def _dual_square(cycle, rest):
    """<r, M r> for the cycle M."""
    scale = jnp.linalg.norm(rest, axis=0)
    scale = jnp.where(scale > 0, scale, 1)
    _, square = cycle((rest / scale).astype(jnp.float32))
    return square * scale**2
