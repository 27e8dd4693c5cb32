"""Where a source model stands: the cells of grey matter that hold the sources."""

import numpy as np
from jaxtyping import Float, Int

from jaxinv.head.head_model import HeadModel
from jaxinv.head.source_space import SourceSpace
from jaxinv.mesh.locate import CellLocator

SOURCE_TISSUES = ("grey", "brain")  # where cortical current flows; a head that has neither takes any cell


def source_labels(head: HeadModel) -> list[int]:
    """Labels of the tissues in which sources may lie."""
    named = [head.label(name) for name in SOURCE_TISSUES if name in head.tissue_names]
    return named or list(range(len(head.tissue_names)))


def locate_sources(
    head: HeadModel, sources: SourceSpace
) -> tuple[Int[np.ndarray, " source"], Float[np.ndarray, "source 3"]]:
    """Cells that hold the sources, and the sources' reference coordinates there.

    Raises:
        ValueError: if sources lie outside the grey matter (or brain) of a head that has one, or
            outside the head.
    """
    cell, local, distance = CellLocator(head.mesh).find(np.asarray(sources.positions))
    allowed = source_labels(head)
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
