import jax
import numpy as np
import pytest

from jaxinv.head import Electrodes, HeadModel, SourceSpace, SurfaceField
from jaxinv.head.conductivity import anisotropic
from jaxinv.mesh import VolumeMesh

POINTS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], dtype=float)
MESH = VolumeMesh(POINTS, [[0, 1, 2, 3], [1, 2, 3, 4]], [0, 1])
# cells of 1/6, 1/3 and 1/6 m³
THREE = VolumeMesh(np.vstack([POINTS, [0, 0, -1]]), [[0, 1, 2, 3], [1, 2, 3, 4], [0, 2, 1, 5]], [0, 1, 1])
TENSORS = np.diag([0.2, 0.3, 0.4]) + np.array([0.0, 0.05, 0.1])[:, None, None] * (1 - np.eye(3))


def test_a_head_knows_its_labels_and_shared_nodes():
    head = HeadModel(MESH, ("scalp", "grey"), [0.43, 0.33])
    assert head.label("grey") == 1
    np.testing.assert_array_equal(head.shared_nodes(("scalp",), ("grey",)), [1, 2, 3])
    with pytest.raises(ValueError, match="no tissue 'csf'"):
        head.label("csf")


@pytest.mark.parametrize("conductivity", [[0.43, 0.33], TENSORS[:2], TENSORS], ids=lambda c: str(np.shape(c)))
def test_a_head_survives_its_file(tmp_path, conductivity):
    head = HeadModel(THREE, ("scalp", "grey"), conductivity)
    head.save(tmp_path / "head")
    again = HeadModel.load(tmp_path / "head")
    assert again.tissue_names == head.tissue_names
    assert again.conductivity_kind == head.conductivity_kind
    np.testing.assert_array_equal(again.conductivity, conductivity)
    for name in ("points", "cells", "tissue"):
        np.testing.assert_array_equal(getattr(again.mesh, name), getattr(head.mesh, name))
    for content in ((tmp_path / "head").read_bytes()[:100], b"garbage", b"\x93NUMPY"):
        (tmp_path / "head").write_bytes(content)
        with pytest.raises(ValueError, match="not a head file"):
            HeadModel.load(tmp_path / "head")


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


def test_three_forms_of_conductivity():
    """Each has its parameters, its means by volume and the tensors of its cells."""
    scalar, tensor, cells = (
        HeadModel(THREE, ("scalp", "grey"), given) for given in ([0.4, 0.3], TENSORS[:2], TENSORS)
    )
    kinds = [head.conductivity_kind for head in (scalar, tensor, cells)]
    assert kinds == ["scalar", "tensor", "cell tensor"]
    for head in (scalar, tensor):
        np.testing.assert_array_equal(head.nominal_parameters, head.conductivity)
    np.testing.assert_array_equal(cells.nominal_parameters, [1, 1])
    np.testing.assert_allclose(tensor.mean_conductivity, [0.3, 0.3])
    scaled = HeadModel(THREE, ("scalp", "grey"), TENSORS * np.array([1, 1, 4])[:, None, None])
    np.testing.assert_allclose(scaled.mean_conductivity, [0.3, 0.3 * (2 + 4) / 3])


def test_as_many_tensors_as_tissues_are_tensors_of_tissues():
    assert HeadModel(MESH, ("scalp", "grey"), TENSORS[:2]).conductivity_kind == "tensor"


@pytest.mark.parametrize(
    ("conductivity", "message"),
    [
        (np.ones((4, 3, 3)), r"each tissue, shape \(2, 3, 3\), or for each cell, shape \(3, 3, 3\)"),
        (np.ones((2, 3)), "one value for each"),
        (TENSORS[:2] * [[[1]], [[np.nan]]], r"must be finite; those of \['grey'\] are not"),
        (TENSORS * [[[1]], [[1]], [[np.inf]]], r"must be finite; those of 1 of 3 cells .the first is cell 2"),
        (
            TENSORS[:2] + 1e-3 * np.eye(3)[[1, 2, 0]],
            r"must be symmetric; those of \['scalp', 'grey'\]",
        ),
        (TENSORS[:2] * [[[1]], [[-1]]], r"positive definite, in S/m; those of \['grey'\] are not"),
        (TENSORS - 0.25 * np.eye(3), "positive definite, in S/m; those of 3 of 3 cells"),
        (np.stack([np.eye(3), np.diag([1, -1, -1])]), r"those of \['grey'\] are not"),
    ],
)
def test_bad_tensors_are_refused(conductivity, message):
    with pytest.raises(ValueError, match=message):
        HeadModel(THREE, ("scalp", "grey"), conductivity)


def test_tensors_from_axes_have_their_eigenvalues():
    """`along` on the axis, whatever its length and sign, `across` on all that is orthogonal to it."""
    axis, other = np.random.default_rng(0).normal(size=(2, 5, 3))
    tensors = anisotropic(-3 * axis, np.linspace(1, 2, 5), 0.3)
    across = np.cross(axis, other)
    np.testing.assert_allclose(
        np.einsum("cij,cj->ci", tensors, axis), np.linspace(1, 2, 5)[:, None] * axis, atol=1e-14
    )
    np.testing.assert_allclose(np.einsum("cij,cj->ci", tensors, across), 0.3 * across, atol=1e-14)
    with pytest.raises(ValueError, match=r"1 vectors without a direction.* of cell 2"):
        anisotropic(axis * np.array([1, 1, 0, 1, 1])[:, None], 1, 2)
    with pytest.raises(ValueError, match="shape"):
        anisotropic(axis[0], 1, 2)


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


def test_lists_become_arrays():
    electrodes = Electrodes([[0, 0, 0.09], [0, 0.09, 0]])
    sources = SourceSpace([[0, 0, 0], [0, 0, 1], [0, 1, 0]], faces=[[0, 1, 2]])
    assert len(jax.tree.leaves(electrodes)) == 1
    assert len(jax.tree.leaves(sources)) == 2
    assert sources.faces.dtype == np.int64


def test_a_file_that_is_not_there_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        HeadModel.load(tmp_path / "head.npz")
