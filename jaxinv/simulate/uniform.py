"""Uniform random numbers that stay in their dtype (JAX's own take their bounds in float64 under x64)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def uniform(
    key: PRNGKeyArray, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0, dtype=jnp.float32
) -> Float[Array, "..."]:
    """Numbers uniform in [low, high)."""
    return jax.random.uniform(key, shape, dtype, jnp.asarray(low, dtype), jnp.asarray(high, dtype))
