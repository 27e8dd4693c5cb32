"""L2 minimum-norm estimates and their noise-normalised kin, by the conventions of MNE-Python."""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinv.inverse.eloreta import eloreta
from jaxinv.inverse.estimator import LinearEstimator
from jaxinv.inverse.small_eigen import gram, inverse_power
from jaxinv.inverse.source_prior import source_prior
from jaxinv.inverse.validation import check_leadfield, check_noise_cov, check_positive
from jaxinv.inverse.whitening import Whitener, inverse_triangle, whitener

Method = Literal["MNE", "dSPM", "sLORETA", "eLORETA"]

_matmul = partial(jnp.matmul, precision="highest")

_UNSEEN = 1e-12  # variance of a direction over the largest of its location that counts as none


def minimum_norm(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    *,
    snr: float = 3.0,
    method: Method = "MNE",
    depth: float | None = None,
    loose: float | None = None,
    normals: Float[Array, "source 3"] | None = None,
    source_variance: Float[Array, " source"] | None = None,
    blockwise: bool = False,
) -> LinearEstimator:
    """Minimum-norm estimator: `minimum_norm_kernel`, with its arguments, ready to be applied.

    Returns:
        Estimates current in A m (MNE, eLORETA), or a statistic without unit (dSPM, sLORETA).
    """
    kernel = minimum_norm_kernel(
        leadfield, noise_cov, snr=snr, method=method, depth=depth,
        loose=loose, normals=normals, source_variance=source_variance, blockwise=blockwise,
    )  # fmt: skip
    return LinearEstimator(kernel)


