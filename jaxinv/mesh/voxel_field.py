"""Values on a grid of voxels, as a function of place."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

SMOOTHING = 0.7  # voxels; takes the stairs off a distance


@dataclass(frozen=True, eq=False)
class VoxelField:
    """Linear between the centres of voxels, and constant beyond the outermost.

    Attributes:
        values: at the centres.
        affine: from indices of voxels to positions in m.
    """

    values: Float[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]

    @classmethod
    def distance(cls, inside: Bool[np.ndarray, "x y z"], affine: Float[np.ndarray, "4 4"]) -> "VoxelField":
        """Signed distance in m to the surface of a mask, negative inside, smoothed to take off its stairs."""
        edges = np.linalg.norm(affine[:3, :3], axis=0)
        within, beyond = (ndimage.distance_transform_edt(m, sampling=edges) for m in (inside, ~inside))
        return cls(ndimage.gaussian_filter(beyond - within, SMOOTHING), affine)

    def __call__(self, points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, " point"]:
        """Values at positions in m."""
        voxels = np.linalg.solve(self.affine[:3, :3], (points - self.affine[:3, 3]).T)
        return ndimage.map_coordinates(self.values, voxels, order=1, mode="nearest")


def largest_piece(inside: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """Of the parts of a mask that hang together by faces, the one with most voxels."""
    pieces, count = ndimage.label(inside)
    return pieces == 1 + np.argmax(ndimage.sum_labels(inside, pieces, np.arange(1, count + 1)))
