"""Measurements simulated on the fly: conductivity → leadfield → activity → noise, all of it jittable."""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxinv.forward.protocol import Forward
from jaxinv.head.sensors import Sensors
from jaxinv.simulate.activity import ActivityModel
from jaxinv.simulate.noise import WhiteNoise
from jaxinv.simulate.uniform import uniform


@flax.struct.dataclass
class Batch:
    """Simulated cases. A pytree; every number is float32 whatever the precision of the leadfield.

    Attributes:
        measurements: referenced potentials with noise, in V (V/m for a surface field).
        activity: 1 where a source is active, else 0.
        current: of each source along its normal, in A m.
        conductivity: of the head that was simulated, in S/m.
        noise_cov: of the noise in each case, in V².
        channel_mask: False where a channel is missing; all True for now.
        head: index of the forward model.
    """

    measurements: Float[Array, "batch channel"]
    activity: Float[Array, "batch source"]
    current: Float[Array, "batch source"]
    conductivity: Float[Array, "batch tissue"]
    noise_cov: Float[Array, "batch channel channel"]
    channel_mask: Bool[Array, "batch channel"]
    head: Int[Array, " batch"]


def sample_conductivity(key: PRNGKeyArray, forward: Forward) -> Float[Array, " tissue"]:
    """Conductivities drawn independently, log-uniform over each tissue's range of a forward model.

    Log-uniform, because the literature disagrees by factors: half of the skulls drawn conduct less than
    the geometric mean of the range.

    Returns:
        In S/m, float32.

    Raises:
        ValueError: for a tissue without a range.
    """
    low, high = (jnp.asarray(bound, jnp.float32) for bound in forward.conductivity_range)
    share = uniform(key, low.shape)
    return jnp.clip(low * (high / low) ** share, low, high)


def sample_sensors(key: PRNGKeyArray, forward: Forward, displacement: float) -> Sensors | None:
    """Sensors that were put on by hand: each misses its place by up to `displacement` (m), at random.

    The miss is uniform in a ball; of an electrode only the part along the scalp has an effect.

    Args:
        key: that `sample_conductivity` is given for the same leadfield; what is drawn is independent of it.
        forward: whose sensors they are.
        displacement: 0 leaves them in place.

    Returns:
        What `forward.leadfield` takes; None for sensors in place.
    """
    if not displacement:
        return None
    positions = jnp.asarray(forward.sensors.positions)
    way_key, length_key = jax.random.split(jax.random.fold_in(key, 1))
    way = jax.random.normal(way_key, positions.shape, jnp.float32)
    length = displacement * uniform(length_key, (len(positions), 1)) ** (1 / 3)
    step = length * way / jnp.linalg.norm(way, axis=1, keepdims=True)
    return forward.sensors.at(positions + step.astype(positions.dtype))


def simulate_measurements(
    key: PRNGKeyArray,
    leadfield: Float[Array, "channel source"],
    conductivity: Float[Array, " tissue"],
    activity: ActivityModel,
    noise: WhiteNoise,
    size: int,
    reference: Float[Array, "channel channel"],
) -> Batch:
    """Many cases on one leadfield.

    Differentiable in the leadfield. A float64 leadfield is rounded to float32 first.

    Args:
        key: typed key.
        leadfield: fixed orientation, referenced, in V/(A m).
        conductivity: that made the leadfield, in S/m; only recorded.
        activity: draws the sources' states.
        noise: draws the noise.
        size: number of cases.
        reference: from unreferenced to referenced channels.

    Raises:
        ValueError: if the shapes of leadfield, reference and activity do not fit, or `size` is not positive.
    """
    _check_shapes(leadfield, reference, activity, size)
    leadfield = leadfield.astype(jnp.float32)
    activity_key, noise_key = jax.random.split(key)
    drawn = jax.vmap(activity.sample)(jax.random.split(activity_key, size))
    signal = jnp.matmul(drawn.current, leadfield.T, precision="highest")
    conductivity = jnp.asarray(conductivity, jnp.float32)
    conductivity = jnp.broadcast_to(conductivity, (size, *conductivity.shape))
    return _measured(noise_key, signal, drawn, conductivity, noise, jnp.asarray(reference, jnp.float32))


def _measured(noise_key, signal, drawn, conductivity, noise, reference) -> Batch:
    """Cases of which all is drawn but the noise."""
    size = len(signal)
    noise_keys = jax.random.split(noise_key, size)
    added, noise_cov = jax.vmap(noise.sample, in_axes=(0, 0, None))(noise_keys, signal, reference)
    return Batch(
        measurements=signal + added,
        activity=drawn.label,
        current=drawn.current,
        conductivity=conductivity,
        noise_cov=noise_cov,
        channel_mask=jnp.ones(signal.shape, bool),
        head=jnp.zeros(size, jnp.int32),
    )


