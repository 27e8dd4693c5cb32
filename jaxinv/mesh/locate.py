"""Which cell of a mesh holds a position, and where in that cell it lies."""

from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from jaxinv.mesh.volume_mesh import VolumeMesh

NEIGHBOURS = 24  # cells tried first, by their centroids
INSIDE = 1e-9  # reference coordinates may lie this far outside the reference cell
NEWTON_STEPS = 12
CHUNK = 4096  # positions at a time
# Reference corners of a hexahedron in meshio's order.
HEXAHEDRON = np.array(
    [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]]
)


class CellLocator:
    """Finds the cells of a mesh that hold given positions.

    Reference coordinates are those of the unit tetrahedron (0, e1, e2, e3) or the unit cube, with the
    corners in meshio's order. Cells are taken to have straight edges: curved second-order cells are
    located by their corners.
    """

    def __init__(self, mesh: VolumeMesh):
        self.mesh = mesh

    def _corners(self, cells=slice(None)) -> Float[np.ndarray, "cell corner 3"]:
        return self.mesh.points[self.mesh.corner_cells[cells]]

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self._corners().mean(axis=1))

    @cached_property
    def _reach(self) -> float:
        """No point of any cell lies farther than this from the cell's centroid."""
        corners = self._corners()
        return float(np.linalg.norm(corners - corners.mean(axis=1)[:, None], axis=2).max())

    def find(
        self, positions: Float[np.ndarray, "point 3"]
    ) -> tuple[Int[np.ndarray, " point"], Float[np.ndarray, "point 3"], Float[np.ndarray, " point"]]:
        """Cells that hold the positions.

        Args:
            positions: in m.

        Returns:
            For each position the cell that holds it, its reference coordinates there and its distance
            from that cell, in m: 0 inside. A position that no cell holds gets a cell close by (its
            reference coordinates are clipped to the cell) and a positive distance.

        Raises:
            ValueError: if positions is not (point, 3) or not finite.
        """
        positions = np.asarray(positions, dtype=np.float64)
        if positions.ndim != 2 or positions.shape[1] != 3 or not np.isfinite(positions).all():
            raise ValueError(f"positions must be finite and of shape (point, 3), not {positions.shape}")
        chunks = [self._find(positions[i : i + CHUNK]) for i in range(0, len(positions), CHUNK)]
        if not chunks:
            return np.zeros(0, dtype=np.int64), np.zeros((0, 3)), np.zeros(0)
        return tuple(np.concatenate(part) for part in zip(*chunks))

    def _find(self, positions):
        k = min(NEIGHBOURS, self.mesh.n_cells)
        _, near = self._tree.query(positions, k=k)
        cell, reference, outside = self._best(positions, near.reshape(len(positions), k))
        for i in np.flatnonzero(outside > INSIDE):
            candidates = self._tree.query_ball_point(positions[i], self._reach)
            if candidates:
                found = self._best(positions[i : i + 1], np.asarray(candidates)[None])
                if found[2][0] < outside[i]:
                    cell[i], reference[i], outside[i] = (part[0] for part in found)
        lost = outside > INSIDE
        reference = self._clip(reference)
        distance = np.zeros(len(positions))
        distance[lost] = np.linalg.norm(positions[lost] - self._map(cell[lost], reference[lost]), axis=1)
        return cell, reference, distance

    def _best(self, positions, candidates):
        """The candidate cell in which each position lies deepest, and how far outside it lies."""
        n, k = candidates.shape
        repeated = np.repeat(positions, k, axis=0)
        reference = self._invert(candidates.ravel(), repeated).reshape(n, k, 3)
        violation = -reference.min(axis=2)
        if self.mesh.element.startswith("tetra"):
            violation = np.maximum(violation, reference.sum(axis=2) - 1)
        else:
            violation = np.maximum(violation, reference.max(axis=2) - 1)
        best = np.nan_to_num(violation, nan=np.inf).argmin(axis=1)
        row = np.arange(n)
        return candidates[row, best], reference[row, best], violation[row, best]

    def _invert(self, cells, positions) -> Float[np.ndarray, "point 3"]:
        corners = self._corners(cells)
        if self.mesh.element.startswith("tetra"):
            return tetrahedral_coordinates(corners, positions)
        reference = np.full((len(cells), 3), 0.5)
        for _ in range(NEWTON_STEPS):
            value, slope = _trilinear(reference)
            error = positions - np.einsum("pk,pkd->pd", value, corners)
            jacobian = np.einsum("pkr,pkd->pdr", slope, corners)
            step = np.linalg.solve(jacobian, error[..., None])[..., 0]
            reference = np.clip(reference + step, -0.5, 1.5)  # the map is invertible near the cell only
        return reference

    def _clip(self, reference):
        reference = np.clip(reference, 0, 1)
        if self.mesh.element.startswith("tetra"):
            reference = reference / np.maximum(reference.sum(axis=1, keepdims=True), 1)
        return reference

    def _map(self, cells, reference) -> Float[np.ndarray, "point 3"]:
        corners = self._corners(cells)
        if self.mesh.element.startswith("tetra"):
            return corners[:, 0] + np.einsum("pr,prd->pd", reference, corners[:, 1:] - corners[:, :1])
        return np.einsum("pk,pkd->pd", _trilinear(reference)[0], corners)


def tetrahedral_coordinates(
    corners: Float[np.ndarray, "*cell 4 3"], positions: Float[np.ndarray, "*cell 3"]
) -> Float[np.ndarray, "*cell 3"]:
    """Reference coordinates of positions in tetrahedra, inside or not; leading axes broadcast."""
    edges = corners[..., 1:, :] - corners[..., :1, :]
    offset = positions - corners[..., 0, :]
    return np.linalg.solve(np.swapaxes(edges, -1, -2), offset[..., None])[..., 0]


def _trilinear(reference):
    """Values (point, 8) and gradients (point, 8, 3) of the corners' shape functions."""
    factor = np.where(HEXAHEDRON == 1, reference[:, None, :], 1 - reference[:, None, :])
    sign = np.where(HEXAHEDRON == 1, 1.0, -1.0)
    slope = np.stack([sign[:, d] * np.delete(factor, d, axis=2).prod(axis=2) for d in range(3)], axis=2)
    return factor.prod(axis=2), slope
