import numpy as np
import pytest

from jaxinv.evaluation.mesh_section import mesh_section
from jaxinv.mesh import VolumeMesh


def areas(section):
    """Of polygons whose corners are in order, by the shoelace formula."""
    x, y = np.moveaxis(section.polygons, 2, 0)
    return np.abs(np.sum(x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1), axis=1)) / 2


@pytest.fixture(scope="module")
def cube():
    """The unit cube in 4 × 4 × 4 boxes of six tetrahedra each, nodes inside shaken."""
    n = 4
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, n + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    inner = ((grid > 0) & (grid < 1)).all(axis=1)
    grid[inner] += np.random.default_rng(0).uniform(-0.04, 0.04, size=(inner.sum(), 3))
    node = np.arange((n + 1) ** 3).reshape((n + 1,) * 3)
    cells = []
    for path in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2), (0, 2, 1), (2, 1, 0)):
        steps = np.cumsum([np.zeros(3, int), *np.eye(3, dtype=int)[list(path)]], axis=0)
        corners = [node[tuple(slice(s, s + n) for s in step)].ravel() for step in steps]
        cells.append(np.stack(corners, axis=1))
    cells = np.concatenate(cells)
    edges = grid[cells[:, 1:]] - grid[cells[:, :1]]
    cells[np.linalg.det(edges) < 0] = cells[np.linalg.det(edges) < 0][:, [0, 1, 3, 2]]
    return VolumeMesh(grid, cells, (grid[cells].mean(axis=1)[:, 2] > 0.5).astype(int))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("position", [0.31, 0.5, 0.97])
def test_the_cut_through_a_cube_has_the_area_of_its_face(cube, axis, position):
    assert areas(mesh_section(cube, axis, position)).sum() == pytest.approx(1, abs=1e-12)


def test_areas_of_cells_add_up_to_their_volume(cube):
    """Cavalieri: the area of each tissue's cut, integrated along the axis, is its volume."""
    height, weight = np.polynomial.legendre.leggauss(60)
    volume = np.zeros(2)
    for h, w in zip((height + 1) / 2, weight / 2):
        section = mesh_section(cube, 2, h)
        volume += w * np.bincount(cube.tissue[section.cells], areas(section), minlength=2)
    expected = [cube.volumes[cube.tissue == label].sum() for label in (0, 1)]
    np.testing.assert_allclose(volume, expected, atol=2e-3)


def test_a_plane_beside_the_mesh_cuts_nothing(cube):
    assert len(mesh_section(cube, 0, 2.0).cells) == 0


def test_what_cannot_be_cut_is_refused(cube):
    with pytest.raises(ValueError, match="axis"):
        mesh_section(cube, 3, 0.0)
    corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1).reshape(-1, 3)
    box = VolumeMesh(corners[[0, 4, 6, 2, 1, 5, 7, 3]], [np.arange(8)], [0])
    with pytest.raises(ValueError, match="tetrahedra"):
        mesh_section(box, 0, 0.5)
