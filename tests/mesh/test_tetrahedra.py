import numpy as np
import pytest

from jaxinv.mesh.tetrahedra import bcc_lattice, mesh_level_sets

BOX = np.array([[-0.09] * 3, [0.09] * 3])
RADII = (0.090, 0.080, 0.072, 0.070)


def sphere(radius, centre=(0, 0, 0)):
    return lambda points: np.linalg.norm(points - np.array(centre), axis=1) - radius


@pytest.fixture(scope="module")
def layered():
    return mesh_level_sets([sphere(r) for r in RADII], BOX, 8e-3, film=3e-4)


def faces_of(cells):
    return np.sort(cells[:, [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]].reshape(-1, 3), axis=1)


def test_the_lattice_is_of_congruent_cells_and_has_no_gap():
    points, cells = bcc_lattice(BOX, 20e-3)
    corners = points[cells]
    volumes = np.linalg.det(corners[:, 1:] - corners[:, :1]) / 6
    np.testing.assert_allclose(volumes, volumes[0])
    assert volumes[0] > 0
    _, counts = np.unique(faces_of(cells), axis=0, return_counts=True)
    assert counts.max() == 2


@pytest.mark.parametrize(("spacing", "tolerance"), [(16e-3, 0.1), (8e-3, 0.025), (4e-3, 0.01)])
def test_volumes_of_spherical_layers(spacing, tolerance):
    """A layer thinner than the lattice is meshed too; volumes converge to the exact ones."""
    mesh = mesh_level_sets([sphere(r) for r in RADII], BOX, spacing, film=3e-4)
    found = np.bincount(mesh.tissue, mesh.volumes)
    outer, inner = np.array(RADII) ** 3, np.array([*RADII[1:], 0]) ** 3
    np.testing.assert_allclose(found.sum(), 4 / 3 * np.pi * RADII[0] ** 3, rtol=tolerance)
    np.testing.assert_allclose(
        found[[0, 1, 3]], 4 / 3 * np.pi * (outer - inner)[[0, 1, 3]], rtol=2 * tolerance
    )


def test_cells_conform(layered):
    """Each face has one or two cells, and the faces with one make a closed surface."""
    faces, counts = np.unique(faces_of(layered.cells), axis=0, return_counts=True)
    assert counts.max() == 2
    edges = np.sort(faces[counts == 1][:, [[0, 1], [1, 2], [0, 2]]].reshape(-1, 2), axis=1)
    _, uses = np.unique(edges, axis=0, return_counts=True)
    assert (uses == 2).all()


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_interface_nodes_lie_on_the_level_set(layered, layer):
    shared = np.intersect1d(layered.nodes_of(layer), layered.nodes_of(layer + 1))
    off = np.abs(np.linalg.norm(layered.points[shared], axis=1) - RADII[layer + 1])
    assert off.max() < 5e-4
    assert np.median(off) < 5e-5


def test_layers_that_are_not_neighbours_share_no_node(layered):
    for one, other in ((0, 2), (0, 3), (1, 3)):
        assert np.intersect1d(layered.nodes_of(one), layered.nodes_of(other)).size == 0


def test_a_film_parts_level_sets_that_cross():
    """The inner sphere pokes out of the outer ones; it is cut back, and nothing leaks."""
    spheres = [sphere(0.080), sphere(0.075), sphere(0.060, centre=(0.03, 0, 0))]
    mesh = mesh_level_sets(spheres, BOX, 8e-3, film=1e-3)
    assert np.intersect1d(mesh.nodes_of(0), mesh.nodes_of(2)).size == 0
    assert np.linalg.norm(mesh.points[mesh.nodes_of(2)], axis=1).max() < 0.0755


def test_islands_are_dropped():
    """The mesh is one piece even where the outermost level set is not."""
    mesh = mesh_level_sets(
        [lambda p: np.minimum(sphere(0.05)(p), sphere(0.01, (0.08, 0.08, 0.08))(p))], BOX, 8e-3, film=1e-3
    )
    assert np.linalg.norm(mesh.points, axis=1).max() < 0.06


def test_a_level_set_too_small_for_the_lattice_is_named():
    with pytest.raises(ValueError, match="level set 1 encloses no node"):
        mesh_level_sets([sphere(0.08), sphere(1e-5, (1e-3, 1e-3, 1e-3))], BOX, 8e-3, film=3e-4)
