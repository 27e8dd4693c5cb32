"""The layered sphere as a head model: it has an analytic solution."""

import numpy as np

from jaxinv.head.head_model import HeadModel
from jaxinv.mesh.spheres import sphere_mesh

TISSUES_BY_LAYERS = {
    1: ("brain",),
    2: ("skull", "brain"),
    3: ("scalp", "skull", "brain"),
    4: ("scalp", "skull", "csf", "brain"),
}


def sphere_head(
    radii, conductivity, n_nodes: int = 45_000, element: str = "tetra", *, adapt: float = 0.0
) -> HeadModel:
    """Head of concentric spheres around the origin.

    Args:
        radii: of the layers, outermost first, in m.
        conductivity: of the layers, outermost first, in S/m.
        n_nodes: about how many nodes to make.
        element: "tetra", "tetra10" or "hexahedron".
        adapt: shift factor of geometry-adapted hexahedra: 0 for cubes, to 0.49; the last is the most
            accurate.

    Returns:
        The head. Up to four layers are named scalp, skull, csf and brain (those there are); more are
        named layer1, layer2, …, and brain.

    Raises:
        ValueError: if radii and conductivity differ in number, or for what `sphere_mesh` and
            `HeadModel` refuse.
    """
    radii, conductivity = np.atleast_1d(radii), np.atleast_1d(conductivity)
    if radii.shape != conductivity.shape:
        raise ValueError(
            f"radii and conductivity must match: found {len(radii)} and {len(conductivity)} values"
        )
    numbered = (*(f"layer{k + 1}" for k in range(len(radii) - 1)), "brain")
    names = TISSUES_BY_LAYERS.get(len(radii), numbered)
    return HeadModel(sphere_mesh(radii, n_nodes, element, adapt=adapt), names, conductivity)
