"""Sources and sensors as loads on the nodes: what remains of them once they are placed on a mesh."""

from typing import Protocol

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class SensorLoads:
    """Right-hand sides of the sensors: what each channel reads of the nodal potential. A pytree.

    Attributes:
        nodes: that a channel looks at, padded to one width.
        weights: of their potentials: 1 for an electrode in all, 0 for a field component (in 1/m).
        slope: derivative of the weights in the channel's position, per m; None where it is not kept.
    """

    nodes: Int[Array, "channel corner"]
    weights: Float[Array, "channel corner"]
    slope: Float[Array, "channel corner 3"] | None = None

    def columns(self, n_nodes: int) -> Float[Array, "node channel"]:
        """The right-hand sides as the columns of a matrix."""
        n_channels = self.nodes.shape[0]
        empty = jnp.zeros((n_nodes, n_channels), self.weights.dtype)
        return empty.at[self.nodes, jnp.arange(n_channels)[:, None]].add(self.weights)

    def fixed(self) -> "SensorLoads":
        """The loads of channels that will not move: without slope, and without nodes of no weight."""
        used = np.flatnonzero(np.asarray(self.weights).any(axis=0))
        return SensorLoads(self.nodes[:, used], self.weights[:, used])

    def moved(self, offset: Float[Array, "channel 3"]) -> "SensorLoads":
        """To first order, the loads of channels that lie `offset` (m) farther; without their slope."""
        change = jnp.einsum("ckx,cx->ck", self.slope, offset, precision="highest")
        return SensorLoads(self.nodes, self.weights + change)


class Loads(Protocol):
    """What a source model makes of dipoles: how they read the transfer potentials. A pytree."""

    def field(
        self, potential: Float[Array, "node channel"], conductivity: Float[Array, "..."]
    ) -> Float[Array, "channel source 3"]:
        """Leadfield of unit dipoles along x, y and z, in V/(A m), from the channels' potentials (V/A)."""
        ...

    def direct(self, sensors: SensorLoads, conductivity: Float[Array, "..."]) -> Float[Array, "..."]:
        """What the sensors read that the nodes do not carry: (channel, source, 3), or 0."""
        ...

    def fixed(self) -> "Loads":
        """The loads of sources that will not move."""
        ...


@flax.struct.dataclass
class SourceLoads:
    """Right-hand sides of unit dipoles along x, y and z at each source. A pytree.

    Attributes:
        nodes: that a source loads.
        weights: its loads, in 1/m, so that a moment (A m) gives a current (A); they sum to zero.
        slope: what the weights change by with the source's position, in 1/m², so that the leadfield follows
            the recovered second derivative of the potential; None where it is not kept.
    """

    nodes: Int[Array, "source corner"]
    weights: Float[Array, "source corner 3"]
    slope: Float[Array, "source corner 3 3"] | None = None

    def field(
        self, potential: Float[Array, "node channel"], conductivity: Float[Array, "..."]
    ) -> Float[Array, "channel source 3"]:
        """Leadfield of unit dipoles along x, y and z; the loads do not depend on the conductivity."""
        return jnp.einsum("skc,skx->csx", potential[self.nodes], self.weights, precision="highest")

    def direct(self, sensors: SensorLoads, conductivity: Float[Array, "..."]) -> Float[Array, ""]:
        """Nothing: all of the potential is on the nodes."""
        return jnp.zeros((), self.weights.dtype)

    def fixed(self) -> "SourceLoads":
        """The loads of sources that will not move: without slope."""
        return self.replace(slope=None)

    def moved(self, offset: Float[Array, "source 3"]) -> "SourceLoads":
        """To first order, the loads of sources that lie `offset` (m) farther; without their slope."""
        change = jnp.einsum("skxy,sy->skx", self.slope, offset, precision="highest")
        return SourceLoads(self.nodes, self.weights + change)
