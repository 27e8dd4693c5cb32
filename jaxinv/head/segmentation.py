"""Heads from voxels that are labelled by tissue, in nested layers."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from jaxinv.head.head_model import HeadModel
from jaxinv.mesh.tetrahedra import FILM, mesh_level_sets
from jaxinv.mesh.voxel_field import VoxelField, largest_piece
from jaxinv.tissues import nominal_conductivity

MARGIN = 2  # voxels of air around the head
OWN_SHARE = 0.5  # of a tissue's voxels, at least, that lie in its layer


def segmented_head(
    labels: Int[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    tissues: dict[str, int],
    resolution: float = 4e-3,
) -> HeadModel:
    """A head of conforming tetrahedra from labelled voxels, its layers nested: scalp, skull, brain, say.

    What a layer and all layers in it enclose is one piece without holes: voxels of air or of another
    label inside it belong to it. Where a layer is missing its neighbours stay a fifth of the
    resolution apart. Boundaries are smoothed over one voxel.

    Args:
        labels: of the voxels; those of no tissue are air.
        affine: from indices of voxels, which mean their centres, to positions in m.
        tissues: label of each tissue, the outermost first; names are those of `jaxinv.tissues.TISSUES`.
        resolution: edge of the cube whose volume is that of one node of the lattice that is cut, in m.

    Returns:
        The head model, in the coordinates of the affine, with nominal conductivities.

    Raises:
        ValueError: for labels that are no volume of integers, an affine that is none, an unknown tissue or
            one without voxels, two tissues of one label, tissues that do not lie in each other in this order,
            or a layer that is too small for the resolution.
    """
    labels, affine = np.asarray(labels), np.asarray(affine, np.float64)
    _check(labels, affine, tissues, resolution)
    conductivity = nominal_conductivity(tuple(tissues))
    padded = np.pad(labels, MARGIN, constant_values=min(tissues.values()) - 1)
    affine = affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, MARGIN)
    values = list(tissues.values())
    masks = [_solid(np.isin(padded, values[number:])) for number in range(len(values))]
    _check_order(padded, masks, tissues)
    level_sets = [VoxelField.distance(mask, affine) for mask in masks]
    places = np.argwhere(masks[0]) @ affine[:3, :3].T + affine[:3, 3]
    margin = np.linalg.norm(affine[:3, :3], axis=0).max()
    bounds = np.array([places.min(axis=0) - margin, places.max(axis=0) + margin])
    mesh = mesh_level_sets(level_sets, bounds, resolution, film=FILM * resolution)
    return HeadModel(mesh, tuple(tissues), conductivity)


def _check(labels, affine, tissues, resolution):
    if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers of shape (x, y, z), not {labels.dtype} of {labels.shape}")
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise ValueError(f"affine must be an invertible (4, 4) matrix to positions in m; found {affine}")
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not ((edges > 1e-5) & (edges < 0.05)).all():
        raise ValueError(f"voxels of {edges.tolist()} m are no head's: give the affine in metres")
    if len(set(tissues.values())) < len(tissues):
        raise ValueError(f"tissues={tissues} has two tissues of one label: give each its own")
    missing = {name: label for name, label in tissues.items() if not (labels == label).any()}
    if missing or not tissues:
        raise ValueError(
            f"no voxel has the labels {missing or '{}'} of tissues={tissues}; labels are "
            f"{np.unique(labels)[:20].tolist()}"
        )
    if not resolution > 0:
        raise ValueError(f"resolution must be positive, in m; found {resolution}")


def _check_order(labels, masks, tissues):
    """Each tissue's voxels lie between its boundary and that of the next."""
    for (name, label), outer, inner in zip(tissues.items(), masks, [*masks[1:], np.zeros_like(masks[0])]):
        own = labels == label
        share = np.sum(own & outer & ~inner) / np.sum(own)
        if share < OWN_SHARE:
            raise ValueError(
                f"only {100 * share:.0f} % of the voxels of {name} lie in its layer of tissues={tissues}: "
                "list the tissues from the outermost to the innermost, each around the next"
            )


def _solid(inside: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """The largest piece, without holes."""
    return ndimage.binary_fill_holes(largest_piece(inside))
