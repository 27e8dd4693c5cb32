"""Data-parallel training: the batch over all devices, everything else on each of them."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BATCH_AXIS = "batch"


def batch_mesh(batch_size: int) -> Mesh:
    """A mesh of all devices, those of other processes too, with the one axis `batch`.

    Raises:
        ValueError: if the batch does not divide over the devices.
    """
    n_devices = len(jax.devices())
    if batch_size % n_devices:
        raise ValueError(
            f"batch_size={batch_size} does not divide over {n_devices} devices; "
            f"{-(-batch_size // n_devices) * n_devices} does"
        )
    return jax.make_mesh((n_devices,), (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def replicated(tree, mesh: Mesh):
    """The pytree with every array on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split_over_batch(array: jax.Array, mesh: Mesh) -> jax.Array:
    """Inside jit: constrain the leading axis to be divided over the mesh."""
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec(BATCH_AXIS)))
