"""Partial integration: the dipole's load on a node is the moment times the shape function's gradient."""

import numpy as np

from jaxinv.fem.elements import local_coordinates, shape_functions
from jaxinv.fem.loads import SourceLoads
from jaxinv.fem.source_models.placement import locate_sources
from jaxinv.head.head_model import HeadModel
from jaxinv.head.source_space import SourceSpace


def partial_integration(head: HeadModel, sources: SourceSpace) -> SourceLoads:
    """Loads p · ∇N_i at each source's position, from the cell that holds it.

    Exact in the weak form for a dipole inside a cell; the leadfield has the order of the element's
    gradients, and jumps between cells, so that it has no derivative in the position.

    Raises:
        ValueError: if sources lie outside the grey matter (or brain) of a head that has one, or
            outside the head.

    References:
        Yan, Nunez & Hart 1991, doi:10.1007/BF02442317.
    """
    cell, _ = locate_sources(head, sources)
    local = local_coordinates(head.mesh, cell, np.asarray(sources.positions))
    _, gradients = shape_functions(head.mesh, cell, local)
    return SourceLoads(head.mesh.cells[cell], gradients)
