import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import sparse
from scipy.spatial.transform import Rotation

from jaxinv.fem.assembly import assemble_stiffness
from jaxinv.fem.stiffness import Stiffness
from jaxinv.mesh import VolumeMesh
from jaxinv.mesh.spheres import sphere_mesh

VALUES = np.array([0.3, 1.2])
STRETCH = np.array([[1.3, 0.2, -0.1], [0.0, 0.8, 0.3], [0.1, 0.0, 1.5]])
ELEMENTS = ("tetra", "tetra10", "hexahedron")
EDGES = np.array([(0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3)])  # of meshio's ten-node tetrahedron


def two_spheres(element):
    mesh = sphere_mesh((0.09, 0.06), 800, element.removesuffix("10"))
    if element != "tetra10":
        return mesh
    ends = np.sort(mesh.cells[:, EDGES], axis=2).reshape(-1, 2)
    ends, edge = np.unique(ends, axis=0, return_inverse=True)
    points = np.concatenate([mesh.points, mesh.points[ends].mean(axis=1)])
    return VolumeMesh(points, np.hstack([mesh.cells, mesh.n_nodes + edge.reshape(-1, 6)]), mesh.tissue)


def random_tensors(count):
    root = np.random.default_rng(count).normal(size=(count, 3, 3))
    return root @ np.swapaxes(root, 1, 2) + 0.2 * np.eye(3)


def moved(mesh, matrix):
    return VolumeMesh(mesh.points @ matrix.T, mesh.cells, mesh.tissue)


def both_forms(mesh, tensors):
    """Stiffness of tensors of tissues, as such and given cell by cell."""
    of_cells = tensors[mesh.tissue]
    yield assemble_stiffness(mesh, len(tensors), tensors).to_scipy(tensors)
    yield assemble_stiffness(mesh, len(tensors), of_cells).to_scipy(np.ones(len(tensors)))


def assert_same(ours, theirs):
    assert abs(ours - theirs).max() < 1e-12 * abs(theirs).max()


@pytest.mark.parametrize("element", ELEMENTS)
def test_isotropic_tensors_are_values(element):
    mesh = two_spheres(element)
    expected = assemble_stiffness(mesh, 2).to_scipy(VALUES)
    for found in both_forms(mesh, VALUES[:, None, None] * np.eye(3)):
        assert_same(found, expected)


@pytest.mark.parametrize("element", ELEMENTS)
def test_a_stretched_head_has_an_isotropic_twin(element):
    """x' = A x and σ' = A σ Aᵀ / det A leave the stiffness as it is."""
    mesh = two_spheres(element)
    expected = assemble_stiffness(mesh, 2).to_scipy(VALUES)
    tensors = VALUES[:, None, None] * (STRETCH @ STRETCH.T) / np.linalg.det(STRETCH)
    for found in both_forms(moved(mesh, STRETCH), tensors):
        assert_same(found, expected)


@pytest.mark.parametrize("element", ELEMENTS)
def test_head_and_tensors_turn_together(element):
    mesh, turn = two_spheres(element), Rotation.from_rotvec([0.3, -1.0, 0.5]).as_matrix()
    tensors = random_tensors(2)
    for found, expected in zip(
        both_forms(moved(mesh, turn), turn @ tensors @ turn.T), both_forms(mesh, tensors)
    ):
        assert_same(found, expected)


@pytest.mark.parametrize(("element", "name"), [("tetra10", "TET10"), ("hexahedron", "HEX8")])
def test_tensors_of_cells_agree_with_the_residual_that_jax_fem_assembles(element, name):
    """Every cell with a tensor of its own, and each tissue scaled."""
    from jax_fem.generate_mesh import Mesh
    from jax_fem.problem import Problem

    class Poisson(Problem):
        def get_tensor_map(self):
            return lambda gradient, tensor: gradient @ tensor

    mesh = two_spheres(element)
    tensors, scale = random_tensors(mesh.n_cells), np.array([0.7, 1.6])
    problem = Poisson(Mesh(mesh.points, mesh.cells, name), vec=1, dim=3, ele_type=name)
    n_points = problem.fes[0].num_quads
    scaled = jnp.asarray(scale[mesh.tissue, None, None] * tensors)[:, None]
    u = np.random.default_rng(0).normal(size=(mesh.n_nodes, 1))
    theirs = problem.compute_residual_vars(
        [jnp.asarray(u)], [jnp.broadcast_to(scaled, (mesh.n_cells, n_points, 3, 3))], []
    )[0]
    ours = assemble_stiffness(mesh, 2, tensors).to_scipy(scale) @ u
    np.testing.assert_allclose(ours, theirs, atol=1e-12 * np.abs(ours).max())


