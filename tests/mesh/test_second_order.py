import numpy as np
import pytest

from jaxinv.mesh import VolumeMesh, second_order, sphere_mesh

RADII = (0.09, 0.08, 0.06)


def test_every_edge_has_one_node_in_its_middle():
    mesh = sphere_mesh(RADII[:1], 1000)
    curved = second_order(mesh)
    corners = np.sort(mesh.cells[:, [0, 0, 0, 1, 1, 2, 1, 2, 3, 2, 3, 3]].reshape(-1, 2, 6), axis=1)
    n_edges = len(np.unique(corners.transpose(0, 2, 1).reshape(-1, 2), axis=0))
    assert curved.element == "tetra10"
    assert curved.n_nodes == mesh.n_nodes + n_edges
    ends = (
        curved.points[curved.cells[:, [0, 1, 0, 0, 1, 2]]]
        + curved.points[curved.cells[:, [1, 2, 2, 3, 3, 3]]]
    )
    np.testing.assert_allclose(curved.points[curved.cells[:, 4:]], ends / 2, atol=1e-15)
    np.testing.assert_allclose(curved.volumes, mesh.volumes)


def test_midside_nodes_of_a_sphere_lie_on_its_interfaces():
    mesh = sphere_mesh(RADII, 8000, "tetra10")
    for label, radius in enumerate(RADII[1:]):
        shared = np.intersect1d(mesh.nodes_of(label), mesh.nodes_of(label + 1))
        np.testing.assert_allclose(np.linalg.norm(mesh.points[shared], axis=1), radius, rtol=1e-12)


def test_number_of_nodes():
    assert sphere_mesh(RADII, 40_000, "tetra10").n_nodes == pytest.approx(40_000, rel=0.1)


def test_a_cell_that_would_fold_stays_straight():
    """The middle of one edge is sent through the opposite face; all others keep their place."""
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    mesh = VolumeMesh(points, [[0, 1, 2, 3]], [0])

    def curve(ends, middle):
        folded = (ends == [0, 1]).all(axis=1)
        return np.where(folded[:, None], [0.5, 2.0, 2.0], middle)

    straight = second_order(mesh)
    np.testing.assert_allclose(second_order(mesh, curve).points, straight.points)


def test_other_cells_are_refused():
    with pytest.raises(ValueError, match="four nodes"):
        second_order(sphere_mesh(RADII[:1], 1000, "hexahedron"))
