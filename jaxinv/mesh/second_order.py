"""Tetrahedra of second order: a node in the middle of every edge, on curved interfaces where wanted."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from jaxinv.mesh.volume_mesh import VolumeMesh

# The ends of the edges on which meshio's nodes 4 to 9 of a tetra10 lie.
MIDSIDE_EDGES = np.array([(0, 1), (1, 2), (0, 2), (0, 3), (1, 3), (2, 3)])
LEAST_JACOBIAN = 0.1  # of a straight cell's: where a curved cell keeps less it is made straight again

Curve = Callable[[Int[np.ndarray, "edge 2"], Float[np.ndarray, "edge 3"]], Float[np.ndarray, "edge 3"]]


def second_order(mesh: VolumeMesh, curve: Curve | None = None) -> VolumeMesh:
    """Tetrahedra with ten nodes from tetrahedra with four, each node in the middle of an edge.

    Args:
        mesh: of tetrahedra.
        curve: takes the two ends of each edge and its middle (m) to where its node shall lie, on a
            curved interface for instance; None keeps the edges straight. Edges of cells that this
            would fold stay straight.

    Returns:
        The mesh; nodes are numbered so that an edge's node lies between its ends.

    Raises:
        ValueError: if the mesh is not of tetrahedra with four nodes.
    """
    if mesh.element != "tetra":
        raise ValueError(f"second_order takes tetrahedra with four nodes, not {mesh.element!r} cells")
    ends, edge = _edges(mesh.cells, MIDSIDE_EDGES)
    straight = mesh.points[ends].mean(axis=1)
    middle = straight
    if curve is not None:
        middle = np.array(curve(ends, straight), dtype=np.float64)
        while (folded := _is_folded(mesh, middle, edge)).any():
            bent = (middle[edge[folded]] != straight[edge[folded]]).any(axis=-1)
            middle[edge[folded][bent]] = straight[edge[folded][bent]]
    order = np.argsort(np.concatenate([np.arange(mesh.n_nodes), ends.mean(axis=1)]), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    cells = rank[np.concatenate([mesh.cells, mesh.n_nodes + edge], axis=1)]
    return VolumeMesh(np.concatenate([mesh.points, middle])[order], cells, mesh.tissue)


def _edges(cells, local):
    """Both ends of each edge, the lower first, and the edges of each cell."""
    pairs = np.sort(cells[:, local], axis=2).reshape(-1, 2).astype(np.int64)
    n = pairs.max() + 1
    keys, edge = np.unique(pairs[:, 0] * n + pairs[:, 1], return_inverse=True)
    return np.stack([keys // n, keys % n], axis=1), edge.reshape(len(cells), len(local))


def _is_folded(mesh, middle, edge):
    """Whether a cell's Jacobian falls too low at a corner, a midside node or the centroid."""
    bent = np.flatnonzero(
        (middle[edge] != mesh.points[mesh.cells[:, MIDSIDE_EDGES]].mean(axis=2)).any((1, 2))
    )
    nodes = np.concatenate([mesh.points[mesh.cells[bent]], middle[edge[bent]]], axis=1)
    jacobian = np.linalg.det(np.einsum("cnx,pnr->cpxr", nodes, _slopes()))
    folded = np.zeros(mesh.n_cells, dtype=bool)
    folded[bent] = (jacobian < LEAST_JACOBIAN * 6 * mesh.volumes[bent, None]).any(axis=1)
    return folded


def _slopes() -> Float[np.ndarray, "point 10 3"]:
    """Gradients of the quadratic shape functions in reference coordinates at eleven points of a cell."""
    corners = np.eye(4)
    points = np.concatenate([corners, corners[MIDSIDE_EDGES].mean(axis=1), [[0.25] * 4]])
    by_coordinate = np.zeros((len(points), 10, 4))
    for i in range(4):
        by_coordinate[:, i, i] = 4 * points[:, i] - 1
    for k, (i, j) in enumerate(MIDSIDE_EDGES):
        by_coordinate[:, 4 + k, i] = 4 * points[:, j]
        by_coordinate[:, 4 + k, j] = 4 * points[:, i]
    return by_coordinate @ np.array([[-1, -1, -1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
