"""How far probabilities that were sampled are from those of endless chains."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def excess_loss(one: Float[Array, " node"], other: Float[Array, " node"]) -> Float[Array, ""]:
    """By how much the mean of both halves' probabilities costs more than the truth, in nats a node.

    A quarter of the divergence between the halves, which are independent; neither may be 0 or 1.
    """
    divergence = one * jnp.log(one / other) + (1 - one) * jnp.log((1 - one) / (1 - other))
    return jnp.mean(divergence) / 4
