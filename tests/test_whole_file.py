import numpy as np
import pytest

from jaxinv.whole_file import whole_file


def fill_a_disk(path):
    with whole_file(path) as partial:
        partial.write_bytes(b"half of the n")
        raise OSError("disk full")


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "head.npz"
    path.write_bytes(b"the old one")
    with pytest.raises(OSError, match="disk full"):
        fill_a_disk(path)
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_ends_takes_its_place(tmp_path):
    path = tmp_path / "values.npy"
    path.write_bytes(b"the old one")
    with whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, np.arange(3))
        assert path.read_bytes() == b"the old one"
    np.testing.assert_array_equal(np.load(path), np.arange(3))
    assert list(tmp_path.iterdir()) == [path]
