"""K(σ) = Σ σ_t K_t: the stiffness of every tissue on one sparsity pattern, and its product."""

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import sparse

from jaxinv.fem.csr import csr_product


@flax.struct.dataclass
class Stiffness:
    """Stiffness matrices of a head's tissues at 1 S/m each. A pytree.

    Attributes:
        values: entries of each tissue's matrix on the common pattern, in m.
        indices: column of each entry.
        indptr: where each row starts.
        diagonal: place of each row's diagonal among the entries.
    """

    values: Float[Array, "tissue entry"]
    indices: Int[Array, " entry"]
    indptr: Int[Array, " node_1"]
    diagonal: Int[Array, " node"]

    @classmethod
    def from_scipy(cls, matrices: list[sparse.csr_array], dtype) -> "Stiffness":
        """Puts one matrix a tissue on the pattern that holds them all."""
        n = matrices[0].shape[0]
        keys = []
        for matrix in matrices:
            entries = matrix.tocoo()
            keys.append(entries.row.astype(np.int64) * n + entries.col)
        diagonal = np.arange(n, dtype=np.int64) * (n + 1)
        pattern = np.unique(np.concatenate([*keys, diagonal]))
        values = np.zeros((len(matrices), len(pattern)))
        for row, key, matrix in zip(values, keys, matrices):
            row[np.searchsorted(pattern, key)] = matrix.tocoo().data
        return cls(
            values=jnp.asarray(values, dtype=dtype),
            indices=jnp.asarray(pattern % n, dtype=jnp.int32),
            indptr=jnp.asarray(np.searchsorted(pattern, np.arange(n + 1) * n), dtype=jnp.int32),
            diagonal=jnp.asarray(np.searchsorted(pattern, diagonal), dtype=jnp.int32),
        )

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return self.diagonal.shape[0]

    def astype(self, dtype) -> "Stiffness":
        """The matrices on the device, in another precision."""
        return Stiffness(
            jnp.asarray(self.values, dtype=dtype),
            *map(jnp.asarray, (self.indices, self.indptr, self.diagonal)),
        )

    def at(self, conductivity: Float[Array, " tissue"]) -> Float[Array, " entry"]:
        """Entries of K(σ), in S; linear in the conductivities (S/m)."""
        return jnp.einsum("t,te->e", conductivity, self.values, precision="highest")

    def product(
        self, entries: Float[Array, " entry"], potential: Float[Array, "node column"]
    ) -> Float[Array, "node column"]:
        """K(σ) times potentials, given the entries that `at` returned."""
        return csr_product(entries, self.indices, self.indptr, potential)

    def dense(self, entries: Float[Array, " entry"]) -> Float[Array, "node node"]:
        """K(σ) as a dense matrix; for small ones."""
        rows = jnp.repeat(jnp.arange(self.n_nodes), jnp.diff(self.indptr), total_repeat_length=len(entries))
        return jnp.zeros((self.n_nodes,) * 2, entries.dtype).at[rows, self.indices].set(entries)

    def to_scipy(self, conductivity: Float[np.ndarray, " tissue"]) -> sparse.csr_array:
        """K(σ) as a SciPy matrix."""
        entries = np.asarray(conductivity, dtype=np.float64) @ np.asarray(self.values, dtype=np.float64)
        return sparse.csr_array(
            (entries, np.asarray(self.indices), np.asarray(self.indptr)), shape=(self.n_nodes,) * 2
        )
