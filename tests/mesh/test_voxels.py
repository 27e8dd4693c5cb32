import logging

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from jaxinv.mesh.spheres import sphere_mesh
from jaxinv.mesh.voxels import AIR, voxel_mesh

DIRECTION = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)


def centres(n):
    """Centres of n³ voxels of edge 1 around the origin."""
    return np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2] * 3, indexing="ij"), axis=-1)


def ball(radii, n):
    """Labels of nested balls, in voxels, 0 outermost."""
    return (np.linalg.norm(centres(n), axis=-1)[..., None] < radii).sum(axis=-1) - 1


def blobs(n_labels, n=14, seed=0):
    """Labels of no particular shape, air among them: the largest of smoothed noises."""
    noise = np.random.default_rng(seed).normal(size=(n_labels + 1, n, n, n))
    return np.argmax(ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 1.5)), axis=0) - 1


def interface(mesh, one, other):
    return mesh.points[np.intersect1d(mesh.nodes_of(one), mesh.nodes_of(other))]


def test_regular_cells_are_the_voxels():
    """Each cell is a voxel's box, at its place, with its label."""
    labels = ball([4, 2], 9)
    spacing, origin = np.array([1e-3, 2e-3, 3e-3]), np.array([0.01, -0.02, 0.03])
    mesh = voxel_mesh(labels, spacing, origin, adapt=0.0)
    np.testing.assert_allclose(mesh.corner_volumes, spacing.prod(), rtol=1e-12)
    voxel = (mesh.points[mesh.cells].mean(axis=1) - origin) / spacing - 0.5
    np.testing.assert_allclose(voxel, voxel.round(), atol=1e-9)
    assert mesh.n_cells == (labels >= 0).sum()
    np.testing.assert_array_equal(mesh.tissue, labels[tuple(voxel.round().astype(int).T)])


@pytest.mark.parametrize("adapt", [0.0, 0.49])
def test_background_may_be_any_label(adapt):
    labels = ball([5], 12)
    one = voxel_mesh(labels, 1e-3, adapt=adapt)
    other = voxel_mesh(np.where(labels == AIR, 7, labels).astype(np.uint8), 1e-3, background=7, adapt=adapt)
    np.testing.assert_array_equal(one.points, other.points)
    np.testing.assert_array_equal(one.cells, other.cells)


@pytest.mark.parametrize("offset", [(3, 0, 0), (2, 2, 0), (2, 2, 2)])
def test_pieces_that_touch_by_less_than_a_face_are_dropped(offset, caplog):
    """Apart, by an edge and by a corner; the log says how many voxels went."""
    labels = np.full((6, 6, 6), AIR)
    labels[:2, :2, :2] = 0
    labels[offset] = 1
    with caplog.at_level(logging.INFO, logger="jaxinv"):
        mesh = voxel_mesh(labels, 1e-3, adapt=0.0)
    assert mesh.n_cells == 8
    assert "1 of 9 voxels" in caplog.text


@pytest.mark.parametrize("n_labels", [1, 2, 5, 9])
@pytest.mark.parametrize("adapt", [0.2, 0.49])
def test_any_labels_give_valid_cells(n_labels, adapt):
    """Every cell keeps a tenth of its volume at each corner; together they fill the voxels' space."""
    labels = blobs(n_labels)
    mesh = voxel_mesh(labels, 2e-3, adapt=adapt)
    assert mesh.corner_volumes.min() > 0.0999 * 2e-3**3
    regular = voxel_mesh(labels, 2e-3, adapt=0.0)
    np.testing.assert_allclose(mesh.volumes.sum(), regular.volumes.sum(), rtol=0.06)


def test_a_plane_between_two_labels_is_found():
    """An oblique plane's staircase is off by 0.46 voxels (root mean square), the shifted nodes by 0.11."""
    labels = (centres(20) @ DIRECTION < 0.2).astype(int)
    error = {}
    for adapt in (0.0, 0.33, 0.49):
        points = interface(voxel_mesh(labels, 1.0, [-10.0] * 3, adapt=adapt), 0, 1)
        inner = points[(np.abs(points) < 6).all(axis=1)]
        error[adapt] = np.sqrt(np.mean((inner @ DIRECTION - 0.2) ** 2))
    assert error[0.49] < 0.14
    assert error[0.49] < error[0.33] < error[0.0] / 2


def test_layers_of_a_sphere_are_found():
    """Interfaces within half of the staircase's error, and volumes of every layer within 5 %."""
    radii = np.array([14.0, 10.0, 7.0])
    labels = ball(radii, 30)
    for label in range(3):
        squares = {}
        for adapt in (0.0, 0.49):
            mesh = voxel_mesh(labels, 1.0, [-15.0] * 3, adapt=adapt)
            points = (
                interface(mesh, label, label - 1) if label else mesh.points[np.unique(mesh.boundary_faces())]
            )
            squares[adapt] = np.mean((np.linalg.norm(points, axis=1) - radii[label]) ** 2)
        assert squares[0.49] < squares[0.0] / 4
        volume = mesh.volumes[mesh.tissue == label].sum()
        inner = radii[label + 1] if label < 2 else 0.0
        np.testing.assert_allclose(volume, 4 / 3 * np.pi * (radii[label] ** 3 - inner**3), rtol=0.05)


def test_a_layer_of_one_voxel_has_no_hole():
    """In cubes many nodes join what the layer parts; shifted, none do, and the layer is about as thick."""
    labels = ball([14, 11, 10], 30)
    regular = voxel_mesh(labels, 1.0, adapt=0.0)
    assert len(interface(regular, 0, 2)) > 500
    mesh = voxel_mesh(labels, 1.0, adapt=0.49)
    assert len(interface(mesh, 0, 2)) == 0
    volume = mesh.volumes[mesh.tissue == 1].sum()
    np.testing.assert_allclose(volume, 4 / 3 * np.pi * (11**3 - 10**3), rtol=0.15)


def test_mirror_images_have_mirrored_meshes():
    """Nothing but the diagonals of the faces depends on an axis's direction or on the place in the grid."""
    labels = ball([8, 5, 4], 17)
    labels[:6] = AIR
    one = voxel_mesh(labels, 1.0, adapt=0.49)
    other = voxel_mesh(np.pad(labels[::-1], ((2, 0), (0, 3), (1, 0)), constant_values=AIR), 1.0, adapt=0.49)
    distance, _ = cKDTree((other.points - [2, 0, 1]) * [-1, 1, 1] + [17, 0, 0]).query(one.points)
    assert np.median(distance) < 0.005
    assert distance.max() < 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((2, 2))}, "integers of shape"),
        ({"labels": np.zeros((2, 2, 2))}, "integers of shape"),
        ({"labels": np.full((2, 2, 2), AIR)}, "nothing but background"),
        ({"labels": np.full((2, 2, 2), -3)}, "the lowest is -3"),
        ({"spacing": 0.0}, "positive lengths"),
        ({"origin": [0.0, np.nan, 0.0]}, "finite coordinates"),
        ({"adapt": 0.5}, "below 0.5"),
        ({"adapt": -0.1}, "below 0.5"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        voxel_mesh(**{"labels": np.zeros((2, 2, 2), dtype=int), "spacing": 1e-3, **change})


def test_only_hexahedra_are_shifted():
    with pytest.raises(ValueError, match="shifts the nodes"):
        sphere_mesh((0.09,), 2000, "tetra", adapt=0.3)
