"""What sampling is seeded by, and how far its probabilities are from those of endless chains."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


def key_of(seed: Int[Array, ""], measurements: Float[Array, "..."]) -> PRNGKeyArray:
    """A key of the measurements: the same ones give the same draws, others independent ones.

    Their bits are summed as integers, so that neither a batch nor another processor rounds them otherwise.
    """
    bits = jax.lax.bitcast_convert_type(measurements.astype(jnp.float32), jnp.uint32)
    return jax.random.fold_in(jax.random.key(seed), jnp.sum(bits, dtype=jnp.uint32))


def excess_loss(one: Float[Array, " node"], other: Float[Array, " node"]) -> Float[Array, ""]:
    """By how much the mean of both halves' probabilities costs more than the truth, in nats a node.

    A quarter of the divergence between the halves, which are independent; neither may be 0 or 1.
    """
    divergence = one * jnp.log(one / other) + (1 - one) * jnp.log((1 - one) / (1 - other))
    return jnp.mean(divergence) / 4
