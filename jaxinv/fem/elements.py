"""Geometry of finite elements, by jax-fem's `FiniteElement`. The only file that imports jax-fem.

Importing jax-fem prints a banner, sets logger levels and NumPy's print options, and loads gmsh, whose
shared library wants X and GL. The import below keeps all of that away from the process. Import this
module only where something is built: a saved operator loads without jax-fem.
"""

import contextlib
import io
import logging
import sys
import types
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxinv.mesh.volume_mesh import VolumeMesh


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Undoes what importing jax-fem does to the process; a stub stands in for gmsh meanwhile."""
    levels = {name: logging.getLogger(name).level for name in ("jax", "tensorflow")}
    print_options, x64 = np.get_printoptions(), jax.config.jax_enable_x64
    gmsh = sys.modules.get("gmsh")
    sys.modules["gmsh"] = types.ModuleType("gmsh")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if gmsh is None:
            del sys.modules["gmsh"]
        else:
            sys.modules["gmsh"] = gmsh
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        theirs = logging.getLogger("jax_fem")
        theirs.handlers.clear()
        theirs.setLevel(logging.WARNING)
        theirs.propagate = True
        np.set_printoptions(**print_options)
        jax.config.update("jax_enable_x64", x64)


with _quiet_import():
    import basix
    from jax_fem.basis import get_elements
    from jax_fem.fe import FiniteElement
    from jax_fem.generate_mesh import Mesh

# jax-fem's name, and the order of the quadrature that integrates the stiffness of a straight cell
# exactly (jax-fem's own choice under-integrates HEX20 and takes 216 points for HEX27).
ELEMENTS = {
    "tetra": ("TET4", 0),
    "tetra10": ("TET10", 2),
    "hexahedron": ("HEX8", 2),
    "hexahedron20": ("HEX20", 4),
    "hexahedron27": ("HEX27", 4),
}
CHUNK_VALUES = 20_000_000  # shape-gradient values of one chunk of cells


def cell_geometry(
    mesh: VolumeMesh,
) -> Iterator[tuple[slice, Float[np.ndarray, "chunk quad corner 3"], Float[np.ndarray, "chunk quad"]]]:
    """Shape gradients and quadrature weights, chunk by chunk of cells.

    Args:
        mesh: with any of the five elements, nodes in meshio's order.

    Yields:
        The cells of the chunk, the gradients of their shape functions at the quadrature points, in
        1/m, and the quadrature weights times the Jacobian's determinant, in m³.
    """
    name, order = ELEMENTS[mesh.element]
    with contextlib.redirect_stdout(io.StringIO()):  # HEX27 prints a warning
        n_quad = len(basix.make_quadrature(get_elements(name)[1], order)[1])
    size = max(1, CHUNK_VALUES // (n_quad * mesh.cells.shape[1] * 9))
    for start in range(0, mesh.n_cells, size):
        chunk = slice(start, min(start + size, mesh.n_cells))
        with contextlib.redirect_stdout(io.StringIO()):
            element = FiniteElement(
                mesh=Mesh(mesh.points, mesh.cells[chunk], name),
                vec=1,
                dim=3,
                ele_type=name,
                gauss_order=order,
                dirichlet_bc_info=None,
            )
        yield chunk, element.shape_grads, element.JxW


def shape_gradients_at(
    mesh: VolumeMesh, cells: Int[np.ndarray, " point"], reference: Float[np.ndarray, "point 3"]
) -> Float[np.ndarray, "point corner 3"]:
    """Gradients of the shape functions at reference coordinates inside cells, in 1/m.

    Args:
        mesh: nodes in meshio's order.
        cells: index of the cell that holds each point.
        reference: coordinates in the unit tetrahedron or cube, as `CellLocator` gives them.
    """
    name, _ = ELEMENTS[mesh.element]
    with contextlib.redirect_stdout(io.StringIO()):
        family, cell_type, _, _, degree, order = get_elements(name)
    table = basix.create_element(family, cell_type, degree).tabulate(1, np.asarray(reference, np.float64))
    slopes = table[1:, :, order, 0].transpose(1, 2, 0)  # (point, corner, reference axis)
    jacobian = np.einsum("pkd,pkr->pdr", mesh.points[mesh.cells[cells]], slopes)
    return slopes @ np.linalg.inv(jacobian)
