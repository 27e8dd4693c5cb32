"""A symmetric multigrid V-cycle that follows the conductivities: the preconditioner of the solver."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.fem.csr import CsrMatrix
from jaxinv.fem.stiffness import Stiffness

Columns = Float[Array, "node column"]


@flax.struct.dataclass
class Level:
    """A coarse level, and the way down to it. A pytree.

    Attributes:
        restriction: from the level above to this one; the transpose of `prolongation`.
        prolongation: back up.
        stiffness: Galerkin matrices of the tissues on this level.
        damping: of this level's Jacobi sweeps.
    """

    restriction: CsrMatrix
    prolongation: CsrMatrix
    stiffness: Stiffness
    damping: Float[Array, ""]


@flax.struct.dataclass
class Hierarchy:
    """All levels below the finest. A pytree.

    The aggregates and the prolongation are fixed; the matrices are sums over tissues, so that the
    cycle follows the conductivities on every level.

    Attributes:
        damping: of the finest level's Jacobi sweeps: 4/3 over the largest eigenvalue of D⁻¹K.
        levels: from the second finest to the coarsest.
        kernel: unit vector of the coarsest level that stands for a constant potential.
    """

    damping: Float[Array, ""]
    levels: tuple[Level, ...]
    kernel: Float[Array, " node"]


def v_cycle(
    hierarchy: Hierarchy, stiffness: Stiffness, conductivity: Float[Array, " tissue"]
) -> Callable[[Columns], Columns]:
    """The cycle at given conductivities, with a damped Jacobi sweep on each side.

    Args:
        hierarchy: the coarse levels.
        stiffness: the finest level.
        conductivity: in S/m.

    Returns:
        A symmetric linear function of the residual, positive on all that is orthogonal to constants.
    """
    grids = [
        (stiffness, hierarchy.damping),
        *((level.stiffness, level.damping) for level in hierarchy.levels),
    ]
    entries = [matrices.at(conductivity) for matrices, _ in grids]
    smoothers = [
        damping / values[matrices.diagonal][:, None] for (matrices, damping), values in zip(grids, entries)
    ]
    coarsest = grids[-1][0].dense(entries[-1])
    # a constant potential has no image; giving it one makes the matrix definite and changes nothing else
    shift = jnp.trace(coarsest) / len(coarsest) * jnp.outer(hierarchy.kernel, hierarchy.kernel)
    factor = jax.scipy.linalg.cho_factor(coarsest + shift, lower=True)

    def cycle(depth: int, residual: Columns) -> Columns:
        if depth == len(hierarchy.levels):
            return jax.scipy.linalg.cho_solve(factor, residual)
        matrices, values, smoother = grids[depth][0], entries[depth], smoothers[depth]
        level = hierarchy.levels[depth]
        solution = smoother * residual
        coarse = level.restriction @ (residual - matrices.product(values, solution))
        solution = solution + level.prolongation @ cycle(depth + 1, coarse)
        return solution + smoother * (residual - matrices.product(values, solution))

    return lambda residual: cycle(0, residual)
