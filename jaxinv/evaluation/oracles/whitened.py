"""What the oracles are built of: fields that noise of variance one is added to, in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinv.inverse.validation import check_finite, check_noise_cov
from jaxinv.inverse.whitening import whitener


def whitened(
    name: str, fields: Float[Array, "channel column"], noise_cov: Float[Array, "channel channel"]
) -> tuple[Float[np.ndarray, "channel channel"], Float[np.ndarray, "channel column"]]:
    """Whitener of the noise and whitened fields, on the host, in float64.

    Args:
        name: of the fields, for messages.
        fields: in V for a unit of what they are fields of, same reference as the noise.
        noise_cov: in V²; may lack ranks.

    Raises:
        ValueError: for arrays that are traced, shapes that do not fit, values that are not finite, fields or
            a covariance of zeros.
    """
    fields = checked(name, fields)
    check_noise_cov(noise_cov, len(fields))
    if isinstance(noise_cov, jax.core.Tracer):
        raise ValueError("noise_cov is traced: oracles are built on the host, outside of jit, grad and vmap")
    if not fields.any():
        raise ValueError(f"{name} are zero everywhere: there is nothing to measure")
    matrix = np.asarray(whitener(jnp.asarray(noise_cov)).matrix, np.float64)
    return matrix, matrix @ fields


def checked(name: str, matrix: Float[Array, "row column"], n_columns: int | None = None) -> np.ndarray:
    """A matrix as float64 on the host.

    Raises:
        ValueError: if it is traced, is no matrix or one with other columns, or a value is not finite.
    """
    if isinstance(matrix, jax.core.Tracer):
        raise ValueError(f"{name} is traced: oracles are built on the host, outside of jit, grad and vmap")
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape or n_columns not in (None, matrix.shape[1]):
        columns = "column" if n_columns is None else n_columns
        raise ValueError(f"{name} must be a matrix of shape (row, {columns}), not {matrix.shape}")
    check_finite(name, matrix)
    return matrix
