"""Partial integration: the dipole's load on a node is the moment times the shape function's gradient."""

import jax.numpy as jnp
import numpy as np

from jaxinv.fem.elements import shape_functions
from jaxinv.fem.loads import SourceLoads
from jaxinv.head.head_model import HeadModel
from jaxinv.head.source_space import SourceSpace
from jaxinv.mesh.locate import CellLocator

SOURCE_TISSUES = ("grey", "brain")  # where cortical current flows; a head that has neither takes any cell


def partial_integration(head: HeadModel, sources: SourceSpace) -> SourceLoads:
    """Loads p · ∇N_i at each source's position, from the cell that holds it.

    Exact in the weak form for a dipole inside a cell; first order in the cell size on linear elements.

    Raises:
        ValueError: if sources lie outside the grey matter (or brain) of a head that has one, or
            outside the head.

    References:
        Yan, Nunez & Hart 1991, doi:10.1007/BF02442317.
    """
    mesh = head.mesh
    cell, local, distance = CellLocator(mesh).find(np.asarray(sources.positions))
    allowed = [head.label(name) for name in SOURCE_TISSUES if name in head.tissue_names]
    outside = distance > 0
    if allowed:
        outside |= ~np.isin(mesh.tissue[cell], allowed)
    if outside.any():
        first = np.flatnonzero(outside)[:5]
        found = [
            f"source {i} in {'air' if distance[i] > 0 else head.tissue_names[mesh.tissue[cell[i]]]}"
            for i in first
        ]
        raise ValueError(
            f"{outside.sum()} of {len(outside)} sources lie outside "
            f"{' and '.join(head.tissue_names[k] for k in allowed) or 'the head'} ({', '.join(found)}, ...): "
            "move them with jaxinv.head.place_in_tissue or leave them out"
        )
    _, gradients = shape_functions(mesh, cell, local)
    return SourceLoads(jnp.asarray(mesh.cells[cell]), jnp.asarray(gradients, dtype=jnp.float64))
