"""LCMV beamformers: filters of least output power that let their own source pass."""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.inverse.estimator import LinearEstimator
from jaxinv.inverse.small_eigen import gram, inverse_power, largest, product
from jaxinv.inverse.validation import check_covariance, check_leadfield, check_noise_cov
from jaxinv.inverse.whitening import inverse_triangle, whitener

Normalisation = Literal["unit-gain", "unit-noise-gain", "unit-noise-gain-invariant"]
Orientation = Literal["vector", "max-power"]

_matmul = partial(jnp.matmul, precision="highest")

_RTOL = 1e-7  # of three eigenvalues: an orientation that is seen less is not seen, as in MNE-Python


def lcmv(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    data_cov: Float[Array, "channel channel"],
    noise_cov: Float[Array, "channel channel"],
    *,
    reg: float = 0.05,
    normalisation: Normalisation = "unit-noise-gain-invariant",
    orientation: Orientation = "vector",
) -> LinearEstimator:
    r"""Linearly constrained minimum-variance beamformer, by the conventions of MNE-Python.

    In whitened measurements, with $\tilde D = W D W^T + \ell I$ and $\ell$ = `reg` times the mean of the
    diagonal of $W D W^T$, the filter of a source with whitened columns $G$ is $(G^T \tilde D^{-1} G)^{-1} G^T
    \tilde D^{-1}$ (unit gain: it passes its own source with factor one). Divided by its norm it has unit
    noise gain: pure noise gives variance one. With three orientations, "unit-noise-gain" divides each row
    by its own norm, and "unit-noise-gain-invariant" makes the three uncorrelated for noise,
    which does not depend on the axes. With "max-power" one orientation is chosen, that of
    greatest output power under the normalisation, and the kernel is the scalar filter times this orientation:
    the amplitude is the norm of the estimate, and no sign is arbitrary.

    A source that no channel sees has a row of zeros. Differentiable in the leadfield and both covariances.

    Args:
        leadfield: $L$, in V/(A m).
        data_cov: $D$, in V², of the measurements to be imaged, same reference.
        noise_cov: $C$, in V², same reference; may lack ranks.
        reg: ≥ 0; zero needs a data covariance of the rank of the noise covariance.
        normalisation: "unit-gain", "unit-noise-gain" or "unit-noise-gain-invariant".
        orientation: "vector" or "max-power", for a leadfield of free orientation; one of fixed orientation
            has nothing to choose.

    Returns:
        Estimates current in A m (unit gain) or a statistic without unit.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, a leadfield or covariance of
            zeros, an argument out of its range, or a data covariance that cannot be inverted.

    References:
        Van Veen et al. 1997, doi:10.1109/10.623056; Sekihara & Nagarajan 2008,
        doi:10.1007/978-3-540-79370-0; Westner et al. 2022, doi:10.1016/j.neuroimage.2021.118789.
    """
    leadfield, data_cov, noise_cov = jnp.asarray(leadfield), jnp.asarray(data_cov), jnp.asarray(noise_cov)
    check_leadfield(leadfield)
    check_covariance("data_cov", data_cov, leadfield.shape[0])
    check_noise_cov(noise_cov, leadfield.shape[0])
    if normalisation not in get_args(Normalisation):
        raise ValueError(f"normalisation must be one of {get_args(Normalisation)}, not {normalisation!r}")
    if orientation not in get_args(Orientation):
        raise ValueError(f"orientation must be one of {get_args(Orientation)}, not {orientation!r}")
    if leadfield.ndim == 2 and orientation == "max-power":
        raise ValueError("max-power needs a leadfield of free orientation, (channel, source, 3)")
    if not isinstance(reg, jax.core.Tracer) and not 0 <= reg < jnp.inf:
        raise ValueError(f"reg must be zero or positive; found {reg}")
    dtype = jnp.result_type(leadfield, data_cov, noise_cov)
    arrays = (x.astype(dtype) for x in (leadfield, data_cov, noise_cov))
    kernel = _kernel(*arrays, jnp.asarray(reg, dtype), normalisation, orientation)
    if not isinstance(kernel, jax.core.Tracer) and not jnp.isfinite(kernel).all():
        raise ValueError(
            f"data_cov lacks ranks that noise_cov has, and reg={reg:g} is too little for {kernel.dtype}: "
            "give more, such as 0.05, or float64"
        )
    return LinearEstimator(kernel)


