"""A tetrahedral mesh cut by a plane: the polygons in which the cells meet it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxinv.mesh import VolumeMesh


class Section(NamedTuple):
    """Polygons in the plane of a cut.

    Attributes:
        polygons: corners in order, in m, in the two axes of the plane; a triangle repeats its last corner.
        cells: the cell that each polygon belongs to.
    """

    polygons: Float[np.ndarray, "polygon 4 2"]
    cells: Int[np.ndarray, " polygon"]


def mesh_section(mesh: VolumeMesh, axis: int, position: float) -> Section:
    """Cut a mesh by the plane on which one coordinate has a value.

    Args:
        mesh: of tetrahedra, cut as if their edges were straight.
        axis: 0, 1 or 2: the coordinate.
        position: its value, in m. A node on the plane counts as above it.

    Returns:
        The polygons, in the two other coordinates in their order.

    Raises:
        ValueError: for a mesh of other cells, or an axis that is not 0, 1 or 2.
    """
    if not mesh.element.startswith("tetra"):
        raise ValueError(f"only tetrahedra can be cut, not cells of {mesh.element!r}")
    if axis not in (0, 1, 2):
        raise ValueError(f"axis must be 0, 1 or 2, not {axis!r}")
    height = mesh.points[mesh.corner_cells][:, :, axis] - position
    above = height >= 0
    n_above = above.sum(axis=1)
    crossed = np.flatnonzero((n_above > 0) & (n_above < 4))
    # corners ordered so that those above come first: 1 + 3, 2 + 2 or 3 + 1
    order = np.argsort(~above[crossed], axis=1, kind="stable")
    corners = mesh.points[np.take_along_axis(mesh.corner_cells[crossed], order, axis=1)]
    polygons = np.empty((len(crossed), 4, 3))
    for count, edges in _EDGES.items():
        rows = n_above[crossed] == count
        first, second = corners[rows][:, edges[:, 0]], corners[rows][:, edges[:, 1]]
        share = (position - first[..., axis]) / (second[..., axis] - first[..., axis])
        polygons[rows] = first + share[..., None] * (second - first)
    return Section(np.delete(polygons, axis, axis=2), crossed)


_EDGES = {
    1: np.array([(0, 1), (0, 2), (0, 3), (0, 3)]),
    2: np.array([(0, 2), (0, 3), (1, 3), (1, 2)]),
    3: np.array([(0, 3), (1, 3), (2, 3), (2, 3)]),
}
"""Edges that the plane cuts, in order around the polygon, by the number of corners above it."""
