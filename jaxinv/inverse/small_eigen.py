"""Eigenvalues of many symmetric 3 × 3 matrices at once, as arithmetic on whole arrays."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_SWEEPS = 6  # Jacobi's sweeps converge quadratically: five reach rounding


def gram(
    left: Float[Array, "3 channel source"], right: Float[Array, "3 channel source"]
) -> Float[Array, "3 3 source"]:
    """Products of the three columns of each source with one another."""
    return jnp.sum(left[:, None] * right[None], axis=2)


def eigen(matrix: Float[Array, "3 3 source"]) -> tuple[Float[Array, "3 source"], Float[Array, "3 3 source"]]:
    """Eigenvalues in no order, and eigenvectors (component, eigenvalue, source), by Jacobi's rotations.

    As accurate as LAPACK's, to a few units of rounding of the largest eigenvalue, and orthonormal likewise.

    References:
        Golub & Van Loan 2013, "Matrix Computations", section 8.5.
    """

    vectors = jnp.broadcast_to(jnp.eye(3, dtype=matrix.dtype)[..., None], matrix.shape)
    turns = 3 * _SWEEPS
    matrix, vectors = jax.lax.fori_loop(0, turns, lambda _, state: _rotate(*state), (matrix, vectors))
    return jnp.stack([matrix[i, i] for i in range(3)]), vectors


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def inverse_power(
    matrix: Float[Array, "3 3 source"], power: float, rtol: float
) -> Float[Array, "3 3 source"]:
    """A matrix to the power of −`power`, without eigenvalues below `rtol` times the largest or its rounding.

    Differentiable for powers 1 and 1/2, also where eigenvalues coincide; what is left out stays left out.
    """
    inverse, vectors = _inverse_values(matrix, rtol)
    return product(vectors * inverse**power, jnp.swapaxes(vectors, 0, 1))


@inverse_power.defjvp
def _inverse_power_jvp(power, rtol, primals, tangents):
    """By first divided differences of λ^−power (Daleckii and Krein)."""
    inverse, vectors = _inverse_values(primals[0], rtol)
    transposed = jnp.swapaxes(vectors, 0, 1)
    pair = inverse[:, None] * inverse[None]
    if power == 0.5:
        roots = jnp.sqrt(inverse)
        total = roots[:, None] + roots[None]
        pair = pair / jnp.where(total > 0, total, 1)
    change = product(product(transposed, tangents[0]), vectors)
    result = product(vectors * inverse**power, transposed)
    return result, -product(product(vectors, pair * change), transposed)


def _inverse_values(matrix, rtol):
    values, vectors = eigen(matrix)
    least = max(rtol, 10 * float(jnp.finfo(matrix.dtype).eps))
    kept = values > least * jnp.max(values, axis=0)
    return jnp.where(kept, 1 / jnp.where(kept, values, 1), 0), vectors


@jax.custom_jvp
def largest(matrix: Float[Array, "3 3 source"]) -> tuple[Float[Array, " source"], Float[Array, "3 source"]]:
    """Largest eigenvalue and its eigenvector; differentiable (vectors of two equal ones held constant)."""
    return _largest(*eigen(matrix))


@largest.defjvp
def _largest_jvp(primals, tangents):
    values, vectors = eigen(primals[0])
    value, vector = _largest(values, vectors)
    gap = value - values
    pushed = product(tangents[0], vector)
    along = product(jnp.swapaxes(vectors, 0, 1), pushed)
    share = jnp.where(gap > 0, along / jnp.where(gap > 0, gap, 1), 0)
    return (value, vector), (jnp.sum(vector * pushed, axis=0), product(vectors, share))


def _largest(values, vectors):
    index = jnp.argmax(values, axis=0)
    vector = jnp.take_along_axis(vectors, index[None, None], axis=1)[:, 0]
    return jnp.max(values, axis=0), vector


def product(
    left: Float[Array, "i j source"], right: Float[Array, "j ... source"]
) -> Float[Array, "i ... source"]:
    """Matrix product for each source."""
    return sum(jnp.expand_dims(left[:, j], tuple(range(1, right.ndim - 1))) * right[j] for j in range(3))


def _rotate(matrix, vectors):
    """Rotate the first two axes so that the entry between them vanishes, and call the second the first."""
    off = matrix[0, 1]
    nothing = off == 0
    slope = (matrix[1, 1] - matrix[0, 0]) / (2 * jnp.where(nothing, 1, off))
    tangent = jnp.where(slope < 0, -1, 1) / (jnp.abs(slope) + jnp.hypot(slope, jnp.ones_like(slope)))
    tangent = jnp.where(nothing, 0, tangent)
    cosine = 1 / jnp.sqrt(1 + tangent**2)
    sine = tangent * cosine

    def turn(columns):
        """Of (row, column, source)."""
        first, second, third = columns[:, 0], columns[:, 1], columns[:, 2]
        return jnp.stack([sine * first + cosine * second, third, cosine * first - sine * second], axis=1)

    matrix = turn(jnp.swapaxes(turn(matrix), 0, 1))
    return matrix.at[0, 2].set(0).at[2, 0].set(0), turn(vectors)
