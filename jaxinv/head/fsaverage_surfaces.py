"""fsaverage's surfaces, from the files that mne and nilearn carry in their wheels.

All of them are in fsaverage's MRI (surface RAS) frame, here in metres.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import mne
import numpy as np
from jaxtyping import Float, Int
from nilearn.datasets import (
    load_fsaverage,
    load_fsaverage_data,
    load_mni152_gm_template,
    load_mni152_wm_template,
)

HEMISPHERES = ("left", "right")
ICO_VERTICES = {"ico3": 642, "ico4": 2562, "ico5": 10242}  # of each hemisphere: fsaverage3, 4 and 5

# Published by FreeSurfer ("CoordinateSystems"): MNI305 (fsaverage) to MNI152, in mm.
MNI305_TO_MNI152 = np.array(
    [
        [0.9975, -0.0073, 0.0176, -0.0429],
        [0.0146, 1.0009, -0.0024, 1.5496],
        [-0.0130, -0.0093, 0.9971, 1.1840],
        [0, 0, 0, 1],
    ]
)


class Surface(NamedTuple):
    """A closed triangle surface, wound outwards."""

    points: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]


class TissueMaps(NamedTuple):
    """Probabilities of grey and white matter on a grid of MNI152, and its affine (voxel to m)."""

    grey: Float[np.ndarray, "x y z"]
    white: Float[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]


@cache
def bem_surface(name: str) -> Surface:
    """The scalp ("head") or the "inner_skull", from mne."""
    file = {"head": "fsaverage-head.fif", "inner_skull": "fsaverage-inner_skull-bem.fif"}[name]
    folder = Path(mne.__file__).parent / "data" / "fsaverage"
    (surface,) = mne.read_bem_surfaces(folder / file, verbose="ERROR")
    return Surface(surface["rr"].astype(np.float64), surface["tris"].astype(np.int64))


@cache
def cortical_surface(name: str) -> tuple[Surface, Surface]:
    """Left and right "pial", "white_matter" or "inflated" surface of fsaverage5, from nilearn."""
    mesh = load_fsaverage("fsaverage5")[name]
    return tuple(
        Surface(
            np.asarray(mesh.parts[side].coordinates, dtype=np.float64) * 1e-3,
            np.asarray(mesh.parts[side].faces, dtype=np.int64),
        )
        for side in HEMISPHERES
    )


@cache
def cortical_thickness() -> tuple[Float[np.ndarray, " vertex"], Float[np.ndarray, " vertex"]]:
    """Thickness of the cortex at each vertex of the left and the right hemisphere, in m."""
    data = load_fsaverage_data(mesh="fsaverage5", data_type="thickness", mesh_type="pial")
    return tuple(np.asarray(data.data.parts[side], dtype=np.float64) * 1e-3 for side in HEMISPHERES)


@cache
def tissue_maps() -> TissueMaps:
    """MNI152's maps of grey and white matter at 2 mm, from nilearn."""
    grey, white = load_mni152_gm_template(resolution=2), load_mni152_wm_template(resolution=2)
    to_metres = np.diag([1e-3, 1e-3, 1e-3, 1.0])
    return TissueMaps(
        np.asarray(grey.get_fdata()), np.asarray(white.get_fdata()), to_metres @ np.asarray(grey.affine)
    )


def mni305_to_mni152(positions: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 3"]:
    """Takes positions (m) from fsaverage's frame to MNI152's."""
    return positions @ MNI305_TO_MNI152[:3, :3].T + 1e-3 * MNI305_TO_MNI152[:3, 3]


def mni152_to_mni305(positions: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 3"]:
    """Takes positions (m) from MNI152's frame to fsaverage's."""
    return np.linalg.solve(MNI305_TO_MNI152[:3, :3], (positions - 1e-3 * MNI305_TO_MNI152[:3, 3]).T).T


def coarse_faces(faces: Int[np.ndarray, "face 3"], n_vertices: int) -> Int[np.ndarray, "coarse 3"]:
    """Faces of the icosahedron's subdivision that the first `n_vertices` vertices make.

    Each step of subdivision appends the midpoints of all edges; a face whose three corners are
    midpoints lies in the middle of a face of the step before.
    """
    while faces.max() >= n_vertices:
        n_before = (faces.max() + 1 - 2) // 4 + 2
        parents = [[] for _ in range(faces.max() + 1 - n_before)]
        for face in faces:
            old = [v for v in face if v < n_before]
            new = [v - n_before for v in face if v >= n_before]
            for v in new:
                parents[v] += [p for p in old if p not in parents[v]]
        middle = faces[(faces >= n_before).all(axis=1)] - n_before
        coarse = []
        for a, b, c in middle:
            ab, bc, ca = set(parents[a]), set(parents[b]), set(parents[c])
            # the parent shared by two consecutive midpoints lies between them: the winding is kept
            coarse.append([(ca & ab).pop(), (ab & bc).pop(), (bc & ca).pop()])
        faces = np.array(coarse)
    return faces
