"""A network after training: measurements in, probabilities out."""

import flax.struct
import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxinv.networks import DirectInversionUNet


@flax.struct.dataclass
class TrainedNetwork:
    """A network whose parameters stand still. A pytree: an argument of jit, not closed over.

    Attributes:
        state: parameters and input scaling.
        graphdef: the network's static half.
    """

    state: nnx.State
    graphdef: nnx.GraphDef = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, network: DirectInversionUNet) -> "TrainedNetwork":
        """Freeze a network."""
        graphdef, state = nnx.split(network)
        return cls(state, graphdef)

    @property
    def network(self) -> DirectInversionUNet:
        """The Flax module; changing its variables leaves this one alone."""
        return nnx.merge(self.graphdef, jax.tree.map(lambda leaf: leaf, self.state))

    @jax.jit
    def logits(self, measurements: Float[Array, "batch channel"]) -> Float[Array, "batch source"]:
        """Logits of each source being active; measurements in V, referenced as in training."""
        return self.network(measurements)

    @jax.jit
    def probability(self, measurements: Float[Array, "batch channel"]) -> Float[Array, "batch source"]:
        """Probability of each source being active, in [0, 1], float32."""
        return jax.nn.sigmoid(self.network(measurements))
