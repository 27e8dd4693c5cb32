"""Rows of a leadfield from small models of their potentials."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.forward.greedy import relative, row_factor
from jaxinv.forward.hypercircle import Hypercircle


@flax.struct.dataclass
class ReducedRows:
    """Potentials of some channels in small spaces, and the leadfield rows that they give. A pytree.

    Attributes:
        model: of the channels' potentials.
        weights: from a potential's coefficients to those of its row.
        dropped: to the coefficients that are left out of the row.
        rows: orthonormal rows of each channel, by source (and x, y, z where orientation is free).
        row_limit: norm of a row over the energy norm of its potential, at most, at the conductivities of
            `ReducedForward.row_least`.
    """

    model: Hypercircle
    weights: Float[Array, "channel part mode"]
    dropped: Float[Array, "channel rest mode"]
    rows: Float[Array, "channel part row"]
    row_limit: Float[Array, ""]

    def at(self, conductivity: Float[Array, " tissue"]) -> Float[Array, "channel row"]:
        """The rows at conductivities in S/m."""
        parts = self._parts(self.model.coefficients(conductivity))
        return jnp.einsum("cp,cpr->cr", parts, self.rows, precision="highest")

    def project(
        self, conductivity: Float[Array, " tissue"], current: Float[Array, "row *time"]
    ) -> Float[Array, "channel *time"]:
        """The rows times currents, without forming the rows."""
        seen = jnp.tensordot(self.rows, current, axes=1, precision="highest")
        parts = self._parts(self.model.coefficients(conductivity))
        return jnp.einsum("cp,cp...->c...", parts, seen, precision="highest")

    def error_bound(
        self, conductivity: Float[Array, " tissue"], row_least: Float[Array, " tissue"]
    ) -> Float[Array, " channel"]:
        """Bound on the error of each row in the L2 norm, relative to the exact row."""
        coefficients = self.model.coefficients(conductivity)
        error = self.model.energy_error(conductivity, coefficients)
        error = error * row_factor(self.row_limit, conductivity, row_least)
        cut = jnp.linalg.norm(
            jnp.einsum("cpm,cm->cp", self.dropped, coefficients, precision="highest"), axis=1
        )
        norm = jnp.hypot(jnp.linalg.norm(self._parts(coefficients), axis=1), cut)
        terms = self.weights.shape[1] + self.weights.shape[2]
        rounding = jnp.finfo(norm.dtype).eps * terms**0.5 * norm
        return jnp.where(norm == 0, 0, relative(error + cut + rounding, norm - error))

    def _parts(self, coefficients):
        return jnp.einsum("cpm,cm->cp", self.weights, coefficients, precision="highest")
