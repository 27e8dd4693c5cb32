"""What an inverse method can be given: checks before long work, skipped for values that are being traced."""

import jax
import numpy as np
from jaxtyping import Array, Float

_SYMMETRY = 1e-4  # largest difference across the diagonal, relative to the largest entry


def check_leadfield(leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"]) -> None:
    """Raise a ValueError unless the leadfield has a known shape, is finite and not zero everywhere."""
    shape = np.shape(leadfield)
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)) or 0 in shape:
        raise ValueError(f"leadfield must have shape (channel, source) or (channel, source, 3), not {shape}")
    check_finite("leadfield", leadfield)
    if not isinstance(leadfield, jax.core.Tracer) and not np.any(leadfield):
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
    if isinstance(cov, jax.core.Tracer):
        return
    cov = np.asarray(cov, dtype=np.float64)
    check_finite(name, cov)
    if not cov.any():
        raise ValueError(f"{name} is zero: there is no scale to regularise by")
    if np.abs(cov - cov.T).max() > _SYMMETRY * np.abs(cov).max():
        raise ValueError(f"{name} is not symmetric")
    spectrum = np.linalg.eigvalsh(cov)
    if spectrum[0] < -_SYMMETRY * spectrum[-1]:
        raise ValueError(f"{name} has a negative eigenvalue, {spectrum[0]:g} V²: it is no covariance")


def check_finite(name: str, values: Float[Array, "..."]) -> None:
    """Raise a ValueError unless all values are finite."""
    if isinstance(values, jax.core.Tracer):
        return
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(f"{name} has {bad.sum()} values that are not finite, the first at {_first(bad)}")


def check_positive(name: str, value: float | Float[Array, ""]) -> None:
    """Raise a ValueError unless the number is positive and finite."""
    if not isinstance(value, jax.core.Tracer) and not 0 < value < np.inf:
        raise ValueError(f"{name} must be positive; found {value}")


def _first(bad) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(bad)[0])
