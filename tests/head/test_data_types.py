import jax
import numpy as np
import pytest

from jaxinv.head import Electrodes, HeadModel, SourceSpace, SurfaceField
from jaxinv.mesh import VolumeMesh

POINTS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], dtype=float)
MESH = VolumeMesh(POINTS, [[0, 1, 2, 3], [1, 2, 3, 4]], [0, 1])


def test_a_head_knows_its_labels_and_shared_nodes():
    head = HeadModel(MESH, ("scalp", "grey"), [0.43, 0.33])
    assert head.label("grey") == 1
    np.testing.assert_array_equal(head.shared_nodes(("scalp",), ("grey",)), [1, 2, 3])
    with pytest.raises(ValueError, match="no tissue 'csf'"):
        head.label("csf")


def test_a_head_survives_its_file(tmp_path):
    head = HeadModel(MESH, ("scalp", "grey"), [0.43, 0.33])
    head.save(tmp_path / "head.npz")
    again = HeadModel.load(tmp_path / "head.npz")
    assert again.tissue_names == head.tissue_names
    for name in ("points", "cells", "tissue"):
        np.testing.assert_array_equal(getattr(again.mesh, name), getattr(head.mesh, name))
    (tmp_path / "head.npz").write_bytes((tmp_path / "head.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match="not a head file"):
        HeadModel.load(tmp_path / "head.npz")


@pytest.mark.parametrize(
    ("names", "conductivity", "message"),
    [
        (("scalp",), [0.43], "tissue labels up to 1 but tissue_names has 1"),
        (("scalp", "scalp"), [0.43, 0.43], "a name twice"),
        (("scalp", "skull", "grey"), [0.43, 0.01, 0.33], r"no cell of the mesh is labelled \['grey'\]"),
        (("scalp", "grey"), [0.43], "one value for each"),
        (("scalp", "grey"), [0.43, 0.0], r"positive and finite, in S/m; found {'grey': 0.0}"),
        (("scalp", "grey"), [-0.43, 0.33], r"found {'scalp': -0.43}"),
        (("scalp", "grey"), [np.nan, 0.33], r"found {'scalp': nan}"),
    ],
)
def test_bad_heads_are_refused(names, conductivity, message):
    with pytest.raises(ValueError, match=message):
        HeadModel(MESH, names, conductivity)


def test_a_source_space_is_a_pytree_and_takes_subsets():
    space = SourceSpace(POINTS, np.eye(3)[[0, 1, 2, 0, 1]], faces=[[0, 1, 2], [1, 2, 4]], area=np.ones(5))
    doubled = jax.tree.map(lambda leaf: 2 * leaf, space)
    np.testing.assert_allclose(doubled.positions, 2 * POINTS)
    assert doubled.thickness is None
    part = space.take([1, 2, 4])
    np.testing.assert_array_equal(part.faces, [[0, 1, 2]])
    assert part.n_sources == 3
    assert part.is_fixed
    total = jax.jit(lambda s: s.positions.sum())(SourceSpace(POINTS))
    np.testing.assert_allclose(total, POINTS.sum())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positions": POINTS[:, :2]}, "positions must have shape"),
        ({"positions": POINTS + np.inf}, "not finite"),
        ({"positions": POINTS, "normals": POINTS[:3]}, "normals must have shape"),
        ({"positions": POINTS, "normals": 3 * np.ones((5, 3))}, "unit vectors"),
        ({"positions": POINTS, "faces": [[0, 1, 7]]}, "faces must index the 5 sources"),
        ({"positions": POINTS, "area": np.ones(4)}, "area must have shape"),
    ],
)
def test_bad_source_spaces_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SourceSpace(**fields)


def test_references_take_out_what_they_should():
    """Each leaves a constant potential at zero; the average leaves the mean at zero."""
    weights = np.array([0.5, 0.25, 0.25, 0, 0])
    for reference in ("average", weights):
        operator = Electrodes(POINTS, reference=reference).reference_operator()
        np.testing.assert_allclose(operator @ np.ones(5), 0, atol=1e-15)
        np.testing.assert_allclose(operator @ operator, operator, atol=1e-15)
    np.testing.assert_allclose(weights @ operator, 0, atol=1e-15)
    np.testing.assert_array_equal(Electrodes(POINTS, reference=None).reference_operator(), np.eye(5))


def test_a_surface_field_has_three_channels_an_electrode():
    field = SurfaceField(POINTS[:2], names=("Cz", "Pz"))
    assert field.channel_names == ("Czx", "Czy", "Czz", "Pzx", "Pzy", "Pzz")
    assert field.n_channels == 6
    np.testing.assert_array_equal(field.reference_operator(), np.eye(6))
    moved = jax.tree.map(lambda leaf: leaf + 1, field)
    assert moved.names == field.names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((POINTS[0],), "positions must have shape"),
        ((POINTS, ("a", "b")), "name each of the 5"),
        ((POINTS, ("a", "a", "b", "c", "d")), "an electrode twice"),
        ((POINTS * np.array([[np.nan]] + [[1]] * 4),), r"electrodes \['E1'\] are not finite"),
        ((POINTS, None, "mastoids"), "reference must be"),
        ((POINTS, None, np.ones(5)), "sum to 1"),
    ],
)
def test_bad_electrodes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Electrodes(*arguments)
