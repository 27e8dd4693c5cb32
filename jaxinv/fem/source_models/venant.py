"""Venant's model: monopoles on one node's neighbours whose moments are the dipole's."""

import numpy as np
from scipy.spatial import cKDTree

from jaxinv.fem.loads import SourceLoads
from jaxinv.fem.source_models.placement import SOURCE_TISSUES, locate_sources
from jaxinv.head.head_model import HeadModel
from jaxinv.head.source_space import SourceSpace
from jaxinv.mesh.volume_mesh import incidence

REGULARISATION = 1e-6
FARTHEST = 1.0  # edge lengths from a source to the node on which it stands


def venant(head: HeadModel, sources: SourceSpace) -> SourceLoads:
    """Monopoles on the nearest node whose whole patch of cells is grey matter, and on its neighbours.

    Their moments around the source up to the second are a dipole's, with the least weighted strength.

    Raises:
        ValueError: if sources lie outside the grey matter (or brain), or farther than an edge's length
            from every node whose patch is grey matter alone: loads across an interface would be wrong
            by tens of per cent.

    References:
        Buchner et al. 1997, doi:10.1016/S0013-4694(96)95698-9; Vorwerk et al. 2019,
        doi:10.1016/j.neuroimage.2019.116039.
    """
    mesh, positions = head.mesh, np.asarray(sources.positions, dtype=np.float64)
    locate_sources(head, sources)
    centre = _nearest_interior_node(head, positions)
    holds = incidence(mesh.cells, mesh.n_nodes)
    patches = (holds.T.tocsr()[centre] @ holds).tocsr()
    count = np.diff(patches.indptr)
    place = patches.indptr[:-1, None] + np.arange(count.max())
    taken = np.arange(count.max()) < count[:, None]
    nodes = patches.indices[np.where(taken, place, patches.indptr[:-1, None])]
    return SourceLoads(nodes, _monopoles(mesh.points[nodes] - positions[:, None], taken))


def _nearest_interior_node(head: HeadModel, positions):
    mesh = head.mesh
    labels = head.labels_of(SOURCE_TISSUES)
    interior = np.setdiff1d(mesh.nodes_of(*labels), mesh.boundary_faces())
    others = [k for k in range(len(head.tissue_names)) if k not in labels]
    if others:
        interior = np.setdiff1d(interior, mesh.nodes_of(*others))
    distance = np.full(len(positions), np.inf)
    if interior.size:
        distance, index = cKDTree(mesh.points[interior]).query(positions)
    corners = mesh.points[mesh.corner_cells[np.isin(mesh.tissue, labels)]]
    edge = np.median(np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1))
    lost = distance > FARTHEST * edge
    if lost.any():
        raise ValueError(
            f"{lost.sum()} of {len(lost)} sources have no node within {1e3 * FARTHEST * edge:.1f} mm whose "
            'patch of cells is grey matter alone; Venant\'s model needs one: use source_model="recovery", '
            "or refine the mesh"
        )
    return interior[index]


def _monopoles(offset, taken):
    """Loads with the moments of unit dipoles along x, y and z, (source, node, 3)."""
    distance = np.linalg.norm(offset, axis=2)
    reach = np.where(taken, distance, 0).max(axis=1)
    scaled = offset / reach[:, None, None]
    powers = [np.ones_like(scaled[..., :1]), scaled]
    powers += [scaled[..., i, None] * scaled[..., i:] for i in range(3)]
    moments = np.where(taken[..., None], np.concatenate(powers, axis=2), 0)
    target = np.zeros((moments.shape[2], 3))
    target[1:4] = np.eye(3)
    # monopoles far from the source cost more; those that do not exist are held at zero
    cost = np.where(taken, REGULARISATION * (distance / reach[:, None]) ** 2, 1)
    normal = moments @ np.swapaxes(moments, 1, 2) + cost[:, :, None] * np.eye(cost.shape[1])
    normal = normal + 1e-12 * np.eye(cost.shape[1])
    loads = np.linalg.solve(normal, moments @ target) / reach[:, None, None]
    return loads - taken[..., None] * loads.sum(axis=1, keepdims=True) / taken.sum(axis=1)[:, None, None]
