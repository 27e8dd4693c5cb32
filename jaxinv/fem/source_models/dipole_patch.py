"""Patches of cells around dipoles, on which a cut-off takes their singular potential out."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from jaxinv.mesh.second_order import MIDSIDE_EDGES
from jaxinv.mesh.volume_mesh import CORNER_FACES, VolumeMesh, incidence


class Topology(NamedTuple):
    """What of a mesh is needed to grow patches: corners of cells, neighbours, nodes beyond corners."""

    mesh: VolumeMesh
    corners: sparse.csr_array  # cell by node
    cells: sparse.csr_array  # node by cell
    neighbours: Int[np.ndarray, "cell face"]  # -1 at the head's surface
    spread: sparse.csr_array  # node by node: from values at corners to values at all nodes

    @classmethod
    def of(cls, mesh: VolumeMesh) -> "Topology":
        """That of a mesh."""
        corners = mesh.corner_cells
        holds = incidence(corners, mesh.n_nodes)
        faces = np.array(CORNER_FACES["tetra" if corners.shape[1] == 4 else "hexahedron"])
        return cls(mesh, holds, holds.T.tocsr(), _neighbours(corners[:, faces]), _spread(mesh))


class Patch(NamedTuple):
    """Patches of some sources: pairs of a source and a cell on which its cut-off is not zero."""

    positions: Float[np.ndarray, "source 3"]
    own: Int[np.ndarray, " source"]  # label
    nodes: sparse.csr_array  # source by node: 1 at the corners of the patch
    row: Int[np.ndarray, " pair"]  # source
    cell: Int[np.ndarray, " pair"]
    inside: Bool[np.ndarray, " pair"]  # whether the cell is of the patch, or of the ring around it

    @classmethod
    def around(cls, topology: Topology, cell, positions, rings: int) -> "Patch":
        """Grows patches within the tissue of each source's cell, by rings of cells that share corners."""
        tissue, nodes = topology.mesh.tissue, topology.corners[cell]
        for _ in range(rings):
            patch = nodes @ topology.cells
            patch.data[:] = tissue[patch.indices] == np.repeat(tissue[cell], np.diff(patch.indptr))
            patch.eliminate_zeros()
            nodes = patch @ topology.corners
            nodes.data[:] = 1
        touched = nodes @ topology.cells
        touched.sort_indices()
        row = np.repeat(np.arange(len(cell)), np.diff(touched.indptr))
        inside = touched.data == topology.mesh.corner_cells.shape[1]
        return cls(positions, tissue[cell], nodes, row, touched.indices, inside)

    def offsets(self, mesh: VolumeMesh, pair: Int[np.ndarray, " kept"]) -> Float[np.ndarray, "3 kept node"]:
        """From sources to the nodes of their cells, in m."""
        offset = mesh.points[mesh.cells[self.cell[pair]]] - self.positions[self.row[pair], None]
        return np.ascontiguousarray(np.moveaxis(offset, 2, 0))

    def boundary(self, topology: Topology) -> list[Int[np.ndarray, " pair"]]:
        """For each local face, the pairs whose cell is of the patch with that face on its boundary."""
        inside = np.flatnonzero(self.inside)
        start = self.row[inside].astype(np.int64) * topology.mesh.n_cells
        key = start + self.cell[inside]
        faces = []
        for beyond in topology.neighbours[self.cell[inside]].T:
            place = np.minimum(np.searchsorted(key, start + beyond), len(key) - 1)
            faces.append(inside[(beyond < 0) | (key[place] != start + beyond)])
        return faces


def _neighbours(faces: Int[np.ndarray, "cell face corner"]) -> Int[np.ndarray, "cell face"]:
    n_cells, n_faces, _ = faces.shape
    flat = np.sort(faces.reshape(n_cells * n_faces, -1), axis=1)
    order = np.lexsort(flat.T)
    same = np.flatnonzero((flat[order[1:]] == flat[order[:-1]]).all(axis=1))
    one, other = order[same], order[same + 1]
    neighbours = np.full(n_cells * n_faces, -1)
    neighbours[one], neighbours[other] = other // n_faces, one // n_faces
    return neighbours.reshape(n_cells, n_faces)


def _spread(mesh: VolumeMesh) -> sparse.csr_array:
    corners = np.unique(mesh.corner_cells)
    rows, columns, values = [corners], [corners], [np.ones(len(corners))]
    if mesh.element == "tetra10":
        middles, first = np.unique(mesh.cells[:, 4:], return_index=True)
        ends = mesh.cells[:, MIDSIDE_EDGES].reshape(-1, 2)[first]
        for k in range(2):
            rows.append(ends[:, k])
            columns.append(middles)
            values.append(np.full(len(middles), 0.5))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_array(entries, shape=(mesh.n_nodes,) * 2)
