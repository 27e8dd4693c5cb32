"""Training data: a leadfield for conductivities drawn anew, samples from it, and fixed sets of samples."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxinv.networks import DirectInversionUNet
from jaxinv.simulate import sample_conductivity, sample_sensors, simulate_batch, simulate_measurements

_VARIANCE_FLOOR = 1e-4
"""Of the mean variance of a whitened input: below it lies rounding, and the direction of the reference."""


@flax.struct.dataclass
class DrawnLeadfield:
    """A leadfield in float32 and the conductivities it is for. A pytree.

    Attributes:
        leadfield: in V/(A m).
        conductivity: in S/m.
    """

    leadfield: Float[Array, "channel source"]
    conductivity: Float[Array, " tissue"]

    def is_finite(self) -> jax.Array:
        """Whether every entry is: a solve that did not converge leaves entries that are not."""
        return jnp.all(jnp.isfinite(self.leadfield))


@flax.struct.dataclass
class LabelledSet:
    """Measurements and which sources were active, grouped by leadfield. A pytree.

    Attributes:
        measurements: in V, float32.
        labels: 0 or 1, float32.
    """

    measurements: Float[Array, "group batch channel"]
    labels: Float[Array, "group batch source"]


def draw_leadfield(key: Key[Array, ""], forward, displacement: float = 0.0) -> DrawnLeadfield:
    """Draw conductivities and solve for their leadfield; pure, for use inside jit.

    Args:
        key: of the conductivities.
        forward: a `Forward` with sources of fixed orientation.
        displacement: by how far at most electrodes miss their places, in m.
    """
    conductivity = sample_conductivity(key, forward)
    sensors = sample_sensors(key, forward, displacement)
    dtype = jnp.asarray(forward.conductivity).dtype
    leadfield = forward.leadfield(conductivity.astype(dtype), sensors=sensors)
    return DrawnLeadfield(leadfield.astype(jnp.float32), conductivity)


def draw_batch(
    key: Key[Array, ""], drawn: DrawnLeadfield, forward, activity, noise, size: int
) -> tuple[Float[Array, "batch channel"], Float[Array, "batch source"]]:
    """Fresh samples from one leadfield: measurements and labels, float32; pure.

    Args:
        key: of activity and noise.
        drawn: the leadfield.
        forward: whose sensors give the reference.
        activity: sampler of source activity.
        noise: model of sensor noise.
        size: number of samples.
    """
    reference = forward.sensors.reference_operator(jnp.float32)
    batch = simulate_measurements(key, drawn.leadfield, drawn.conductivity, activity, noise, size, reference)
    return batch.measurements, batch.activity


def draw_fresh_batch(
    key: Key[Array, ""], forward, activity, noise, size: int, displacement: float = 0.0
) -> tuple[Float[Array, "batch channel"], Float[Array, "batch source"]]:
    """Fresh samples, each at conductivities of its own: measurements and labels, float32; pure.

    Arguments as of `draw_batch`, without the leadfield, and `displacement` as of `draw_leadfield`.
    """
    batch = simulate_batch(
        key, forward, activity, noise, size, conductivities=size, displacement=displacement
    )
    return batch.measurements, batch.activity


@partial(jax.jit, static_argnames=("size", "leadfields", "displacement"))
def simulate_set(
    key: Key[Array, ""],
    forward,
    activity,
    noise,
    *,
    size: int,
    leadfields: int,
    displacement: float = 0.0,
) -> LabelledSet:
    """A set of `size` samples, the same number from each of `leadfields` leadfields; jitted.

    Args:
        key: of everything.
        forward: a `Forward`.
        activity: sampler of source activity.
        noise: model of sensor noise.
        size: number of samples, a multiple of `leadfields`.
        leadfields: number of conductivities drawn.
        displacement: by how far at most electrodes miss their places, in m.
    """
    batch = simulate_batch(
        key, forward, activity, noise, size, conductivities=leadfields, displacement=displacement
    )
    return LabelledSet(
        *(array.reshape(leadfields, -1, array.shape[-1]) for array in (batch.measurements, batch.activity))
    )


def whitening(network: DirectInversionUNet, data: LabelledSet) -> Float[Array, "channel channel"]:
    r"""Inverse square root of the covariance of the network's normalised input, float32.

    $C^{-1/2}$ with eigenvalues no smaller than 1e-4 of their mean, from the measurements alone.
    """
    inputs = network.scaled_input(data.measurements.reshape(-1, data.measurements.shape[-1]))
    inputs = np.asarray(inputs, dtype=np.float64)
    variance, axes = np.linalg.eigh(inputs.T @ inputs / len(inputs))
    variance = np.maximum(variance, _VARIANCE_FLOOR * variance.mean())
    return jnp.asarray((axes / np.sqrt(variance)) @ axes.T, jnp.float32)
