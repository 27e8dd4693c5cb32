"""Sparse matrices that are the same in NumPy and JAX: rows compressed, products without scatter-add."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jax.experimental import sparse as jax_sparse
from jaxtyping import Array, Float, Int
from scipy import sparse


@struct.dataclass
class Pattern:
    """Where a matrix has entries: compressed sparse rows, columns sorted within a row. A pytree."""

    indices: Int[Array, " nnz"]
    indptr: Int[Array, " row+1"]
    shape: tuple[int, int] = struct.field(pytree_node=False)

    @classmethod
    def of(cls, matrix: sparse.csr_array) -> "Pattern":
        """Pattern of a SciPy matrix with sorted columns."""
        return cls(matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32), matrix.shape)

    def scipy(self, values: Float[Array, " nnz"]) -> sparse.csr_array:
        """The SciPy matrix with these values."""
        parts = tuple(np.asarray(part) for part in (values, self.indices, self.indptr))
        return sparse.csr_array(parts, shape=self.shape)


def matmul(
    pattern: Pattern, values: Float[Array, " nnz"], columns: Float[Array, "col vector"]
) -> Float[Array, "row vector"]:
    """Sparse matrix times dense columns. Compiles for CPU and GPU; not for differentiation.

    On the CPU this is Eigen's product, on a GPU cuSPARSE's.
    """

    def eigen(values, indices, indptr, columns):
        return jax_sparse.BCSR((values, indices, indptr), shape=pattern.shape) @ columns

    def cusparse(values, indices, indptr, columns):
        return jax_sparse.CSR((values, indices, indptr), shape=pattern.shape) @ columns

    return lax.platform_dependent(
        values, pattern.indices, pattern.indptr, columns, cpu=eigen, default=cusparse
    )


def stack_on_one_pattern(
    matrices: list[sparse.csr_array],
) -> tuple[Float[np.ndarray, "matrix nnz"], Pattern]:
    """Values of several matrices on the union of their patterns (entries that cancel stay)."""
    for matrix in matrices:
        matrix.sum_duplicates()
    union = sparse.csr_array(matrices[0].shape, dtype=np.int8)
    for matrix in matrices:
        ones = sparse.csr_array((np.ones(matrix.nnz, np.int8), matrix.indices, matrix.indptr), matrix.shape)
        union = union + ones
        union.data[:] = 1
    union.sum_duplicates()
    keys = _keys(union)
    values = np.zeros((len(matrices), union.nnz))
    for row, matrix in zip(values, matrices):
        row[np.searchsorted(keys, _keys(matrix))] = matrix.data
    return values, Pattern.of(union)


def _keys(matrix: sparse.csr_array) -> Int[np.ndarray, " nnz"]:
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    return rows * matrix.shape[1] + matrix.indices


def diagonal_index(pattern: Pattern) -> Int[np.ndarray, " row"]:
    """Where in the values each row's diagonal entry lies."""
    ones = sparse.csr_array(
        (np.arange(1, len(pattern.indices) + 1), pattern.indices, pattern.indptr), pattern.shape
    )
    return (ones.diagonal() - 1).astype(np.int32)


def count_bytes(tree) -> int:
    """Memory of the arrays of a pytree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if isinstance(leaf, jnp.ndarray | np.ndarray))
