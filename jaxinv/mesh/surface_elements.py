"""Linear finite elements on a triangulated surface."""

import igl
import numpy as np
from jaxtyping import Float, Int
from scipy import sparse


def surface_elements(
    points: Float[np.ndarray, "node 3"], faces: Int[np.ndarray, "face 3"]
) -> tuple[Float[np.ndarray, " node"], sparse.csc_array]:
    """Lumped mass (area, in m², of each node) and stiffness of the surface's Laplacian.

    Args:
        points: in m.
        faces: triangles, indices into the points.

    Raises:
        ValueError: for points or triangles of a wrong shape, values that are not finite, indices of no
            point, or a triangle without area.
    """
    points, faces = np.asarray(points, np.float64, order="C"), np.asarray(faces, np.int64, order="C")
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise ValueError(f"positions must be finite and of shape (point, 3), not {points.shape}")
    if faces.ndim != 2 or faces.shape[1] != 3 or not len(faces):
        raise ValueError(f"faces must hold triangles (face, 3), not {faces.shape}")
    if faces.min() < 0 or faces.max() >= len(points):
        raise ValueError(
            f"faces must index the {len(points)} positions; found {faces.min()} to {faces.max()}"
        )
    flat = np.flatnonzero(igl.doublearea(points, faces) == 0)
    if flat.size:
        raise ValueError(f"{flat.size} triangles have no area, the first is triangle {flat[0]}")
    mass = igl.massmatrix(points, faces, igl.MASSMATRIX_TYPE_BARYCENTRIC).diagonal()
    stiffness = sparse.csc_array(-igl.cotmatrix(points, faces))
    stiffness.resize(len(points), len(points))  # libigl leaves out the points after the last that is used
    return np.pad(mass, (0, len(points) - len(mass))), stiffness
