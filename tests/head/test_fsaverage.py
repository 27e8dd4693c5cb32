import re

import igl
import numpy as np
import pytest

from jaxinv.head import MONTAGES
from jaxinv.head.fsaverage import (
    cortical_sources,
    fsaverage,
    fsaverage_electrodes,
    fsaverage_head,
    mid_surface,
    project_electrodes,
    source_displacement,
    volumetric_sources,
)
from jaxinv.head.fsaverage_levels import LEVEL_SETS, brain, inner_skull, outer_skull, scalp, white_matter
from jaxinv.head.fsaverage_surfaces import (
    bem_surface,
    coarse_faces,
    cortical_surface,
    mni152_to_mni305,
    mni305_to_mni152,
)
from jaxinv.head.montages import template_positions
from jaxinv.mesh.locate import CellLocator

RESOLUTION = 7e-3


@pytest.fixture(scope="module")
def head():
    return fsaverage_head(RESOLUTION)


def test_the_head_is_whole(head):
    """Every tissue is there in a plausible amount, and nothing inside the skull touches the scalp."""
    assert head.tissue_names == ("scalp", "skull", "csf", "grey", "white")
    litres = 1e3 * np.bincount(head.mesh.tissue, head.mesh.volumes)
    low, high = [1.3, 0.5, 0.5, 0.5, 0.4], [1.8, 0.7, 1.0, 0.9, 0.8]
    assert (litres > low).all()
    assert (litres < high).all()
    assert head.shared_nodes(("csf", "grey", "white"), ("scalp",)).size == 0
    assert (head.mesh.volumes > 0).all()


def test_no_cell_lies_over_another(head):
    """The cells' volumes are what the outer surface encloses, by the divergence theorem."""
    a, b, c = np.swapaxes(head.mesh.points[head.mesh.boundary_faces()], 0, 1)
    enclosed = np.einsum("fx,fx->", a, np.cross(b, c)) / 6
    np.testing.assert_allclose(head.mesh.volumes.sum(), enclosed, rtol=1e-12)


def test_the_inside_of_the_skull_touches_no_air(head):
    outer = np.unique(head.mesh.boundary_faces())
    inside = head.mesh.nodes_of(*(head.label(name) for name in ("skull", "csf", "grey", "white")))
    assert np.intersect1d(outer, inside).size == 0


def test_compartments_are_nested():
    """At random points, whoever lies inside one level set lies inside those around it."""
    points = np.random.default_rng(0).uniform(-0.1, 0.1, (2000, 3))
    values = np.array([level_set(points) for level_set in LEVEL_SETS.values()])
    for outer, inner in ((scalp, outer_skull), (outer_skull, inner_skull)):
        assert (outer(points)[inner(points) < 0] < 0).all()
    assert ((values[1:] < 0) & (values[:-1] > 0)).mean() < 2e-3


def test_the_skull_is_as_thick_as_documented():
    """Outwards from the inner skull at the vertex it is 3 to 7 mm thick, and scalp is left over it."""
    surface = bem_surface("inner_skull")
    top = surface.points[surface.points[:, 2] > 0.05]
    assert (outer_skull(top) <= -3e-3).all()
    assert (outer_skull(top) >= -7.1e-3).all()


def test_the_cerebellum_is_brain_and_not_fluid():
    """Points that atlases place in cerebellum, pons and thalamus (MNI152, mm)."""
    points = np.array([[25, -65, -35], [-25, -65, -35], [0, -25, -30], [10, -18, 8], [-10, -18, 8]]) * 1e-3
    assert (brain(mni152_to_mni305(points)) < 0).all()


def test_deep_white_matter_is_white():
    assert (
        white_matter(mni152_to_mni305(np.array([[25e-3, -10e-3, 35e-3], [-25e-3, -10e-3, 35e-3]]))) < 0
    ).all()


def test_the_affine_to_mni152_inverts():
    points = np.random.default_rng(0).normal(size=(5, 3)) * 0.05
    np.testing.assert_allclose(mni152_to_mni305(mni305_to_mni152(points)), points, atol=1e-15)


