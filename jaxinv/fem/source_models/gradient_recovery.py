"""Gradient recovery: the dipole reads the gradient of a polynomial fitted to the potentials around it."""

import numpy as np

from jaxinv.fem.loads import SourceLoads
from jaxinv.fem.recovery import recover
from jaxinv.fem.source_models.placement import SOURCE_TISSUES, locate_sources
from jaxinv.head.head_model import HeadModel
from jaxinv.head.source_space import SourceSpace


def gradient_recovery(
    head: HeadModel, sources: SourceSpace, tissues: tuple[str, ...] = SOURCE_TISSUES
) -> SourceLoads:
    """Loads that read the recovered gradient of the transfer potential at each source.

    By reciprocity a leadfield is the gradient of the electrode's potential at the source. That
    potential is smooth around the source, unlike the dipole's own, so its gradient can be recovered an
    order better than the element gives it (`jaxinv.fem.recovery`). Seen from the source, the loads are
    monopoles on nearby nodes of the source's own tissue whose moments up to the polynomial's degree
    are the dipole's, as in Venant's model, but no node needs a patch of one tissue: nodes on the
    tissue's boundary count. Differentiable in the position; between cells the leadfield jumps by less
    than its error.

    Raises:
        ValueError: if sources lie outside the tissues of a head that has one of them, or outside the head.

    References:
        Zhang & Naga 2005, doi:10.1137/S1064827503402837 (the recovery); Vorwerk, Hanrath, Wolters &
        Grasedyck 2019, doi:10.1016/j.neuroimage.2019.116039 (multipoles).
    """
    cell, _ = locate_sources(head, sources, tissues)
    recovered = recover(head.mesh, cell, np.asarray(sources.positions))
    return SourceLoads(recovered.nodes, recovered.gradient, recovered.hessian)
