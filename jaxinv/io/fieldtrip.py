"""FieldTrip's segmentations as arrays."""

import zlib
from os import PathLike

import numpy as np
from jaxtyping import Float, Int
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

METRES = {"m": 1.0, "dm": 0.1, "cm": 1e-2, "mm": 1e-3}


def read_segmentation(path: str | PathLike) -> tuple[Int[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    """Labels of voxels, and where these are, from an indexed segmentation of FieldTrip's.

    Args:
        path: of a .mat file, up to version 7, with a structure of `seg`, `transform` and `unit`.

    Returns:
        The labels, and the affine from indices of voxels (from 0) to positions in m.

    Raises:
        ValueError: if the file holds something else.
        OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        try:
            content = loadmat(file, squeeze_me=True, struct_as_record=False)
        except (MatReadError, NotImplementedError, OSError, ValueError, zlib.error) as error:
            raise ValueError(f"{path} is no MATLAB file up to version 7, or is damaged: {error}") from error
    needed = ("seg", "transform", "unit")
    for volume in (value for name, value in content.items() if not name.startswith("__")):
        if not all(hasattr(volume, name) for name in needed):
            continue
        if volume.unit not in METRES:
            raise ValueError(f"{path} has the unit {volume.unit!r}; known are {sorted(METRES)}")
        affine = np.array(volume.transform, np.float64)
        affine[:3, 3] += affine[:3, :3].sum(axis=1)  # MATLAB counts from 1
        affine[:3] *= METRES[volume.unit]
        return np.asarray(volume.seg), affine
    raise ValueError(f"{path} has no segmentation: none of its structures has all of the fields {needed}")
