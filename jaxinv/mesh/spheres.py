"""Layered spheres: the head models that have an analytic solution."""

import itertools

import numpy as np
from jaxtyping import Float, Int

from jaxinv.mesh.locate import HEXAHEDRON
from jaxinv.mesh.tetrahedra import mesh_level_sets
from jaxinv.mesh.volume_mesh import VolumeMesh

SURFACE_DENSITY = 1.7  # nodes of the ball's surface for each squared spacing
LAYER_HEIGHT = 0.9  # of a spacing


def sphere_mesh(radii, n_nodes: int = 45_000, element: str = "tetra") -> VolumeMesh:
    """Mesh of concentric spheres around the origin.

    Tetrahedra fill the innermost ball from a lattice and the shells around it in layers of split
    prisms on the ball's surface, so that every interface is a layer of nodes at exactly its radius
    and no cell crosses one. Hexahedra are cubes labelled by their centres: their interfaces are staircases.

    Args:
        radii: of the layers, outermost first, in m, strictly decreasing.
        n_nodes: about how many nodes to make (met to some per cent).
        element: "tetra" or "hexahedron".

    Returns:
        The mesh; label 0 is the outermost layer.

    Raises:
        ValueError: for radii that do not decrease or are not positive, an unknown element, or too few
            nodes to resolve the layers.
    """
    radii = np.atleast_1d(np.asarray(radii, dtype=np.float64))
    if radii.ndim != 1 or not np.isfinite(radii).all() or radii[-1] <= 0 or (np.diff(radii) >= 0).any():
        raise ValueError(f"radii must be positive and strictly decreasing (outermost first), not {radii}")
    if n_nodes < 200:
        raise ValueError(f"n_nodes must be at least 200 to mesh a sphere, not {n_nodes}")
    if element == "tetra":
        return _tetrahedral(radii, n_nodes)
    if element == "hexahedron":
        return _hexahedral(radii, n_nodes)
    raise ValueError(f'element must be "tetra" or "hexahedron", not {element!r}')


def _hexahedral(radii: Float[np.ndarray, " layer"], n_nodes: int) -> VolumeMesh:
    edge = (4 / 3 * np.pi * radii[0] ** 3 / n_nodes) ** (1 / 3)
    half = int(np.ceil(radii[0] / edge))
    index = np.stack(np.meshgrid(*[np.arange(-half, half)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    distance = np.linalg.norm((index + 0.5) * edge, axis=1)
    index, distance = index[distance < radii[0]], distance[distance < radii[0]]
    tissue = (distance[:, None] < radii).sum(axis=1) - 1
    if len(np.unique(tissue)) < len(radii):
        raise ValueError(f"n_nodes={n_nodes} gives cubes of {edge:.2g} m, too coarse for the layers {radii}")
    corners = (index[:, None] + HEXAHEDRON).reshape(-1, 3)
    nodes, cells = np.unique(corners, axis=0, return_inverse=True)
    return VolumeMesh(nodes * edge, cells.reshape(-1, 8), tissue)


def _tetrahedral(radii: Float[np.ndarray, " layer"], n_nodes: int) -> VolumeMesh:
    spacing, heights = _choose_spacing(radii, n_nodes)
    ball = mesh_level_sets(
        [lambda x: np.linalg.norm(x, axis=1) - radii[-1]], _box(radii[-1]), spacing, film=0.0
    )
    triangles = np.sort(ball.boundary_faces(), axis=1)
    surface, triangles = np.unique(triangles, return_inverse=True)
    triangles = triangles.reshape(-1, 3)
    directions = ball.points[surface] / np.linalg.norm(ball.points[surface], axis=1, keepdims=True)
    core = ball.points.copy()
    core[surface] = radii[-1] * directions

    points, blocks, tissue = [core], [ball.cells], [np.full(ball.n_cells, len(radii) - 1)]
    inner, n = surface, len(core)
    for label in range(len(radii) - 2, -1, -1):
        for radius in heights[label]:
            outer = n + np.arange(len(directions))
            points.append(radius * directions)
            blocks.append(_split_prisms(inner[triangles], outer[triangles]))
            tissue.append(np.full(len(blocks[-1]), label))
            inner, n = outer, n + len(directions)
    points = np.concatenate(points)
    return VolumeMesh(points, _oriented(points, np.concatenate(blocks)), np.concatenate(tissue))


def _box(radius: float) -> Float[np.ndarray, "2 3"]:
    return np.array([[-radius] * 3, [radius] * 3])


def _choose_spacing(radii, n_nodes: int):
    """Lattice spacing that gives about n_nodes, and the radii of the node layers of each shell."""
    low, high = radii[0] * 1e-3, radii[0]
    for _ in range(60):
        spacing = np.sqrt(low * high)
        heights = [
            np.linspace(inner, outer, 1 + max(1, round((outer - inner) / (LAYER_HEIGHT * spacing))))[1:]
            for outer, inner in itertools.pairwise(radii)
        ]
        ball = 4 / 3 * np.pi * (radii[-1] / spacing) ** 3
        surface = SURFACE_DENSITY * 4 * np.pi * (radii[-1] / spacing) ** 2
        low, high = (
            (spacing, high) if ball + surface * (0.5 + sum(map(len, heights))) > n_nodes else (low, spacing)
        )
    if spacing > radii[-1] / 2:
        raise ValueError(f"n_nodes={n_nodes} is too few for the layers {radii}: ask for more")
    return spacing, heights


def _split_prisms(lower, upper) -> Int[np.ndarray, "cell 4"]:
    """Three tetrahedra a prism. Corners sorted by node make the diagonals of shared faces agree."""
    (a, b, c), (d, e, f) = lower.T, upper.T
    return np.concatenate([np.stack(t, axis=1) for t in ((a, b, c, f), (a, b, e, f), (a, d, e, f))])


def _oriented(points, cells) -> Int[np.ndarray, "cell 4"]:
    corners = points[cells]
    inverted = np.linalg.det(corners[:, 1:] - corners[:, :1]) < 0
    return np.where(inverted[:, None], cells[:, [0, 2, 1, 3]], cells)
