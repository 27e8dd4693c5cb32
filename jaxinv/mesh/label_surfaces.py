"""Smooth boundary surfaces of labelled voxels, in units of voxels.

A label's boundary, a staircase of voxel faces, is low-pass filtered along the surface. No node moves out
of the cube between the eight voxel centres around it, so that the surface still separates the centres
within from those without. Filtering along the surface keeps a layer of one voxel as thick as it is,
which smoothing the labels in space does not.
"""

from dataclasses import dataclass

import igl
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

SHRINK, INFLATE = 0.5, -0.52  # factors of the two half steps of the low-pass filter
SMOOTHINGS = 30
SPREADINGS = 2  # how often nodes are spread evenly over a surface before they are brought back to it


@dataclass(frozen=True)
class LabelSurface:
    """Boundary of the voxels of one label: quadrilaterals between nodes of the voxel grid.

    Attributes:
        grid: place of each node in the voxel grid.
        points: of the nodes, in voxels from the grid's first corner.
        quads: the faces, by their nodes.
    """

    grid: Int[np.ndarray, "node 3"]
    points: Float[np.ndarray, "node 3"]
    quads: Int[np.ndarray, "face 4"]

    @classmethod
    def staircase(cls, inside: Bool[np.ndarray, "x y z"]) -> "LabelSurface":
        """The boundary as it is; the outside of the grid does not belong to the label."""
        padded = np.pad(inside, 1)
        shape = np.array(padded.shape) - 1
        quads = []
        for axis in range(3):
            one, two = np.eye(3, dtype=np.int64)[[(axis + 1) % 3, (axis + 2) % 3]]
            faces = np.argwhere(np.diff(padded, axis=axis))
            # face (i, j, k) lies between voxels (i, j, k) and the next one of the padded grid
            first = faces - 1 + np.eye(3, dtype=np.int64)[axis]
            corners = np.stack([first, first + one, first + one + two, first + two], axis=1)
            quads.append(np.ravel_multi_index(tuple(np.moveaxis(corners, -1, 0)), shape))
        nodes, quads = np.unique(np.concatenate(quads), return_inverse=True)
        grid = np.stack(np.unravel_index(nodes, shape), axis=1)
        return cls(grid, grid.astype(np.float64), quads.reshape(-1, 4))

    def smoothed(self, reach: float) -> "LabelSurface":
        """The surface with its staircase filtered out.

        Args:
            reach: farthest that a node moves along each axis, in voxels.

        References:
            Taubin 1995, doi:10.1145/218380.218473 (the filter); Gibson 1998, doi:10.1007/BFb0056277
            (the bounds).
        """
        mean, points = self._neighbour_mean(), self.points
        for _ in range(SMOOTHINGS):
            for factor in (SHRINK, INFLATE):
                points = points + factor * (mean @ points - points)
                points = np.clip(points, self.points - reach, self.points + reach)
        return LabelSurface(self.grid, points, self.quads)

    def drawn_onto(self, target: "LabelSurface") -> "LabelSurface":
        """The nodes moved to the nearest points of another surface and spread evenly over it."""
        mean, points = self._neighbour_mean(), target.nearest(self.points)
        for _ in range(SPREADINGS):
            points = target.nearest((points + mean @ points) / 2)
        return LabelSurface(self.grid, points, self.quads)

    def nearest(self, points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 3"]:
        """Nearest points of the surface, each face taken as two triangles."""
        triangles = np.concatenate([self.quads[:, [0, 1, 2]], self.quads[:, [0, 2, 3]]])
        return igl.point_mesh_squared_distance(points, self.points, triangles.astype(np.int64))[2]

    def _neighbour_mean(self) -> sparse.csr_array:
        """Takes values at the nodes to the mean over the other ends of each node's edges."""
        edges = np.concatenate([self.quads[:, [k, (k + 1) % 4]] for k in range(4)])
        return neighbour_mean(edges, len(self.points))


def neighbour_mean(edges: Int[np.ndarray, "edge 2"], n_nodes: int) -> sparse.csr_array:
    """The matrix that takes the mean over each node's neighbours; an edge may be given more than once."""
    ends = np.concatenate([edges, edges[:, ::-1]])
    matrix = sparse.csr_array((np.ones(len(ends)), tuple(ends.T)), shape=(n_nodes, n_nodes))
    degree = np.diff(matrix.indptr)
    matrix.data = np.repeat(1 / np.maximum(degree, 1), degree)
    return matrix
