"""Finite elements from jax-fem: shape functions, their gradients, and quadrature on a mesh.

The only file that imports jax-fem, whose import prints a banner, changes loggers and NumPy's print
options, and loads gmsh for mesh generators that are not used here; gmsh's library needs X and GL. All
of that is kept from the process: gmsh is a stub while jax-fem is imported, and the rest is put back.
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

NEWTON_STEPS = 8  # enough for rounding in any cell that is not folded
CHUNK = 50_000  # cells whose geometry is computed at a time


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Undoes what importing jax-fem does to the process."""
    loggers = [logging.getLogger(name) for name in ("jax", "tensorflow")]
    levels = [logger.level for logger in loggers]
    options = np.get_printoptions()
    x64 = jax.config.jax_enable_x64
    real = sys.modules.get("gmsh")
    sys.modules["gmsh"] = types.ModuleType("gmsh")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if real is None:
            del sys.modules["gmsh"]
        else:
            sys.modules["gmsh"] = real
        jax.config.update("jax_enable_x64", x64)
        np.set_printoptions(**options)
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


with _quiet_import():
    import basix
    from jax_fem import logger as _jax_fem_logger
    from jax_fem.basis import get_elements
    from jax_fem.fe import FiniteElement
    from jax_fem.generate_mesh import Mesh
_jax_fem_logger.handlers.clear()
_jax_fem_logger.propagate = True
_jax_fem_logger.setLevel(logging.WARNING)

JAX_FEM_NAMES = {
    "tetra": "TET4",
    "tetra10": "TET10",
    "hexahedron": "HEX8",
    "hexahedron27": "HEX27",
}


def _jax_fem_name(element: str) -> str:
    if element not in JAX_FEM_NAMES:
        # jax-fem's HEX20 keeps moments on the edges, not values at the midside nodes
        raise ValueError(f"no finite element for {element!r} cells; there are {sorted(JAX_FEM_NAMES)}")
    return JAX_FEM_NAMES[element]


def quadrature(
    mesh: VolumeMesh,
) -> Iterator[tuple[slice, Float[np.ndarray, "cell quad node 3"], Float[np.ndarray, "cell quad"]]]:
    """Shape gradients and quadrature weights of a mesh, a slice of its cells at a time.

    Yields:
        The slice of cells; the gradients of the shape functions in space at each quadrature point, in
        1/m; and the weight of each point, Jacobian included, in m³.

    Raises:
        ValueError: if the map of a (curved) cell has no positive Jacobian somewhere.
    """
    name = _jax_fem_name(mesh.element)
    for start in range(0, mesh.n_cells, CHUNK):
        part = slice(start, min(start + CHUNK, mesh.n_cells))
        with contextlib.redirect_stdout(io.StringIO()):
            element = FiniteElement(
                Mesh(mesh.points, mesh.cells[part], name),
                vec=1, dim=3, ele_type=name, gauss_order=None, dirichlet_bc_info=None,
            )  # fmt: skip
        weights = np.asarray(element.JxW)
        if not (weights > 0).all():
            bad = start + int(np.flatnonzero(~(weights > 0).all(axis=1))[0])
            raise ValueError(f"cell {bad} is folded: its Jacobian is not positive at a quadrature point")
        yield part, np.asarray(element.shape_grads), weights


def shape_functions(
    mesh: VolumeMesh, cell: Int[np.ndarray, " point"], local: Float[np.ndarray, "point 3"]
) -> tuple[Float[np.ndarray, "point node"], Float[np.ndarray, "point node 3"]]:
    """Shape functions and their gradients in space (1/m) at points given by cell and local coordinates."""
    values, slopes = reference_shapes(mesh.element, local)
    return values, slopes @ np.linalg.inv(_jacobian(mesh, cell, slopes))


def local_coordinates(
    mesh: VolumeMesh, cell: Int[np.ndarray, " point"], positions: Float[np.ndarray, "point 3"]
) -> Float[np.ndarray, "point 3"]:
    """Local coordinates of positions (m) in given cells, by Newton's method; curved cells as they are."""
    local = np.full(np.shape(positions), 0.25)
    for _ in range(NEWTON_STEPS):
        values, slopes = reference_shapes(mesh.element, local)
        left = positions - np.einsum("pn,pnx->px", values, mesh.points[mesh.cells[cell]])
        local = local + np.linalg.solve(_jacobian(mesh, cell, slopes), left[..., None])[..., 0]
    return local


def reference_shapes(
    element: str, local: Float[np.ndarray, "point 3"]
) -> tuple[Float[np.ndarray, "point node"], Float[np.ndarray, "point node 3"]]:
    """Shape functions and their derivatives in local coordinates; nodes in meshio's order."""
    with contextlib.redirect_stdout(io.StringIO()):
        family, cell_type, _, _, degree, order = get_elements(_jax_fem_name(element))
    tabulated = basix.create_element(family, cell_type, degree).tabulate(1, local)[:, :, order, 0]
    return tabulated[0], np.moveaxis(tabulated[1:], 0, -1)


def reference_rule(
    shape: str, degree: int
) -> tuple[Float[np.ndarray, "quad dim"], Float[np.ndarray, " quad"]]:
    """Points and weights that integrate polynomials of a degree over a reference cell or face."""
    return basix.make_quadrature(basix.CellType[shape], degree)


def _jacobian(mesh: VolumeMesh, cell, slopes) -> Float[np.ndarray, "point 3 3"]:
    return np.einsum("pnx,pnr->pxr", mesh.points[mesh.cells[cell]], slopes)
