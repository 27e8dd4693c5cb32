import jax
import numpy as np
import pytest

from jaxinv.forward.exact import FemForward
from jaxinv.head import (
    Electrodes,
    HeadModel,
    SourceSpace,
    SurfaceField,
    Warp,
    random_warp,
    sphere_head,
    warp_head,
    warp_sensors,
    warp_sources,
)

RADII, CONDUCTIVITY = (0.092, 0.086, 0.080), (0.43, 0.01, 0.33)
WAVE = 2 * np.pi / 0.05  # rad/m
FOLDING = Warp(np.ones(3), waves=[[WAVE, 0, 0]], cosine=[[5 / WAVE, 0, 0]], sine=[[0, 0, 0]])


@pytest.fixture(scope="module")
def head():
    return sphere_head(RADII, CONDUCTIVITY, n_nodes=2000)


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).uniform(-0.08, 0.08, (300, 3))


def directions(count):
    """Points spread evenly over the unit sphere, along a spiral."""
    k = np.arange(count) + 0.5
    z, angle = 1 - 2 * k / count, np.pi * (1 + np.sqrt(5)) * k
    return np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], axis=1)


def sphere_sources(count, radius=0.07):
    normals = directions(count)
    area = np.full(count, 4 * np.pi * radius**2 / count)
    return SourceSpace(radius * normals, normals, area=area, thickness=np.full(count, 2.5e-3))


def tangents(normals):
    """Two unit vectors across each normal, right-handed with it."""
    one = np.cross(normals, np.eye(3)[np.abs(normals).argmin(axis=1)])
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    return one, np.cross(normals, one)


def central_difference(warp, points, direction, step=1e-6):
    return (warp(points + step * direction) - warp(points - step * direction)) / (2 * step)


def quality(mesh):
    corners = mesh.points[mesh.cells]
    one, other = np.triu_indices(4, 1)
    squared = np.sum((corners[:, one] - corners[:, other]) ** 2, axis=2).mean(axis=1)
    return mesh.volumes / squared**1.5


def test_no_amplitude_is_the_identity(head, points):
    warp = random_warp(0, scale=0, displacement=0)
    np.testing.assert_allclose(warp(points), points, atol=1e-16)
    np.testing.assert_allclose(warp.jacobian(points), np.tile(np.eye(3), (300, 1, 1)), atol=1e-15)
    sources = sphere_sources(50)
    for one, other in zip(jax.tree.leaves(warp_sources(sources, warp)), jax.tree.leaves(sources)):
        np.testing.assert_allclose(one, other, atol=1e-15)
    np.testing.assert_allclose(warp_head(head, warp).mesh.points, head.mesh.points, atol=1e-16)


def test_a_seed_is_a_head(points):
    np.testing.assert_array_equal(random_warp(3)(points), random_warp(3)(points))
    moved = random_warp(3)(points) - random_warp(4)(points)
    assert np.sqrt(np.mean(moved**2)) > 2e-3


