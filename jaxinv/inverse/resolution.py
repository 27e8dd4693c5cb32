"""What a linear inverse makes of single sources: resolution matrix, point spread, cross-talk, their errors.

Kernels and leadfields have fixed (source) or free (source, 3) orientation, each by itself.
"""

from functools import partial
from typing import Literal, get_args

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_BLOCK = 128  # sources whose spread is in memory at one time

Function = Literal["point spread", "cross-talk"]


@flax.struct.dataclass
class ResolutionErrors:
    """Of each source. A pytree.

    Attributes:
        peak: distance from the source to where its point spread or cross-talk is largest, in m.
        dispersion: root mean square distance from the source, weighted by the squared amplitude, in m.
    """

    peak: Float[Array, " source"]
    dispersion: Float[Array, " source"]


def resolution_matrix(
    kernel: Float[Array, "source channel"] | Float[Array, "source 3 channel"],
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
) -> Float[Array, "estimated ..."]:
    """What is estimated for each unit source, $K L$: the kernel's source axes, then the leadfield's.

    Returns:
        (source, source) when both are fixed, (source, 3, source, 3) when both are free.

    Raises:
        ValueError: if the channels or the sources differ.
    """
    kernel, leadfield = _check(kernel, leadfield)
    return jnp.tensordot(kernel, leadfield, axes=1, precision="highest")


def point_spread(
    kernel: Float[Array, "source channel"] | Float[Array, "source 3 channel"],
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    index: int | Int[Array, " chosen"],
) -> Float[Array, "estimated ..."]:
    """Columns of the resolution matrix: the estimate for a unit source at `index` and nowhere else.

    Raises:
        ValueError: if the channels or the sources differ, or an index is of no source.
    """
    kernel, leadfield = _check(kernel, leadfield, index)
    return jnp.tensordot(kernel, leadfield[:, index], axes=1, precision="highest")


def cross_talk(
    kernel: Float[Array, "source channel"] | Float[Array, "source 3 channel"],
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    index: int | Int[Array, " chosen"],
) -> Float[Array, "..."]:
    """Rows of the resolution matrix: what a unit source anywhere adds to the estimate at `index`.

    Raises:
        ValueError: if the channels or the sources differ, or an index is of no source.
    """
    kernel, leadfield = _check(kernel, leadfield, index)
    return jnp.tensordot(kernel[index], leadfield, axes=1, precision="highest")


def resolution_errors(
    kernel: Float[Array, "source channel"] | Float[Array, "source 3 channel"],
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    positions: Float[Array, "source 3"],
    *,
    function: Function = "point spread",
) -> ResolutionErrors:
    """Peak localisation error and spatial dispersion of every source, a block of sources at a time.

    Where an orientation is free, amplitudes are root sums of squares over the components. The dispersion of
    a source whose function is zero everywhere is NaN, and so is its peak error. Jits and vmaps.

    Raises:
        ValueError: if channels, sources or positions do not fit, or for an unknown function.

    References:
        Molins et al. 2008, doi:10.1016/j.neuroimage.2008.05.064; Hauk et al. 2022,
        doi:10.1016/j.neuroimage.2022.119177.
    """
    kernel, leadfield = _check(kernel, leadfield)
    positions = jnp.asarray(positions, kernel.dtype)
    if positions.shape != (len(kernel), 3):
        raise ValueError(f"positions must have shape {(len(kernel), 3)}, not {positions.shape}")
    if function not in get_args(Function):
        raise ValueError(f"function must be one of {get_args(Function)}, not {function!r}")
    return _errors(kernel, leadfield, positions, function)


@partial(jax.jit, static_argnums=3)
def _errors(kernel, leadfield, positions, function):
    kernel = kernel.reshape(len(kernel), -1, kernel.shape[-1])
    leadfield = jnp.moveaxis(leadfield.reshape(*leadfield.shape[:2], -1), 0, -1)
    made, judged = (kernel, leadfield) if function == "point spread" else (leadfield, kernel)

    def errors(source):
        part, place = source
        amplitude = jnp.einsum("sic,jc->sij", made, part, precision="highest")
        power = jnp.sum(amplitude**2, axis=(1, 2))
        distance = jnp.sum((positions - place) ** 2, axis=1)
        total = power.sum()
        peak = jnp.sqrt(distance[jnp.argmax(power)])
        return ResolutionErrors(jnp.where(total > 0, peak, jnp.nan), jnp.sqrt(power @ distance / total))

    return jax.lax.map(errors, (judged, positions), batch_size=_BLOCK)


def _check(kernel, leadfield, index=None):
    kernel, leadfield = jnp.asarray(kernel), jnp.asarray(leadfield)
    if kernel.ndim not in (2, 3) or leadfield.ndim not in (2, 3):
        raise ValueError(
            "kernel must have shape (source, channel) or (source, 3, channel) and leadfield "
            f"(channel, source) or (channel, source, 3); found {kernel.shape} and {leadfield.shape}"
        )
    if kernel.shape[-1] != leadfield.shape[0] or kernel.shape[0] != leadfield.shape[1]:
        raise ValueError(
            "kernel and leadfield must share channels and sources; found "
            f"{kernel.shape} and {leadfield.shape}"
        )
    if index is not None and not isinstance(index, jax.core.Tracer):
        chosen = np.asarray(index)
        if ((chosen < 0) | (chosen >= len(kernel))).any():
            raise ValueError(f"index must be of the {len(kernel)} sources; found {index}")
    return kernel, leadfield
