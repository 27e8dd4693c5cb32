"""What every inverse method is to those who use it: a function from measurements to an estimate."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxinv.inverse.validation import check_finite


@flax.struct.dataclass
class Estimate:
    """What a method says of the sources. A pytree.

    Attributes:
        current: (source,), (source, time) or, with free orientation, (source, 3[, time]); in A m, or a
            statistic without unit for methods that normalise by noise.
        probability: that a source is active, for methods that give it.
        std: posterior standard deviation of `current`, for methods that give it.
    """

    current: Float[Array, "source ..."]
    probability: Float[Array, "source ..."] | None = None
    std: Float[Array, "source ..."] | None = None


class Estimator(Protocol):
    """An inverse method bound to a leadfield and a noise covariance."""

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Estimate from one topography or a time series."""
        ...


class ConvergenceError(RuntimeError):
    """An iteration ended before it reached its tolerance."""


def where_converged(converged: Bool[Array, "*time"], found: Any, describe: Callable[[], str]) -> Any:
    """What an iteration found; NaN where it did not converge, as nothing can be raised while tracing.

    Raises:
        ConvergenceError: with what `describe` says, unless all converged or that is being traced.
    """
    if not isinstance(converged, jax.core.Tracer) and not converged.all():
        raise ConvergenceError(describe())
    return jax.tree.map(lambda values: jnp.where(converged, values, jnp.nan), found)


@flax.struct.dataclass
class LinearEstimator:
    """A method that is one matrix. A pytree, so that it jits, vmaps and differentiates.

    Attributes:
        kernel: from measurements in V to current in A m (or to a statistic).
    """

    kernel: Float[Array, "source channel"] | Float[Array, "source 3 channel"]

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Apply the kernel, in the kernel's dtype.

        Raises:
            ValueError: if the first axis is not the kernel's channels, or a value is not finite.
        """
        check_measurements(measurements, self.kernel.shape[-1])
        return Estimate(_product(self.kernel, jnp.asarray(measurements, self.kernel.dtype)))


@jax.jit
def _product(kernel, measurements):
    return jnp.tensordot(kernel, measurements, axes=1, precision="highest")


def check_measurements(measurements: Float[Array, "channel *time"], n_channels: int) -> None:
    """Refuse measurements that are not (channel,) or (channel, time), or not finite."""
    shape = jnp.shape(measurements)
    if len(shape) not in (1, 2) or shape[0] != n_channels:
        raise ValueError(
            f"measurements must have shape (channel,) or (channel, time) with {n_channels} channels, "
            f"not {shape}; vmap over a batch"
        )
    if 0 in shape:
        raise ValueError(f"measurements of shape {shape} have no sample")
    check_finite("measurements", measurements)


def in_blocks(
    estimator: Estimator, measurements: Float[np.ndarray, "channel time"], size: int = 1000
) -> Iterator[tuple[slice, Estimate]]:
    """Estimates of a series too long for memory, a block of samples after the other.

    Methods that take every sample by itself give what they give for the whole series. Those that look at a
    whole window (mixed norms, sparse Bayesian learning, MUSIC, dipoles) take each block for a window.

    Args:
        estimator: of any kind.
        measurements: in V; only a block of it is read at a time, so it may be a `numpy.memmap`.
        size: samples of a block, at most; all blocks are about as long.

    Yields:
        Which samples, and their estimate as NumPy arrays.

    Raises:
        ValueError: for a size that is no whole number above 0, measurements without a time axis, and what the
            estimator raises.
    """
    if size != int(size) or size < 1:
        raise ValueError(f"size must be a whole number, 1 or more; found {size}")
    if len(measurements.shape) != 2:
        raise ValueError(f"measurements must have shape (channel, time), not {measurements.shape}")
    n_samples = measurements.shape[1]
    n_blocks = max(-(-n_samples // int(size)), 1)
    for number in range(n_blocks):
        block = slice(number * n_samples // n_blocks, (number + 1) * n_samples // n_blocks)
        yield block, jax.tree.map(np.asarray, estimator(np.asarray(measurements[:, block])))
