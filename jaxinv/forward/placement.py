"""Sources and sensors of a forward model as loads: placed on the host, differentiable in their positions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxinv import fem
from jaxinv.fem.loads import Loads, SensorLoads, SourceLoads
from jaxinv.fem.recovery import width
from jaxinv.head.head_model import HeadModel
from jaxinv.head.sensors import Sensors, SurfaceField
from jaxinv.head.source_space import SourceSpace

DIFFERENTIABLE = ("recovery",)  # source models with a derivative in the position
BRAIN_TISSUES = ("grey", "white", "brain")  # where a dipole that stands for many sources may lie


def place_sources(
    head: HeadModel,
    sources: SourceSpace,
    source_model: str,
    dtype,
    tissues: tuple[str, ...] | None = None,
) -> Loads:
    """Loads of unit dipoles at the sources.

    Positions may be traced: the loads then have their first derivative in them.

    Raises:
        ValueError: for no source, for what the source model refuses, for traced positions with a source model
            that has no derivative in them, and for other tissues than its own with a source model that takes
            none.
    """
    _require_some("sources", sources.positions)
    model = fem.SOURCE_MODELS[source_model]
    if tissues is not None:
        if source_model not in DIFFERENTIABLE:
            raise ValueError(f"tissues need one of the source models {DIFFERENTIABLE}, not {source_model!r}")
        model = partial(model, tissues=tissues)

    def place(positions):
        return _cast(model(head, SourceSpace(np.asarray(positions))), dtype)

    if not isinstance(sources.positions, jax.core.Tracer):
        return jax.tree.map(jnp.asarray, place(sources.positions).fixed())
    if source_model not in DIFFERENTIABLE:
        raise ValueError(
            f"the source model {source_model!r} has no derivative in the sources' positions: build with one "
            f"of {sorted(DIFFERENTIABLE)}"
        )
    shape = (len(sources.positions), width(head.mesh))
    shapes = SourceLoads(
        jax.ShapeDtypeStruct(shape, np.int32),
        jax.ShapeDtypeStruct((*shape, 3), dtype),
        jax.ShapeDtypeStruct((*shape, 3, 3), dtype),
    )
    return _place_on_host(place, shapes, sources.positions, 1)


def place_sensors(head: HeadModel, sensors: Sensors, dtype) -> SensorLoads:
    """Loads of the channels; positions may be traced, as in `place_sources`.

    Raises:
        ValueError: for no sensor, or what `fem.place_sensors` refuses.
    """
    _require_some("sensors", sensors.positions)

    def place(positions):
        return _cast(fem.place_sensors(head, sensors.at(np.asarray(positions))), dtype)

    if not isinstance(sensors.positions, jax.core.Tracer):
        return jax.tree.map(jnp.asarray, place(sensors.positions).fixed())
    is_field = isinstance(sensors, SurfaceField)
    shape = (sensors.n_channels, width(head.mesh) + (0 if is_field else head.mesh.cells.shape[1]))
    shapes = SensorLoads(
        jax.ShapeDtypeStruct(shape, np.int32),
        jax.ShapeDtypeStruct(shape, dtype),
        jax.ShapeDtypeStruct((*shape, 3), dtype),
    )
    return _place_on_host(place, shapes, sensors.positions, 3 if is_field else 1)


def _require_some(name, positions):
    if len(positions) == 0:
        raise ValueError(f"{name} is empty: give at least one")


def _cast(loads, dtype):
    """The loads with integers in 32 bits and one precision, as NumPy arrays: a callback must not call JAX."""

    def cast(array):
        return np.asarray(array, np.int32 if np.issubdtype(array.dtype, np.integer) else dtype)

    return jax.tree.map(cast, loads)


def _place_on_host(place, shapes, positions, channels_each: int):
    here = jax.lax.stop_gradient(positions)
    if isinstance(here, jax.core.Tracer):
        loads = jax.pure_callback(place, shapes, here, vmap_method="sequential")
    else:
        loads = jax.tree.map(jnp.asarray, place(here))
    return loads.moved(jnp.repeat(positions - here, channels_each, axis=0).astype(loads.weights.dtype))
