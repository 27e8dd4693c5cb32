import subprocess
import sys
import textwrap

import numpy as np
import pytest

from jaxinv.fem.elements import local_coordinates, quadrature, shape_functions
from jaxinv.fem.hierarchy import linear_interpolation
from jaxinv.mesh import VolumeMesh, sphere_mesh

TETRA = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=float)
CUBE = np.array(
    [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]], dtype=float
)
# VTK's order of the nodes that follow the corners
TETRA_EDGES = [(0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3)]
CUBE_EDGES = [
    (0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)
]  # fmt: skip
CUBE_FACES = [(0, 3, 7, 4), (1, 2, 6, 5), (0, 1, 5, 4), (3, 2, 6, 7), (0, 1, 2, 3), (4, 5, 6, 7)]


def means(corners, groups):
    return np.array([corners[list(group)].mean(axis=0) for group in groups])


NODES = {
    "tetra": TETRA,
    "tetra10": np.concatenate([TETRA, means(TETRA, TETRA_EDGES)]),
    "hexahedron": CUBE,
    "hexahedron27": np.concatenate(
        [CUBE, means(CUBE, CUBE_EDGES), means(CUBE, CUBE_FACES), CUBE.mean(axis=0, keepdims=True)]
    ),
}
SHEAR = 0.01 * np.array([[1.0, 0.3, -0.2], [0.1, 0.8, 0.2], [0.0, -0.3, 1.2]])


def one_cell(element):
    nodes = NODES[element] @ SHEAR.T
    return VolumeMesh(nodes, np.arange(len(nodes))[None], [0])


@pytest.mark.parametrize("element", NODES)
def test_volume_and_linear_fields_are_exact(element):
    """Nodes in meshio's order give the cell's volume and reproduce a linear field's gradient."""
    mesh = one_cell(element)
    (part, gradients, weights), *rest = quadrature(mesh)
    assert not rest
    assert part == slice(0, 1)
    volume = np.linalg.det(SHEAR) * (1 / 6 if element.startswith("tetra") else 1)
    np.testing.assert_allclose(weights.sum(), volume, rtol=1e-12)
    slope = np.array([1.0, -2.0, 3.0])
    field = np.einsum("cqnx,n->cqx", gradients, mesh.points @ slope)
    np.testing.assert_allclose(field, np.broadcast_to(slope, field.shape), rtol=1e-10)


@pytest.mark.parametrize("element", ["tetra10", "hexahedron27"])
def test_second_order_elements_hold_quadratic_fields(element):
    mesh = one_cell(element)
    x = mesh.points
    local = np.array([[0.2, 0.3, 0.1]])
    values, gradients = shape_functions(mesh, np.array([0]), local)
    at = (values @ x)[0]
    field = x[:, 0] ** 2 + 2 * x[:, 1] * x[:, 2]
    np.testing.assert_allclose(values[0] @ field, at[0] ** 2 + 2 * at[1] * at[2], atol=1e-14)
    np.testing.assert_allclose(gradients[0].T @ field, [2 * at[0], 2 * at[2], 2 * at[1]], atol=1e-12)


@pytest.mark.parametrize("element", NODES)
def test_shape_functions_at_a_point(element):
    """They sum to one, are located by the reference map, and their gradients are exact for linear fields."""
    mesh, local = one_cell(element), np.array([[0.2, 0.3, 0.1], [0.0, 0.5, 0.5]])
    values, gradients = shape_functions(mesh, np.zeros(2, dtype=int), local)
    np.testing.assert_allclose(values.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(values @ mesh.points, local @ SHEAR.T, atol=1e-14)
    slope = np.array([1.0, -2.0, 3.0])
    np.testing.assert_allclose(
        np.einsum("pnx,n->px", gradients, mesh.points @ slope), [slope] * 2, rtol=1e-10
    )


def test_import_leaves_the_process_alone():
    """With gmsh hidden: no output, loggers, NumPy's print options and JAX's flags as before."""
    script = textwrap.dedent(
        """
        import logging, sys
        class Hidden:
            def find_spec(self, name, path=None, target=None):
                if name == "gmsh" or name.startswith(("gmsh.", "petsc4py")):
                    raise ImportError(name + " is hidden")
        sys.meta_path.insert(0, Hidden())
        import jax, numpy as np
        import jaxinv.mesh
        def state():
            loggers = {n: logging.getLogger(n) for n in ("", "jax", "tensorflow")}
            return (
                {n: (l.level, len(l.handlers), l.propagate) for n, l in loggers.items()},
                np.get_printoptions(), jax.config.jax_enable_x64, "gmsh" in sys.modules,
            )
        before = state()
        import jaxinv.fem.elements
        assert state() == before, (before, state())
        assert logging.getLogger("jax_fem").handlers == []
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""


def test_an_element_that_jax_fem_does_not_hold_by_its_nodes_is_refused():
    nodes = np.concatenate([CUBE, means(CUBE, CUBE_EDGES)])
    mesh = VolumeMesh(nodes, np.arange(20)[None], [0])
    with pytest.raises(ValueError, match="no finite element for 'hexahedron20'"):
        next(quadrature(mesh))


@pytest.mark.parametrize("element", ["tetra10", "hexahedron27"])
def test_interpolation_from_the_corners_is_exact_for_linear_functions(element):
    mesh = one_cell(element)
    interpolation = linear_interpolation(mesh)
    values = mesh.points @ [1.0, -2.0, 0.5] + 3
    np.testing.assert_allclose(interpolation @ values[np.unique(mesh.corner_cells)], values, atol=1e-12)
    assert linear_interpolation(one_cell(element.rstrip("0127"))) is None


def test_local_coordinates_invert_the_map_of_a_curved_cell():
    mesh = sphere_mesh((0.09, 0.08), 3000, "tetra10")
    cell = np.flatnonzero(mesh.tissue == 0)[:50]
    local = np.random.default_rng(0).dirichlet(np.ones(4), 50)[:, 1:]
    values, _ = shape_functions(mesh, cell, local)
    positions = np.einsum("pn,pnx->px", values, mesh.points[mesh.cells[cell]])
    np.testing.assert_allclose(local_coordinates(mesh, cell, positions), local, atol=1e-9)
