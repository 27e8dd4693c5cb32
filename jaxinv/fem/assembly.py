"""Assembly of the stiffness matrices on the host, from jax-fem's element geometry."""

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from jaxinv.fem.elements import quadrature
from jaxinv.fem.stiffness import UNIT_TENSORS, Stiffness
from jaxinv.head.conductivity import Conductivity, conductivity_kind
from jaxinv.mesh.volume_mesh import VolumeMesh


def assemble_stiffness(
    mesh: VolumeMesh, n_tissues: int, conductivity: Conductivity | None = None
) -> Stiffness:
    """Stiffness matrices of -∇·σ∇ on a mesh, one a parameter of σ, all on one sparsity pattern.

    Args:
        mesh: the volume mesh.
        n_tissues: number of tissues; labels of the mesh lie below it.
        conductivity: as a head has it, in S/m. Of values or tensors of tissues only the form counts: a
            tissue gets one matrix for its value, at 1 S/m, or six for its tensor. Tensors of cells
            (cell, 3, 3) go into one matrix a tissue, of which the parameter is a scale. None: values.

    Returns:
        The matrices as NumPy arrays in float64, whatever JAX's default precision.
    """
    kind = "scalar" if conductivity is None else conductivity_kind(np.asarray(conductivity), n_tissues)
    n_each = len(UNIT_TENSORS) if kind == "tensor" else 1
    entry, triangle = _triangle(mesh.cells, mesh.n_nodes)
    pairs = np.triu_indices(mesh.cells.shape[1])
    values = np.zeros((n_tissues * n_each, len(triangle.data)))
    for part, gradients, weights in quadrature(mesh):
        first = n_each * mesh.tissue[part, None].astype(np.int64)
        for k, tensor in enumerate(_unit_tensors(kind, conductivity, part)):
            local = _element_matrices(gradients, weights, tensor)[:, *pairs]
            place = (first + k) * values.shape[1] + entry[part]
            np.add.at(values.reshape(-1), place.ravel(), local.ravel())
    return _mirrored(values, triangle)


def _unit_tensors(kind, conductivity, part: slice):
    """Conductivity of a slice of cells where one parameter is 1; None is the unit matrix."""
    if kind == "cell tensor":
        tensors = np.asarray(conductivity)[part, None]
        return [(tensors + np.swapaxes(tensors, 2, 3)) / 2]
    return UNIT_TENSORS if kind == "tensor" else [None]


def _element_matrices(
    gradients: Float[np.ndarray, "cell quad node 3"],
    weights: Float[np.ndarray, "cell quad"],
    tensor: Float[np.ndarray, "3 3"] | Float[np.ndarray, "cell 1 3 3"] | None,
) -> Float[np.ndarray, "cell node node"]:
    cells, points, nodes, _ = gradients.shape
    fluxes = (gradients if tensor is None else gradients @ tensor) * weights[..., None, None]
    flat = [np.swapaxes(field, 1, 2).reshape(cells, nodes, points * 3) for field in (gradients, fluxes)]
    return flat[0] @ np.swapaxes(flat[1], 1, 2)


def _triangle(
    cells: Int[np.ndarray, "cell node"], n_nodes: int
) -> tuple[Int[np.ndarray, "cell pair"], sparse.csr_array]:
    """The upper triangle of the sparsity pattern, and where in it each pair of a cell's nodes goes.

    Sorts the pairs by row and column with two counting sorts, in linear time.

    Returns:
        The place of each pair, of a node with itself or a later one in the cell; the triangle as a
        matrix, whose entries are numbered from 1.
    """
    first, second = (cells[:, nodes].ravel() for nodes in np.triu_indices(cells.shape[1]))
    row, column = np.minimum(first, second), np.maximum(first, second)
    order = _stable_argsort(column, n_nodes)
    order = order[_stable_argsort(row[order], n_nodes)]
    row, column = row[order], column[order]
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (row[1:] != row[:-1]) | (column[1:] != column[:-1])
    entry = np.empty(len(order), dtype=np.int32)
    entry[order] = np.cumsum(is_new, dtype=np.int32) - 1
    row, column = row[is_new], column[is_new]
    indptr = np.searchsorted(row, np.arange(n_nodes + 1)).astype(np.int32)
    numbers = np.arange(1, len(column) + 1, dtype=np.int32)
    triangle = sparse.csr_array((numbers, column, indptr), shape=(n_nodes, n_nodes))
    return entry.reshape(len(cells), -1), triangle


def _stable_argsort(keys: Int[np.ndarray, " key"], n_keys: int) -> Int[np.ndarray, " key"]:
    """SciPy sorts by counting when it turns rows into columns."""
    numbers = np.arange(len(keys), dtype=np.int32)
    one_row = sparse.csr_array((numbers, keys, np.array([0, len(keys)], dtype=np.int32)), shape=(1, n_keys))
    return one_row.tocsc().data


def _mirrored(values: Float[np.ndarray, "parameter pair"], triangle: sparse.csr_array) -> Stiffness:
    full = triangle.maximum(triangle.T.tocsr())  # an entry and its mirror image bear the same number
    row = np.repeat(np.arange(full.shape[0], dtype=np.int32), np.diff(full.indptr))
    return Stiffness(
        values=values[:, full.data - 1],
        indices=full.indices.astype(np.int32),
        indptr=full.indptr.astype(np.int32),
        diagonal=np.flatnonzero(row == full.indices).astype(np.int32),
    )
