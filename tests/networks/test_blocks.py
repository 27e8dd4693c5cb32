import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv.networks import AttentionGate, ResidualBlock, TransposedConvolution
from jaxinv.networks.blocks import Convolution, crop


@pytest.fixture
def features(key):
    return jax.random.normal(key, (3, 12, 6), jnp.float32)


def test_a_residual_block_without_its_last_convolution_is_the_identity(features):
    block = ResidualBlock(6, 6, rngs=nnx.Rngs(0))
    block.conv_out.taps.kernel[...] = jnp.zeros_like(block.conv_out.taps.kernel[...])
    np.testing.assert_array_equal(block(features), features)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_a_convolution_is_the_one_of_lax(features, kernel_size):
    layer = Convolution(6, 4, kernel_size=kernel_size, rngs=nnx.Rngs(0))
    kernel = layer.taps.kernel[...].reshape(kernel_size, 6, 4)
    expected = jax.lax.conv_general_dilated(
        features, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    np.testing.assert_allclose(layer(features), expected, atol=1e-5)


def test_samples_of_a_batch_do_not_see_each_other(features):
    """No batch statistics: one sample alone gives what it gives in a batch."""
    block = ResidualBlock(6, 10, rngs=nnx.Rngs(0))
    apply = nnx.jit(block)
    alone = jnp.concatenate([apply(sample[None]) for sample in features])
    np.testing.assert_allclose(apply(features), alone, atol=1e-5)


def test_attention_lies_between_zero_and_one_and_weights_the_skip(features, key):
    gate = AttentionGate(6, 4, rngs=nnx.Rngs(0))
    gating = jax.random.normal(jax.random.fold_in(key, 1), (3, 12, 4), jnp.float32)
    coefficients = gate.coefficients(features, gating)
    assert coefficients.shape == (3, 12, 1)
    assert (coefficients > 0).all()
    assert (coefficients < 1).all()
    np.testing.assert_allclose(gate(features, gating), features * coefficients, atol=1e-6)


def test_transposed_convolution_is_the_one_of_lax(features):
    layer = TransposedConvolution(6, 5, stride=4, rngs=nnx.Rngs(0))
    kernel = layer.taps.kernel[...].reshape(6, 4, 5).transpose(1, 0, 2)
    dimensions = ("NHC", "HIO", "NHC")
    expected = jax.lax.conv_transpose(features, kernel[::-1], (4,), "VALID", dimension_numbers=dimensions)
    np.testing.assert_allclose(layer(features), expected, atol=1e-5)


def test_cropping_keeps_the_middle(features):
    layer = TransposedConvolution(6, 2, stride=3, length=30, rngs=nnx.Rngs(0))
    whole = TransposedConvolution(6, 2, stride=3, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(layer(features), whole(features)[:, 3:33])
    with pytest.raises(ValueError, match="length=40"):
        crop(whole(features), 40)
