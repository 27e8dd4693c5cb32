r"""The stiffness matrix $K(\sigma) = \sum_t \sigma_t K_t$, one matrix a tissue, all on one pattern."""

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float
from scipy import sparse

from jaxinv.fem.elements import cell_geometry
from jaxinv.fem.sparse import Pattern, stack_on_one_pattern
from jaxinv.mesh.volume_mesh import VolumeMesh


def assemble_stiffness(mesh: VolumeMesh, n_tissues: int) -> tuple[Float[np.ndarray, "tissue nnz"], Pattern]:
    """Stiffness matrices of the tissues at unit conductivity, in m.

    Args:
        mesh: any of the five elements.
        n_tissues: how many labels there are.

    Returns:
        Values of the matrices and the pattern they share.
    """
    shape = (mesh.n_nodes, mesh.n_nodes)
    matrices = [sparse.csr_array(shape) for _ in range(n_tissues)]
    for chunk, gradients, weights in cell_geometry(mesh):
        local = np.einsum("cqid,cqjd,cq->cij", gradients, gradients, weights, optimize=True)
        cells, tissue = mesh.cells[chunk], mesh.tissue[chunk]
        for label in np.unique(tissue):
            here = tissue == label
            rows = np.repeat(cells[here], cells.shape[1], axis=1).ravel()
            cols = np.tile(cells[here], (1, cells.shape[1])).ravel()
            matrices[label] = matrices[label] + sparse.coo_array(
                (local[here].ravel(), (rows, cols)), shape=shape
            ).tocsr()
    return stack_on_one_pattern(matrices)
