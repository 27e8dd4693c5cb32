"""How far a sparse estimate is from the minimum of its objective, from the correlations of its residual."""

from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float

_matmul = partial(jnp.matmul, precision="highest")


def duality_gap(
    target: Float[Array, "channel *time"],
    penalty: Float[Array, ""],
    residual: Float[Array, "channel *time"],
    norms: Float[Array, " source"],
    penalties: Float[Array, ""],
) -> Float[Array, ""]:
    """Twice the primal minus the dual objective, from the norms of the groups' correlations."""
    return gap_from_products(jnp.sum(residual**2), jnp.sum(target * residual), penalty, norms, penalties)


def gap_from_products(
    misfit: Float[Array, ""],
    overlap: Float[Array, ""],
    penalty: Float[Array, ""],
    norms: Float[Array, " source"],
    penalties: Float[Array, ""],
) -> Float[Array, ""]:
    """The same, from the residual's inner products with itself and with the target."""
    largest = jnp.max(norms)
    beyond = largest > penalty
    inside = jnp.where(beyond, penalty / jnp.where(beyond, largest, 1), 1)
    return misfit + 2 * penalties - inside * (2 * overlap - inside * misfit)


def group_norms(groups: Float[Array, "source orientation time"]) -> Float[Array, " source"]:
    """Frobenius norm over orientations and time."""
    return safe_root(jnp.sum(groups**2, axis=(1, 2)))


def safe_root(values: Float[Array, "..."]) -> Float[Array, "..."]:
    """Square root whose derivative at zero is zero."""
    return jnp.where(values > 0, jnp.sqrt(jnp.where(values > 0, values, 1)), jnp.zeros_like(values))


def correlate(
    gain: Float[Array, "source orientation channel"], residual: Float[Array, "channel time"]
) -> Float[Array, "source orientation time"]:
    """Of every source with the residual."""
    flat = _matmul(gain.reshape(-1, gain.shape[2]), residual)
    return flat.reshape(*gain.shape[:2], -1)
