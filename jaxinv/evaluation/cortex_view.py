"""Values of sources on the inflated surface of fsaverage5, as polygons seen from a side."""

from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from nilearn.datasets import load_fsaverage_data
from scipy.spatial import cKDTree

from jaxinv.head import SourceSpace
from jaxinv.head.fsaverage import mid_surface
from jaxinv.head.fsaverage_surfaces import HEMISPHERES, cortical_surface

REACH = 10e-3  # m; a vertex farther from every source has no value
LIGHT = np.array([0.15, 0.35, 0.92])  # towards the viewer, from above; (right, up, near)


class View(NamedTuple):
    """Triangles of one hemisphere that face the viewer, farthest first.

    Attributes:
        triangles: corners, in m, (right, up) of the viewer.
        vertices: the corners' vertices in fsaverage5, the right hemisphere's from 10,242 on.
        shade: of each triangle, 0 to 1.
    """

    triangles: Float[np.ndarray, "triangle 3 2"]
    vertices: Int[np.ndarray, "triangle 3"]
    shade: Float[np.ndarray, " triangle"]


@cache
def cortex_view(hemisphere: Literal["left", "right"], side: Literal["lateral", "medial"]) -> View:
    """The inflated surface of a hemisphere from the outside or from the other hemisphere."""
    number = HEMISPHERES.index(hemisphere)
    points, faces = cortical_surface("inflated")[number]
    towards = -1.0 if (hemisphere == "left") == (side == "lateral") else 1.0  # the viewer's side in x
    seen = np.stack([towards * points[:, 1], points[:, 2], towards * points[:, 0]], axis=1)
    corners = seen[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    front = np.flatnonzero(normals[:, 2] > 0)
    front = front[np.argsort(corners[front, :, 2].mean(axis=1))]
    light = LIGHT / np.linalg.norm(LIGHT)
    offset = number * len(points)
    return View(corners[front, :, :2], faces[front] + offset, np.clip(normals[front] @ light, 0, 1))


@cache
def sulcal_depth() -> Float[np.ndarray, " vertex"]:
    """Depth of each vertex of fsaverage5 in its sulcus, both hemispheres; positive in the sulci."""
    data = load_fsaverage_data(mesh="fsaverage5", data_type="sulcal", mesh_type="inflated").data
    return np.concatenate([np.asarray(data.parts[side], dtype=np.float64) for side in HEMISPHERES])


def on_fsaverage5(values: Float[np.ndarray, " source"], sources: SourceSpace) -> Float[np.ndarray, " vertex"]:
    """Value of the nearest source at every vertex of fsaverage5; NaN on the medial wall and far away.

    Nearest along the sphere where the sources are vertices of fsaverage5, so that nothing crosses a sulcus,
    otherwise nearest in space.
    """
    index, reached = _nearest(sources)
    return np.where(reached, np.asarray(values, dtype=np.float64)[index], np.nan)


def _nearest(sources: SourceSpace):
    surface = mid_surface("ico5")
    cortex = np.asarray(surface.vertices)
    n_vertices = sum(len(part.points) for part in cortical_surface("pial"))
    index, reached = np.zeros(n_vertices, dtype=np.int64), np.zeros(n_vertices, dtype=bool)
    if sources.vertices is None:
        distance, near = cKDTree(np.asarray(sources.positions)).query(np.asarray(surface.positions))
        index[cortex], reached[cortex] = near, distance < REACH
        return index, reached
    sphere = np.concatenate(
        [
            part.points + np.array([shift, 0, 0])
            for part, shift in zip(cortical_surface("sphere"), (-1.0, 1.0))
        ]
    )  # the hemispheres apart, so that none is nearest to the other
    _, near = cKDTree(sphere[np.asarray(sources.vertices)]).query(sphere[cortex])
    index[cortex], reached[cortex] = near, True
    return index, reached