def minimum_norm_kernel(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    *,
    snr: float = 3.0,
    method: Method = "MNE",
    depth: float | None = None,
    loose: float | None = None,
    normals: Float[Array, "source 3"] | None = None,
    source_variance: Float[Array, " source"] | None = None,
    blockwise: bool = False,
) -> Float[Array, "source channel"] | Float[Array, "source 3 channel"]:
    r"""Kernel of the L2 minimum-norm inverse, with the noise normalisation of `method`.

    $K = R \tilde L^T (\tilde L R \tilde L^T + \mathrm{snr}^{-2} I)^{-1} W$, where $W$ whitens the noise,
    $\tilde L = W L$, and the source covariance $R$ is independent from location to location and scaled to
    $\mathrm{tr}(\tilde L R \tilde L^T) = \mathrm{rank}(C)$. dSPM divides each row by the standard deviation
    that noise gives it, sLORETA by the one that noise and prior together give it, times `snr`; with free
    orientation the variances of a location's three rows are added first, or taken `blockwise`. A source
    that no channel sees has a row of zeros. Differentiable in both arrays and in `snr`; the covariance's
    range is held constant.

    Args:
        leadfield: $L$, in V/(A m).
        noise_cov: $C$, in V², same reference; may lack ranks.
        snr: amplitude signal-to-noise ratio, > 0; a smaller one smooths more.
        method: "MNE", "dSPM", "sLORETA" or "eLORETA" (`eloreta` with its defaults).
        depth: exponent in [0, 1] of depth weighting, 0.8 in MNE-Python: $R_{ii} \propto \lVert L_i \rVert^{-2
            \mathrm{depth}}$ with the spectral norm, amplitudes limited to a ratio of 10 before the exponent.
            Of $L$ counts what lies in the range of $C$: referenced, without excluded channels. None does not
            weight.
        loose: variance of the tangential components as a share of the normal one's, in (0, 1]; 0.2 is usual
            on a cortical surface. The kernel is in x, y and z all the same. None is 1.
        normals: unit vectors, needed if `loose` is below 1.
        source_variance: relative variance of each source, multiplied with the depth weight; zero silences it.
        blockwise: of free orientation, multiply a location's three rows by the inverse square root of their
            3 × 3 covariance, as sLORETA was published: without noise the largest norm then lies at the
            source, whatever its orientation. MNE-Python divides by the sum of the three variances, and so
            does False.

    Returns:
        $K$, in A m/V (MNE, eLORETA) or 1/V.

    Raises:
        ConvergenceError: if eLORETA did not converge (NaN under a transformation of JAX): see `eloreta`.
        ValueError: for shapes that do not fit, values that are not finite, a leadfield or covariance of
            zeros, an argument out of its range, or `blockwise` where nothing is standardised.

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
    if blockwise and (method not in ("dSPM", "sLORETA") or leadfield.ndim != 3):
        raise ValueError("blockwise is for dSPM and sLORETA of free orientation, (channel, source, 3)")
    if method == "eLORETA":
        if depth is not None or source_variance is not None:
            raise ValueError("eLORETA finds its own weights: leave depth and source_variance at None")
        return eloreta(leadfield, noise_cov, snr=snr, loose=loose, normals=normals).kernel
    dtype = jnp.result_type(leadfield, noise_cov)
    leadfield = leadfield.astype(dtype)
    prior = source_prior(
        leadfield, noise_cov, depth=depth, loose=loose, normals=normals, source_variance=source_variance
    )
    return _kernel(leadfield, noise_cov.astype(dtype), prior, jnp.asarray(snr, dtype), method, blockwise)


@partial(jax.jit, static_argnums=(4, 5))
def _kernel(leadfield, noise_cov, prior, snr, method, blockwise):
    noise = whitener(noise_cov)
    gain = _matmul(noise.matrix, leadfield.reshape(len(leadfield), -1)).reshape(leadfield.shape)
    return kernel_of_prior(gain, prior.after(gain), noise, snr, method, blockwise=blockwise)


def kernel_of_prior(
    gain: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    spread: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise: Whitener,
    snr: Float[Array, ""],
    method: Method,
    *,
    blockwise: bool = False,
) -> Float[Array, "source channel"] | Float[Array, "source 3 channel"]:
    """Kernel from the whitened leadfield, and the same times the source covariance (of any scale)."""
    n_channels = len(gain)
    shape = (*gain.shape[1:], n_channels)
    gain, spread = gain.reshape(n_channels, -1), spread.reshape(n_channels, -1)
    whole, scale = scaled_gram(gain, spread, noise.rank)
    factor = inverse_triangle(whole + snr**-2 * jnp.eye(n_channels, dtype=gain.dtype))
    inverse = _matmul(factor.T, factor)
    if method == "MNE":
        return _matmul(spread.T, _matmul(inverse, noise.matrix) * scale).reshape(shape)
    spread = spread * jnp.sqrt(scale)
    solved = _matmul(inverse, spread)
    rows = _matmul(solved.T, noise.matrix).reshape(shape)
    if blockwise:
        parts = [jnp.moveaxis(x.reshape(n_channels, -1, 3), 2, 0) for x in (solved, spread)]
        block = gram(parts[0], parts[0]) if method == "dSPM" else gram(*parts) * snr**2
        root = inverse_power((block + jnp.swapaxes(block, 0, 1)) / 2, 0.5, _UNSEEN)
        return jnp.einsum("ijs,sjc->sic", root, rows, precision="highest")
    variance = jnp.sum(solved**2, axis=0) if method == "dSPM" else jnp.sum(spread * solved, axis=0) * snr**2
    variance = variance.reshape(shape[0], -1).sum(axis=1).reshape(shape[0], *(1,) * (rows.ndim - 1))
    seen = variance > 0
    return jnp.where(seen, rows / jnp.sqrt(jnp.where(seen, variance, 1)), 0)


def scaled_gram(
    gain: Float[Array, "channel column"], spread: Float[Array, "channel column"], rank: Int[Array, ""]
) -> tuple[Float[Array, "channel channel"], Float[Array, ""]]:
    """Covariance of the whitened signal, of trace `rank`, and what the source covariance is scaled by."""
    cov = _matmul(gain, spread.T)
    scale = rank * _reciprocal(jnp.trace(cov))
    return cov * scale, scale


@jax.custom_jvp
def _reciprocal(value):
    return 1 / value


@_reciprocal.defjvp
def _reciprocal_jvp(primals, tangents):
    """Without the square of the value, for which float32 has no room."""
    inverse = 1 / primals[0]
    return inverse, -(tangents[0] * inverse) * inverse
