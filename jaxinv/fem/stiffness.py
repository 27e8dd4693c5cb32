"""K(σ) = Σ c_p(σ) K_p: one stiffness matrix a parameter on one sparsity pattern, and its product."""

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import sparse

from jaxinv.kernels.csr_product import csr_product

# the six components of a symmetric tensor: xx, yy, zz, yz, xz, xy
ROWS, COLUMNS = np.array([0, 1, 2, 1, 0, 0]), np.array([0, 1, 2, 2, 2, 1])
UNIT_TENSORS = np.zeros((6, 3, 3))
UNIT_TENSORS[np.arange(6), ROWS, COLUMNS] = UNIT_TENSORS[np.arange(6), COLUMNS, ROWS] = 1

Parameters = Float[Array, " tissue"] | Float[Array, "tissue 3 3"]


@flax.struct.dataclass
class Stiffness:
    """Stiffness matrices of a head, one a parameter of its conductivity. A pytree.

    A tissue has one matrix for its conductivity (in m), six for the components of its tensor (in m), or
    one for a scale of its cells' tensors (in S). K is linear in all of them.

    Attributes:
        values: entries of each parameter's matrix on the common pattern.
        indices: column of each entry.
        indptr: where each row starts.
        diagonal: place of each row's diagonal among the entries.
    """

    values: Float[Array, "parameter entry"]
    indices: Int[Array, " entry"]
    indptr: Int[Array, " node_1"]
    diagonal: Int[Array, " node"]

    @classmethod
    def from_scipy(cls, matrices: list[sparse.csr_array], dtype) -> "Stiffness":
        """Puts one matrix a parameter on the pattern that holds them all, and the diagonal."""
        n = matrices[0].shape[0]
        pattern = sparse.eye_array(n, format="csr")
        for matrix in matrices:
            pattern = pattern + abs(matrix)
        pattern.sort_indices()
        keys, _ = _entries(pattern)
        values = np.zeros((len(matrices), len(keys)))
        for row, matrix in zip(values, matrices):
            own, data = _entries(matrix)
            row[np.searchsorted(keys, own)] = data
        return cls(
            values=jnp.asarray(values, dtype=dtype),
            indices=jnp.asarray(keys % n, dtype=jnp.int32),
            indptr=jnp.asarray(np.searchsorted(keys, np.arange(n + 1) * n), dtype=jnp.int32),
            diagonal=jnp.asarray(np.searchsorted(keys, np.arange(n) * (n + 1)), dtype=jnp.int32),
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

    @staticmethod
    def coefficients(conductivity: Parameters) -> Float[Array, " parameter"]:
        """The factor of each parameter's matrix: the only map from a conductivity to the matrices.

        Values (S/m) and scales of the tissues are the factors themselves. Tensors (tissue, 3, 3), in S/m,
        give xx, yy, zz, yz, xz, xy of their symmetric part, tissue by tissue; the derivative in an entry
        is that of the symmetrised tensor, so that each of two mirrored entries bears half.
        """
        if conductivity.ndim == 1:
            return conductivity
        return (conductivity[:, ROWS, COLUMNS] + conductivity[:, COLUMNS, ROWS]).reshape(-1) / 2

    def at(self, conductivity: Parameters) -> Float[Array, " entry"]:
        """Entries of K(σ), in S; linear in the conductivity, in the head's form (`coefficients`)."""
        factors = self.coefficients(jnp.asarray(conductivity))
        return jnp.einsum("p,pe->e", factors, self.values, precision="highest")

    def product(
        self, entries: Float[Array, " entry"], potential: Float[Array, "node column"]
    ) -> Float[Array, "node column"]:
        """K(σ) times potentials, given the entries that `at` returned."""
        return csr_product(entries, self.indices, self.indptr, potential)

    def dense(self, entries: Float[Array, " entry"]) -> Float[Array, "node node"]:
        """K(σ) as a dense matrix; for small ones."""
        return jnp.zeros((self.n_nodes,) * 2, entries.dtype).at[self.rows(), self.indices].set(entries)

    def rows(self) -> Int[Array, " entry"]:
        """Row of each entry."""
        return jnp.repeat(
            jnp.arange(self.n_nodes, dtype=jnp.int32),
            jnp.diff(self.indptr),
            total_repeat_length=self.indices.shape[0],
        )

    def to_scipy(self, conductivity: Parameters) -> sparse.csr_array:
        """K(σ) as a SciPy matrix."""
        factors = self.coefficients(np.asarray(conductivity, dtype=np.float64))
        return self._scipy(factors @ np.asarray(self.values, dtype=np.float64))

    def parameter_matrices(self) -> list[sparse.csr_array]:
        """The matrix of each parameter as a SciPy matrix in float64, without the pattern's zeros."""
        matrices = [self._scipy(np.array(entries, dtype=np.float64)) for entries in self.values]
        for matrix in matrices:
            matrix.eliminate_zeros()
        return matrices

    def _scipy(self, entries: Float[np.ndarray, " entry"]) -> sparse.csr_array:
        pattern = (np.array(self.indices), np.array(self.indptr))
        return sparse.csr_array((entries, *pattern), shape=(self.n_nodes,) * 2)


def _entries(
    matrix: sparse.csr_array,
) -> tuple[Int[np.ndarray, " entry"], Float[np.ndarray, " entry"]]:
    """Row × n + column of each entry that is not zero, and its value."""
    rows, columns = matrix.nonzero()
    return rows.astype(np.int64) * matrix.shape[1] + columns, matrix.data[matrix.data != 0]
