import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv.inverse.evidence import Fit, moments, moments_of_few, whitening_factor


@pytest.mark.parametrize("size", [1, 3])
def test_moments_of_few_columns_are_those_of_the_channels(key, size):
    """Variances over many decades, as a long iteration has them; a component of zero gives zero."""
    keys = jax.random.split(key, 2)
    columns, data = jax.random.normal(keys[0], (40, 6 * size)), jax.random.normal(keys[1], (40, 5))
    variance = jnp.array([1e4, 1.0, 1e-3, 1e-6, 30.0, 0.0])
    each = jnp.repeat(variance, size)
    factor, log_determinant = whitening_factor(jnp.eye(40) + columns * each @ columns.T)
    expected = moments(factor, columns, factor @ data, size)
    found, fit = moments_of_few(columns, data, variance)
    expected_fit = Fit(jnp.sum((factor @ data) ** 2) / 5, log_determinant)
    np.testing.assert_allclose(fit, expected_fit, rtol=1e-7)
    np.testing.assert_allclose(found.power[:-1], expected.power[:-1], rtol=1e-7)
    np.testing.assert_allclose(found.sensitivity[:-1], expected.sensitivity[:-1], rtol=1e-7)
    np.testing.assert_allclose(found.reach, expected.reach)
    assert found.size == size
    assert not found.power[-1]
    assert not found.sensitivity[-1]