@pytest.mark.parametrize("element", ELEMENTS)
def test_energy_of_a_linear_field(element):
    """xᵀ K x = ∇u · σ ∇u V for a linear u, tissue by tissue."""
    mesh, slope, tensors = two_spheres(element), np.array([1.0, 2.0, -1.0]), random_tensors(2)
    field = mesh.points @ slope
    stiffness = assemble_stiffness(mesh, 2, tensors)
    for label in range(2):
        alone = tensors * (np.arange(2) == label)[:, None, None]
        energy = field @ stiffness.to_scipy(alone) @ field
        volume = mesh.volumes[mesh.tissue == label].sum()
        np.testing.assert_allclose(energy, slope @ tensors[label] @ slope * volume, rtol=1e-10)


def test_derivatives_in_tensor_entries():
    """Of K u, against finite differences; mirrored entries share the derivative of their mean."""
    mesh, tensors = two_spheres("tetra"), jnp.asarray(random_tensors(2))
    stiffness = assemble_stiffness(mesh, 2, tensors)
    u, probe = np.random.default_rng(0).normal(size=(2, mesh.n_nodes, 2))

    def work(tensors):
        return (probe * stiffness.product(stiffness.at(tensors), jnp.asarray(u))).sum()

    check_grads(work, (tensors,), order=1, modes=["fwd", "rev"], eps=1e-4)
    gradient = jax.grad(work)(tensors)
    np.testing.assert_allclose(gradient, np.swapaxes(gradient, 1, 2), rtol=1e-12)
    mirrored = np.zeros((3, 3))
    mirrored[0, 2] = mirrored[2, 0] = 1
    for label in range(2):
        change = np.zeros((2, 3, 3))
        change[label] = mirrored
        expected = (probe * (stiffness.to_scipy(change) @ u)).sum()
        np.testing.assert_allclose(2 * gradient[label, 0, 2], expected, rtol=1e-10)


@pytest.mark.parametrize("count", [None, 2, "cells"])
def test_matrices_of_the_parameters_add_up(count):
    """Their combination by `coefficients` is K(σ), also after they are put on a pattern anew."""
    mesh = two_spheres("tetra")
    given = {None: VALUES, 2: random_tensors(2), "cells": random_tensors(mesh.n_cells)}[count]
    stiffness = assemble_stiffness(mesh, 2, given)
    nominal = np.ones(2) if count == "cells" else given
    matrices = stiffness.parameter_matrices()
    assert len(matrices) == (12 if count == 2 else 2)
    assert all((matrix.data != 0).all() for matrix in matrices)
    expected = stiffness.to_scipy(nominal)
    total = sum(c * matrix for c, matrix in zip(Stiffness.coefficients(nominal), matrices))
    assert_same(total, expected)
    again = Stiffness.from_scipy(matrices, jnp.float64)
    assert_same(again.to_scipy(nominal), expected)
    np.testing.assert_allclose(again.at(nominal)[again.diagonal], expected.diagonal(), rtol=1e-14)


def test_a_new_pattern_takes_any_matrices():
    """Unsorted columns, stored zeros and an empty row, whose diagonal is kept."""
    first = sparse.csr_array(([3.0, 1.0, 0.0], [2, 0, 1], [0, 2, 3, 3]), shape=(3, 3))
    second = sparse.csr_array(([-3.0, 5.0], [2, 1], [0, 1, 2, 2]), shape=(3, 3))
    stiffness = Stiffness.from_scipy([first, second], jnp.float64)
    np.testing.assert_array_equal(
        stiffness.to_scipy([1, 2]).toarray(), first.toarray() + 2 * second.toarray()
    )
    np.testing.assert_array_equal(stiffness.at(jnp.array([1.0, 2.0]))[stiffness.diagonal], [1, 10, 0])
    np.testing.assert_array_equal(np.diff(stiffness.indptr), [2, 1, 1])
