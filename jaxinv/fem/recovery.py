"""Polynomials recovered from nodal potentials: values and gradients an order better than the element's own.

Around a point, a polynomial one degree higher than the element's is fitted to the potentials of nearby
nodes, by least squares that fade with distance. Only nodes of cells of one tissue, connected with the
point's cell, take part: across an interface the gradient jumps. What a source or a sensor reads from
this polynomial is a fixed linear functional of the nodal potentials, so that adjoint leadfields and
reciprocity hold exactly.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from jaxinv.mesh.volume_mesh import VolumeMesh, incidence

# By the element's degree: how many nodes a coefficient (with fewer, single points in thin tissue amplify what
# is wrong of the potentials many times more than others do), and from how many rings of neighbouring cells.
NODES_FOR_EACH_COEFFICIENT = {1: 5, 2: 3}
RINGS = {1: 2, 2: 1}
TRUNCATION = 1e-8  # eigenvalues of the normal matrix below this share of the largest one are left out
CHUNK = 2048  # points at a time


class Recovery(NamedTuple):
    """Taylor coefficients of the recovered polynomials as functionals of nodal potentials.

    Attributes:
        nodes: that take part; the width is fixed, and unused places have weight 0.
        value: weights of the value at the point.
        gradient: weights of the gradient there, in 1/m.
        hessian: weights of the second derivatives there, in 1/m².
    """

    nodes: Int[np.ndarray, "point corner"]
    value: Float[np.ndarray, "point corner"]
    gradient: Float[np.ndarray, "point corner 3"]
    hessian: Float[np.ndarray, "point corner 3 3"]


def width(mesh: VolumeMesh) -> int:
    """Number of nodes from which a polynomial is recovered on this mesh."""
    return NODES_FOR_EACH_COEFFICIENT[_element_degree(mesh)] * len(_exponents(_degree(mesh)))


def recover(
    mesh: VolumeMesh, cell: Int[np.ndarray, " point"], positions: Float[np.ndarray, "point 3"]
) -> Recovery:
    """Recovers the potential around points from the tissue of the cell that each lies in.

    Args:
        mesh: the volume mesh.
        cell: that holds each point, or lies next to it.
        positions: of the points, in m.

    References:
        Zhang & Naga 2005, doi:10.1137/S1064827503402837.
    """
    parts = []
    for start in range(0, len(cell), CHUNK):
        part = slice(start, start + CHUNK)
        nodes, taken = _nearest(mesh, _patches(mesh, cell[part]), positions[part])
        parts.append((nodes, *_taylor(mesh.points[nodes] - positions[part, None], taken, _degree(mesh))))
    return Recovery(*(np.concatenate(column) for column in zip(*parts)))


def _degree(mesh: VolumeMesh) -> int:
    return 1 + _element_degree(mesh)


def _element_degree(mesh: VolumeMesh) -> int:
    return 1 if mesh.element in ("tetra", "hexahedron") else 2


def _patches(mesh: VolumeMesh, cell) -> sparse.csr_array:
    """Nodes (columns) of the cells of the same tissue within some rings around each cell (rows)."""
    row, column = np.arange(len(cell)), np.asarray(cell)
    patches = sparse.csr_array((len(cell), mesh.n_nodes), dtype=np.int8)
    for label in np.unique(mesh.tissue[column]):
        own = np.flatnonzero(mesh.tissue == label)
        holds = incidence(mesh.cells[own], mesh.n_nodes)
        held = holds.T.tocsr()
        seeds = np.flatnonzero(mesh.tissue[column] == label)
        region = sparse.csr_array(
            (np.ones(len(seeds), dtype=np.int8), (row[seeds], np.searchsorted(own, column[seeds]))),
            shape=(len(cell), len(own)),
        )
        for _ in range(RINGS[_element_degree(mesh)]):
            region = _ones(_ones(region @ holds) @ held)
        patches = patches + _ones(region @ holds)
    return patches.tocsr()


def _ones(matrix: sparse.csr_array) -> sparse.csr_array:
    matrix.data[:] = 1
    return matrix


def _nearest(mesh: VolumeMesh, patches: sparse.csr_array, positions) -> tuple[np.ndarray, np.ndarray]:
    """The nodes of each patch that are nearest to its point, and which of the places are taken."""
    count = np.diff(patches.indptr)
    point = np.repeat(np.arange(len(positions)), count)
    distance = np.linalg.norm(mesh.points[patches.indices] - positions[point], axis=1)
    order = np.lexsort((distance, point))
    size = width(mesh)
    place = patches.indptr[:-1, None] + np.arange(size)
    taken = np.arange(size) < count[:, None]
    return patches.indices[order[np.where(taken, place, patches.indptr[:-1, None])]], taken


def _exponents(degree: int) -> Int[np.ndarray, "coefficient 3"]:
    """Powers of x, y and z of all monomials, by their total degree: 1; x, y, z; …"""
    grid = np.stack(np.indices((degree + 1,) * 3), axis=-1).reshape(-1, 3)
    grid = grid[grid.sum(axis=1) <= degree]
    return grid[np.lexsort((-grid[:, 1], -grid[:, 0], grid.sum(axis=1)))]


def _taylor(
    offset: Float[np.ndarray, "point corner 3"], taken: Bool[np.ndarray, "point corner"], degree: int
):
    """Weights of value, gradient and second derivatives at the origin of the fitted polynomials."""
    distance = np.where(taken, np.linalg.norm(offset, axis=2), 0)
    reach = distance.max(axis=1) * (1 + 1e-3)
    fading = distance / reach[:, None]
    trust = np.where(taken, (1 - fading) ** 2 * (1 + 2 * fading), 0)
    scaled = offset / reach[:, None, None]
    exponents = _exponents(degree)
    powers = scaled[:, :, None] ** np.arange(degree + 1)[:, None]
    monomials = np.prod([powers[:, :, exponents[:, k], k] for k in range(3)], axis=0)
    weighted = monomials * trust[..., None]
    normal = np.swapaxes(weighted, 1, 2) @ monomials
    eigenvalues, vectors = np.linalg.eigh(normal)
    kept = eigenvalues > TRUNCATION * eigenvalues[:, -1:]
    inverse = np.where(kept, 1 / np.where(kept, eigenvalues, 1), 0)
    fit = weighted @ ((vectors * inverse[:, None]) @ np.swapaxes(vectors, 1, 2))
    value, gradient = fit[..., 0], fit[..., 1:4] / reach[:, None, None]
    # truncation must not cost the polynomial its constant
    share = trust / trust.sum(axis=1, keepdims=True)
    value = value + share * (1 - value.sum(axis=1, keepdims=True))
    gradient = gradient - share[..., None] * gradient.sum(axis=1, keepdims=True)
    second = np.zeros((*fit.shape[:2], 3, 3))
    for index in np.flatnonzero(exponents.sum(axis=1) == 2):
        i, j = np.repeat(np.arange(3), exponents[index])
        factor = 2 if i == j else 1
        second[..., i, j] = second[..., j, i] = factor * fit[..., index] / reach[:, None] ** 2
    return value, gradient, second
