"""What is measured: potentials at electrodes and contacts, or the electric field under electrodes."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinv.head.source_space import as_array

FIELD_COMPONENTS = ("x", "y", "z")


def _check(positions, names: tuple[str, ...]) -> None:
    shape = np.shape(positions)
    if len(shape) != 2 or shape[1] != 3:
        raise ValueError(f"positions must have shape (electrode, 3), not {shape}")
    if len(names) != shape[0]:
        raise ValueError(f"names must name each of the {shape[0]} electrodes, not {len(names)}")
    if len(set(names)) != len(names):
        raise ValueError(f"names has an electrode twice: {sorted({n for n in names if names.count(n) > 1})}")
    if not isinstance(positions, jax.core.Tracer) and not np.isfinite(positions).all():
        bad = [name for name, row in zip(names, np.asarray(positions)) if not np.isfinite(row).all()]
        raise ValueError(f"positions of electrodes {bad} are not finite")


def _default_names(positions, names) -> tuple[str, ...]:
    return tuple(f"E{i + 1}" for i in range(len(positions))) if names is None else tuple(names)


@dataclass(frozen=True, eq=False)
class _Potentials:
    """Potentials at points, one channel each, and their reference."""

    positions: Float[Array, "channel 3"]
    names: tuple[str, ...] | None = None
    reference: str | tuple[float, ...] | None = "average"

    def __post_init__(self):
        object.__setattr__(self, "positions", as_array(self.positions))
        object.__setattr__(self, "names", _default_names(self.positions, self.names))
        _check(self.positions, self.names)
        if self.reference is None or isinstance(self.reference, str):
            if self.reference not in (None, "average"):
                raise ValueError(
                    f'reference must be "average", None or weights (channel,), not {self.reference!r}'
                )
            return
        weights = tuple(float(w) for w in self.reference)
        if len(weights) != len(self.names) or not np.isclose(sum(weights), 1):
            raise ValueError(
                f"reference weights must be {len(self.names)} numbers that sum to 1; "
                f"found {len(weights)} that sum to {sum(weights):g}"
            )
        object.__setattr__(self, "reference", weights)

    @property
    def n_channels(self) -> int:
        """Number of channels."""
        return len(self.names)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels."""
        return self.names

    def at(self, positions: Float[Array, "channel 3"]):
        """The same channels at other positions, in m."""
        return dataclasses.replace(self, positions=positions)

    def reference_operator(self, dtype=None) -> Float[Array, "channel channel"]:
        """Matrix that takes unreferenced channels to referenced ones."""
        eye = jnp.eye(self.n_channels, dtype=dtype)
        if self.reference is None:
            return eye
        if self.reference == "average":
            return eye - jnp.full_like(eye, 1 / self.n_channels)
        return eye - jnp.asarray(self.reference, dtype=eye.dtype)[None, :]

    def tree_flatten(self):
        """Arrays and statics, for JAX."""
        return (self.positions,), (self.names, self.reference)

    @classmethod
    def tree_unflatten(cls, statics, leaves):
        """The object from its leaves, unchecked: JAX puts more than arrays there."""
        new = object.__new__(cls)
        for name, value in zip(("positions", "names", "reference"), (*leaves, *statics)):
            object.__setattr__(new, name, value)
        return new


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Electrodes(_Potentials):
    """Potentials at electrodes on the scalp. A pytree; positions are its array.

    Attributes:
        positions: in m, on or near the scalp.
        names: one a channel; E1, E2, … when None.
        reference: "average", None (the potential whose mean over the mesh's nodes is zero), or weights
            (channel,) that sum to 1: the reference is the weighted mean of the channels.

    Raises:
        ValueError: for a wrong shape, a name twice, or weights that do not sum to 1.
    """


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Contacts(_Potentials):
    """Potentials at contacts of stereo-EEG or depth electrodes, anywhere inside the head. A pytree.

    A contact is a point; that its shaft does not conduct is not modelled.

    Attributes:
        positions: in m, inside the head.
        names: one a channel; E1, E2, … when None.
        reference: as of `Electrodes`, over the contacts.

    Raises:
        ValueError: for a wrong shape, a name twice, or weights that do not sum to 1.
    """


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class SurfaceField:
    """The electric field (Ex, Ey, Ez) just inside the scalp at each electrode. A pytree.

    Three channels an electrode, in the order E1x, E1y, E1z, E2x, …; in V/m, so a leadfield is
    V/m per A m. A gradient needs no reference.

    Attributes:
        positions: in m, on or near the scalp.
        names: one an electrode; E1, E2, … when None.

    Raises:
        ValueError: for a wrong shape or a name twice.
    """

    positions: Float[Array, "electrode 3"]
    names: tuple[str, ...] | None = None

    def __post_init__(self):
        object.__setattr__(self, "positions", as_array(self.positions))
        object.__setattr__(self, "names", _default_names(self.positions, self.names))
        _check(self.positions, self.names)

    @property
    def n_channels(self) -> int:
        """Number of channels: three an electrode."""
        return 3 * len(self.names)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels: the electrode's and the component's."""
        return tuple(name + component for name in self.names for component in FIELD_COMPONENTS)

    def at(self, positions: Float[Array, "electrode 3"]) -> "SurfaceField":
        """The same electrodes at other positions, in m."""
        return dataclasses.replace(self, positions=positions)

    def reference_operator(self, dtype=None) -> Float[Array, "channel channel"]:
        """The identity: a gradient has no reference."""
        return jnp.eye(self.n_channels, dtype=dtype)

    def tree_flatten(self):
        """Arrays and statics, for JAX."""
        return (self.positions,), (self.names,)

    @classmethod
    def tree_unflatten(cls, statics, leaves):
        """The object from its leaves, unchecked: JAX puts more than arrays there."""
        new = object.__new__(cls)
        for name, value in zip(("positions", "names"), (*leaves, *statics)):
            object.__setattr__(new, name, value)
        return new


Sensors = Electrodes | Contacts | SurfaceField
