"""L2 minimum-norm estimates and their noise-normalised kin, by the conventions of MNE-Python."""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float

from jaxinv.inverse.estimator import LinearEstimator
from jaxinv.inverse.validation import check_leadfield, check_noise_cov, check_positive
from jaxinv.inverse.whitening import whitener

Method = Literal["MNE", "dSPM", "sLORETA"]

_matmul = partial(jnp.matmul, precision="highest")

_DEPTH_LIMIT = 10.0  # largest ratio of source amplitudes that depth weighting allows


def minimum_norm(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    *,
    snr: float = 3.0,
    method: Method = "MNE",
    depth: float | None = None,
) -> LinearEstimator:
    """Minimum-norm estimator: `minimum_norm_kernel`, with its arguments, ready to be applied.

    Returns:
        Estimates current in A m (MNE), or a statistic without unit (dSPM, sLORETA).
    """
    return LinearEstimator(minimum_norm_kernel(leadfield, noise_cov, snr=snr, method=method, depth=depth))


def minimum_norm_kernel(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    *,
    snr: float = 3.0,
    method: Method = "MNE",
    depth: float | None = None,
) -> Float[Array, "source channel"] | Float[Array, "source 3 channel"]:
    r"""Kernel of the L2 minimum-norm inverse, with the noise normalisation of `method`.

    $K = R \tilde L^T (\tilde L R \tilde L^T + \mathrm{snr}^{-2} I)^{-1} W$, where $W$ whitens the noise,
    $\tilde L = W L$, and the source covariance $R$ is diagonal and scaled to
    $\mathrm{tr}(\tilde L R \tilde L^T) = \mathrm{rank}(C)$. dSPM divides each row by the standard deviation
    that noise gives it, sLORETA by the one that noise and prior together give it, times `snr`; with free
    orientation the variances of a location's three rows are added first. A source that no channel sees has
    a row of zeros. Differentiable in both arrays and in `snr`; the covariance's range is held constant.

    Args:
        leadfield: $L$, in V/(A m).
        noise_cov: $C$, in V², same reference; may lack ranks.
        snr: amplitude signal-to-noise ratio, > 0; a smaller one smooths more.
        method: "MNE", "dSPM" or "sLORETA".
        depth: exponent in [0, 1] of depth weighting, 0.8 in MNE-Python: $R_{ii} \propto \lVert L_i \rVert^{-2
            \mathrm{depth}}$ with the spectral norm, amplitudes limited to a ratio of 10 before the exponent.
            None does not weight.

    Returns:
        $K$, in A m/V (MNE) or 1/V.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, a leadfield or covariance of
            zeros, or an argument out of its range.

    References:
        Hämäläinen & Ilmoniemi 1994, doi:10.1007/BF02512476 (MNE); Dale et al. 2000,
        doi:10.1016/S0896-6273(00)81138-1 (dSPM); Pascual-Marqui 2002, "Standardized low-resolution brain
        electromagnetic tomography (sLORETA): technical details"; Lin et al. 2006,
        doi:10.1016/j.neuroimage.2005.11.054 (depth).
    """
    leadfield, noise_cov = jnp.asarray(leadfield), jnp.asarray(noise_cov)
    check_leadfield(leadfield)
    check_noise_cov(noise_cov, leadfield.shape[0])
    check_positive("snr", snr)
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {get_args(Method)}, not {method!r}")
    if depth is not None and not 0 <= depth <= 1:
        raise ValueError(f"depth must be None or an exponent in [0, 1]; found {depth}")
    dtype = jnp.result_type(leadfield, noise_cov)
    return _kernel(leadfield.astype(dtype), noise_cov.astype(dtype), jnp.asarray(snr, dtype), method, depth)


@partial(jax.jit, static_argnums=(3, 4))
def _kernel(leadfield, noise_cov, snr, method, depth):
    n_channels, n_sources = leadfield.shape[:2]
    noise = whitener(noise_cov)
    prior = jnp.ones(n_sources, leadfield.dtype) if depth is None else _depth_prior(leadfield, depth)
    amplitude = jnp.sqrt(prior).reshape(1, n_sources, *(1,) * (leadfield.ndim - 2))
    gain = _matmul(noise.matrix, (leadfield * amplitude).reshape(n_channels, -1))
    scale = jnp.sqrt(noise.rank / jnp.sum(gain**2))
    gain = gain * scale
    gram = _matmul(gain, gain.T) + snr**-2 * jnp.eye(n_channels, dtype=gain.dtype)
    solved = cho_solve(cho_factor(gram), gain)
    rows = _matmul(solved.T, noise.matrix).reshape(*leadfield.shape[1:], n_channels)
    if method == "MNE":
        return rows * scale * amplitude[0][..., None]
    variance = jnp.sum(solved**2, axis=0) if method == "dSPM" else jnp.sum(gain * solved, axis=0) * snr**2
    variance = variance.reshape(n_sources, -1).sum(axis=1).reshape(n_sources, *(1,) * (rows.ndim - 1))
    seen = variance > 0
    return jnp.where(seen, rows / jnp.sqrt(jnp.where(seen, variance, 1)), 0)


def _depth_prior(leadfield, exponent):
    """Variance of each source before scaling, as MNE-Python limits it (its `limit_depth_chs=True`)."""
    if leadfield.ndim == 2:
        power = jnp.sum(leadfield**2, axis=0)
    else:
        gram = jnp.einsum("csi,csj->sij", leadfield, leadfield, precision="highest")
        power = jnp.linalg.eigvalsh(gram)[:, -1]
    power = jnp.where(power > 0, power, jnp.min(jnp.where(power > 0, power, jnp.inf)))
    weight = 1 / power
    allowed = _DEPTH_LIMIT**2 * jnp.min(weight)
    first_beyond = jnp.min(jnp.where(weight > allowed, weight, jnp.inf))
    limit = jnp.where(jnp.isfinite(first_beyond), first_beyond, jnp.max(weight))
    return jnp.minimum(weight / limit, 1) ** exponent
