"""The direct inversion network: a sensor vector in, one logit for each source out."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxinv.networks.blocks import (
    FLOAT32,
    AttentionGate,
    ResidualBlock,
    TransposedConvolution,
    group_norm,
)

_LINEAR_GAIN = 10.0
"""Factor on the linear path. Adam moves every weight by about the learning rate, and one that suits the
U-Net (3e-3) is ten times too small for a dense map that starts at zero: on a toy task such a map alone ended
at a cross-entropy of 0.49 after 500 updates at 3e-3, and at 0.38 at ten times that rate. With the factor one
rate suits both."""


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Sizes of a `DirectInversionUNet`.

    The defaults are the `quick` preset: trainable on two CPU cores.

    Attributes:
        latent_length: positions of the latent grid that the sensors are projected to; a multiple of
            2**depth.
        width: features at the grid's full resolution; doubled at each level down.
        depth: times the grid is halved.
        blocks: residual blocks at each level, on either side.
        kernel_size: odd width of the convolutions.
        correction_stages: transposed convolutions between the grid and the sources.
        correction_width: features between those stages.
        attention: gate the skip connections.
        linear_path: add a dense channel → source map, zero at first, to the logits.
    """

    latent_length: int = 64
    width: int = 16
    depth: int = 2
    blocks: int = 1
    kernel_size: int = 3
    correction_stages: int = 3
    correction_width: int = 8
    attention: bool = True
    linear_path: bool = True

    def __post_init__(self) -> None:
        for name in ("latent_length", "width", "blocks", "correction_stages", "correction_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.depth < 0:
            raise ValueError(f"depth={self.depth} must not be negative; 0 is a network without levels")
        if self.kernel_size % 2 != 1 or self.kernel_size < 1:
            raise ValueError(f"kernel_size={self.kernel_size} must be odd and positive")
        if self.latent_length % 2**self.depth:
            raise ValueError(
                f"latent_length={self.latent_length} must be a multiple of 2**depth = {2**self.depth}"
            )

    @classmethod
    def quick(cls) -> "UNetConfig":
        """Trained in minutes on two CPU cores: 64 channels → 5,000 sources."""
        return cls()

    @classmethod
    def paper(cls) -> "UNetConfig":
        """The published task's size, 447 channels → 15,684 sources, without the linear path."""
        return cls(
            latent_length=512,
            width=64,
            depth=4,
            blocks=2,
            correction_stages=3,
            correction_width=64,
            linear_path=False,
        )


class DirectInversionUNet(nnx.Module):
    """Residual U-Net with attention from a sensor vector to the activity of every source.

    1. Each sample is divided by its root mean square over channels, so the network does not see the
       amplitude, then multiplied by `input_scaling` (the identity until it is set; not trained).
    2. A dense map projects the sensors onto a latent grid. The order of electrodes has no meaning as a
       one-dimensional signal; the grid's order is learned.
    3. A one-dimensional residual encoder–decoder with attention gates on the skip connections.
    4. *Dimension correction*: transposed convolutions with cropping, whose lengths grow geometrically from
       the grid's to the number of sources.
    5. With `config.linear_path`, a dense channel → source map of the scaled input is added. For Gaussian
       maps the exact answer is a linear map through a probit, which this path learns in few updates, while
       the U-Net learns what is left.

    The last stage and the linear path start at zero: an untrained network answers a probability of one half
    everywhere. Everything is float32. Differentiable in parameters and input.

    Args:
        n_channels: length of the sensor vector.
        n_sources: number of logits.
        config: sizes.
        rngs: source of the initial parameters (`params` stream).

    Raises:
        ValueError: if there are no channels, or fewer sources than latent positions.

    References:
        Ronneberger et al. 2015, doi:10.1007/978-3-319-24574-4_28; Oktay et al. 2018, arXiv:1804.03999.
    """

    def __init__(self, n_channels: int, n_sources: int, config: UNetConfig, *, rngs: nnx.Rngs):
        if n_channels < 1:
            raise ValueError(f"n_channels={n_channels} must be at least 1")
        if n_sources < config.latent_length:
            raise ValueError(
                f"n_sources={n_sources} is fewer than config.latent_length={config.latent_length}: "
                "dimension correction only lengthens; choose a shorter latent grid"
            )
        self.n_channels, self.n_sources, self.config = n_channels, n_sources, config
        self.input_scaling = InputScaling(jnp.eye(n_channels, dtype=jnp.float32))
        self.lift = nnx.Linear(n_channels, config.latent_length * config.width, rngs=rngs, **FLOAT32)
        self.encoder = nnx.List([_Encoder(level, config, rngs=rngs) for level in range(config.depth)])
        self.bottleneck = _blocks(_features(config, config.depth), config, rngs=rngs)
        self.decoder = nnx.List([_Decoder(lv, config, rngs=rngs) for lv in reversed(range(config.depth))])
        self.correction = _DimensionCorrection(n_sources, config, rngs=rngs)
        self.linear_path = (
            nnx.Linear(n_channels, n_sources, kernel_init=nnx.initializers.zeros, rngs=rngs, **FLOAT32)
            if config.linear_path
            else None
        )

    def scaled_input(self, measurements: Float[Array, "batch channel"]) -> Float[Array, "batch channel"]:
        """Measurements at unit root mean square, times `input_scaling`; zeros stay zeros."""
        return normalised(measurements) @ self.input_scaling[...]

    def __call__(self, measurements: Float[Array, "batch channel"]) -> Float[Array, "batch source"]:
        """Logits of each source being active.

        Args:
            measurements: sensor vectors in V (any unit will do), the reference they were trained with.

        Returns:
            Logits, float32; their sigmoid is the probability.
        """
        x = self.scaled_input(measurements)
        grid = self.lift(x).reshape(x.shape[0], self.config.latent_length, self.config.width)
        skips = []
        for level in self.encoder:
            skip, grid = level(grid)
            skips.append(skip)
        grid = self.bottleneck(grid)
        for level in self.decoder:
            grid = level(grid, skips.pop())
        logits = self.correction(grid)
        return logits if self.linear_path is None else logits + _LINEAR_GAIN * self.linear_path(x)


class InputScaling(nnx.Variable):
    """A statistic of the input, (channel, channel), applied on the right; no optimiser touches it."""


def normalised(measurements: Float[Array, "batch channel"]) -> Float[Array, "batch channel"]:
    """Each sample divided by its root mean square over channels, in float32; zeros stay zeros.

    Safe for samples of any magnitude: the largest entry is divided out before squaring.
    """
    x = measurements.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    x = x / jnp.where(largest > 0, largest, jnp.ones_like(largest))
    power = jnp.mean(x**2, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(power > 0, power, jnp.ones_like(power)))


def _features(config: UNetConfig, level: int) -> int:
    return config.width * 2**level


def _blocks(features: int, config: UNetConfig, *, rngs: nnx.Rngs) -> nnx.Sequential:
    return nnx.Sequential(
        *(
            ResidualBlock(features, features, kernel_size=config.kernel_size, rngs=rngs)
            for _ in range(config.blocks)
        )
    )


class _Encoder(nnx.Module):
    """Residual blocks, then half the length and twice the features by a convolution of stride two."""

    def __init__(self, level: int, config: UNetConfig, *, rngs: nnx.Rngs):
        features = _features(config, level)
        self.blocks = _blocks(features, config, rngs=rngs)
        self.down = nnx.Linear(2 * features, 2 * features, rngs=rngs, **FLOAT32)

    def __call__(self, x: Float[Array, "batch length feature"]) -> tuple[Array, Array]:
        skip = self.blocks(x)
        batch, length, features = skip.shape
        return skip, self.down(skip.reshape(batch, length // 2, 2 * features))


class _Decoder(nnx.Module):
    """Twice the length, join the gated skip connection, residual blocks."""

    def __init__(self, level: int, config: UNetConfig, *, rngs: nnx.Rngs):
        features = _features(config, level)
        self.up = TransposedConvolution(2 * features, features, stride=2, rngs=rngs)
        self.gate = AttentionGate(features, features, rngs=rngs) if config.attention else None
        self.join = nnx.Linear(2 * features, features, rngs=rngs, **FLOAT32)
        self.blocks = _blocks(features, config, rngs=rngs)

    def __call__(self, x: Float[Array, "batch length feature"], skip: Array) -> Array:
        x = self.up(x)
        skip = skip if self.gate is None else self.gate(skip, x)
        return self.blocks(self.join(jnp.concatenate([x, skip], axis=-1)))


class _DimensionCorrection(nnx.Module):
    """Transposed convolutions with cropping from the latent grid to one value for each source."""

    def __init__(self, n_sources: int, config: UNetConfig, *, rngs: nnx.Rngs):
        lengths = _stage_lengths(config.latent_length, n_sources, config.correction_stages)
        features = [config.width] + [config.correction_width] * (config.correction_stages - 1) + [1]
        last = config.correction_stages - 1
        self.norms = nnx.List([group_norm(feature, rngs=rngs) for feature in features[:-1]])
        self.stages = nnx.List(
            [
                TransposedConvolution(
                    features[i],
                    features[i + 1],
                    stride=math.ceil(lengths[i + 1] / lengths[i]),
                    length=lengths[i + 1],
                    kernel_init=nnx.initializers.zeros if i == last else None,
                    rngs=rngs,
                )
                for i in range(config.correction_stages)
            ]
        )

    def __call__(self, x: Float[Array, "batch length feature"]) -> Float[Array, "batch source"]:
        for norm, stage in zip(self.norms, self.stages):
            x = stage(jax.nn.relu(norm(x)))
        return x[..., 0]


def _stage_lengths(first: int, last: int, stages: int) -> list[int]:
    """Lengths before and after each stage, growing geometrically."""
    return [round(first * (last / first) ** (i / stages)) for i in range(stages)] + [last]
