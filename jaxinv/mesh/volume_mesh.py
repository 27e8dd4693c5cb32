"""A volume mesh with tissue labels that knows whether it is valid."""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse.csgraph import connected_components

ELEMENT_BY_NODES = {4: "tetra", 8: "hexahedron", 10: "tetra10", 20: "hexahedron20", 27: "hexahedron27"}

# Faces of a cell by its corner nodes, listed so that the right-hand normal points outwards.
CORNER_FACES = {
    "tetra": ((0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)),
    "hexahedron": ((0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)),
}
# The three edges that leave each corner of a hexahedron, as a right-handed triple.
HEXAHEDRON_PLACES = np.array(
    [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]], bool
)
HEXAHEDRON_RULE = 0.5 - 0.5 / 3**0.5, 0.5 + 0.5 / 3**0.5  # Gauss points: exact for the Jacobian, a quadratic
HEXAHEDRON_CORNERS = ((1, 3, 4), (2, 0, 5), (3, 1, 6), (0, 2, 7), (7, 5, 0), (4, 6, 1), (5, 7, 2), (6, 4, 3))


@dataclass(frozen=True, eq=False)
class VolumeMesh:
    """Cells with one tissue label each. Lives on the host, in NumPy.

    Attributes:
        points: node positions, in m.
        cells: node indices of each cell in meshio's (VTK's) order; 4, 8, 10, 20 or 27 nodes a cell.
        tissue: label of each cell, 0 … T-1.

    Raises:
        ValueError: for a wrong shape, an index out of range, a position that is not finite, a cell
            without positive volume, cells on the same side of a face, a node that no cell uses, or a mesh
            in several pieces.
    """

    points: Float[np.ndarray, "node 3"]
    cells: Int[np.ndarray, "cell corner"]
    tissue: Int[np.ndarray, " cell"]

    def __post_init__(self):
        object.__setattr__(self, "points", np.ascontiguousarray(self.points, dtype=np.float64))
        object.__setattr__(self, "cells", np.ascontiguousarray(self.cells, dtype=np.int32))
        object.__setattr__(self, "tissue", np.ascontiguousarray(self.tissue, dtype=np.int32))
        self._check_shapes()
        self._check_geometry()

    def _check_shapes(self):
        if self.points.ndim != 2 or self.points.shape[1] != 3:
            raise ValueError(f"points must have shape (node, 3), not {self.points.shape}")
        if not np.isfinite(self.points).all():
            raise ValueError(f"points has {np.sum(~np.isfinite(self.points))} values that are not finite")
        if self.cells.ndim != 2 or self.cells.shape[1] not in ELEMENT_BY_NODES:
            raise ValueError(
                f"cells must have shape (cell, n) with n one of {sorted(ELEMENT_BY_NODES)}, "
                f"not {self.cells.shape}"
            )
        if self.tissue.shape != (len(self.cells),):
            raise ValueError(f"tissue must have shape ({len(self.cells)},), not {self.tissue.shape}")
        if len(self.cells) == 0:
            raise ValueError("cells is empty: a mesh needs at least one cell")
        if self.tissue.min() < 0:
            raise ValueError(f"tissue labels must be 0 or more; the lowest is {self.tissue.min()}")
        if self.cells.min() < 0 or self.cells.max() >= len(self.points):
            raise ValueError(f"cells must index the {len(self.points)} points; found {self.cells.max()}")

    def _check_geometry(self):
        volumes = self.corner_volumes
        bad = np.flatnonzero(~(volumes > 0).all(axis=1))
        if bad.size:
            raise ValueError(
                f"{bad.size} inverted or flat cells, the first is cell {bad[0]} (nodes "
                f"{self.cells[bad[0]].tolist()}): list the nodes in meshio's order, or repair the mesh"
            )
        over = self._faces[2]
        if over.size:
            raise ValueError(
                f"{over.size} cells lie on the same side of a face as another, the first is cell {over[0]} "
                f"(nodes {self.cells[over[0]].tolist()}): repair the mesh, whose cells overlap"
            )
        pieces = self.count_components()
        if pieces > 1:
            raise ValueError(
                f"the mesh falls into {pieces} pieces (nodes that no cell uses count as pieces): "
                "keep one connected component and drop the nodes that it does not use"
            )

    @property
    def element(self) -> str:
        """Name of the element, as meshio has it."""
        return ELEMENT_BY_NODES[self.cells.shape[1]]

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.points)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.cells)

    @property
    def corner_cells(self) -> Int[np.ndarray, "cell corner"]:
        """The cells by their corners alone (4 or 8 nodes)."""
        return self.cells[:, : 4 if self.element.startswith("tetra") else 8]

    @cached_property
    def corner_volumes(self) -> Float[np.ndarray, "cell corner"]:
        """Signed volume spanned by the edges at each corner, in m³; (cell, 1) for tetrahedra.

        A cell with straight edges is valid where all are positive.
        """
        corners = self.points[self.corner_cells]
        if self.element.startswith("tetra"):
            edges = corners[:, 1:] - corners[:, :1]
            return np.linalg.det(edges)[:, None] / 6
        neighbours = np.array(HEXAHEDRON_CORNERS)
        return np.stack(
            [np.linalg.det(corners[:, neighbours[k]] - corners[:, k : k + 1]) for k in range(8)], axis=1
        )

    @cached_property
    def volumes(self) -> Float[np.ndarray, " cell"]:
        """Volume of each cell with straight edges, in m³."""
        if self.element.startswith("tetra"):
            return self.corner_volumes[:, 0]
        corners, volumes = self.points[self.corner_cells], 0.0
        for point in itertools.product(HEXAHEDRON_RULE, repeat=3):
            ahead = np.where(HEXAHEDRON_PLACES, point, 1 - np.array(point))
            slopes = [
                np.where(HEXAHEDRON_PLACES[:, k], 1, -1) * np.prod(np.delete(ahead, k, axis=1), axis=1)
                for k in range(3)
            ]
            volumes += np.linalg.det(np.einsum("kn,cnx->ckx", slopes, corners)) / 8
        return volumes

    def count_components(self) -> int:
        """Number of pieces that share no node."""
        corners = self.corner_cells
        edges = np.concatenate([corners[:, [0, k]] for k in range(1, corners.shape[1])])
        if self.cells.shape[1] != corners.shape[1]:
            edges = np.concatenate(
                [edges, *(self.cells[:, [0, k]] for k in range(corners.shape[1], self.cells.shape[1]))]
            )
        graph = sparse.coo_array(
            (np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(self.n_nodes,) * 2
        )
        return connected_components(graph, directed=False, return_labels=False)

    @cached_property
    def _faces(
        self,
    ) -> tuple[Int[np.ndarray, "face corner"], Int[np.ndarray, " face"], Int[np.ndarray, " cell"]]:
        """Faces that one cell has, wound outwards, with their cells; and cells that lie over another.

        Two cells on the two sides of a face wind it in opposite ways.
        """
        corners = self.corner_cells
        local = np.array(CORNER_FACES["tetra" if corners.shape[1] == 4 else "hexahedron"])
        faces = corners[:, local].reshape(-1, local.shape[1])
        least = faces.argmin(axis=1)
        row = np.arange(len(faces))
        after, before = (faces[row, (least + step) % faces.shape[1]] for step in (1, -1))
        winding, ranked = after < before, np.sort(faces, axis=1)
        order = np.lexsort((winding, *ranked.T))
        again = np.zeros(len(faces) + 1, dtype=bool)
        again[1:-1] = (ranked[order[1:]] == ranked[order[:-1]]).all(axis=1)
        folded = again[1:-1] & (winding[order[1:]] == winding[order[:-1]])
        outer = np.sort(order[~again[1:] & ~again[:-1]])
        over = np.concatenate([order[1:][folded], order[:-1][folded]])
        return faces[outer], outer // len(local), np.unique(over // len(local))

    @cached_property
    def _boundary(self) -> tuple[Int[np.ndarray, "face 3"], Int[np.ndarray, " face"]]:
        faces, cells, _ = self._faces
        if faces.shape[1] == 4:
            faces, cells = np.concatenate([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]]), np.tile(cells, 2)
        return faces, cells

    def boundary_faces(self) -> Int[np.ndarray, "face 3"]:
        """Triangles of the outer surface, wound outwards, by corner nodes (a square gives two)."""
        return self._boundary[0]

    def boundary_cells(self) -> Int[np.ndarray, " face"]:
        """The cell behind each of the triangles of `boundary_faces`."""
        return self._boundary[1]

    def nodes_of(self, *labels: int) -> Int[np.ndarray, " node"]:
        """Sorted nodes of all cells that bear one of the labels."""
        return np.unique(self.cells[np.isin(self.tissue, labels)])


def incidence(cells: Int[np.ndarray, "cell corner"], n_nodes: int) -> sparse.csr_array:
    """The matrix (cell, node) that is 1 where a cell has a node."""
    indptr = np.arange(0, cells.size + 1, cells.shape[1])
    return sparse.csr_array(
        (np.ones(cells.size, dtype=np.int32), cells.ravel(), indptr), shape=(len(cells), n_nodes)
    )
