"""What everything above the forward model may rely on."""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float

from jaxinv.head.sensors import Sensors
from jaxinv.head.source_space import SourceSpace


@runtime_checkable
class Forward(Protocol):
    """Something that gives leadfields of one head as a function of its conductivities. A pytree.

    Attributes:
        sources: where current flows.
        sensors: what is measured.
        tissue_names: one a conductivity.
        conductivity: nominal, in S/m.
    """

    sources: SourceSpace
    sensors: Sensors
    tissue_names: tuple[str, ...]
    conductivity: Float[Array, " tissue"]

    def leadfield(
        self,
        conductivity: Float[Array, " tissue"] | None = None,
        *,
        sources: SourceSpace | None = None,
        sensors: Sensors | None = None,
    ) -> Float[Array, "channel source"] | Float[Array, "channel source 3"]:
        """Referenced leadfield in V/(A m); pure, usable under `jit`, `vmap`, `jvp` and `vjp`."""
        ...
