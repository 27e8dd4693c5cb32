"""A compressed-sparse-row matrix times many vectors, as a JAX primitive.

On a CPU a kernel of our own runs, elsewhere JAX's sparse product. XLA's product for a CPU keeps no sums in
registers and knows no wide vectors; ours holds a row of the result in registers while it runs along a row of
the matrix, for a number of columns that is known when it is compiled; it can add to what the result holds,
and take inner products of the result on the way. The primitive adds what a solver needs around it: a
symmetric matrix is its own transpose, the derivative in the matrix's values is gathered in blocks of bounded
memory, and `vmap` over vectors becomes more columns. On a CPU nothing scatters.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jax.experimental import sparse
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, Int

try:
    from jaxinv.kernels import machine_code
except ImportError:  # the machine of an accelerator may do without LLVM
    machine_code = None

BLOCK = 1 << 16  # matrix entries whose derivative is gathered at a time
SUMS = 8  # vectors that are summed in at a time
AHEAD = 32  # entries of the matrix by which columns are fetched before they are needed
SERIAL = 1 << 18  # multiplications that are not worth a second thread


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
    if values.dtype != columns.dtype or indices.dtype != np.int32 or indptr.dtype != np.int32:
        raise TypeError(
            "a matrix and the columns that it multiplies must be of one precision, its indices int32; found "
            f"{values.dtype}, {columns.dtype}, {indices.dtype} and {indptr.dtype}"
        )
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
        product = csr_product(values, indices, indptr, stacked.reshape(stacked.shape[0], -1))
        return product.reshape(product.shape[0], *stacked.shape[1:]), 2
    return _one_by_one(csr_product, arguments, axes), 0


def _one_by_one(function, arguments, axes):
    """One member of the batch after the other, for matrices that differ."""
    return jax.vmap(sequential_vmap(function), axes)(*arguments)


def csr_product_inner(
    values: Float[Array, " entry"],
    indices: Int[Array, " entry"],
    indptr: Int[Array, " row_1"],
    columns: Float[Array, "node column"],
    against: Float[Array, "row column"],
    onto: Float[Array, "row column"] | None = None,
) -> tuple[Float[Array, "row column"], Float[Array, " column"]]:
    """A product, added to `onto`, and its inner products with `against`, column by column, in one pass.

    For solvers: it has no derivative.
    """
    added = [] if onto is None else [onto]
    return tuple(csr_product_inner_p.bind(values, indices, indptr, columns, *added, against))


def _run_inner(values, indices, indptr, columns, *rest):
    product = sum(rest[:-1], _run(values, indices, indptr, columns))
    return product, (product * rest[-1]).sum(axis=0)


def _abstract_inner(values, indices, indptr, columns, *rest):
    product = _abstract(values, indices, indptr, columns)
    return product, columns.update(shape=columns.shape[1:])


def _batch_inner(arguments, axes):
    return _one_by_one(csr_product_inner_p.bind, arguments, axes), (0, 0)


def _lower_cpu(context, *arguments):
    return jax.ffi.ffi_lowering(_kernel(*context.avals_in))(context, *arguments)


def _lower_inner_cpu(context, *arguments):
    values, indices, indptr, columns, *rest = context.avals_in
    onto = len(rest) == 2
    kernel = _kernel(values, indices, indptr, columns, onto=onto, against=True)
    aliases = {4: 0} if onto else None
    return jax.ffi.ffi_lowering(kernel, operand_output_aliases=aliases)(context, *arguments)


def _kernel(values, indices, indptr, columns, *, onto: bool = False, against: bool = False) -> str:
    """Name of the kernel for operands like these.

    Args:
        values: entries of the matrix.
        indices: columns of the entries, of 32 bits.
        indptr: where rows start, of 32 bits.
        columns: of the dense matrix.
        onto: whether the product is added to an operand that shares its memory.
        against: whether the inner products of the result with one more operand are a second result.
    """
    n_columns, dtype = columns.shape[1], values.dtype
    operands = "values, indices, indptr, columns" + ", onto" * onto + ", against" * against
    return machine_code.register(
        "csr_product.ll.jinja", f"jaxinv_csr_{dtype}_{n_columns}" + "_onto" * onto + "_against" * against,
        dtype, columns=n_columns, tiles=_tiles(n_columns, dtype), serial=SERIAL, ahead=AHEAD, onto=onto,
        against=against, operands=operands,
    )  # fmt: skip


def _tiles(n_columns: int, dtype) -> list[list[dict]]:
    """Columns as vectors of full width, then of halves of it; some in a tile."""
    lanes, vectors, first = machine_code.VECTOR // dtype.itemsize, [], 0
    while first < n_columns:
        while first + lanes > n_columns:
            lanes //= 2
        kind = f"<{lanes} x {machine_code.FLOATS[dtype]}>"
        vectors.append({"k": len(vectors), "first": first, "width": lanes, "kind": kind})
        first += lanes
    return [vectors[k : k + SUMS] for k in range(0, len(vectors), SUMS)]


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

csr_product_inner_p = Primitive("csr_product_inner")
csr_product_inner_p.multiple_results = True
csr_product_inner_p.def_impl(jax.jit(_run_inner))
csr_product_inner_p.def_abstract_eval(_abstract_inner)
mlir.register_lowering(csr_product_inner_p, mlir.lower_fun(_run_inner, multiple_results=True))
batching.primitive_batchers[csr_product_inner_p] = _batch_inner

if machine_code is not None:
    mlir.register_lowering(csr_product_p, _lower_cpu, platform="cpu")
    mlir.register_lowering(csr_product_inner_p, _lower_inner_cpu, platform="cpu")
