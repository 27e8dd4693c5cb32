"""Building blocks of one-dimensional convolutional networks: residual block, attention gate, upsampling.

Features are (batch, length, feature). Norms are over each sample alone (no batch statistics), so a sample's
output does not depend on its neighbours in the batch, and training and evaluation are one function.
Parameters and arithmetic are float32 whatever the process's default is.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Features = Float[Array, "batch length feature"]

FLOAT32 = {"dtype": jnp.float32, "param_dtype": jnp.float32}
"""Keyword arguments of a Flax layer that keep it in float32 with x64 switched on."""

_MOST_GROUPS = 8


def group_norm(features: int, *, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Group norm in float32 with the largest number of groups, at most 8, that divides `features`."""
    return nnx.GroupNorm(features, num_groups=math.gcd(features, _MOST_GROUPS), rngs=rngs, **FLOAT32)


class Convolution(nnx.Module):
    """Convolution of stride one that keeps the length, with zeros beyond the ends.

    The windows, side by side, times one matrix: on CPU, where convolutions inside of a compiled loop fall
    back to code that is some seven (`quick`) to a hundred times slower, as quick as outside; elsewhere no
    slower.

    Args:
        in_features: features of the input.
        out_features: features of the output.
        kernel_size: odd width.
        rngs: source of the initial parameters.
    """

    def __init__(self, in_features: int, out_features: int, *, kernel_size: int, rngs: nnx.Rngs):
        self.kernel_size = kernel_size
        self.taps = nnx.Linear(kernel_size * in_features, out_features, rngs=rngs, **FLOAT32)

    def __call__(self, x: Features) -> Features:
        """Convolve along the length."""
        margin = self.kernel_size // 2
        padded = jnp.pad(x, ((0, 0), (margin, margin), (0, 0)))
        windows = [padded[:, start : start + x.shape[1]] for start in range(self.kernel_size)]
        return self.taps(jnp.concatenate(windows, axis=-1))


class ResidualBlock(nnx.Module):
    """Two pre-activated convolutions and a shortcut.

    $x + F(x)$ with $F$ = norm, ReLU, convolution, twice; the shortcut is a dense map of the features where
    their number changes.

    Args:
        in_features: features of the input.
        out_features: features of the output.
        kernel_size: odd width of both convolutions.
        rngs: source of the initial parameters.

    References:
        He et al. 2016, doi:10.1007/978-3-319-46493-0_38; Wu & He 2018, doi:10.1007/978-3-030-01261-8_1.
    """

    def __init__(self, in_features: int, out_features: int, *, kernel_size: int = 3, rngs: nnx.Rngs):
        self.norm_in = group_norm(in_features, rngs=rngs)
        self.conv_in = Convolution(in_features, out_features, kernel_size=kernel_size, rngs=rngs)
        self.norm_out = group_norm(out_features, rngs=rngs)
        self.conv_out = Convolution(out_features, out_features, kernel_size=kernel_size, rngs=rngs)
        changes = in_features != out_features
        self.shortcut = nnx.Linear(in_features, out_features, rngs=rngs, **FLOAT32) if changes else None

    def __call__(self, x: Features) -> Features:
        """Apply the block; the length stays."""
        residual = self.conv_in(jax.nn.relu(self.norm_in(x)))
        residual = self.conv_out(jax.nn.relu(self.norm_out(residual)))
        return residual + (x if self.shortcut is None else self.shortcut(x))


class AttentionGate(nnx.Module):
    r"""Additive attention gate on a skip connection.

    $\alpha = \sigma(\psi^T \mathrm{ReLU}(W_x x + W_g g))$, one number in (0, 1) for each position, and the
    skip becomes $\alpha x$.

    Args:
        skip_features: features of the skip connection $x$.
        gating_features: features of the decoder's signal $g$, of the same length.
        rngs: source of the initial parameters.

    References:
        Oktay et al. 2018, arXiv:1804.03999.
    """

    def __init__(self, skip_features: int, gating_features: int, *, rngs: nnx.Rngs):
        hidden = max(skip_features // 2, 1)
        self.from_skip = nnx.Linear(skip_features, hidden, rngs=rngs, **FLOAT32)
        self.from_gating = nnx.Linear(gating_features, hidden, use_bias=False, rngs=rngs, **FLOAT32)
        self.score = nnx.Linear(hidden, 1, rngs=rngs, **FLOAT32)

    def coefficients(self, skip: Features, gating: Features) -> Float[Array, "batch length 1"]:
        """The attention coefficients, in (0, 1)."""
        return jax.nn.sigmoid(self.score(jax.nn.relu(self.from_skip(skip) + self.from_gating(gating))))

    def __call__(self, skip: Features, gating: Features) -> Features:
        """The skip connection, weighted position by position."""
        return skip * self.coefficients(skip, gating)


class TransposedConvolution(nnx.Module):
    """Transposed convolution whose kernel is as wide as its stride, optionally cropped.

    Such a kernel does not overlap itself, so the layer is one matrix product and a reshape: no checkerboard,
    and as quick backwards as forwards on every device.

    Args:
        in_features: features of the input.
        out_features: features of the output.
        stride: how many times longer the output is before cropping.
        length: crop the output centrally to this length; None keeps it.
        kernel_init: initialiser of the kernel.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        stride: int,
        length: int | None = None,
        kernel_init: nnx.Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.lecun_normal() if kernel_init is None else kernel_init
        self.taps = nnx.Linear(
            in_features, stride * out_features, kernel_init=init, use_bias=False, rngs=rngs, **FLOAT32
        )
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))
        self.out_features = out_features
        self.length = length

    def __call__(self, x: Features) -> Features:
        """Lengthen the features by the stride, then crop."""
        taps = self.taps(x)
        longer = taps.reshape(taps.shape[0], -1, self.out_features) + self.bias[...]
        return longer if self.length is None else crop(longer, self.length)


def crop(x: Features, length: int) -> Features:
    """The central `length` positions of `x`.

    Raises:
        ValueError: if `x` is shorter than `length`.
    """
    if x.shape[1] < length:
        raise ValueError(f"cannot crop a length of {x.shape[1]} to length={length}; ask for a shorter one")
    start = (x.shape[1] - length) // 2
    return x[:, start : start + length]
