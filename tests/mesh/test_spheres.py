import numpy as np
import pytest

from jaxinv.mesh.spheres import sphere_mesh

RADII = (0.092, 0.086, 0.080, 0.078)


@pytest.mark.parametrize("radii", [RADII, RADII[:3], RADII[:1]])
def test_tetrahedra_conform_to_every_sphere(radii):
    """Interface nodes lie on their sphere and every cell between its two spheres."""
    mesh = sphere_mesh(radii, 6000)
    distance = np.linalg.norm(mesh.points, axis=1)
    for label in range(len(radii) - 1):
        shared = np.intersect1d(mesh.nodes_of(label), mesh.nodes_of(label + 1))
        np.testing.assert_allclose(distance[shared], radii[label + 1], rtol=1e-12)
    bounds = np.append(radii, 0.0)
    corners = distance[mesh.cells]
    assert (corners.max(axis=1) <= bounds[mesh.tissue] * (1 + 1e-12)).all()
    assert (corners.min(axis=1) >= bounds[mesh.tissue + 1] * (1 - 1e-12)).all()
    np.testing.assert_allclose(distance[np.unique(mesh.boundary_faces())], radii[0], rtol=1e-12)


@pytest.mark.parametrize("n_nodes", [5000, 20_000])
@pytest.mark.parametrize("element", ["tetra", "hexahedron"])
def test_number_of_nodes_and_volume(element, n_nodes):
    mesh = sphere_mesh(RADII if element == "tetra" else RADII[:1], n_nodes, element)
    assert 0.75 < mesh.n_nodes / n_nodes < 1.25
    staircase = 0.04 if element == "hexahedron" else 0.015
    np.testing.assert_allclose(mesh.volumes.sum(), 4 / 3 * np.pi * RADII[0] ** 3, rtol=staircase)


def test_cells_are_well_shaped():
    """Mean-ratio quality of each tetrahedron: 1 is regular, 0 flat."""
    mesh = sphere_mesh(RADII[:1], 5000)
    corners = mesh.points[mesh.cells]
    pairs = [(i, j) for i in range(4) for j in range(i)]
    squared = np.mean([((corners[:, i] - corners[:, j]) ** 2).sum(axis=1) for i, j in pairs], axis=0)
    assert (6 * np.sqrt(2) * mesh.volumes / squared**1.5).min() > 0.1


def test_cubes_are_labelled_by_their_centres():
    mesh = sphere_mesh((0.09, 0.06), 4000, "hexahedron")
    distance = np.linalg.norm(mesh.points[mesh.cells].mean(axis=1), axis=1)
    np.testing.assert_array_equal(mesh.tissue, distance < 0.06)


@pytest.mark.parametrize(
    ("radii", "n_nodes", "element", "message"),
    [
        ((0.08, 0.09), 5000, "tetra", "strictly decreasing"),
        ((0.09, -0.01), 5000, "tetra", "positive"),
        ((0.09,), 10, "tetra", "at least 200"),
        ((0.09,), 5000, "wedge", "element must be"),
        ((0.09, 0.0899, 0.05), 1000, "hexahedron", "too coarse"),
    ],
)
def test_bad_input_is_named(radii, n_nodes, element, message):
    with pytest.raises(ValueError, match=message):
        sphere_mesh(radii, n_nodes, element)
