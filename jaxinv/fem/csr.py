"""A compressed-sparse-row matrix times many vectors, as a JAX primitive.

JAX's own sparse product is what runs. The primitive adds what a solver needs around it: a symmetric
matrix is its own transpose, the derivative in the matrix's values is gathered in blocks of bounded
memory, and `vmap` over vectors becomes more columns. Nothing here scatters.
"""

import jax
import jax.numpy as jnp
from jax.experimental import sparse
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, Int

BLOCK = 1 << 16  # matrix entries whose derivative is gathered at a time


def csr_product(
    values: Float[Array, " entry"],
    indices: Int[Array, " entry"],
    indptr: Int[Array, " row_1"],
    columns: Float[Array, "node column"],
) -> Float[Array, "row column"]:
    """Product of a sparse with a dense matrix.

    Differentiable, forwards and backwards, in `values`; in `columns` too, where the reverse derivative
    takes the matrix to be symmetric, as a stiffness matrix is.
    """
    return csr_product_p.bind(values, indices, indptr, columns)


def _run(values, indices, indptr, columns):
    shape = (indptr.shape[0] - 1, columns.shape[0])
    matrix = sparse.BCSR((values, indices, indptr), shape=shape, indices_sorted=True, unique_indices=True)
    return matrix @ columns


def _abstract(values, indices, indptr, columns):
    return columns.update(shape=(indptr.shape[0] - 1, columns.shape[1]))


def _transpose(cotangent, values, indices, indptr, columns):
    if ad.is_undefined_primal(values):
        return _values_cotangent(cotangent, indices, indptr, columns), None, None, None
    return None, None, None, csr_product(values, indices, indptr, cotangent)


def _values_cotangent(cotangent, indices, indptr, columns):
    """Sum over columns of cotangent[row] * columns[column], for every entry; a block at a time."""
    cotangent, columns = jnp.asarray(cotangent), jnp.asarray(columns)
    n_entries = indices.shape[0]
    rows = jnp.repeat(
        jnp.arange(indptr.shape[0] - 1, dtype=jnp.int32), jnp.diff(indptr), total_repeat_length=n_entries
    )
    n_blocks = -(-n_entries // BLOCK)
    padding = (0, n_blocks * BLOCK - n_entries)
    pairs = (jnp.pad(rows, padding).reshape(n_blocks, -1), jnp.pad(indices, padding).reshape(n_blocks, -1))
    blocks = jax.lax.map(lambda pair: (cotangent[pair[0]] * columns[pair[1]]).sum(axis=1), pairs)
    return blocks.reshape(-1)[:n_entries]


def _batch(arguments, axes):
    values, indices, indptr, columns = arguments
    values_axis, _, _, columns_axis = axes
    if values_axis is None:
        stacked = jnp.moveaxis(columns, columns_axis, -1)
        flat = stacked.reshape(stacked.shape[0], -1)
        product = csr_product(values, indices, indptr, flat)
        return product.reshape(product.shape[0], *stacked.shape[1:]), 2
    size = values.shape[values_axis]
    values = jnp.moveaxis(values, values_axis, 0)
    if columns_axis is None:
        columns = jnp.broadcast_to(columns, (size, *columns.shape))
    else:
        columns = jnp.moveaxis(columns, columns_axis, 0)
    return jax.lax.map(lambda pair: csr_product(pair[0], indices, indptr, pair[1]), (values, columns)), 0


csr_product_p = Primitive("csr_product")
csr_product_p.def_impl(jax.jit(_run))
csr_product_p.def_abstract_eval(_abstract)
mlir.register_lowering(csr_product_p, mlir.lower_fun(_run, multiple_results=False))
ad.defjvp(
    csr_product_p,
    lambda tangent, values, indices, indptr, columns: csr_product(tangent, indices, indptr, columns),
    None,
    None,
    lambda tangent, values, indices, indptr, columns: csr_product(values, indices, indptr, tangent),
)
ad.primitive_transposes[csr_product_p] = _transpose
batching.primitive_batchers[csr_product_p] = _batch
