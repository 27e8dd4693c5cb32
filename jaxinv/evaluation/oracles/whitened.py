"""What the oracles are built of: fields that noise of variance one is added to, in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import eigh

from jaxinv.inverse.validation import check_covariance, check_finite, check_noise_cov
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


def course_modes(
    course_cov: Float[Array, "time time"], noise_course_cov: Float[Array, "time time"] | None, left_out: float
) -> tuple[Float[np.ndarray, "time mode"], Float[np.ndarray, " mode"]]:
    """Modes of a window in which noise is white and courses independent, and a course's variance in each.

    Args:
        course_cov: of the courses over the samples.
        noise_course_cov: of the noise, which must be regular; None for white noise of variance one.
        left_out: share of the courses' power that may lie in modes that are left out.

    Raises:
        ValueError: for a covariance that is none.
    """
    course_cov = np.asarray(course_cov, np.float64)
    check_covariance("course_cov", course_cov, len(course_cov))
    noise = np.eye(len(course_cov)) if noise_course_cov is None else np.asarray(noise_course_cov, np.float64)
    check_covariance("noise_course_cov", noise, len(course_cov))
    variance, modes = eigh(course_cov, noise)
    variance, modes = np.maximum(variance[::-1], 0), modes[:, ::-1]
    kept = 1 + np.searchsorted(np.cumsum(variance), (1 - left_out) * variance.sum())
    return modes[:, :kept], variance[:kept]


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
