import numpy as np
import pytest
from scipy.io import loadmat, savemat

from jaxinv.evaluation.judge import Protocol
from jaxinv.evaluation.judge.anatomy import LAYERS, SegmentedHead, anatomy
from jaxinv.head.fsaverage import fsaverage_electrodes, mid_surface
from jaxinv.head.fsaverage_surfaces import MNI305_TO_MNI152, mni305_to_mni152

RADII = {"scalp": (85, 110, 105), "skull": (80, 103, 98), "brain": (75, 96, 92)}  # mm
CENTRE = (0, -18, 10)


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory):
    """Ellipsoids about MNI152's brain, in voxels of 4 mm."""
    path = tmp_path_factory.mktemp("segmentation") / "ellipsoids.mat"
    shape = np.array([50, 60, 58])
    start = np.array(CENTRE) - 2 * (shape - 1)
    places = start + 4 * np.stack(np.indices(shape), axis=-1)
    labels = np.zeros(shape, np.uint8)
    for name, label in LAYERS.items():
        labels[np.sum(((places - CENTRE) / RADII[name]) ** 2, axis=-1) < 1] = label
    transform = np.diag([4.0, 4.0, 4.0, 1.0])
    transform[:3, 3] = start - 4
    savemat(path, {"mri": {"seg": labels, "transform": transform, "unit": "mm"}})
    return path


def test_a_segmented_head_holds_the_default_cortex(segmentation):
    head, sources = anatomy(str(segmentation)).build(9e-3, "ico3")
    cortex = mid_surface("ico3")
    assert head.holds(np.asarray(sources.positions), ("brain",)).all()
    moved = np.linalg.norm(sources.positions - mni305_to_mni152(cortex.positions), axis=1)
    assert np.median(moved) == 0
    np.testing.assert_allclose(np.linalg.norm(sources.normals, axis=1), 1)
    volume = np.sum(sources.area * sources.thickness) / np.sum(cortex.area * cortex.thickness)
    assert volume == pytest.approx(np.linalg.det(MNI305_TO_MNI152[:3, :3]))


def test_electrodes_are_those_of_the_template_in_the_frame_of_the_segmentation(segmentation):
    default = fsaverage_electrodes(("Cz", "C3", "C4"), reference=None)
    found = SegmentedHead(segmentation).sensors(default)
    assert found.names == default.names
    offset = np.asarray(found.positions) - mni305_to_mni152(np.asarray(default.positions))
    assert np.linalg.norm(offset, axis=1).max() < 7e-3


def test_the_protocol_of_a_real_head_goes_by_what_its_file_holds(segmentation, tmp_path):
    copy = tmp_path / "copy.mat"
    copy.write_bytes(segmentation.read_bytes())
    one, other = (Protocol(test_heads=(str(path),)).digest for path in (segmentation, copy))
    assert one == other != Protocol().digest
    content = loadmat(segmentation, squeeze_me=True)["mri"]
    savemat(copy, {"mri": {name: content[name].item() for name in ("seg", "transform")} | {"unit": "cm"}})
    assert Protocol(test_heads=(str(copy),)).digest != one
    assert anatomy(str(segmentation)).number == SegmentedHead(segmentation).number
