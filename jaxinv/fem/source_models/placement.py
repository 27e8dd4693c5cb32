"""Where a source model stands: the cells of grey matter that hold the sources."""

import numpy as np
from jaxtyping import Float, Int

from jaxinv.head.head_model import HeadModel
from jaxinv.head.source_space import SourceSpace
from jaxinv.mesh.locate import HEXAHEDRON

ON_FACE = 1e-9  # a corner whose shape function is below this at a source does not hold it
SOURCE_TISSUES = ("grey", "brain")  # where cortical current flows; a head that has neither takes any cell


def locate_sources(
    head: HeadModel, sources: SourceSpace, tissues: tuple[str, ...] = SOURCE_TISSUES
) -> tuple[Int[np.ndarray, " source"], Float[np.ndarray, "source 3"]]:
    """Cells that hold the sources, and the sources' reference coordinates there.

    Raises:
        ValueError: if sources lie outside the tissues of a head that has one of them, or outside the head.
    """
    cell, local, distance = head.locator.find(np.asarray(sources.positions))
    allowed = head.labels_of(tissues)
    outside = (distance > 0) | ~np.isin(head.mesh.tissue[cell], allowed)
    if outside.any():
        found = [
            f"source {i} in {'air' if distance[i] > 0 else head.tissue_names[head.mesh.tissue[cell[i]]]}"
            for i in np.flatnonzero(outside)[:5]
        ]
        where = "the head"
        if len(allowed) < len(head.tissue_names):
            where = " and ".join(head.tissue_names[label] for label in allowed)
        raise ValueError(
            f"{outside.sum()} of {len(outside)} sources lie outside {where} ({', '.join(found)}, ...): "
            "move them with jaxinv.head.place_in_tissue or leave them out"
        )
    return cell, local


def locate_dipoles(head: HeadModel, sources: SourceSpace) -> Int[np.ndarray, " source"]:
    """Cells that hold the sources of a model that subtracts their singular potential.

    Raises:
        ValueError: for a head whose conductivities are tensors, sources outside the grey matter (or
            brain) of a head that has one or outside the head, or on the boundary of their tissue,
            where the correction potential is infinite.
    """
    if np.ndim(head.conductivity) > 1:
        raise ValueError(
            f"conductivity of shape {np.shape(head.conductivity)}: the subtraction models take one value "
            "in S/m a tissue; use another source model for tensors"
        )
    cell, local = locate_sources(head, sources)
    corners, own = head.mesh.corner_cells[cell], head.mesh.tissue[cell]
    if corners.shape[1] == 4:
        values = np.concatenate([1 - local.sum(axis=1, keepdims=True), local], axis=1)
    else:
        values = np.where(HEXAHEDRON == 1, local[:, None], 1 - local[:, None]).prod(axis=2)
    holds = values > ON_FACE  # the corners of the face, edge or cell that the source lies in
    for tissue in np.unique(own):
        shared = np.zeros(head.mesh.n_nodes, dtype=bool)
        shared[head.mesh.cells[head.mesh.tissue != tissue]] = True
        on = (own == tissue) & ~holds.all(axis=1) & (shared[corners] | ~holds).all(axis=1)
        if on.any():
            raise ValueError(
                f"{on.sum()} sources lie on the boundary of {head.tissue_names[tissue]} (source "
                f"{np.flatnonzero(on)[0]}, ...), where the correction to a dipole's potential is infinite: "
                "move them inwards"
            )
    return cell