@pytest.mark.parametrize(("count", "n_faces"), [(2562, 5120), (642, 1280), (162, 320)])
def test_coarse_faces_are_subdivided_icosahedra(count, n_faces):
    """Euler's formula, and the volume within of about the fine surface's, with its sign."""
    surface = cortical_surface("white_matter")[0]
    faces = coarse_faces(surface.faces, count)
    assert faces.shape == (n_faces, 3)
    np.testing.assert_array_equal(np.unique(faces), np.arange(count))
    edges = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [0, 2]]].reshape(-1, 2), axis=1), axis=0)
    assert count - len(edges) + n_faces == 2
    assert igl.centroid(surface.points, faces)[1] > 0.8 * igl.centroid(surface.points, surface.faces)[1]


@pytest.mark.parametrize(
    ("name", "low", "high"), [("ico3", 1150, 1284), ("ico4", 4650, 5124), ("ico5", 18700, 20484)]
)
def test_cortical_source_spaces(name, low, high):
    space = mid_surface(name)
    assert low < space.n_sources < high
    assert 0.10 < space.area.sum() < 0.20
    assert (space.thickness > 0).all()
    pial = np.concatenate([s.points for s in cortical_surface("pial")])[space.vertices]
    outwards = np.einsum("sx,sx->s", pial - space.positions, space.normals)
    assert (outwards > 0).mean() > 0.99


@pytest.fixture(scope="module")
def cortex(head):
    return cortical_sources(head, "ico3")


def test_every_source_lies_in_grey_matter(head, cortex):
    cell, _, distance = CellLocator(head.mesh).find(cortex.positions)
    np.testing.assert_array_equal(head.mesh.tissue[cell], head.label("grey"))
    np.testing.assert_allclose(distance, 0)
    moved = source_displacement(cortex, "ico3")
    assert np.median(moved) == 0
    assert moved.max() < 1.5 * RESOLUTION


def test_a_source_that_moves_far_is_warned_of(head, caplog):
    """The warning's count is that of displacements over a millimetre."""
    with caplog.at_level("WARNING", logger="jaxinv"):
        space = cortical_sources(head, "ico4")
    far = int((source_displacement(space, "ico4") > 1e-3).sum())
    assert far > 0
    assert f"{far} of {space.n_sources} sources were moved by more than 1 mm" in caplog.text


def test_volumetric_sources_are_as_many_as_asked(head):
    space = volumetric_sources(head, 3000)
    assert space.n_sources == 3000
    assert len(np.unique(space.positions, axis=0)) == 3000
    with pytest.raises(ValueError, match="cells of cortical grey matter"):
        volumetric_sources(head, 10**7)


def test_the_default_electrodes_are_149_near_the_template():
    names = MONTAGES["10-5-149"]
    assert len(names) == 149
    positions, displacement = project_electrodes(names)
    assert displacement.max() <= 7e-3
    np.testing.assert_allclose(
        np.linalg.norm(positions - mni152_to_mni305(template_positions(names)), axis=1),
        displacement,
        atol=1e-12,
    )
    np.testing.assert_allclose(scalp(positions), 0, atol=1e-6)
    assert fsaverage_electrodes().n_channels == 149
    assert fsaverage_electrodes(field=True).n_channels == 447


def test_montages_are_sets_of_known_names():
    for names in MONTAGES.values():
        assert len(set(names)) == len(names)
        assert template_positions(names).shape == (len(names), 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fsaverage(4.0), "resolution must lie between 0.001 and 0.01 m, not 4"),
        (lambda: fsaverage(4e-3, sources="ico9"), "sources must be one of"),
        (lambda: fsaverage(4e-3, sources=0), "sources must be one of"),
        (lambda: fsaverage_electrodes("10-15"), "unknown montage '10-15'"),
        (lambda: fsaverage_electrodes(("Cz", "Q7")), r"electrodes \['Q7'\] are not in"),
        (lambda: fsaverage_electrodes(("Cz", "M1")), r"more than 7 mm: {'M1': '15.4 mm'}"),
    ],
)
def test_bad_requests_are_refused_before_any_work(call, message):
    with pytest.raises(ValueError, match=re.escape(message) if "\\" not in message else message):
        call()
