"""The multigrid hierarchy of a head's stiffness matrices, by PyAMG's smoothed aggregation."""

import jax.numpy as jnp
import numpy as np
import pyamg
from jaxtyping import Float
from pyamg.util.linalg import approximate_spectral_radius
from scipy import sparse

from jaxinv.fem.multigrid import Hierarchy, Level, Prolongation
from jaxinv.fem.stiffness import Stiffness
from jaxinv.mesh.second_order import MIDSIDE_EDGES
from jaxinv.mesh.volume_mesh import VolumeMesh

# Couplings weaker than this do not join nodes. The cycle sweeps after the first prolongation anyway, so that
# one stays piecewise constant, and its coarse matrix sparse; below, matrices are small and P is smoothed.
STRENGTH = [("symmetric", {"theta": theta}) for theta in (0.1, 0.06)]
PROLONGATION = [None, ("jacobi", {"omega": 4 / 3, "filter_entries": True})]
COARSEST = 400  # nodes
DTYPE = jnp.float32
HEXAHEDRON_EDGES = (
    (0, 1),
    (1, 2),
    (2, 3),
    (3, 0),
    (4, 5),
    (5, 6),
    (6, 7),
    (7, 4),
    (0, 4),
    (1, 5),
    (2, 6),
    (3, 7),
)
HEXAHEDRON_FACES = ((0, 3, 7, 4), (1, 2, 6, 5), (0, 1, 5, 4), (3, 2, 6, 7), (0, 1, 2, 3), (4, 5, 6, 7))
# The corners whose mean each node of a cell of second order is, in meshio's order.
CORNERS_OF_NODE = {
    "tetra10": (*((k,) for k in range(4)), *map(tuple, MIDSIDE_EDGES.tolist())),
    "hexahedron27": (*((k,) for k in range(8)), *HEXAHEDRON_EDGES, *HEXAHEDRON_FACES, tuple(range(8))),
}
SAFETY = 1.05  # PyAMG's estimate of the largest eigenvalue comes from below


def build_hierarchy(
    stiffness: Stiffness,
    conductivity: Float[np.ndarray, " tissue"] | Float[np.ndarray, "tissue 3 3"],
    interpolation: sparse.csr_array | None = None,
) -> Hierarchy:
    """Coarse levels for the stiffness matrices of a head, in float32.

    Elements of second order are first coarsened to first order on the same cells.

    Args:
        stiffness: of the parameters, in float64.
        conductivity: at which the aggregates are chosen; a head's `nominal_parameters`.
        interpolation: what `linear_interpolation` gives for the mesh.
    """
    matrix = sparse.csr_matrix(stiffness.to_scipy(conductivity))
    finest = []
    if interpolation is not None:
        finest, matrix = [matrix], sparse.csr_matrix(interpolation.T @ matrix @ interpolation)
    # the generator behind PyAMG's spectral estimates is NumPy's global one: seed it and put it back
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        solver = pyamg.smoothed_aggregation_solver(
            matrix, strength=STRENGTH, smooth=PROLONGATION, max_coarse=COARSEST
        )
        matrices = [*finest, *(level.A for level in solver.levels)]
        radii = [jnp.asarray(_radius(matrix), dtype=DTYPE) for matrix in matrices]
    finally:
        np.random.set_state(state)  # noqa: NPY002
    prolongations = [sparse.csr_array(level.P) for level in solver.levels[:-1]]
    if interpolation is not None:
        prolongations.insert(0, interpolation)
    parameters = stiffness.parameter_matrices()
    levels = []
    for prolongation, radius in zip(prolongations, radii[1:], strict=True):
        way = Prolongation.from_scipy(prolongation, parameters, DTYPE)
        parameters = [prolongation.T.tocsr() @ matrix @ prolongation for matrix in parameters]
        levels.append(Level(way, Stiffness.from_scipy(parameters, DTYPE), radius))
    kernel = solver.levels[-1].B[:, 0]
    return Hierarchy(
        radius=radii[0],
        levels=tuple(levels),
        kernel=jnp.asarray(kernel / np.linalg.norm(kernel), dtype=DTYPE),
    )


def linear_interpolation(mesh: VolumeMesh) -> sparse.csr_array | None:
    """From the corners of a mesh of second order to all its nodes; None for one of first order.

    Returns:
        A matrix (node, corner node), both in the order of the mesh.
    """
    if mesh.element not in CORNERS_OF_NODE:
        return None
    corners_of_node = CORNERS_OF_NODE[mesh.element]
    corners = np.unique(mesh.corner_cells)
    node, first = np.unique(mesh.cells, return_index=True)
    cell, place = np.divmod(first, mesh.cells.shape[1])
    rows, columns, weights = [], [], []
    for local, ends in enumerate(corners_of_node):
        at = np.flatnonzero(place == local)
        rows.append(np.repeat(node[at], len(ends)))
        columns.append(mesh.cells[cell[at]][:, ends].ravel())
        weights.append(np.full(len(at) * len(ends), 1 / len(ends)))
    column = np.searchsorted(corners, np.concatenate(columns))
    return sparse.csr_array(
        (np.concatenate(weights), (np.concatenate(rows), column)), shape=(mesh.n_nodes, len(corners))
    )


def _radius(matrix) -> float:
    scaled = sparse.diags_array(1 / matrix.diagonal()) @ matrix
    return SAFETY * float(approximate_spectral_radius(scaled))