@pytest.mark.parametrize("seed", range(3))
def test_the_inverse_undoes_the_warp(points, seed):
    warp = random_warp(seed, centre=(0.01, -0.02, 0.0))
    np.testing.assert_allclose(warp.inverse(warp(points)), points, rtol=0, atol=1e-9)
    np.testing.assert_allclose(warp(warp.inverse(points)), points, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_jacobian_is_the_derivative(points, seed):
    """Central differences; and space keeps its handedness."""
    warp = random_warp(seed, centre=(0.01, -0.02, 0.0))
    jacobian = warp.jacobian(points)
    for axis, direction in enumerate(np.eye(3)):
        np.testing.assert_allclose(
            jacobian[:, :, axis], central_difference(warp, points, direction), atol=1e-8
        )
    assert (np.linalg.det(jacobian) > 0.3).all()


def test_many_points_are_as_each_alone(points):
    warp = random_warp(1)
    many = np.tile(points, (60, 1))
    np.testing.assert_allclose(warp(many)[-300:], warp(points), rtol=0, atol=1e-16)
    assert warp.jacobian(many).shape == (18_000, 3, 3)
    assert warp(np.zeros((0, 3))).shape == warp.inverse(np.zeros((0, 3))).shape == (0, 3)


def test_the_displacement_has_its_amplitude_and_correlation_length():
    """Over all space: root mean square σ, and at distance ℓ a correlation of exp(-1/2) = 0.61.

    With 256 waves the correlation of one warp varies by 0.03 about it; the mean of ten by 0.01.
    """
    sigma, length = 2e-3, 30e-3
    here = np.random.default_rng(1).uniform(-5, 5, (4000, 3))
    correlation = []
    for seed in range(10):
        warp = random_warp(seed, scale=0, displacement=sigma, length=length)
        field, shifted = (warp(x) - x for x in (here, here + np.array([0, 0, length])))
        np.testing.assert_allclose(np.sqrt(np.mean(field**2, axis=0)), sigma, rtol=0.05)
        correlation.append(np.mean(field * shifted) / sigma**2)
        across = np.corrcoef(field.T)[np.triu_indices(3, 1)]
        assert np.abs(across).max() < 0.25
    assert np.mean(correlation) == pytest.approx(np.exp(-1 / 2), abs=0.04)


def test_scaling_keeps_its_centre_and_is_clipped():
    centre = np.array([0.01, -0.02, 0.03])
    factors = []
    for seed in range(20):
        warp = random_warp(seed, displacement=0, scale=0.1, centre=tuple(centre))
        np.testing.assert_allclose(warp(centre[None])[0], centre, atol=1e-17)
        factors.append(np.diagonal(warp.jacobian(centre[None])[0]))
    assert np.abs(np.array(factors) - 1).max() == pytest.approx(0.2)
    assert np.std(factors) == pytest.approx(0.1, rel=0.25)


def test_a_sphere_becomes_a_spheroid_of_its_area():
    """A sphere of radius r stretched to the half axes a, a, c > a has 2πa² (1 + c asin(e) / (a e))."""
    a, c = 0.07 * 0.9, 0.07 * 1.2
    moved = warp_sources(sphere_sources(5000), Warp([0.9, 0.9, 1.2]))
    e = np.sqrt(1 - a**2 / c**2)
    assert moved.area.sum() == pytest.approx(2 * np.pi * a**2 * (1 + c / (a * e) * np.arcsin(e)), rel=1e-4)
    gradient = moved.positions / np.array([a, a, c]) ** 2
    np.testing.assert_allclose(
        moved.normals, gradient / np.linalg.norm(gradient, axis=1, keepdims=True), atol=1e-14
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_patch_of_cortex_is_mapped(seed):
    """Central differences of its tangents and its fibre give the new normal, area and thickness.

    The thickness is the fibre's part along the new normal, and the volume grows by det J.
    """
    warp, sources = random_warp(seed), sphere_sources(200)
    moved = warp_sources(sources, warp)
    one, other, fibre = (
        central_difference(warp, sources.positions, d) for d in (*tangents(sources.normals), sources.normals)
    )
    across = np.cross(one, other)
    area = np.linalg.norm(across, axis=1)
    np.testing.assert_allclose(moved.positions, warp(sources.positions))
    np.testing.assert_allclose(moved.normals, across / area[:, None], atol=1e-8)
    np.testing.assert_allclose(moved.area / sources.area, area, rtol=1e-7)
    along = np.einsum("sx,sx->s", fibre, moved.normals)
    np.testing.assert_allclose(moved.thickness / sources.thickness, along, rtol=1e-7)
    np.testing.assert_allclose(
        moved.area * moved.thickness / (sources.area * sources.thickness),
        np.linalg.det(warp.jacobian(sources.positions)),
        rtol=1e-12,
    )


def test_sources_keep_what_does_not_move():
    space = sphere_sources(4)
    space = SourceSpace(space.positions, space.normals, faces=[[0, 1, 2]], vertices=np.arange(4))
    moved = warp_sources(space, random_warp(0))
    np.testing.assert_array_equal(moved.faces, [[0, 1, 2]])
    np.testing.assert_array_equal(moved.vertices, np.arange(4))
    assert moved.area is None
    assert not warp_sources(SourceSpace(space.positions), random_warp(0)).is_fixed


def test_sensors_move_and_stay_what_they_are(points):
    warp = random_warp(0)
    for sensors in (Electrodes(points[:3], ("A", "B", "C"), (0.5, 0.5, 0.0)), SurfaceField(points[:3])):
        moved = warp_sensors(sensors, warp)
        np.testing.assert_allclose(moved.positions, warp(points[:3]), rtol=0, atol=1e-16)
        assert type(moved) is type(sensors)
        assert jax.tree.structure(moved) == jax.tree.structure(sensors)


@pytest.mark.parametrize("seed", range(4))
def test_cells_keep_their_quality(head, seed):
    """Volume over the cubed root mean square edge: no cell keeps less than 0.4 of its own."""
    warped = warp_head(head, random_warp(seed))
    assert (quality(warped.mesh) / quality(head.mesh)).min() > 0.4
    assert warped.tissue_names == head.tissue_names
    np.testing.assert_array_equal(warped.conductivity, head.conductivity)
    np.testing.assert_array_equal(warped.mesh.cells, head.mesh.cells)


def test_volumes_change_by_the_determinant(head):
    """Summed over the cells, at their centroids; the straight faces cost some 1e-3."""
    warp = random_warp(0)
    centroids = head.mesh.points[head.mesh.cells].mean(axis=1)
    expected = head.mesh.volumes @ np.linalg.det(warp.jacobian(centroids))
    assert warp_head(head, warp).mesh.volumes.sum() == pytest.approx(expected, rel=3e-3)


def test_the_leadfield_of_a_larger_head_falls_as_its_square():
    """A dipole's potential is that of a length to the power of -2; similar meshes keep it exactly."""
    factor, head = 1.2, sphere_head(RADII[:1], CONDUCTIVITY[:1], n_nodes=600)
    sources, electrodes = sphere_sources(20, 0.05), Electrodes(RADII[0] * directions(12))
    warp = Warp(np.full(3, factor))
    small, large = (
        np.asarray(FemForward.build(*parts, tolerance=1e-11).leadfield())
        for parts in (
            (head, sources, electrodes),
            (warp_head(head, warp), warp_sources(sources, warp), warp_sensors(electrodes, warp)),
        )
    )
    np.testing.assert_allclose(large, small / factor**2, rtol=0, atol=1e-7 * np.abs(small).max())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"displacement": 15e-3}, "folds the head.* lower displacement .* raise length"),
        ({"length": 10e-3}, "folds the head"),
        ({"scale": 0.49, "displacement": 0}, "determinant falls to 0.0"),
        ({"scale": 0.5}, r"scale must lie in \[0, 0.5\)"),
        ({"displacement": -1e-3}, "displacement must be 0 or more"),
        ({"length": 0}, "length must be positive"),
        ({"centre": (0, 0)}, "centre must have shape"),
    ],
)
def test_bad_warps_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        random_warp(3, **parameters)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"scales": (1, 1, -1)}, "scales must be positive"),
        ({"scales": (1, 1, np.nan)}, "scales has values that are not finite"),
        ({"scales": np.ones(3), "waves": np.ones((2, 3))}, r"cosine must have shape \(2, 3\)"),
    ],
)
def test_bad_parts_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        Warp(**parts)


def test_what_cannot_be_warped_is_refused(head, points):
    tensors = HeadModel(head.mesh, head.tissue_names, np.array(CONDUCTIVITY)[:, None, None] * np.eye(3))
    with pytest.raises(ValueError, match=r"does not turn tensors.*give it one value a tissue"):
        warp_head(tensors, random_warp(0))
    with pytest.raises(ValueError, match=r"shape \(point, 3\), not \(3,\)"):
        random_warp(0)(points[0])
    with pytest.raises(ValueError, match="leave area and thickness out"):
        warp_sources(SourceSpace(points, area=np.ones(300)), random_warp(0))


def test_a_fold_is_noticed_wherever_it_shows(head, points):
    with pytest.raises(ValueError, match="cells of the mesh inside out: lower its displacement"):
        warp_head(head, FOLDING)
    with pytest.raises(ValueError, match="sources lie where the warp folds"):
        warp_sources(sphere_sources(200), FOLDING)
    with pytest.raises(RuntimeError, match=r"not found for \d+ of 300 points"):
        FOLDING.inverse(points)
