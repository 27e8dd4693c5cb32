"""What an inverse method can be given: checks before long work, skipped for values that are being traced."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_SYMMETRY = 1e-4  # largest difference across the diagonal, relative to the largest entry


def check_leadfield(leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"]) -> None:
    """Raise a ValueError unless the leadfield has a known shape, is finite and not zero everywhere."""
    shape = np.shape(leadfield)
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)) or 0 in shape:
        raise ValueError(f"leadfield must have shape (channel, source) or (channel, source, 3), not {shape}")
    _check_floating("leadfield", leadfield)
    check_finite("leadfield", leadfield)
    if not isinstance(leadfield, jax.core.Tracer) and not np.asarray(leadfield).any():
        raise ValueError("leadfield is zero everywhere: no source can be seen")


def check_noise_cov(noise_cov: Float[Array, "channel channel"], n_channels: int) -> None:
    """Raise a ValueError unless the covariance fits the leadfield and is a covariance, and not zero."""
    check_covariance("noise_cov", noise_cov, n_channels)


def check_covariance(name: str, cov: Float[Array, "channel channel"], n_channels: int) -> None:
    """Raise a ValueError unless this is a covariance of so many channels, and not zero."""
    if np.shape(cov) != (n_channels, n_channels):
        raise ValueError(
            f"{name} must have shape {(n_channels, n_channels)}, the leadfield's channels; "
            f"not {np.shape(cov)}"
        )
    _check_floating(name, cov)
    if isinstance(cov, jax.core.Tracer):
        return
    check_finite(name, cov)
    cov = np.asarray(cov, dtype=np.float64)
    if not cov.any():
        raise ValueError(f"{name} is zero: there is no scale to regularise by")
    if np.abs(cov - cov.T).max() > _SYMMETRY * np.abs(cov).max():
        raise ValueError(f"{name} is not symmetric")
    spectrum = np.linalg.eigvalsh(cov)
    if spectrum[0] < -_SYMMETRY * spectrum[-1]:
        raise ValueError(f"{name} has a negative eigenvalue, {spectrum[0]:g} V²: it is no covariance")


def _check_floating(name, values) -> None:
    if jnp.issubdtype(jnp.result_type(values), jnp.integer):
        raise ValueError(f"{name} is of integers: give {name}.astype(float)")


def check_finite(name: str, values: Float[Array, "..."]) -> None:
    """Raise a ValueError unless all values are real and finite."""
    if jnp.iscomplexobj(values):
        raise ValueError(f"{name} is complex: estimate its real and its imaginary part, each by itself")
    if isinstance(values, jax.core.Tracer):
        return
    bad = ~np.isfinite(np.asarray(values))  # NumPy's: a transformation around would trace JAX's
    if bad.any():
        raise ValueError(f"{name} has {bad.sum()} values that are not finite, the first at {_first(bad)}")


def check_positive(name: str, value: float | Float[Array, ""]) -> None:
    """Raise a ValueError unless the number is positive and finite."""
    if not isinstance(value, jax.core.Tracer) and not 0 < value < np.inf:
        raise ValueError(f"{name} must be positive; found {value}")


def check_alpha(alpha: float | Float[Array, ""]) -> None:
    """Raise a ValueError unless a penalty is a share, in (0, 1), of the smallest that gives zero."""
    check_positive("alpha", alpha)
    if not isinstance(alpha, jax.core.Tracer) and alpha >= 1:
        raise ValueError(f"alpha must be below 1, at which the estimate is zero; found {alpha}")


def check_triangles(name: str, triangles: Int[Array, "face 3"] | None, remedy: str) -> None:
    """Raise a ValueError unless the sources have triangles."""
    if triangles is None:
        raise ValueError(
            f"{name} is None: the sources have no triangles, as in a volume or a part of the cortex; {remedy}"
        )


def check_depth(depth: float | None) -> None:
    """Raise a ValueError unless a depth weighting is None or an exponent in [0, 1]."""
    if depth is not None and not 0 <= depth <= 1:
        raise ValueError(f"depth must be None or an exponent in [0, 1]; found {depth}")


def check_loose(
    loose: float | Float[Array, ""] | None,
    normals: Float[Array, "source 3"] | None,
    leadfield_shape: tuple[int, ...],
) -> None:
    """Raise a ValueError unless a loose orientation is a share, of free sources with unit normals."""
    if loose is None:
        return
    if len(leadfield_shape) == 2:
        raise ValueError("loose needs a leadfield of free orientation, (channel, source, 3)")
    if not isinstance(loose, jax.core.Tracer):
        if not 0 < loose <= 1:
            raise ValueError(f"loose must be None or in (0, 1]; found {loose}")
        if loose == 1 and normals is None:
            return
    if normals is None or np.shape(normals) != leadfield_shape[1:]:
        found = None if normals is None else np.shape(normals)
        raise ValueError(f"loose needs normals of shape {leadfield_shape[1:]}; found {found}")
    if isinstance(normals, jax.core.Tracer):
        return
    if not np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4):
        raise ValueError("normals must be unit vectors: divide each by its norm")


def check_source_variance(source_variance: Float[Array, " source"], n_sources: int) -> None:
    """Raise a ValueError unless there is one variance a source, none negative and not all zero."""
    if np.shape(source_variance) != (n_sources,):
        raise ValueError(
            f"source_variance must have shape {(n_sources,)}, one a source; not {np.shape(source_variance)}"
        )
    if isinstance(source_variance, jax.core.Tracer):
        return
    variance = np.asarray(source_variance)
    bad = ~(np.isfinite(variance) & (variance >= 0))
    if bad.any():
        raise ValueError(
            f"source_variance has {bad.sum()} values that are negative or not finite, "
            f"the first at {_first(bad)}"
        )
    if not variance.any():
        raise ValueError("source_variance is zero everywhere: no source may be active")


def _first(bad) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(bad)[0])
