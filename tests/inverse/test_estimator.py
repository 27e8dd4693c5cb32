import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv.inverse import Estimate, LinearEstimator


@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 4)])
def test_kernel_is_applied_to_topographies_and_series(key, shape):
    kernel = jax.random.normal(key, shape)
    series = jax.random.normal(jax.random.key(1), (4, 6))
    estimator = LinearEstimator(kernel)
    expected = np.asarray(kernel) @ np.asarray(series)
    np.testing.assert_allclose(estimator(series).current, expected, atol=1e-14)
    np.testing.assert_allclose(estimator(series[:, 2]).current, expected[..., 2], atol=1e-14)
    batched = jax.jit(jax.vmap(lambda e, m: e(m), (None, 1)))(estimator, series)
    np.testing.assert_allclose(batched.current, np.moveaxis(expected, -1, 0), atol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_estimate_has_the_dtype_of_the_kernel(dtype):
    estimate = LinearEstimator(jnp.ones((5, 4), dtype))(np.ones(4))
    assert estimate.current.dtype == dtype
    assert estimate.probability is None
    assert estimate.std is None


@pytest.mark.parametrize("shape", [(5,), (3, 4), (4, 2, 2), ()])
def test_measurements_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="4 channels"):
        LinearEstimator(jnp.ones((5, 4)))(np.ones(shape))


def test_estimate_is_a_pytree():
    doubled = jax.tree.map(lambda x: 2 * x, Estimate(jnp.ones(3), std=jnp.ones(3)))
    np.testing.assert_array_equal(doubled.std, 2)
    assert doubled.probability is None
