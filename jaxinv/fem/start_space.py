"""Where a solve starts: the best combination of potentials solved for beforehand."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.fem.stiffness import Parameters, Stiffness


@flax.struct.dataclass
class StartSpace:
    """Orthonormal potentials for each channel, and the operator projected onto them. A pytree.

    The guess at a conductivity is the Galerkin solution in the space: the error that remains for the
    solver is the smallest in the energy norm.

    Attributes:
        basis: potentials, orthonormal for each channel.
        projected: each parameter's stiffness matrix in the basis of each channel.
        loads: right-hand side of each channel in its basis.
    """

    basis: Float[Array, "mode node channel"]
    projected: Float[Array, "channel parameter mode mode"]
    loads: Float[Array, "channel mode"]

    @classmethod
    def empty(cls, stiffness: Stiffness, n_channels: int, dtype) -> "StartSpace":
        """A space of no modes, whose guess is zero."""
        n_parameters = stiffness.values.shape[0]
        return cls(
            jnp.zeros((0, stiffness.n_nodes, n_channels), dtype),
            jnp.zeros((n_channels, n_parameters, 0, 0), dtype),
            jnp.zeros((n_channels, 0), dtype),
        )

    def guess(self, conductivity: Parameters) -> Float[Array, "node channel"]:
        """Galerkin solution at a conductivity (S/m), in V."""
        if self.basis.shape[0] == 0:
            return jnp.zeros(self.basis.shape[1:], self.basis.dtype)
        factors = Stiffness.coefficients(conductivity)
        matrices = jnp.einsum("p,cpij->cij", factors, self.projected, precision="highest")
        weights = jnp.linalg.solve(matrices, self.loads[..., None])[..., 0]
        return _combined(self.basis, weights.T)

    def extended(
        self,
        stiffness: Stiffness,
        potential: Float[Array, "node channel"],
        loads: Float[Array, "node channel"],
    ) -> "StartSpace":
        """The space with one potential more; `loads` are the right-hand sides of the solves."""
        mode = potential
        for _ in range(2):  # twice is enough for orthogonality to rounding
            mode = mode - _combined(self.basis, _overlap(self.basis, mode))
            mode = mode / jnp.linalg.norm(mode, axis=0)
        basis = jnp.concatenate([self.basis, mode[None]])
        images = [_overlap(basis, stiffness.product(values, mode)) for values in stiffness.values]
        row = jnp.transpose(jnp.stack(images), (2, 0, 1))
        grown = jnp.concatenate([self.projected, row[:, :, None, :-1]], axis=2)
        projected = jnp.concatenate([grown, row[..., None]], axis=3)
        load = (mode * loads).sum(axis=0)[:, None]
        return StartSpace(basis, projected, jnp.concatenate([self.loads, load], axis=1))


# Channel by channel, so that a matrix product would be a batch of thin ones: sums stream faster.


@jax.jit
def _overlap(
    basis: Float[Array, "mode node channel"], columns: Float[Array, "node channel"]
) -> Float[Array, "mode channel"]:
    return (basis * columns).sum(axis=1)


@jax.jit
def _combined(
    basis: Float[Array, "mode node channel"], weights: Float[Array, "mode channel"]
) -> Float[Array, "node channel"]:
    return (basis * weights[:, None]).sum(axis=0)
