"""Sources and sensors as loads on the nodes: what remains of them once they are placed on a mesh."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class SourceLoads:
    """Right-hand sides of unit dipoles along x, y and z at each source. A pytree.

    Attributes:
        nodes: that a source loads.
        weights: its loads, in 1/m, so that a moment (A m) gives a current (A); they sum to zero.
    """

    nodes: Int[Array, "source corner"]
    weights: Float[Array, "source corner 3"]


@flax.struct.dataclass
class SensorLoads:
    """Right-hand sides of the sensors: what each channel reads of the nodal potential. A pytree.

    Attributes:
        nodes: that a channel looks at, padded to one width.
        weights: of their potentials: 1 for an electrode in all, 0 for a field component (in 1/m).
    """

    nodes: Int[Array, "channel corner"]
    weights: Float[Array, "channel corner"]

    def columns(self, n_nodes: int) -> Float[Array, "node channel"]:
        """The right-hand sides as the columns of a matrix."""
        n_channels = self.nodes.shape[0]
        empty = jnp.zeros((n_nodes, n_channels), self.weights.dtype)
        return empty.at[self.nodes, jnp.arange(n_channels)[:, None]].add(self.weights)
