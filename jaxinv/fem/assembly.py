"""Assembly of the stiffness matrices on the host, from jax-fem's element geometry."""

import numpy as np
from jaxtyping import Float

from jaxinv.fem.elements import quadrature
from jaxinv.fem.stiffness import Stiffness
from jaxinv.mesh.volume_mesh import VolumeMesh


def assemble_stiffness(mesh: VolumeMesh, n_tissues: int) -> Stiffness:
    """Stiffness matrices of -∇·σ∇ on a mesh, one a tissue, all on one sparsity pattern.

    Args:
        mesh: the volume mesh.
        n_tissues: number of tissues; labels of the mesh lie below it.

    Returns:
        The matrices as NumPy arrays in float64, whatever JAX's default precision.
    """
    size = mesh.cells.shape[1]
    rows = np.repeat(mesh.cells, size, axis=1).ravel().astype(np.int64)
    columns = np.tile(mesh.cells, (1, size)).ravel()
    keys, entry = np.unique(rows * mesh.n_nodes + columns, return_inverse=True)
    del rows, columns
    entry = entry.reshape(mesh.n_cells, size * size)
    values = np.zeros((n_tissues, len(keys)))
    for part, gradients, weights in quadrature(mesh):
        local = _element_matrices(gradients, weights).reshape(-1, size * size)
        for tissue in np.unique(mesh.tissue[part]):
            of_tissue = mesh.tissue[part] == tissue
            values[tissue] += np.bincount(
                entry[part][of_tissue].ravel(), local[of_tissue].ravel(), minlength=len(keys)
            )
    row, column = keys // mesh.n_nodes, keys % mesh.n_nodes
    indptr = np.searchsorted(row, np.arange(mesh.n_nodes + 1))
    return Stiffness(
        values=values,
        indices=column.astype(np.int32),
        indptr=indptr.astype(np.int32),
        diagonal=np.flatnonzero(row == column).astype(np.int32),
    )


def _element_matrices(
    gradients: Float[np.ndarray, "cell quad node 3"], weights: Float[np.ndarray, "cell quad"]
) -> Float[np.ndarray, "cell node node"]:
    cells, points, nodes, _ = gradients.shape
    flat = np.swapaxes(gradients, 1, 2).reshape(cells, nodes, points * 3)
    return (flat * np.repeat(weights, 3, axis=1)[:, None]) @ np.swapaxes(flat, 1, 2)
