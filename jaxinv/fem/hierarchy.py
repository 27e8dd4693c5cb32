"""The multigrid hierarchy of a head's stiffness matrices, by PyAMG's smoothed aggregation."""

import jax.numpy as jnp
import numpy as np
import pyamg
from jaxtyping import Float
from pyamg.util.linalg import approximate_spectral_radius
from scipy import sparse

from jaxinv.fem.csr import CsrMatrix
from jaxinv.fem.multigrid import Hierarchy, Level
from jaxinv.fem.stiffness import Stiffness

# below the first coarse level a lower threshold keeps the matrices sparse at no cost in iterations
STRENGTH = [("symmetric", {"theta": theta}) for theta in (0.08, 0.04)]
COARSEST = 400  # nodes
DAMPING = 4 / 3
SAFETY = 1.05  # PyAMG's estimate of the largest eigenvalue comes from below


def build_hierarchy(
    stiffness: Stiffness, conductivity: Float[np.ndarray, " tissue"], dtype=jnp.float64
) -> Hierarchy:
    """Coarse levels for the stiffness matrices of a head.

    Args:
        stiffness: of the tissues, in float64.
        conductivity: at which the aggregates are chosen, in S/m.
        dtype: in which the cycle will run.
    """
    # the generator behind PyAMG's spectral estimates is NumPy's global one: seed it and put it back
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        solver = pyamg.smoothed_aggregation_solver(
            sparse.csr_matrix(stiffness.to_scipy(conductivity)), strength=STRENGTH, max_coarse=COARSEST
        )
        damping = [jnp.asarray(_damping(level.A), dtype=dtype) for level in solver.levels]
    finally:
        np.random.set_state(state)  # noqa: NPY002
    tissues = [stiffness.to_scipy(unit) for unit in np.eye(len(conductivity))]
    levels = []
    for above, omega in zip(solver.levels[:-1], damping[1:]):
        prolongation = sparse.csr_array(above.P)
        restriction = prolongation.T.tocsr()
        tissues = [restriction @ matrix @ prolongation for matrix in tissues]
        levels.append(
            Level(
                restriction=CsrMatrix.from_scipy(restriction, dtype),
                prolongation=CsrMatrix.from_scipy(prolongation, dtype),
                stiffness=Stiffness.from_scipy(tissues, dtype),
                damping=omega,
            )
        )
    kernel = solver.levels[-1].B[:, 0]
    return Hierarchy(
        damping=damping[0],
        levels=tuple(levels),
        kernel=jnp.asarray(kernel / np.linalg.norm(kernel), dtype=dtype),
    )


def _damping(matrix) -> float:
    scaled = sparse.diags_array(1 / matrix.diagonal()) @ matrix
    return DAMPING / (SAFETY * float(approximate_spectral_radius(scaled)))
