import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jaxinv.simulate.geodesic import geodesic_neighbours


@pytest.fixture
def grid():
    """A flat 8 × 8 grid of 1 cm squares, each cut in two along one diagonal."""
    x, y = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    node = np.arange(64).reshape(8, 8)
    a, b, c, d = (corner.ravel() for corner in (node[:-1, :-1], node[1:, :-1], node[1:, 1:], node[:-1, 1:]))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return np.stack([x.ravel(), y.ravel(), np.zeros(64)], 1) * 1e-2, faces


def dense(index, distance):
    full = np.full((len(index), len(index) + 1), np.inf)
    np.put_along_axis(full, index, distance, axis=1)
    return full[:, :-1]


def test_flat_grid_has_a_closed_form(grid):
    """Steps (1, 0), (0, 1) and (1, 1) alone: max(|i|, |j|) − min + √2 min for equal signs, else |i| + |j|."""
    positions, faces = grid
    distance = dense(*geodesic_neighbours(positions, faces, 1.0))
    step = np.round((positions[:, None, :2] - positions[None, :, :2]) / 1e-2)
    i, j = np.abs(step[..., 0]), np.abs(step[..., 1])
    diagonal = np.where(step[..., 0] * step[..., 1] > 0, np.minimum(i, j), 0)
    np.testing.assert_allclose(distance, 1e-2 * (i + j - 2 * diagonal + np.sqrt(2) * diagonal), rtol=1e-6)


def test_it_is_symmetric_and_no_shorter_than_a_straight_line(grid):
    positions, faces = grid
    positions = positions + np.random.default_rng(0).normal(size=positions.shape) * 1e-3
    distance = dense(*geodesic_neighbours(positions, faces, 1.0))
    np.testing.assert_allclose(distance, distance.T, rtol=1e-6)
    assert (distance >= cdist(positions, positions) * (1 - 1e-6)).all()


def test_rows_hold_all_within_the_radius_from_near_to_far_and_padding_after(grid):
    positions, faces = grid
    index, distance = geodesic_neighbours(positions, faces, 0.025)
    full = dense(*geodesic_neighbours(positions, faces, 1.0))
    assert index.dtype == np.int32
    assert distance.dtype == np.float32
    np.testing.assert_array_equal((full <= 0.025).sum(1), np.isfinite(distance).sum(1))
    np.testing.assert_array_equal(index == 64, np.isinf(distance))
    np.testing.assert_array_equal(index[:, 0], np.arange(64))
    assert (np.sort(distance, axis=1) == distance).all()


def test_parts_that_do_not_touch_are_not_neighbours(grid):
    positions, faces = grid
    positions = np.concatenate([positions, positions + np.array([0, 0, 1e-4]), np.array([[0, 0, 2e-4]])])
    index, distance = geodesic_neighbours(positions, np.concatenate([faces, faces + 64]), 0.05)
    reached = np.isfinite(distance)
    assert (index[:64][reached[:64]] < 64).all()
    assert (index[64:128][reached[64:128]] >= 64).all()
    assert index[128][reached[128]].tolist() == [128]
