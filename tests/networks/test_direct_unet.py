import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv.networks import DirectInversionUNet, UNetConfig

SMALL = UNetConfig(latent_length=16, width=4, depth=2, correction_stages=2, correction_width=4)


def network_of(config=SMALL, n_channels=9, n_sources=101):
    return DirectInversionUNet(n_channels, n_sources, config, rngs=nnx.Rngs(0))


def trained_a_little(network):
    """The network with every zero parameter replaced by noise."""
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves)]
    return nnx.merge(graphdef, jax.tree.unflatten(structure, noisy), rest)


@pytest.fixture(scope="module")
def split():
    """Static half, parameters and statistics of a network in which nothing is zero."""
    return nnx.split(trained_a_little(network_of()), nnx.Param, ...)


@pytest.fixture(scope="module")
def logits_of(split):
    """The same network, jitted."""
    graphdef, params, rest = split
    return jax.jit(lambda x: nnx.merge(graphdef, params, rest)(x))


@pytest.mark.parametrize(
    ("linear_path", "attention", "depth", "n_sources"),
    [(True, True, 0, 16), (False, True, 1, 17), (True, False, 1, 101)],
)
def test_an_untrained_network_says_one_half_of_every_source(key, linear_path, attention, depth, n_sources):
    config = dataclasses.replace(SMALL, linear_path=linear_path, attention=attention, depth=depth)
    answer = jax.jit(lambda x: network_of(config, n_sources=n_sources)(x))
    logits = answer(jax.random.normal(key, (2, 9)))
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(logits, np.zeros((2, n_sources)))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e30])
def test_the_amplitude_of_a_sample_does_not_matter(key, logits_of, scale):
    x = jax.random.normal(key, (4, 9), jnp.float32)
    np.testing.assert_allclose(logits_of(x * jnp.float32(scale)), logits_of(x), rtol=1e-3, atol=1e-4)


def test_a_silent_sample_has_finite_logits_and_gradient(logits_of):
    silence = jnp.zeros((4, 9), jnp.float32)
    assert jnp.isfinite(logits_of(silence)).all()
    assert jnp.isfinite(jax.grad(lambda x: logits_of(x).sum())(silence)).all()


def test_every_parameter_matters(key, split):
    """No dead branch: the gradient in every parameter array is non-zero."""
    graphdef, params, rest = split
    x = jax.random.normal(key, (4, 9), jnp.float32)
    gradient = jax.jit(jax.grad(lambda p: (nnx.merge(graphdef, p, rest)(x) ** 2).sum()))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_forward_and_backward_have_no_float64(key, split):
    graphdef, params, rest = split
    x = jax.random.normal(key, (4, 9), jnp.float32)
    jaxpr = jax.make_jaxpr(jax.grad(lambda p: nnx.merge(graphdef, p, rest)(x).sum()))(params)
    assert "f64[" not in str(jaxpr)


def test_one_sample_under_vmap_is_a_batch(key, logits_of):
    x = jax.random.normal(key, (4, 9), jnp.float32)
    one_by_one = jax.vmap(lambda sample: logits_of(sample[None])[0])(x)
    np.testing.assert_allclose(one_by_one, logits_of(x), atol=1e-4)


@pytest.mark.parametrize(
    ("config", "n_channels", "n_sources"),
    [(UNetConfig.quick(), 64, 5124), (UNetConfig.paper(), 447, 15_684)],
)
def test_presets_have_their_shapes(config, n_channels, n_sources):
    def answer(x):
        return network_of(config, n_channels, n_sources)(x)

    x = jax.ShapeDtypeStruct((2, n_channels), jnp.float32)
    assert jax.eval_shape(answer, x).shape == (2, n_sources)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width=0"),
        ({"depth": -1}, "depth=-1"),
        ({"kernel_size": 4}, "kernel_size=4"),
        ({"latent_length": 18}, "multiple of 2"),
    ],
)
def test_bad_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_bad_numbers_of_channels_and_sources_are_refused():
    with pytest.raises(ValueError, match="n_channels=0"):
        network_of(n_channels=0)
    with pytest.raises(ValueError, match="n_sources=15"):
        network_of(n_sources=15)
