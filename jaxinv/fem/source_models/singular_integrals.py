"""Integrals of a dipole's singular potential against shape functions, over cells and faces near it.

For unit dipoles along x, y and z at 1 S/m, one a cell. Cells are given by the offsets (m) of their nodes
from the dipole.
"""

import numpy as np
from jaxtyping import Float

from jaxinv.fem.singular_potential import (
    singular_gradient,
    singular_potential,
    tetrahedron_integrals,
)
from jaxinv.fem.source_models.near_quadrature import cell_points, face_points, interpolated, jacobian
from jaxinv.mesh.volume_mesh import CORNER_FACES


def whole_cell_integrals(
    element: str, nodes: Float[np.ndarray, "3 pair node"]
) -> Float[np.ndarray, "pair node 3"]:
    """∫ ∇u · ∇N over cells: in closed form, or, as u is harmonic, ∫ ∂ₙu N over their faces."""
    if element != "tetra":
        n_faces = len(CORNER_FACES["tetra" if element == "tetra10" else element])
        return sum(face_integrals(element, nodes, face) for face in range(n_faces))
    flux = tetrahedron_integrals(np.moveaxis(nodes, 0, -1), np.zeros((1, 3)))[..., 0]
    edges = np.moveaxis(nodes[..., 1:] - nodes[..., :1], 0, 1)
    loads = np.linalg.solve(edges, flux)
    return np.concatenate([-loads.sum(axis=1, keepdims=True), loads], axis=1)


def cell_integrals(
    element: str, nodes: Float[np.ndarray, "3 pair node"], at_corners: Float[np.ndarray, "pair corner"]
) -> Float[np.ndarray, "pair node 3"]:
    """∫ ∇(χu) · ∇N over cells, for χ linear between its values at the corners."""
    total = np.zeros((*nodes.shape[1:], 3))
    for points in cell_points(element, nodes):
        pair = points.pair
        adjugate, determinant = _adjugate(jacobian(nodes[:, pair], points.slopes))
        weights = points.weights * np.abs(np.linalg.det(points.axes))[:, None]
        offset = interpolated(nodes[:, pair], points.shapes)
        chi = interpolated(at_corners[pair], points.corner_shapes)
        chi_slope = np.einsum("pc,pqcr->pqr", at_corners[pair], points.corner_slopes)
        chi_gradient = (chi_slope[..., None, :] @ adjugate)[..., 0, :] / determinant[..., None]
        if points.slopes.shape[1] == 1:
            flux = _summed_flux(offset, weights, chi, chi_gradient[:, 0])[:, None]
        else:
            offset = np.moveaxis(offset, 0, -1)
            flux = chi[..., None, None] * singular_gradient(offset)
            flux += chi_gradient[..., :, None] * singular_potential(offset)[..., None, :]
            flux *= weights[..., None, None]
        _accumulate(total, pair, (points.slopes @ (adjugate @ flux)).sum(axis=1))
    return total


def _adjugate(matrix: Float[np.ndarray, "pair quad 3 3"]):
    """Inverse times determinant, and the determinant."""
    columns = [matrix[..., r] for r in range(3)]
    adjugate = np.stack([_cross(columns[r - 2], columns[r - 1]) for r in range(3)], axis=-2)
    return adjugate, (columns[0] * adjugate[..., 0, :]).sum(axis=-1)


def _summed_flux(offset, weights, chi, chi_gradient) -> Float[np.ndarray, "pair 3 3"]:
    """∫ ∇(χu) over cells on which the gradient of χ is constant."""
    square = (offset**2).sum(axis=0)
    decay = weights / (4 * np.pi * square * np.sqrt(square))
    cut = chi * decay
    flux = -3 * np.einsum("xpq,ypq->pxy", offset, cut / square * offset)
    flux += cut.sum(axis=1)[:, None, None] * np.eye(3)
    return flux + chi_gradient[:, :, None] * np.einsum("pq,xpq->px", decay, offset)[:, None]


def face_integrals(
    element: str, nodes: Float[np.ndarray, "3 pair node"], face: int
) -> Float[np.ndarray, "pair node 3"]:
    """∫ ∂ₙu N over one face of each cell."""
    total = np.zeros((*nodes.shape[1:], 3))
    for points in face_points(element, nodes, face):
        pair = points.pair
        tangents = jacobian(nodes[:, pair], points.slopes) @ points.axes[:, None]
        area = _cross(tangents[..., 0], tangents[..., 1])
        offset = np.moveaxis(interpolated(nodes[:, pair], points.shapes), 0, -1)
        flux = (area[..., None, :] @ singular_gradient(offset))[..., 0, :] * points.weights[:, None]
        _accumulate(total, pair, np.swapaxes(points.shapes, 1, 2) @ flux)
    return total


def _accumulate(total, pair, loads):
    """Adds the loads of parts to those of their cells; `pair` ascends."""
    first = np.flatnonzero(np.diff(pair, prepend=-1))
    total[pair[first]] += np.add.reduceat(loads, first, axis=0)


def _cross(one, other):
    """Cross product along the last axis, without the overhead of NumPy's."""
    a, b, c = (one[..., k] for k in range(3))
    d, e, f = (other[..., k] for k in range(3))
    return np.stack([b * f - c * e, c * d - a * f, a * e - b * d], axis=-1)
