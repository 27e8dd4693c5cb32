"""AdamW with warm-up and a cosine, kept in float32 when x64 is on.

Optax writes its schedules and bias corrections with Python floats over integer counters, which under x64
are float64. The constants here are NumPy float32 scalars, which keep the whole update in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxinv.training.config import TrainConfig

_FIRST_MOMENT = np.float32(0.9)
_SECOND_MOMENT = np.float32(0.999)


def learning_rate(update: Int[Array, ""], config: TrainConfig) -> Float[Array, ""]:
    """Learning rate of the update with this number (from 0): linear warm-up, then a half cosine to 0."""
    done = jnp.asarray(update).astype(jnp.float32)
    warm = (done + 1) / np.float32(max(config.warmup, 1))
    progress = (done - np.float32(config.warmup)) / np.float32(config.updates - config.warmup)
    cosine = np.float32(0.5) * (1 + jnp.cos(np.float32(np.pi) * jnp.clip(progress, 0, 1)))
    return np.float32(config.learning_rate) * jnp.minimum(jnp.minimum(warm, 1), cosine)


def make_optimiser(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW behind a clip of the gradient's global norm; decay on arrays of two or more axes.

    References:
        Loshchilov & Hutter 2019, arXiv:1711.05101.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.gradient_clip),
        optax.scale_by_adam(b1=_FIRST_MOMENT, b2=_SECOND_MOMENT),
        optax.add_decayed_weights(config.weight_decay, mask=_has_two_axes),
        optax.scale_by_learning_rate(lambda update: learning_rate(update, config)),
    )


def _has_two_axes(params):
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)
