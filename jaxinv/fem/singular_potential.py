"""The potential of a dipole in an unbounded homogeneous conductor, its gradient and their integrals.

Everything is for unit dipoles (1 A m) along x, y and z, the last axis, at 1 S/m; offsets lead from the
dipole to the point, in m. The functions take arrays of NumPy or JAX.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinv.mesh.volume_mesh import CORNER_FACES

TRIANGLE_EDGES = ((0, 1), (1, 2), (2, 0))
FACING_EDGES = (1, 2, 0)  # edge of a triangle that faces each of its corners


def singular_potential(offset: Float[Array, "*point 3"]) -> Float[Array, "*point 3"]:
    r"""$u_j = r_j / (4\pi |r|^3)$, in V."""
    return offset / (4 * np.pi * (offset**2).sum(axis=-1, keepdims=True) ** 1.5)


def singular_gradient(offset: Float[Array, "*point 3"]) -> Float[Array, "*point 3 3"]:
    r"""$\partial_i u_j = (\delta_{ij} - 3 r_i r_j / |r|^2) / (4\pi |r|^3)$, in V/m; symmetric."""
    square = (offset**2).sum(axis=-1)[..., None, None]
    outer = offset[..., :, None] * offset[..., None, :]
    return (np.eye(3, dtype=offset.dtype) - 3 * outer / square) / (4 * np.pi * square**1.5)


def tetrahedron_integrals(
    corners: Float[Array, "cell 4 3"], positions: Float[Array, "source 3"]
) -> Float[Array, "cell 3 3 source"]:
    r"""$\int \partial_i u_j\,dV$ over tetrahedra, in closed form, in V m².

    By Gauss's theorem the sum over the faces of $n_i \int u_j\,dS$, where the latter is the face's
    solid angle along its normal and a logarithm for each edge in its plane.

    Args:
        corners: of each cell, in meshio's order, in m.
        positions: of the dipoles, in m; none on an edge of a cell.

    References:
        Beltrachini 2019, arXiv:1901.05401.
    """
    xp = corners.__array_namespace__()
    distance = _distances(corners, positions)
    of_face = {}
    of_edge = dict.fromkeys(itertools.combinations(range(4), 2), 0)
    for face in CORNER_FACES["tetra"]:
        triangle = corners[:, face, :]
        normal, outward, _ = _frame(triangle)
        of_face[face] = normal[:, :, None] * normal[:, None, :]
        for k, edge in enumerate(TRIANGLE_EDGES):
            ends = tuple(sorted(face[end] for end in edge))
            of_edge[ends] = of_edge[ends] - normal[:, :, None] * outward[:, k, None, :]
    values = [_solid_angles(corners[:, face, :], distance[:, face, :], positions) for face in of_face]
    values += [_edge_integrals(corners[:, edge, :], distance[:, edge, :]) for edge in of_edge]
    directions = xp.stack([*of_face.values(), *of_edge.values()], axis=1)
    how = {} if xp is np else {"precision": "highest"}
    return xp.einsum("bpij,bps->bijs", directions, xp.stack(values, axis=1), **how) / (4 * np.pi)


def triangle_flux_integrals(
    corners: Float[Array, "face 3 3"], positions: Float[Array, "source 3"]
) -> Float[Array, "face 3 3 source"]:
    r"""$\int N_k\,\partial_n u_j\,dS$ over triangles for their linear shape functions, in V m.

    Minus the derivative in the dipole's position of the double layer of linear density, which has a
    closed form.

    Args:
        corners: of each triangle, in m; its normal is right-handed.
        positions: of the dipoles, in m; none on a triangle.

    Returns:
        One value a triangle, corner $k$, direction $j$ and dipole.
    """

    def along(direction):
        tangent = jnp.broadcast_to(direction, positions.shape)
        return jax.jvp(lambda x: _linear_double_layer(corners, x), (positions,), (tangent,))[1]

    return -jax.vmap(along, out_axes=2)(jnp.eye(3, dtype=positions.dtype)) / (4 * np.pi)


def _linear_double_layer(corners, positions) -> Float[Array, "face 3 source"]:
    """∫ N_k n·r/|r|³ dS: N_k at the foot of the perpendicular, and its slope in the plane."""
    distance = _distances(corners, positions)
    normal, outward, altitude = _frame(corners)
    height = _offset_along(normal, corners[:, 0], positions)
    angle = _solid_angles(corners, distance, positions)
    ends = [list(edge) for edge in TRIANGLE_EDGES]
    logarithms = [_edge_integrals(corners[:, edge], distance[:, edge]) for edge in ends]
    layers = []
    for facing in FACING_EDGES:
        slope = -outward[:, facing] / altitude[:, facing, None]
        foot = -_offset_along(slope, corners[:, facing], positions)
        in_plane = sum((slope * outward[:, k]).sum(axis=1)[:, None] * logarithms[k] for k in range(3))
        layers.append(foot * angle - height * in_plane)
    return jnp.stack(layers, axis=1)


def _frame(triangle: Float[Array, "face 3 3"]):
    """Unit normal; unit vectors out of each edge in the plane; altitude over each edge."""
    xp = triangle.__array_namespace__()
    edges = xp.stack([triangle[:, b] - triangle[:, a] for a, b in TRIANGLE_EDGES], axis=1)
    cross = xp.cross(edges[:, 0], edges[:, 1])
    double_area = xp.linalg.norm(cross, axis=1, keepdims=True)
    normal, length = cross / double_area, xp.linalg.norm(edges, axis=2)
    return normal, xp.cross(edges, normal[:, None]) / length[..., None], double_area / length


# Points are paired with dipoles below; the dipoles come last, where loops over them are vectorised.


def _offset_along(
    direction: Float[Array, "face 3"], point: Float[Array, "face 3"], positions: Float[Array, "source 3"]
) -> Float[Array, "face source"]:
    return sum(direction[:, x, None] * (point[:, x, None] - positions[:, x]) for x in range(3))


def _distances(
    corners: Float[Array, "cell corner 3"], positions: Float[Array, "source 3"]
) -> Float[Array, "cell corner source"]:
    xp = corners.__array_namespace__()
    return xp.sqrt(sum((corners[..., x, None] - positions[:, x]) ** 2 for x in range(3)))


def _edge_integrals(
    ends: Float[Array, "edge 2 3"], distance: Float[Array, "edge 2 source"]
) -> Float[Array, "edge source"]:
    """∫ dl/|r| along edges."""
    xp = ends.__array_namespace__()
    length = xp.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)[:, None]
    return xp.log1p(2 * length / (distance[:, 0] + distance[:, 1] - length))


def _solid_angles(
    triangle: Float[Array, "face 3 3"], distance: Float[Array, "face 3 source"], positions
) -> Float[Array, "face source"]:
    """Positive where the right-handed normal leads away from the dipole (van Oosterom & Strackee 1983)."""
    xp = triangle.__array_namespace__()
    cross = xp.cross(triangle[:, 1] - triangle[:, 0], triangle[:, 2] - triangle[:, 0])
    volume = _offset_along(cross, triangle[:, 0], positions)
    rest = distance.prod(axis=1)
    for (a, b), c in zip(TRIANGLE_EDGES, (2, 0, 1)):
        square = ((triangle[:, a] - triangle[:, b]) ** 2).sum(axis=1)[:, None]
        rest = rest + (distance[:, a] ** 2 + distance[:, b] ** 2 - square) / 2 * distance[:, c]
    return 2 * xp.atan2(volume, rest)
