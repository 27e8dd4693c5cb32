"""Sensor noise by signal-to-noise ratio."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxinv.simulate.uniform import uniform


@flax.struct.dataclass
class WhiteNoise:
    """Noise that is white at unreferenced electrodes, then referenced. A pytree without arrays.

    Attributes:
        snr_db: lowest and highest signal-to-noise ratio, in dB, uniform between. The ratio is
            10 log10 of the mean power of the noiseless referenced signal over the expected power of the
            referenced noise, over channels and samples of one case.

    Raises:
        ValueError: unless `snr_db` is a finite (low, high) with low <= high.
    """

    snr_db: tuple[float, float] = flax.struct.field(pytree_node=False)

    def __post_init__(self):
        if np.shape(self.snr_db) != (2,) or not -np.inf < self.snr_db[0] <= self.snr_db[1] < np.inf:
            raise ValueError(f"snr_db must be (low, high) in dB with low <= high; found {self.snr_db}")
        object.__setattr__(self, "snr_db", tuple(float(db) for db in self.snr_db))

    def sample(
        self,
        key: PRNGKeyArray,
        signal: Float[Array, "channel *time"],
        reference: Float[Array, "channel channel"],
    ) -> tuple[Float[Array, "channel *time"], Float[Array, "channel channel"]]:
        r"""Noise for one case, and its covariance.

        $\varepsilon = s R n$ with white $n$ and the covariance $s^2 R R^T$ of rank $C - 1$ for an average
        reference; $s$ follows from the signal's power, so that derivatives in the signal are those of a
        measurement at constant ratio. A signal of zeros has noise of zeros.

        Args:
            key: typed key.
            signal: noiseless and referenced, in V.
            reference: $R$, from unreferenced to referenced channels.

        Returns:
            Noise, in V, and its covariance, in V², both of the signal's dtype.
        """
        ratio_key, noise_key = jax.random.split(key)
        decibel = uniform(ratio_key, (), *self.snr_db, dtype=signal.dtype)
        covariance = jnp.matmul(reference, reference.T, precision="highest").astype(signal.dtype)
        power = jnp.mean(signal**2) * 10 ** (-decibel / 10)
        variance = power * signal.shape[0] / jnp.trace(covariance)
        white = jax.random.normal(noise_key, signal.shape, signal.dtype)
        noise = jnp.matmul(reference.astype(signal.dtype), white, precision="highest")
        return _safe_sqrt(variance) * noise, variance * covariance


def _safe_sqrt(x):
    """Square root whose derivative at zero is zero."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)
