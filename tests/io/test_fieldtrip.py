import numpy as np
import pytest
from scipy.io import savemat

from jaxinv.io import read_segmentation


def volume(**changes):
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    transform = np.array([[2.0, 0, 0, -10], [0, 3, 0, 5], [0, 0, 4, 1], [0, 0, 0, 1]])
    return {"seg": labels, "transform": transform, "unit": "mm"} | changes


def test_voxels_are_where_the_transform_has_them_which_counts_from_one(tmp_path):
    savemat(tmp_path / "seg.mat", {"other": 1.0, "mri": volume()})
    labels, affine = read_segmentation(tmp_path / "seg.mat")
    np.testing.assert_array_equal(labels, volume()["seg"])
    index = np.array([1, 2, 3])
    expected = 1e-3 * (volume()["transform"] @ [2, 3, 4, 1])
    np.testing.assert_allclose(affine @ [*index, 1], [*expected[:3], 1])


def test_a_file_without_a_segmentation_is_refused(tmp_path):
    path = tmp_path / "seg.mat"
    savemat(path, {"mri": volume(unit="inch")})
    with pytest.raises(ValueError, match="inch"):
        read_segmentation(path)
    savemat(path, {"mri": {"anatomy": np.zeros((2, 2, 2))}})
    with pytest.raises(ValueError, match="'seg'"):
        read_segmentation(path)
    savemat(path, {"mri": volume()})
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match="damaged"):
        read_segmentation(path)
    savemat(path, {"mri": volume()}, do_compression=True)
    content = bytearray(path.read_bytes())
    content[-1] ^= 255  # of a checksum
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        read_segmentation(path)
    path.write_bytes(b"no MATLAB file at all" * 20)
    with pytest.raises(ValueError, match=r"seg\.mat"):
        read_segmentation(path)
    with pytest.raises(FileNotFoundError):
        read_segmentation(tmp_path / "missing.mat")
