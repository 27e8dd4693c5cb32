"""How far one leadfield is from another: topography and magnitude."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def rdm(
    leadfield: Float[Array, "channel *source"], reference: Float[Array, "channel *source"]
) -> Float[Array, "*source"]:
    r"""Relative difference measure of each column: error of topography.

    $\| l/\|l\| - l_0/\|l_0\| \|_2$, between 0 and 2. Differentiable where the columns differ.

    Args:
        leadfield: to judge; any unit, channels first.
        reference: to judge it by, with the same reference electrode.

    References:
        Meijs et al. 1989, doi:10.1109/10.40805.
    """
    unit = leadfield / jnp.linalg.norm(leadfield, axis=0)
    return jnp.linalg.norm(unit - reference / jnp.linalg.norm(reference, axis=0), axis=0)


def mag(
    leadfield: Float[Array, "channel *source"], reference: Float[Array, "channel *source"]
) -> Float[Array, "*source"]:
    r"""Magnification of each column, $\|l\| / \|l_0\|$: 1 is right. Differentiable.

    Args:
        leadfield: to judge; any unit, channels first.
        reference: to judge it by, in the same unit and with the same reference electrode.

    References:
        Meijs et al. 1989, doi:10.1109/10.40805.
    """
    return jnp.linalg.norm(leadfield, axis=0) / jnp.linalg.norm(reference, axis=0)
