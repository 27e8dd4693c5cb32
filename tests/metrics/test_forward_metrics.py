import numpy as np
import pytest

from jaxinv.metrics.forward import mag, rdm


@pytest.mark.parametrize("shape", [(20, 7), (20, 4, 3), (20,)])
def test_a_scaled_leadfield_differs_in_magnitude_alone(shape):
    reference = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_allclose(rdm(2.5 * reference, reference), 0, atol=1e-12)
    np.testing.assert_allclose(mag(2.5 * reference, reference), 2.5)


def test_known_angles():
    """Opposite topographies are 2 apart, orthogonal ones √2."""
    reference = np.array([[1.0, 1.0], [0.0, 0.0]])
    other = np.array([[-3.0, 0.0], [0.0, 5.0]])
    np.testing.assert_allclose(rdm(other, reference), [2, np.sqrt(2)])
