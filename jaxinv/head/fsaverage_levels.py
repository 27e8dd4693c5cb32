"""fsaverage's compartments as nested level sets: signed distances in m, negative inside.

From the outside in: scalp, outer skull, inner skull, brain surface, white matter. Cerebrum and inner
skull are FreeSurfer's and mne's surfaces. The outer skull follows from inner skull and scalp; the
cerebellum, the brain stem and the deep nuclei follow from MNI152's tissue maps.
"""

from collections.abc import Callable
from functools import cache

import igl
import numpy as np
from jaxtyping import Float
from scipy import ndimage

from jaxinv.head.fsaverage_surfaces import (
    Surface,
    bem_surface,
    cortical_surface,
    mni152_to_mni305,
    mni305_to_mni152,
    tissue_maps,
)
from jaxinv.mesh.voxel_field import VoxelField, largest_piece

LevelSet = Callable[[Float[np.ndarray, "point 3"]], Float[np.ndarray, " point"]]

NECK_PLANE = -0.100  # m; the head ends below this height, 28 mm under the lowest point of the skull's inside
SKULL_THICKNESS = 7e-3  # m; of an adult cranial vault: De Boer et al. 2016, doi:10.1007/s00414-016-1324-5
SKULL_SHARE = 0.55  # at most this share of the gap between inner skull and scalp is bone
CLEAR_OF_CEREBRUM = 2e-3  # m; tissue nearer to the pial surface is the cortex's own blurred edge
DEEP = 3e-3  # m; ventricles and nuclei are looked for this far below the cortex


def signed_distance(surface: Surface, points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, " point"]:
    """Distance to a closed surface in m, negative inside (by fast winding number)."""
    if len(points) == 0:
        return np.zeros(0)
    kind = igl.SignedDistanceType.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER
    return igl.signed_distance(np.ascontiguousarray(points), surface.points, surface.faces, kind)[0]


def scalp(points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, " point"]:
    """The scalp, cut off at the neck."""
    return np.maximum(signed_distance(bem_surface("head"), points), NECK_PLANE - points[:, 2])


def inner_skull(points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, " point"]:
    """The skull's inside."""
    return signed_distance(bem_surface("inner_skull"), points)


def outer_skull(points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, " point"]:
    """A shell of 7 mm around the inner skull, thinner where the scalp comes close."""
    outside = inner_skull(points)
    gap = outside - scalp(points)
    return outside - np.minimum(SKULL_THICKNESS, SKULL_SHARE * gap)


def brain(points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, " point"]:
    """Cerebrum (pial surfaces) together with cerebellum, brain stem and medial nuclei."""
    return np.minimum(_hemispheres("pial", points), _beyond_cerebrum()[0](mni305_to_mni152(points)))


def white_matter(points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, " point"]:
    """What the cortical white surfaces enclose, and white matter beyond the cerebrum."""
    return np.minimum(_hemispheres("white_matter", points), _beyond_cerebrum()[1](mni305_to_mni152(points)))


LEVEL_SETS: dict[str, LevelSet] = {
    "scalp": scalp,
    "skull": outer_skull,
    "csf": inner_skull,
    "grey": brain,
    "white": white_matter,
}


def deep_tissue(points: Float[np.ndarray, "point 3"]) -> tuple[np.ndarray, np.ndarray]:
    """Which points deep inside the white surfaces are ventricle, and which are nuclei of grey matter."""
    maps = tissue_maps()
    places = mni305_to_mni152(points)
    grey, white = (VoxelField(values, maps.affine)(places) for values in (maps.grey, maps.white))
    ventricle = grey + white < 0.5
    nucleus = ~ventricle & (grey > white)
    candidate = np.flatnonzero(ventricle | nucleus)
    deep = np.zeros(len(points), dtype=bool)
    deep[candidate] = _hemispheres("white_matter", points[candidate]) < -DEEP
    return ventricle & deep, nucleus & deep


def _hemispheres(name: str, points):
    return np.minimum(*(signed_distance(surface, points) for surface in cortical_surface(name)))


@cache
def _beyond_cerebrum() -> tuple[VoxelField, VoxelField]:
    """Signed distances to brain tissue, and to its white matter, that lie outside the cerebrum; in MNI152."""
    maps = tissue_maps()
    probability = maps.grey + maps.white
    candidate = np.argwhere(probability > 0.5)
    positions = mni152_to_mni305(candidate @ maps.affine[:3, :3].T + maps.affine[:3, 3])
    clear = np.zeros(probability.shape, dtype=bool)
    clear[tuple(candidate.T)] = _hemispheres("pial", positions) > CLEAR_OF_CEREBRUM
    ball = ndimage.generate_binary_structure(3, 1)
    core = ndimage.binary_opening(clear, ball)
    tissue = ndimage.binary_dilation(largest_piece(core), ball, iterations=2, mask=probability > 0.5)
    white = tissue & (maps.white > maps.grey)
    return tuple(VoxelField.distance(mask, maps.affine) for mask in (tissue, white))
