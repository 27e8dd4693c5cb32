import numpy as np
import pytest

from jaxinv.mesh import VolumeMesh

CUBE = np.array([[x, y, z] for z in (0, 1) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))], dtype=float)
CUBE_AS_TETRAHEDRA = np.array(
    [[0, 1, 2, 6], [0, 2, 3, 6], [0, 3, 7, 6], [0, 7, 4, 6], [0, 4, 5, 6], [0, 5, 1, 6]]
)


def cube(element):
    cells = np.arange(8)[None] if element == "hexahedron" else CUBE_AS_TETRAHEDRA
    return VolumeMesh(CUBE, cells, np.zeros(len(cells), dtype=int))


@pytest.mark.parametrize("element", ["hexahedron", "tetra"])
def test_a_unit_cube_has_volume_one_and_a_closed_outward_boundary(element):
    """The divergence theorem on the boundary's triangles gives the same volume."""
    mesh = cube(element)
    assert mesh.element == element
    np.testing.assert_allclose(mesh.volumes.sum(), 1)
    a, b, c = np.swapaxes(mesh.points[mesh.boundary_faces()], 0, 1)
    np.testing.assert_allclose(np.einsum("fx,fx->", a, np.cross(b, c)) / 6, 1)
    np.testing.assert_allclose(np.cross(b - a, c - a).sum(axis=0), 0, atol=1e-15)


def test_nodes_of_a_label_are_those_of_its_cells():
    mesh = VolumeMesh(CUBE, CUBE_AS_TETRAHEDRA, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(mesh.nodes_of(0), np.unique(CUBE_AS_TETRAHEDRA[:3]))
    np.testing.assert_array_equal(mesh.nodes_of(0, 1), np.arange(8))


def test_an_inverted_cell_is_named():
    cells = CUBE_AS_TETRAHEDRA.copy()
    cells[2] = cells[2][[1, 0, 2, 3]]
    with pytest.raises(ValueError, match=r"1 inverted or flat cells, the first is cell 2"):
        VolumeMesh(CUBE, cells, np.zeros(6, dtype=int))


def test_an_inverted_hexahedron_is_named():
    with pytest.raises(ValueError, match="inverted or flat cells"):
        VolumeMesh(CUBE, np.arange(8)[None, [4, 5, 6, 7, 0, 1, 2, 3]], [0])


@pytest.mark.parametrize("element", ["hexahedron", "tetra"])
def test_cells_on_the_same_side_of_a_face_are_named(element):
    """A second cell over the first, of positive volume itself: two of its corners lie elsewhere."""
    mesh = cube(element)
    points = np.concatenate([mesh.points, mesh.points * [1, 1, 0.5]])
    over = mesh.cells[:1].copy()
    over[over > 3] += 8
    used, cells = np.unique(np.concatenate([mesh.cells, over]), return_inverse=True)
    cells = cells.reshape(-1, mesh.cells.shape[1])
    with pytest.raises(ValueError, match=r"2 cells lie on the same side of a face as another, .* cell 0"):
        VolumeMesh(points[used], cells, np.zeros(len(cells), dtype=int))


def test_a_mesh_in_pieces_is_refused():
    points = np.concatenate([CUBE, CUBE + 5])
    cells = np.concatenate([CUBE_AS_TETRAHEDRA, CUBE_AS_TETRAHEDRA + 8])
    with pytest.raises(ValueError, match="2 pieces"):
        VolumeMesh(points, cells, np.zeros(12, dtype=int))


def test_a_node_without_a_cell_is_refused():
    with pytest.raises(ValueError, match="nodes that no cell uses"):
        VolumeMesh(np.concatenate([CUBE, [[9.0, 9, 9]]]), CUBE_AS_TETRAHEDRA, np.zeros(6, dtype=int))


@pytest.mark.parametrize(
    ("points", "cells", "tissue", "message"),
    [
        (CUBE[:, :2], CUBE_AS_TETRAHEDRA, np.zeros(6), "points must have shape"),
        (CUBE * np.nan, CUBE_AS_TETRAHEDRA, np.zeros(6), "not finite"),
        (CUBE, CUBE_AS_TETRAHEDRA[:, :3], np.zeros(6), "cells must have shape"),
        (CUBE, CUBE_AS_TETRAHEDRA + 3, np.zeros(6), "cells must index"),
        (CUBE, CUBE_AS_TETRAHEDRA, np.zeros(5), "tissue must have shape"),
        (CUBE, CUBE_AS_TETRAHEDRA, -np.ones(6), "labels must be 0 or more"),
        (CUBE, np.zeros((0, 4)), np.zeros(0), "cells is empty"),
    ],
)
def test_bad_arrays_are_named(points, cells, tissue, message):
    with pytest.raises(ValueError, match=message):
        VolumeMesh(points, cells, tissue)


def test_a_frustum_has_its_volume():
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) - 0.5
    points = np.vstack([np.c_[2 * square, np.zeros(4)], np.c_[square, np.ones(4)]])
    assert VolumeMesh(points, [range(8)], [0]).volumes == pytest.approx([7 / 3], rel=1e-14)
