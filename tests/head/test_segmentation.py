import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxinv.head import segmented_head
from jaxinv.io import read_segmentation
from jaxinv.tissues import nominal_conductivity

TISSUES = {"scalp": 7, "skull": 4, "brain": 2}
RADII = {"scalp": (90e-3, 105e-3, 95e-3), "skull": (82e-3, 97e-3, 87e-3), "brain": (75e-3, 90e-3, 80e-3)}
EDGE = 3e-3
REAL = Path(os.environ.get("JAXINV_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def ellipsoids() -> tuple[np.ndarray, np.ndarray]:
    """Labels of nested ellipsoids, and a turned and shifted affine."""
    shape = (68, 78, 70)
    centres = EDGE * (np.stack(np.indices(shape), axis=-1) - (np.array(shape) - 1) / 2)
    labels = np.zeros(shape, np.int16)
    for name, label in TISSUES.items():
        labels[np.sum((centres / RADII[name]) ** 2, axis=-1) < 1] = label
    affine = np.eye(4)
    affine[:3, :3] = EDGE * Rotation.from_rotvec([0.2, -0.1, 0.4]).as_matrix()
    affine[:3, 3] = [0.02, -0.05, 0.1] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return labels, affine


@pytest.fixture(scope="module")
def head():
    return segmented_head(*ellipsoids(), TISSUES, 6e-3)


def test_the_layers_are_the_ellipsoids_whose_voxels_were_labelled(head):
    assert head.tissue_names == tuple(TISSUES)
    np.testing.assert_array_equal(head.conductivity, nominal_conductivity(tuple(TISSUES)))
    enclosed = np.cumsum(np.bincount(head.mesh.tissue, head.mesh.volumes)[::-1])[::-1]
    for found, radii in zip(enclosed, RADII.values()):
        assert found == pytest.approx(4 / 3 * np.pi * np.prod(radii), rel=0.015)
    np.testing.assert_allclose(head.mesh.points.mean(axis=0), [0.02, -0.05, 0.1], atol=1e-3)
    assert head.shared_nodes(("brain",), ("scalp",)).size == 0


def test_cavities_belong_to_what_is_around_them_and_crumbs_to_nothing(head):
    labels, affine = ellipsoids()
    labels[30:34, 35:38, 33:36] = 0  # air in the brain
    labels[9:11, 37:40, 34:36] = 2  # brain in the scalp
    labels[0, 0, 0] = 7
    found = segmented_head(labels, affine, TISSUES, 6e-3)
    volumes = [np.bincount(h.mesh.tissue, h.mesh.volumes) for h in (found, head)]
    np.testing.assert_allclose(volumes[0][1:], volumes[1][1:], rtol=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((4, 4, 4))}, "integers"),
        ({"affine": np.diag([1.0, 1, 1, 1])}, "in metres"),
        ({"affine": np.zeros((4, 4))}, "invertible"),
        ({"tissues": {**TISSUES, "csf": 9}}, "'csf': 9"),
        ({"tissues": {}}, "no voxel"),
        ({"tissues": {"scalp": 7, "porridge": 2}}, "porridge"),
        ({"tissues": {"scalp": 7, "skull": 2, "brain": 2}}, "two tissues of one label"),
        ({"tissues": {"scalp": 7, "brain": 2, "skull": 4}}, "0 % of the voxels of brain .* outermost"),
        ({"tissues": {"brain": 2, "skull": 4, "scalp": 7}}, "0 % of the voxels of brain .* outermost"),
        ({"resolution": 0.0}, "positive"),
    ],
)
def test_what_is_no_segmentation_is_refused(change, message):
    labels, affine = ellipsoids()
    arguments = {"labels": labels, "affine": affine, "tissues": TISSUES, "resolution": 6e-3} | change
    with pytest.raises(ValueError, match=message):
        segmented_head(**arguments)


@pytest.mark.skipif(not (REAL / "standard_seg.mat").exists(), reason="needs FieldTrip's standard_seg.mat")
def test_a_real_head_has_the_volumes_of_its_voxels():
    labels, affine = read_segmentation(REAL / "standard_seg.mat")
    head = segmented_head(labels, affine, {"scalp": 1, "skull": 2, "brain": 3}, 6e-3)
    found = np.bincount(head.mesh.tissue, head.mesh.volumes)
    voxels = np.bincount(labels.ravel())[1:] * np.linalg.det(affine[:3, :3])
    np.testing.assert_allclose(found, voxels, rtol=0.02)
