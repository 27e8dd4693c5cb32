r"""Posterior of Gaussian maps: exact for signed maps (D1), moment-matched for half-active ones (D2).

Both are linear in the measurements: a node's field $g$ is Gaussian given the measurements, with mean $m$ and
standard deviation $s$, and the node is active, $g > 0$, with probability $\Phi(m / s)$.
"""

import flax.struct
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from jaxinv.evaluation.oracles.whitened import checked, whitened
from jaxinv.inverse import Estimate
from jaxinv.inverse.estimator import LinearEstimator, check_measurements

_BLOCK = 2000  # sources of which correlations are held at once


@flax.struct.dataclass
class GaussianMapOracle:
    """A Gaussian posterior of the nodes' fields. A pytree; see `signed_map_oracle`, `binary_map_baseline`.

    Attributes:
        kernel: from measurements less `offset`, in V, to the posterior mean of the fields.
        std: posterior standard deviation of the fields; no measurement changes it.
        offset: mean of the measurements, in V.
    """

    kernel: Float[Array, "node channel"]
    std: Float[Array, " node"]
    offset: Float[Array, " channel"]

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Probability that each node is active; `current` is the mean of its field, sample by sample.

        Raises:
            ValueError: if the first axis is not the kernel's channels, or a value is not finite.
        """
        check_measurements(measurements, len(self.offset))
        columns = (-1, *(1,) * (jnp.ndim(measurements) - 1))
        mean = LinearEstimator(self.kernel)(measurements).current
        mean = mean - jnp.matmul(self.kernel, self.offset, precision="highest").reshape(columns)
        std = jnp.broadcast_to(self.std.reshape(columns), mean.shape)
        return Estimate(mean, probability=probability_above_zero(mean, std), std=std)


def probability_above_zero(mean: Float[Array, "..."], std: Float[Array, "..."]) -> Float[Array, "..."]:
    """Of a Gaussian number; of one that is certain, 0 or 1."""
    certain = std == 0
    return jnp.where(certain, mean > 0, ndtr(mean / jnp.where(certain, 1, std))).astype(mean.dtype)


def signed_map_oracle(
    fields: Float[Array, "channel rank"],
    node_factor: Float[Array, "node rank"],
    noise_cov: Float[Array, "channel channel"],
) -> GaussianMapOracle:
    r"""The Bayes answer for signed maps (D1) on a known head. Exact.

    Measured is $y = A z + \varepsilon$ with $z \sim N(0, I)$; the node fields are $g = B z$, and a node is
    active where $g > 0$. Built on the host in float64, by a system of as many equations as channels.

    Args:
        fields: $A = L F$, leadfield times the factor of the currents' covariance, in V.
        node_factor: $B$.
        noise_cov: of $\varepsilon$, in V², same reference; may lack ranks.

    Raises:
        ValueError: for arrays that are traced, shapes that do not fit, values that are not finite, fields or
            a covariance of zeros.

    References:
        Rasmussen & Williams 2006, ISBN 978-0-262-18253-9 (ch. 2).
    """
    matrix, white = whitened("fields", fields, noise_cov)
    node_factor = checked("node_factor", node_factor, white.shape[1])
    signal_cov = white @ white.T
    dtype = jnp.result_type(fields, noise_cov)
    offset = np.zeros(len(white))
    prior = np.sum(node_factor**2, axis=1)
    return _conditioned(matrix, signal_cov, white @ node_factor.T, prior, offset, dtype)


def binary_map_baseline(
    leadfield: Float[Array, "channel source"],
    factor: Float[Array, "source rank"],
    node_factor: Float[Array, "node rank"],
    noise_cov: Float[Array, "channel channel"],
) -> GaussianMapOracle:
    r"""The best linear answer for half-active maps (D2): a baseline that the Bayes answer is above.

    Measured is $y = L \theta + \varepsilon$, $\theta = 1[f > 0]$, $f = F z$. The first two moments of
    measurements and node fields are exact, $\mathrm{E}\,\theta = 1/2$, $\mathrm{cov}(\theta_i, \theta_j) =
    \arcsin(\rho_{ij}) / 2\pi$ and $\mathrm{cov}(g, \theta_i) = \mathrm{cov}(g, f_i) / (\sqrt{2 \pi}\,
    \sigma_i)$; the posterior is that of Gaussian numbers with these moments. Correlations are made in blocks.

    Args:
        leadfield: $L$, times the amplitude of an active source, in V.
        factor: $F$.
        node_factor: $B$; a node is active where $B z > 0$.
        noise_cov: of $\varepsilon$, in V², same reference; may lack ranks.

    Raises:
        ValueError: for arrays that are traced, shapes that do not fit, values that are not finite, a
            leadfield or covariance of zeros.

    References:
        Van Vleck & Middleton 1966, doi:10.1109/PROC.1966.4567 (the arcsine law).
    """
    matrix, white = whitened("leadfield", leadfield, noise_cov)
    factor = checked("factor", factor)
    if len(factor) != white.shape[1]:
        raise ValueError(f"factor must have a row for each of {white.shape[1]} sources; found {len(factor)}")
    node_factor = checked("node_factor", node_factor, factor.shape[1])
    unit = unit_rows(factor)
    signal_cov = half_active_cov(white, unit)
    cross = (white @ unit) @ node_factor.T / np.sqrt(2 * np.pi)
    offset = np.asarray(leadfield, np.float64) @ (unit.any(axis=1) / 2)
    dtype = jnp.result_type(leadfield, noise_cov)
    return _conditioned(matrix, signal_cov, cross, np.sum(node_factor**2, axis=1), offset, dtype)


def unit_rows(factor: Float[np.ndarray, "source rank"]) -> Float[np.ndarray, "source rank"]:
    """Factor of the fields' correlations; rows of zeros stay."""
    norm = np.linalg.norm(factor, axis=1, keepdims=True)
    return factor / np.where(norm > 0, norm, 1)


def half_active_cov(
    leadfield: Float[np.ndarray, "channel source"], unit: Float[np.ndarray, "source rank"]
) -> Float[np.ndarray, "channel channel"]:
    r"""$L\, \mathrm{cov}(\theta) L^T$ of half-active maps, correlations $\rho$ of the fields by unit rows."""
    unit, rows = unit.astype(np.float32), leadfield.astype(np.float32)
    total = np.zeros((len(rows), len(rows)))
    for start in range(0, len(unit), _BLOCK):
        block = slice(start, start + _BLOCK)
        correlation = unit[block] @ unit[start:].T
        np.fill_diagonal(correlation, unit[block].any(axis=1))
        angle = np.arcsin(np.clip(correlation, -1, 1))
        angle[:, : len(angle)] /= 2  # its other half is in the transpose
        total += rows[:, block] @ (angle @ rows[:, start:].T).astype(np.float64)
    return (total + total.T) / (2 * np.pi)


def _conditioned(matrix, signal_cov, cross, prior_variance, offset, dtype):
    """Gaussian posterior by whitened measurements of covariance `signal_cov` + 1."""
    root = cho_factor(signal_cov + np.eye(len(signal_cov)), lower=True)
    kernel = cho_solve(root, cross).T @ matrix
    explained = np.sum(solve_triangular(np.tril(root[0]), cross, lower=True) ** 2, axis=0)
    std = np.sqrt(np.maximum(prior_variance - explained, 0))
    return GaussianMapOracle(*(jnp.asarray(array, dtype) for array in (kernel, std, offset)))
