from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxinv.head.sensors import Electrodes
from jaxinv.simulate import WhiteNoise

CHANNELS = 12
ONE_ELECTRODE = (1.0,) + (0.0,) * (CHANNELS - 1)


def operator(reference):
    return Electrodes(np.eye(CHANNELS, 3), reference=reference).reference_operator(jnp.float32)


@pytest.mark.parametrize(
    ("reference", "snr_db", "shape"),
    [("average", -10.0, (CHANNELS,)), (None, 20.0, (CHANNELS, 7)), (ONE_ELECTRODE, 3.0, (CHANNELS,))],
)
def test_realised_ratio_is_the_one_asked_for(key, reference, snr_db, shape):
    signal = 1e-6 * jax.random.normal(jax.random.key(1), shape, jnp.float32)
    sample = partial(WhiteNoise((snr_db, snr_db)).sample, signal=signal, reference=operator(reference))
    noise, covariance = jax.jit(jax.vmap(sample))(jax.random.split(key, 20_000))
    realised = 10 * np.log10(np.mean(signal**2) / np.mean(noise**2))
    assert realised == pytest.approx(snr_db, abs=0.1)
    assert 10 * np.log10(np.mean(signal**2) * CHANNELS / np.trace(covariance[0])) == pytest.approx(
        snr_db, abs=1e-4
    )


@pytest.mark.parametrize("reference", ["average", ONE_ELECTRODE])
def test_noise_has_the_covariance_it_is_returned_with(key, reference):
    sample = partial(WhiteNoise((3.0, 3.0)).sample, signal=jnp.ones(CHANNELS), reference=operator(reference))
    noise, covariance = jax.jit(jax.vmap(sample))(jax.random.split(key, 40_000))
    scale = covariance[0].max()
    np.testing.assert_allclose(noise.T @ noise / 40_000, covariance[0], atol=0.03 * scale)
    assert (covariance == covariance[0]).all()


def test_average_reference_costs_one_rank_and_the_noise_keeps_it(key):
    reference = operator("average")
    noise, covariance = WhiteNoise((0.0, 0.0)).sample(key, jnp.ones(CHANNELS, jnp.float32), reference)
    assert np.linalg.matrix_rank(covariance, tol=1e-5) == CHANNELS - 1
    np.testing.assert_allclose(noise.sum(), 0, atol=1e-5)


def test_ratio_is_uniform_in_decibels(key):
    sample = partial(WhiteNoise((0.0, 20.0)).sample, signal=jnp.ones(CHANNELS), reference=operator(None))
    covariance = jax.jit(jax.vmap(sample))(jax.random.split(key, 10_000))[1]
    decibel = np.sort(-10 * np.log10(covariance[:, 0, 0]))
    np.testing.assert_allclose(decibel, np.linspace(0, 20, 10_000), atol=0.4)


def test_silence_has_no_noise_and_a_finite_gradient(key):
    sample = partial(WhiteNoise((0.0, 0.0)).sample, key, reference=operator(None))
    noise, covariance = jax.jit(sample)(jnp.zeros(CHANNELS))
    assert not noise.any()
    assert not covariance.any()
    assert jnp.isfinite(jax.jit(jax.jacrev(sample))(jnp.zeros(CHANNELS))[0]).all()


def test_it_is_differentiable_in_the_signal(key):
    sample = jax.jit(partial(WhiteNoise((5.0, 5.0)).sample, key, reference=jnp.eye(CHANNELS)))
    check_grads(sample, (jnp.arange(1.0, CHANNELS + 1),), order=1)


def test_it_is_a_pytree_without_arrays_that_can_be_an_argument(key):
    noise = WhiteNoise([0, 20])
    assert jax.tree.leaves(noise) == []
    assert noise == WhiteNoise((0.0, 20.0))
    signal, reference = jnp.ones(CHANNELS, jnp.float32), operator(None)
    jitted = jax.jit(lambda n, k: n.sample(k, signal, reference))(noise, key)
    np.testing.assert_allclose(jitted[0], noise.sample(key, signal, reference)[0], rtol=1e-5)


@pytest.mark.parametrize("snr_db", [(20.0, 0.0), (0.0, np.inf), (np.nan, 1.0), (1.0,), 3.0])
def test_impossible_ratios_are_refused(snr_db):
    with pytest.raises(ValueError, match="snr_db"):
        WhiteNoise(snr_db)
