"""The multigrid hierarchy of a stiffness matrix, by PyAMG's smoothed aggregation."""

import jax.numpy as jnp
import numpy as np
import pyamg
from pyamg.util.linalg import approximate_spectral_radius
from scipy import sparse

from jaxinv.fem.csr import CsrMatrix
from jaxinv.fem.multigrid import Hierarchy, Level

STRENGTH = ("symmetric", {"theta": 0.02})
COARSEST = 400  # nodes
DAMPING = 4 / 3
SAFETY = 1.05  # PyAMG's estimate of the largest eigenvalue comes from below


def build_hierarchy(matrix: sparse.csr_array, dtype=jnp.float64) -> Hierarchy:
    """Coarse levels for a symmetric positive semi-definite matrix whose kernel is the constants.

    Args:
        matrix: the stiffness matrix at nominal conductivity.
        dtype: in which the cycle will run.
    """
    # the generator behind PyAMG's spectral estimates is NumPy's global one: seed it and put it back
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        solver = pyamg.smoothed_aggregation_solver(
            sparse.csr_matrix(matrix), strength=STRENGTH, max_coarse=COARSEST, keep=False
        )
        damping = [_damping(level.A) for level in solver.levels]
    finally:
        np.random.set_state(state)  # noqa: NPY002
    levels = tuple(
        Level(
            restriction=CsrMatrix.from_scipy(above.P.T.tocsr(), dtype),
            prolongation=CsrMatrix.from_scipy(above.P.tocsr(), dtype),
            matrix=CsrMatrix.from_scipy(level.A.tocsr(), dtype),
            smoother=jnp.asarray(omega / level.A.diagonal()[:, None], dtype=dtype),
        )
        for above, level, omega in zip(solver.levels[:-1], solver.levels[1:], damping[1:])
    )
    coarsest = np.linalg.pinv(solver.levels[-1].A.toarray(), rcond=1e-10, hermitian=True)
    return Hierarchy(
        damping=jnp.asarray(damping[0], dtype=dtype),
        levels=levels,
        coarsest_inverse=jnp.asarray(coarsest, dtype=dtype),
    )


def _damping(matrix) -> float:
    scaled = sparse.diags_array(1 / matrix.diagonal()) @ matrix
    return DAMPING / (SAFETY * float(approximate_spectral_radius(scaled)))
