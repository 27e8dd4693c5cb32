"""Quadrature on cells and their faces for integrands that are singular at a point close by.

A cell (or face) that is large for its distance from the point is split, and its parts again, until
every part is small for its distance; a rule of fixed degree is then accurate on all of them. The parts
are parts of the reference cell, so that curved cells are mapped exactly.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxinv.fem.elements import reference_rule, reference_shapes
from jaxinv.mesh.locate import HEXAHEDRON
from jaxinv.mesh.volume_mesh import CORNER_FACES

DEGREE = 6  # of the rule on each part
NEAR = 1.5  # a part is split where its distance is less than this times its radius
MAX_SPLITS = 6  # of a part that all but touches the point
PARTS = 1024  # that are handed out at a time

TETRAHEDRON = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
CORNERS = {
    "tetrahedron": TETRAHEDRON,
    "triangle": TETRAHEDRON[:3, :2],
    "hexahedron": HEXAHEDRON,
    "quadrilateral": HEXAHEDRON[:4, :2],
}


class QuadraturePoints(NamedTuple):
    """Points on parts of some of the given cells; at the same reference points where `part` is 1.

    Attributes:
        pair: which of the given cells each part belongs to; ascending.
        shapes: values of the cell's shape functions.
        slopes: their derivatives in the reference coordinates; at one point where they are constant.
        corner_shapes: the linear functions of the cell's corners.
        corner_slopes: their derivatives, likewise.
        weights: of the points on the reference part.
        axes: edges of the part, in reference coordinates.
    """

    pair: Int[np.ndarray, " parts"]
    shapes: Float[np.ndarray, "part quad node"]
    slopes: Float[np.ndarray, "part quad node 3"]
    corner_shapes: Float[np.ndarray, "part quad corner"]
    corner_slopes: Float[np.ndarray, "part quad corner 3"]
    weights: Float[np.ndarray, " quad"]
    axes: Float[np.ndarray, "part 3 dim"]


def cell_points(element: str, nodes: Float[np.ndarray, "3 pair node"]) -> Iterator[QuadraturePoints]:
    """Points on cells, given by the offsets (m) of their nodes from the singular point of each."""
    shape = "tetrahedron" if element.startswith("tetra") else "hexahedron"
    return _points(element, nodes, shape, np.zeros((1, 3)), np.eye(3)[None])


def face_points(
    element: str, nodes: Float[np.ndarray, "3 pair node"], face: int
) -> Iterator[QuadraturePoints]:
    """Points on one local face of cells; the cross product of its axes points out of the cell."""
    linear, shape, corners = "hexahedron", "quadrilateral", HEXAHEDRON
    if element.startswith("tetra"):
        linear, shape, corners = "tetra", "triangle", TETRAHEDRON
    corners = corners[np.array(CORNER_FACES[linear][face])].astype(np.float64)
    axes = np.stack([corners[1] - corners[0], corners[-1] - corners[0]], axis=1)
    return _points(element, nodes, shape, corners[:1], axes[None])


def _points(element, nodes, shape, origin, axes) -> Iterator[QuadraturePoints]:
    """Yields the parts that are far enough for their size, and splits the others."""
    local, weights = reference_rule(shape, DEGREE)
    children = _children(shape)
    linear = "tetra" if element.startswith("tetra") else "hexahedron"
    corners = nodes[..., : 4 if linear == "tetra" else 8]
    pair = np.arange(nodes.shape[1])
    for level in range(MAX_SPLITS + 1):
        near = np.zeros(len(pair), dtype=bool)
        if level < MAX_SPLITS:
            vertices = interpolated(corners[:, pair], _tabulated(linear, origin, axes, CORNERS[shape])[0])
            centre = vertices.mean(axis=2)
            radius = ((vertices - centre[..., None]) ** 2).sum(axis=0).max(axis=1)
            near = (centre**2).sum(axis=0) < NEAR**2 * radius
        for start in range(0, np.sum(~near), PARTS):
            part = slice(start, start + PARTS)
            at = (origin[~near][part], axes[~near][part]) if level else (origin, axes)
            of_nodes = of_corners = _tabulated(element, *at, local)
            if element != linear:
                of_corners = _tabulated(linear, *at, local)
            yield QuadraturePoints(pair[~near][part], *of_nodes, *of_corners, weights, at[1])
        if not near.any():
            return
        pair = np.repeat(pair[near], len(children))
        if level == 0:
            origin, axes = (np.repeat(part, near.sum(), axis=0) for part in (origin, axes))
        else:
            origin, axes = origin[near], axes[near]
        origin = (origin[:, None] + np.einsum("pxd,cd->pcx", axes, children[:, 0])).reshape(-1, 3)
        axes = np.einsum("pxd,ced->pcxe", axes, children[:, 1:]).reshape(-1, *axes.shape[1:])


def interpolated(
    nodes: Float[np.ndarray, "*axis pair node"], shapes: Float[np.ndarray, "part quad node"]
) -> Float[np.ndarray, "*axis pair quad"]:
    """Values at points from those at the nodes, by shape functions that all pairs may share."""
    if len(shapes) == 1:
        return nodes @ shapes[0].T
    return np.matmul(shapes, nodes[..., None])[..., 0]


def jacobian(
    nodes: Float[np.ndarray, "3 pair node"], slopes: Float[np.ndarray, "part quad node 3"]
) -> Float[np.ndarray, "pair quad 3 3"]:
    """∂x/∂ξ at points, from slopes that all pairs may share."""
    if len(slopes) == 1:
        return np.moveaxis(np.tensordot(nodes, slopes[0], axes=(2, 1)), 0, 2)
    return np.moveaxis(nodes, 1, 0)[:, None] @ slopes


def _tabulated(element, origin, axes, local):
    """Shape functions at points of parts, and their slopes, once where they are constant."""
    at = origin[:, None] + np.einsum("pxd,qd->pqx", axes, local)
    if element == "tetra":
        shapes = np.concatenate([1 - at.sum(axis=2, keepdims=True), at], axis=2)
        return shapes, np.concatenate([-np.ones((1, 3)), np.eye(3)])[None, None]
    shapes, slopes = reference_shapes(element, at.reshape(-1, 3))
    return shapes.reshape(*at.shape[:2], -1), slopes.reshape(*at.shape[:2], -1, 3)


def _children(shape: str) -> Float[np.ndarray, "child 1+dim dim"]:
    """The parts into which a reference cell or face is split: origin and edges of each."""
    corners = CORNERS[shape]
    halves = np.eye(corners.shape[1]) / 2
    parts = [np.concatenate([corner[None] / 2, halves]) for corner in corners]
    if shape == "triangle":
        parts.append(np.concatenate([[[0.5, 0.5]], -halves]))
    if shape == "tetrahedron":
        # the octahedron that the corners leave, about its diagonal
        below, above = np.array([0, 0.5, 0]), np.array([0.5, 0, 0.5])
        ring = np.array([[0.5, 0, 0], [0, 0, 0.5], [0, 0.5, 0.5], [0.5, 0.5, 0]])
        for one, other in zip(ring, np.roll(ring, -1, axis=0)):
            parts.append(np.stack([below, above - below, one - below, other - below]))
    return np.stack(parts)