@partial(jax.jit, static_argnums=(4, 5))
def _kernel(leadfield, data_cov, noise_cov, reg, normalisation, orientation):
    n_channels = len(leadfield)
    matrix = whitener(noise_cov).matrix
    factor = _data_whitener(matrix, data_cov, noise_cov, reg)
    columns = jnp.moveaxis(leadfield.reshape(n_channels, leadfield.shape[1], -1), 2, 0)
    # in units of what is seen at most: float32 has no room for the squares that derivatives take
    unit = jax.lax.stop_gradient(jnp.max(jnp.abs(_matmul(matrix, columns))))
    columns = columns / unit
    both = _matmul(factor, matrix)
    seen = _matmul(both, columns)  # F W L: of squares G' D^-1 G
    filters = _matmul(_matmul(factor.T, both), columns)  # D^-1 G; where it is all that counts, the other goes
    if len(columns) == 1:
        rows = _scalar_filter(seen[0], filters[0], normalisation)[None]
    elif orientation == "max-power":
        pick = _strongest_orientation(seen, filters, normalisation)
        chosen = (jnp.sum(x * pick[:, None], axis=0) for x in (seen, filters))
        rows = _scalar_filter(*chosen, normalisation) * pick[:, None]
    else:
        rows = _vector_filter(seen, filters, normalisation)
    if normalisation == "unit-gain":
        rows = rows / unit
    kernel = jnp.moveaxis(_matmul(matrix.T, rows), 2, 0)
    kernel = jnp.where(jnp.isfinite(factor).all(), kernel, jnp.nan)
    return kernel.reshape(*leadfield.shape[1:], n_channels)


def _data_whitener(matrix, data_cov, noise_cov, reg):
    """F with F' F the inverse of the loaded data covariance after whitening, in the noise's range."""
    n_channels = len(matrix)
    cov = jnp.linalg.multi_dot([matrix, data_cov, matrix.T], precision="highest")
    projector = jnp.linalg.multi_dot([matrix, noise_cov, matrix.T], precision="highest")
    mean = jnp.trace(cov) / jnp.sum(jnp.any(noise_cov != 0, axis=1))  # over channels that are not excluded
    identity = jnp.eye(n_channels, dtype=cov.dtype)
    loaded = cov + mean * (reg * projector + identity - projector)
    factor = inverse_triangle((loaded + loaded.T) / 2)
    enough = jnp.max(jnp.diag(factor)) ** -2 > 100 * n_channels * jnp.finfo(cov.dtype).eps * mean
    return jnp.where(enough, factor, jnp.nan)


def _scalar_filter(seen, filters, normalisation):
    """(channel, source): unit gain, or unit norm."""
    power = jnp.sum(seen**2 if normalisation == "unit-gain" else filters**2, axis=0)
    size = power if normalisation == "unit-gain" else jnp.sqrt(jnp.where(power > 0, power, 1))
    return jnp.where(power > 0, filters / jnp.where(power > 0, size, 1), 0)


def _vector_filter(seen, filters, normalisation):
    """(3, channel, source)."""
    if normalisation == "unit-noise-gain-invariant":
        return product(inverse_power(gram(filters, filters), 0.5, _RTOL), filters)
    rows = product(inverse_power(gram(seen, seen), 1, _RTOL), filters)
    if normalisation == "unit-gain":
        return rows
    power = jnp.sum(rows**2, axis=1, keepdims=True)
    return jnp.where(power > 0, rows / jnp.sqrt(jnp.where(power > 0, power, 1)), 0)


def _strongest_orientation(seen, filters, normalisation):
    """Unit vectors (3, source) that maximise the filter's output power."""
    power = gram(seen, seen)
    if normalisation == "unit-gain":
        return largest(inverse_power(power, 1, _RTOL))[1]
    root = inverse_power(gram(filters, filters), 0.5, _RTOL)
    pick = product(root, largest(product(product(root, power), root))[1])
    power = jnp.sum(pick**2, axis=0)
    return jnp.where(power > 0, pick / jnp.sqrt(jnp.where(power > 0, power, 1)), 0)
