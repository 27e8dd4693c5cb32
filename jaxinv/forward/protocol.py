"""What everything above the forward model may rely on."""

from typing import ClassVar, Protocol, runtime_checkable

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
        conductivities_at_once: that are worth working on together; each takes memory of its own.
        conductivity_range: lower and upper conductivity of each tissue that it is made for, in S/m.
    """

    sources: SourceSpace
    sensors: Sensors
    tissue_names: tuple[str, ...]
    conductivity: Float[Array, " tissue"]
    conductivities_at_once: ClassVar[int]

    @property
    def conductivity_range(self) -> tuple[Float[Array, " tissue"], Float[Array, " tissue"]]:
        """Lower and upper conductivity of each tissue that the model is made for, in S/m."""
        ...

    def leadfield(
        self,
        conductivity: Float[Array, " tissue"] | None = None,
        *,
        sources: SourceSpace | None = None,
        sensors: Sensors | None = None,
    ) -> Float[Array, "channel source"] | Float[Array, "channel source 3"]:
        """Referenced leadfield in V/(A m); pure, usable under `jit`, `vmap`, `jvp` and `vjp`."""
        ...

    def project(
        self,
        conductivity: Float[Array, " tissue"],
        current: Float[Array, "source *time"],
        *,
        sensors: Sensors | None = None,
    ) -> Float[Array, "channel *time"]:
        """Measurements of currents along the sources' normals; pure, as `leadfield` is."""
        ...
