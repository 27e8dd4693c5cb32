"""One symmetric V-cycle over a fixed hierarchy: the preconditioner of the solver."""

from collections.abc import Callable

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.fem.csr import CsrMatrix

Columns = Float[Array, "node column"]


@flax.struct.dataclass
class Level:
    """A coarse level, and the way down to it. A pytree.

    Attributes:
        restriction: from the level above to this one; the transpose of `prolongation`.
        prolongation: back up.
        matrix: the Galerkin operator of this level.
        smoother: damped inverse diagonal of the matrix.
    """

    restriction: CsrMatrix
    prolongation: CsrMatrix
    matrix: CsrMatrix
    smoother: Float[Array, "node 1"]


@flax.struct.dataclass
class Hierarchy:
    """All levels below the finest, and the inverse of the last. A pytree.

    Attributes:
        damping: of the finest level's Jacobi sweep: 4/3 over the largest eigenvalue of D⁻¹K.
        levels: from the second finest to the coarsest.
        coarsest_inverse: pseudo-inverse of the coarsest matrix.
    """

    damping: Float[Array, ""]
    levels: tuple[Level, ...]
    coarsest_inverse: Float[Array, "node node"]


def v_cycle(
    hierarchy: Hierarchy,
    product: Callable[[Columns], Columns],
    diagonal: Float[Array, " node"],
    residual: Columns,
) -> Columns:
    """One V-cycle with a damped Jacobi sweep on each side, from zero. Symmetric in the residual.

    Args:
        hierarchy: the coarse levels, fixed at some conductivity.
        product: the finest operator, at any conductivity.
        diagonal: its diagonal.
        residual: what to invert the operator on.
    """
    return _cycle(hierarchy, 0, product, hierarchy.damping / diagonal[:, None], residual)


def _cycle(hierarchy, depth, product, smoother, residual):
    if depth == len(hierarchy.levels):
        return jnp.matmul(hierarchy.coarsest_inverse, residual, precision="highest")
    level = hierarchy.levels[depth]
    solution = smoother * residual
    coarse = level.restriction @ (residual - product(solution))
    correction = _cycle(hierarchy, depth + 1, lambda x: level.matrix @ x, level.smoother, coarse)
    solution = solution + level.prolongation @ correction
    return solution + smoother * (residual - product(solution))
