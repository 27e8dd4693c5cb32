"""Points moved into the tissue that they belong to, and how far each was moved."""

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

from jaxinv.head.head_model import HeadModel
from jaxinv.mesh.locate import tetrahedral_coordinates

INSET = 0.05  # least barycentric coordinate of a moved point: clear of the tissue's boundary
CANDIDATES = 32


def place_in_tissue(
    positions: Float[np.ndarray, "point 3"], head: HeadModel, tissue_name: str
) -> tuple[Float[np.ndarray, "point 3"], Float[np.ndarray, " point"]]:
    """Moves the points that lie outside a tissue to a nearby point inside it; others stay.

    Args:
        positions: in m.
        head: a head of tetrahedra.
        tissue_name: where the points belong.

    Returns:
        The positions, in m, and the distance that each point was moved, in m.

    Raises:
        ValueError: if the head has no such tissue, or is not of tetrahedra.
    """
    if not head.mesh.element.startswith("tetra"):
        raise ValueError(
            f"points are moved in heads of tetrahedra alone, not {head.mesh.element}: leave the sources out "
            "that lie in another tissue (HeadModel.holds)"
        )
    positions = np.array(positions, dtype=np.float64)
    mesh, label = head.mesh, head.label(tissue_name)
    cell, _, distance = head.locator.find(positions)
    outside = np.flatnonzero((mesh.tissue[cell] != label) | (distance > 0))
    moved = np.zeros(len(positions))
    if outside.size == 0:
        return positions, moved
    candidates = np.flatnonzero(mesh.tissue == label)
    corners = mesh.points[mesh.corner_cells[candidates]]
    _, near = cKDTree(corners.mean(axis=1)).query(
        positions[outside], k=min(CANDIDATES, len(candidates)), workers=-1
    )
    corners = corners[near.reshape(len(outside), -1)]
    inside = _inset_point(positions[outside], corners)
    length = np.linalg.norm(inside - positions[outside, None], axis=2)
    row = np.arange(len(outside))
    best = length.argmin(axis=1)
    positions[outside], moved[outside] = inside[row, best], length[row, best]
    return positions, moved


def _inset_point(
    points: Float[np.ndarray, "point 3"], corners: Float[np.ndarray, "point candidate 4 3"]
) -> Float[np.ndarray, "point candidate 3"]:
    """A point inside each candidate tetrahedron close to the given one: its clipped barycentrics."""
    local = tetrahedral_coordinates(corners, points[:, None])
    weights = np.concatenate([1 - local.sum(axis=-1, keepdims=True), local], axis=-1)
    weights = np.maximum(weights, INSET)
    return np.einsum("pck,pckx->pcx", weights / weights.sum(axis=-1, keepdims=True), corners)
