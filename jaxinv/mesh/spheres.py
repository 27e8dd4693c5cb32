"""Layered spheres: the head models that have an analytic solution."""

import itertools

import numpy as np
from jaxtyping import Float, Int

from jaxinv.mesh.second_order import second_order
from jaxinv.mesh.tetrahedra import mesh_level_sets, oriented
from jaxinv.mesh.volume_mesh import VolumeMesh
from jaxinv.mesh.voxels import voxel_mesh

SURFACE_DENSITY = 1.7  # nodes of the ball's surface for each squared spacing
LAYER_HEIGHT = 0.9  # of a spacing
SECOND_ORDER_NODES = 7.65  # for each node of the same mesh of first order


def sphere_mesh(radii, n_nodes: int = 45_000, element: str = "tetra", *, adapt: float = 0.0) -> VolumeMesh:
    """Mesh of concentric spheres around the origin.

    Tetrahedra fill the innermost ball from a lattice and the shells around it in layers of split
    prisms on the ball's surface, so that every interface is a layer of nodes at exactly its radius
    and no cell crosses one; those of second order have their midside nodes on the spheres too.
    Hexahedra are cubes labelled by their centres: their interfaces are staircases, unless their nodes are
    shifted.

    Args:
        radii: of the layers, outermost first, in m, strictly decreasing.
        n_nodes: about how many nodes to make (met to some per cent).
        element: "tetra", "tetra10" or "hexahedron".
        adapt: shift factor of geometry-adapted hexahedra, as in `voxel_mesh`: 0 for cubes, to 0.49.

    Returns:
        The mesh; label 0 is the outermost layer.

    Raises:
        ValueError: for radii that do not decrease or are not positive, an unknown element, a shift factor
            out of range or for tetrahedra, or too few nodes to resolve the layers.
    """
    radii = np.atleast_1d(np.asarray(radii, dtype=np.float64))
    if radii.ndim != 1 or not np.isfinite(radii).all() or radii[-1] <= 0 or (np.diff(radii) >= 0).any():
        raise ValueError(f"radii must be positive and strictly decreasing (outermost first), not {radii}")
    if n_nodes < 200:
        raise ValueError(f"n_nodes must be at least 200 to mesh a sphere, not {n_nodes}")
    if adapt and element != "hexahedron":
        raise ValueError(f'adapt={adapt} shifts the nodes of element="hexahedron" alone, not of {element!r}')
    if element == "tetra":
        return _tetrahedral(radii, n_nodes)
    if element == "tetra10":
        return _curved(_tetrahedral(radii, n_nodes / SECOND_ORDER_NODES), radii[-1])
    if element == "hexahedron":
        return _hexahedral(radii, n_nodes, adapt)
    raise ValueError(f'element must be "tetra", "tetra10" or "hexahedron", not {element!r}')


def _hexahedral(radii: Float[np.ndarray, " layer"], n_nodes: int, adapt: float) -> VolumeMesh:
    edge = (4 / 3 * np.pi * radii[0] ** 3 / n_nodes) ** (1 / 3)
    half = int(np.ceil(radii[0] / edge))
    squared = ((np.arange(-half, half) + 0.5) * edge) ** 2
    distance = np.sqrt(squared[:, None, None] + squared[:, None] + squared)
    labels = (distance[..., None] < radii).sum(axis=-1) - 1
    if len(np.unique(labels[labels >= 0])) < len(radii):
        raise ValueError(f"n_nodes={n_nodes} gives cubes of {edge:.2g} m, too coarse for the layers {radii}")
    return voxel_mesh(labels, edge, np.full(3, -half * edge), adapt=adapt)


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
    return VolumeMesh(points, oriented(points, np.concatenate(blocks)), np.concatenate(tissue))


def _curved(mesh: VolumeMesh, inner: float) -> VolumeMesh:
    """The mesh in second order, its midside nodes in and on the shells at the mean radius of their ends."""
    radius = np.linalg.norm(mesh.points, axis=1)

    def curve(ends, middle):
        in_shell = (radius[ends] > inner * (1 - 1e-9)).all(axis=1)
        scale = radius[ends].mean(axis=1) / np.linalg.norm(middle, axis=1)
        return np.where(in_shell[:, None], scale[:, None] * middle, middle)

    return second_order(mesh, curve)


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
