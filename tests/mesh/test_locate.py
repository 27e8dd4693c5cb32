import numpy as np
import pytest

from jaxinv.mesh import VolumeMesh
from jaxinv.mesh.locate import CellLocator
from jaxinv.mesh.spheres import sphere_mesh

REFERENCE_CUBE = np.array(
    [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]], dtype=float
)


def interpolate(mesh, cell, reference):
    """The position that reference coordinates stand for, from the shape functions' definition."""
    corners = mesh.points[mesh.corner_cells[cell]]
    if mesh.element == "tetra":
        weights = np.concatenate([1 - reference.sum(axis=1, keepdims=True), reference], axis=1)
    else:
        r = reference[:, None, :]
        weights = np.prod(REFERENCE_CUBE * r + (1 - REFERENCE_CUBE) * (1 - r), axis=2)
    return np.einsum("pk,pkd->pd", weights, corners)


def bent_cubes():
    mesh = sphere_mesh((0.09,), 1500, "hexahedron")
    bend = 0.05 * np.sin(30 * mesh.points[:, [1, 2, 0]]) * 0.05
    return VolumeMesh(mesh.points + bend, mesh.cells, mesh.tissue)


@pytest.mark.parametrize("mesh", [sphere_mesh((0.09, 0.08), 3000), bent_cubes()], ids=["tetra", "hexahedron"])
def test_random_points_of_cells_are_found_where_they_are(mesh):
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(mesh.corner_cells.shape[1]), 500)
    picked = rng.integers(mesh.n_cells, size=500)
    positions = np.einsum("pk,pkd->pd", weights, mesh.points[mesh.corner_cells[picked]])
    cell, reference, distance = CellLocator(mesh).find(positions)
    np.testing.assert_allclose(interpolate(mesh, cell, reference), positions, atol=1e-10)
    assert (distance == 0).all()
    assert reference.min() >= -1e-8
    if mesh.element == "tetra":
        np.testing.assert_array_equal(cell, picked)


@pytest.mark.parametrize("element", ["tetra", "hexahedron"])
def test_points_outside_have_a_positive_distance(element):
    mesh = sphere_mesh((0.09,), 2000, element)
    outside = 0.1 * np.array([[1.0, 0, 0], [0, -1, 0], [0.6, 0, 0.8]])
    _, _, distance = CellLocator(mesh).find(outside)
    assert (distance > 0.005).all()


def test_a_large_cell_beside_small_ones_is_found():
    """Its centroid is far from a point near its corner: the nearest centroids all miss it."""
    mesh = sphere_mesh((0.01,), 1500)
    top = mesh.points[mesh.boundary_faces()].mean(axis=1)[:, 2].argmax()
    face = mesh.boundary_faces()[top]
    normal = np.cross(*(mesh.points[face[1:]] - mesh.points[face[0]]))
    apex = mesh.points[face].mean(axis=0) + 0.2 * normal / np.linalg.norm(normal)
    spike = np.append(face, mesh.n_nodes)
    if np.linalg.det(np.append(mesh.points, apex[None], axis=0)[spike][1:] - mesh.points[face[0]]) < 0:
        spike = spike[[0, 2, 1, 3]]
    spiky = VolumeMesh(
        np.append(mesh.points, apex[None], axis=0),
        np.append(mesh.cells, spike[None], axis=0),
        np.append(mesh.tissue, 0),
    )
    position = spiky.points[spike].T @ [0.32, 0.32, 0.32, 0.04]
    cell, _, distance = CellLocator(spiky).find(position[None])
    assert cell[0] == mesh.n_cells
    assert distance[0] == 0


def test_no_position_gives_no_cell_and_bad_ones_are_named():
    locator = CellLocator(sphere_mesh((0.09,), 1000))
    assert [len(part) for part in locator.find(np.zeros((0, 3)))] == [0, 0, 0]
    with pytest.raises(ValueError, match="positions"):
        locator.find(np.zeros(3))
    with pytest.raises(ValueError, match="positions"):
        locator.find(np.full((1, 3), np.nan))
