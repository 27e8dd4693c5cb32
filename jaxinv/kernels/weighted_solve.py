"""Many small systems of equations, whose symmetric matrices are weighted sums of a few.

On a CPU a kernel of our own factors as many matrices at once as a register has lanes; it forms the sums on
the way, so that they are never written to memory. XLA calls LAPACK for one matrix after the other. LAPACK's
batches share few threads, and two batches at once may wait for each other without end (jaxlib 0.10.2 on two
cores): on a CPU without LLVM each matrix is factored by itself.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float

try:
    from jaxinv.kernels import machine_code
except ImportError:  # the machine of an accelerator may do without LLVM
    machine_code = None

SERIAL = 1 << 14  # vector multiplications that are not worth a second thread
BLOCK = 4  # lines and columns of a factor made together: sixteen sums, of the 32 registers there are


def weighted_solve(
    matrices: Float[Array, "system term unknown unknown"],
    weights: Float[Array, " term"],
    right: Float[Array, "system unknown"],
) -> Float[Array, "system unknown"]:
    """Solutions of (Σ_t weights_t A_t) x = right, system by system, by Cholesky factors.

    Differentiable in everything, repeatedly, by one more solve. NaN where a sum is not positive definite.

    Args:
        matrices: symmetric.
        weights: the same for every system.
        right: hand sides.
    """

    def product(columns):
        images = jnp.einsum("stij,sj->sti", matrices, columns, precision="highest")
        return jnp.einsum("t,sti->si", weights, images, precision="highest")

    def solve(_, right):
        fixed, factors = jax.lax.stop_gradient((matrices, weights))
        return weighted_solve_p.bind(fixed, factors[None], right[None, :, None])[0, :, 0]

    return jax.lax.custom_linear_solve(product, right, solve, symmetric=True)


def _abstract(matrices, weights, right):
    if not matrices.dtype == weights.dtype == right.dtype:
        raise TypeError(
            "matrices, weights and right-hand sides must be of one precision; found "
            f"{matrices.dtype}, {weights.dtype} and {right.dtype}"
        )
    return right


def _solve_one(matrix, right):
    return cho_solve(cho_factor(matrix, lower=True), right.T).T


def _solve(matrices, weights, right, solve_one=_solve_one):
    """All samples: weights (sample, term), right-hand sides and result (sample, system, column, unknown)."""
    sums = jnp.einsum("kt,stij->ksij", weights, matrices, precision="highest")
    return jax.vmap(jax.vmap(solve_one))(sums, right)


_solve_one_by_one = partial(_solve, solve_one=sequential_vmap(_solve_one))


def _batch(arguments, axes):
    """A batch of weights is more samples, one of right-hand sides alone more columns for the same factors."""
    matrices, weights, right = arguments
    if axes[0] is not None:
        return jax.vmap(sequential_vmap(weighted_solve_p.bind), axes)(*arguments), 0
    if axes[1] is None:
        columns = jnp.moveaxis(right, axes[2], 2)
        shape = columns.shape
        flat = columns.reshape(*shape[:2], -1, shape[4])
        return weighted_solve_p.bind(matrices, weights, flat).reshape(shape), 2
    size = next(a.shape[axis] for a, axis in zip(arguments, axes) if axis is not None)

    def samples(array, axis):
        moved = (
            jnp.broadcast_to(array, (size, *array.shape)) if axis is None else jnp.moveaxis(array, axis, 0)
        )
        return moved.reshape(-1, *moved.shape[2:])

    found = weighted_solve_p.bind(matrices, samples(weights, axes[1]), samples(right, axes[2]))
    return found.reshape(size, -1, *found.shape[1:]), 0


def _summed_first(matrices, weights, right):
    """For one sample: its sums take one pass over the terms, and only they have to be arranged in lanes."""
    total = sum(weight * matrices[:, t] for t, weight in enumerate(weights[0]))
    return weighted_solve_p.bind(total[:, None], jnp.ones_like(weights[:, :1]), right)


def _lower_cpu(context, *arguments):
    matrices, weights, right = context.avals_in
    _, n_terms, n, _ = matrices.shape
    if weights.shape[0] == 1 < n_terms:
        return mlir.lower_fun(_summed_first, multiple_results=False)(context, *arguments)
    columns = right.shape[2]
    lanes = machine_code.VECTOR // right.dtype.itemsize
    scalar = machine_code.FLOATS[right.dtype]
    kernel = machine_code.register(
        "weighted_solve.ll.jinja", f"jaxinv_weighted_solve_{right.dtype}_{n_terms}_{n}_{columns}",
        right.dtype, n=n, columns=columns, terms=n_terms, triangle=n * (n + 1) // 2, lanes=lanes, block=BLOCK,
        vector=f"<{lanes} x {scalar}>", suffix=f"v{lanes}f{8 * right.dtype.itemsize}", serial=SERIAL,
        ones="<" + ", ".join([f"{scalar} 1.0"] * lanes) + ">", operands="matrices, weights, right-hand sides",
    )  # fmt: skip
    return jax.ffi.ffi_lowering(kernel)(context, *arguments)


weighted_solve_p = Primitive("weighted_solve")
weighted_solve_p.def_impl(jax.jit(lambda *arguments: weighted_solve_p.bind(*arguments)))
weighted_solve_p.def_abstract_eval(_abstract)
batching.primitive_batchers[weighted_solve_p] = _batch
mlir.register_lowering(weighted_solve_p, mlir.lower_fun(_solve, multiple_results=False))
mlir.register_lowering(
    weighted_solve_p,
    mlir.lower_fun(_solve_one_by_one, multiple_results=False) if machine_code is None else _lower_cpu,
    platform="cpu",
)