def simulate_batch(
    key: PRNGKeyArray,
    forwards: Forward | Sequence[Forward],
    activity: ActivityModel,
    noise: WhiteNoise,
    size: int,
    *,
    conductivities: int = 1,
    displacement: float = 0.0,
) -> Batch:
    """Cases on leadfields made for conductivities drawn here, by `sample_conductivity`.

    Jit it with `size`, `conductivities` and `displacement` static; forward models and activity are pytrees
    and arguments.

    Args:
        key: typed key; the same key gives the same batch.
        forwards: one forward model, or several heads with as many channels and sources each, of the same
            tissues. Cases come head by head, `size / len(forwards)` each.
        activity: draws the sources' states, alike in every head.
        noise: draws the noise.
        size: number of cases, a multiple of the number of leadfields.
        conductivities: leadfields a head, one conductivity each. With as many as cases, no leadfield is
            formed: a `ReducedForward` then draws thousands of cases a second.
        displacement: by how far at most an electrode misses its place, in m; drawn for every leadfield
            (`sample_sensors`). A `ReducedForward` must have been built for it.

    Raises:
        ValueError: for heads that do not match, sources without normals or another number of them than
            activity is drawn for, a negative displacement, a tissue without a range in the literature, or a
            `size` that does not divide among the leadfields.
    """
    forwards = tuple(forwards) if isinstance(forwards, (list, tuple)) else (forwards,)
    _check_heads(forwards)
    _check_activity(forwards[0], activity)
    if not 0 <= displacement < float("inf"):
        raise ValueError(f"displacement must be 0 or more, in m; found {displacement}")
    n_leadfields = len(forwards) * conductivities
    if conductivities < 1 or size < 1 or size % n_leadfields:
        raise ValueError(
            "size must be a positive multiple of heads × conductivities, "
            f"{len(forwards)} × {conductivities}; found {size}"
        )
    batches = [
        _simulate_head(head_key, forward, activity, noise, size // n_leadfields, conductivities, displacement)
        for head_key, forward in zip(jax.random.split(key, len(forwards)), forwards)
    ]
    batch = jax.tree.map(lambda *parts: jnp.concatenate(parts), *batches)
    return batch.replace(head=jnp.repeat(jnp.arange(len(forwards), dtype=jnp.int32), size // len(forwards)))


def _simulate_head(key, forward, activity, noise, size, conductivities, displacement):
    """`size` cases on each of `conductivities` leadfields of one head, one leadfield in memory at a time."""
    dtype = jnp.asarray(forward.conductivity).dtype
    reference = forward.sensors.reference_operator(jnp.float32)
    if size == 1:
        return _simulate_projected(key, forward, activity, noise, conductivities, reference, displacement)

    def simulate_leadfield(leadfield_key):
        conductivity_key, case_key = jax.random.split(leadfield_key)
        conductivity = sample_conductivity(conductivity_key, forward)
        sensors = sample_sensors(conductivity_key, forward, displacement)
        leadfield = forward.leadfield(conductivity.astype(dtype), sensors=sensors)
        return simulate_measurements(case_key, leadfield, conductivity, activity, noise, size, reference)

    stacked = jax.lax.map(simulate_leadfield, jax.random.split(key, conductivities))
    return jax.tree.map(lambda x: x.reshape(conductivities * size, *x.shape[2:]), stacked)


def _simulate_projected(key, forward, activity, noise, size, reference, displacement):
    """`size` cases of one head, each at conductivities of its own."""
    conductivity_key, activity_key, noise_key = jax.random.split(key, 3)
    keys = jax.random.split(conductivity_key, size)
    conductivity = jax.vmap(lambda k: sample_conductivity(k, forward))(keys)
    drawn = jax.vmap(activity.sample)(jax.random.split(activity_key, size))
    dtype = jnp.asarray(forward.conductivity).dtype

    def project(case):
        key, conductivity, current = case
        return forward.project(conductivity, current, sensors=sample_sensors(key, forward, displacement))

    signal = jax.lax.map(
        project,
        (keys, conductivity.astype(dtype), drawn.current.astype(dtype)),
        batch_size=min(forward.conductivities_at_once, size),
    )
    return _measured(noise_key, signal.astype(jnp.float32), drawn, conductivity, noise, reference)


def _check_heads(forwards: tuple[Forward, ...]) -> None:
    if not forwards:
        raise ValueError("forwards is empty: give at least one forward model")
    found = [(f.sensors.n_channels, f.sources.n_sources, tuple(f.tissue_names)) for f in forwards]
    for i, shape in enumerate(found):
        if shape != found[0]:
            raise ValueError(
                "forwards must have the same channels, sources and tissues; "
                f"forwards[0] has {found[0]}, forwards[{i}] {shape}"
            )


def _check_shapes(leadfield, reference, activity, size) -> None:
    if jnp.ndim(leadfield) != 2:
        raise ValueError(
            f"leadfield must have shape (channel, source), not {jnp.shape(leadfield)}: "
            "activity is drawn for fixed orientation; give the SourceSpace normals"
        )
    n_channels, n_sources = leadfield.shape
    if jnp.shape(reference) != (n_channels, n_channels):
        raise ValueError(f"reference must have shape {(n_channels, n_channels)}, not {jnp.shape(reference)}")
    if size < 1:
        raise ValueError(f"size must be positive; found {size}")
    _check_drawn(activity, n_sources)


def _check_activity(forward: Forward, activity) -> None:
    if not forward.sources.is_fixed:
        raise ValueError(
            "activity is drawn for fixed orientation: give the forward model's SourceSpace normals"
        )
    if forward.sensors.n_channels < 2 and getattr(forward.sensors, "reference", None) == "average":
        raise ValueError("one electrode measures nothing against its own average: give another reference")
    _check_drawn(activity, forward.sources.n_sources)


def _check_drawn(activity, n_sources: int) -> None:
    drawn = jax.eval_shape(activity.sample, jax.random.key(0)).current.shape
    if drawn != (n_sources,):
        raise ValueError(f"activity draws {drawn} sources, but the leadfield has {n_sources}")
