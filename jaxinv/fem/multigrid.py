"""A symmetric multigrid V-cycle that follows the conductivities: the preconditioner of the solver."""

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import sparse

from jaxinv.fem.stiffness import Parameters, Stiffness
from jaxinv.kernels.csr_product import csr_product, csr_product_inner

Columns = Float[Array, "node column"]

DAMPING = 1.5  # of a Jacobi sweep, over the spectral radius of D⁻¹K: best for one (Lottes 2023, table 1)


@flax.struct.dataclass
class Prolongation:
    """From a coarse level to the one above it, followed by a sweep there. A pytree.

    Attributes:
        plain: entries of the prolongation P itself, on the pattern of the swept one.
        images: entries of each parameter's K P.
        rows: of the entries.
        indices: columns of the entries.
        indptr: where each row starts.
        order: place of each entry of the transpose.
        transposed_indices: columns of the transpose's entries.
        transposed_indptr: where each of its rows starts.
    """

    plain: Float[Array, " entry"]
    images: Float[Array, "parameter entry"]
    rows: Int[Array, " entry"]
    indices: Int[Array, " entry"]
    indptr: Int[Array, " node_1"]
    order: Int[Array, " entry"]
    transposed_indices: Int[Array, " entry"]
    transposed_indptr: Int[Array, " coarse_1"]

    @classmethod
    def from_scipy(
        cls, prolongation: sparse.csr_array, matrices: list[sparse.csr_array], dtype
    ) -> "Prolongation":
        """Of a prolongation and the upper level's stiffness matrices, one a parameter."""
        images = [sparse.csr_array(matrix @ prolongation) for matrix in matrices]
        pattern = sparse.csr_array(sum(map(abs, images), abs(prolongation)))
        pattern.sort_indices()
        rows, columns = pattern.nonzero()
        numbered = sparse.csr_array(
            (np.arange(1, pattern.nnz + 1), pattern.indices, pattern.indptr), pattern.shape
        )
        transposed = sparse.csr_array(numbered.T)

        def on_pattern(matrix):
            return np.asarray((matrix + 0 * pattern).tocsr()[rows, columns]).ravel()

        integers = (rows, columns, pattern.indptr, transposed.data - 1, transposed.indices, transposed.indptr)
        return cls(
            jnp.asarray(on_pattern(prolongation), dtype),
            jnp.asarray(np.stack([on_pattern(image) for image in images]), dtype),
            *(jnp.asarray(array, jnp.int32) for array in integers),
        )

    def swept(
        self, factors: Float[Array, " parameter"], weights: Float[Array, " node"]
    ) -> Float[Array, " entry"]:
        """Prolongation after a sweep, P - W K(σ) P, with diagonal weights W."""
        image = jnp.einsum("p,pe->e", factors, self.images, precision="highest")
        return self.plain - weights[self.rows] * image


@flax.struct.dataclass
class Level:
    """A coarse level, and the way up from it. A pytree.

    Attributes:
        prolongation: to the level above.
        stiffness: Galerkin matrices of the parameters on this level.
        radius: spectral radius of this level's D⁻¹K.
    """

    prolongation: Prolongation
    stiffness: Stiffness
    radius: Float[Array, ""]


@flax.struct.dataclass
class Hierarchy:
    """All levels below the finest, in single precision. A pytree.

    The aggregates are fixed; all matrices are sums over the parameters, so that the cycle follows the
    conductivities on every level.

    Attributes:
        radius: spectral radius of the finest level's D⁻¹K.
        levels: from the second finest to the coarsest.
        kernel: unit vector of the coarsest level that stands for a constant potential.
    """

    radius: Float[Array, ""]
    levels: tuple[Level, ...]
    kernel: Float[Array, " node"]


@flax.struct.dataclass
class VCycle:
    r"""The cycle at given conductivities, with a damped Jacobi sweep $W = \omega D^{-1}$ on each side.

    Two sweeps and the coarse correction are multiplied out into sparse matrices,

    $$M = Q + \tilde P M_c \tilde P^T, \quad Q = 2 W - W K W, \quad \tilde P = (I - W K) P,$$

    so that a level costs three sparse products and next to no passes over vectors. As the sweep contracts,
    $0 < \langle x, M x \rangle \le \langle x, K^{-1} x \rangle$. A pytree.

    Attributes:
        hierarchy: the coarse levels.
        stiffness: the finest level, in single precision.
        relaxations: entries of Q on each level but the coarsest.
        prolongations: entries of P̃ to each level but the coarsest.
        restrictions: those of its transpose.
        inverse: of the coarsest level's matrix.

    References:
        Vassilevski & Yang 2014, doi:10.1002/nla.1924 (the additive form of a multiplicative cycle).
    """

    hierarchy: Hierarchy
    stiffness: Stiffness
    relaxations: tuple[Float[Array, " entry"], ...]
    prolongations: tuple[Float[Array, " entry"], ...]
    restrictions: tuple[Float[Array, " entry"], ...]
    inverse: Float[Array, "coarse coarse"]

    @classmethod
    def at(cls, hierarchy: Hierarchy, stiffness: Stiffness, conductivity: Parameters) -> "VCycle":
        """At conductivities in S/m; `stiffness` in single precision."""
        factors = Stiffness.coefficients(conductivity)
        radii = [hierarchy.radius, *(level.radius for level in hierarchy.levels)]
        grids = [stiffness, *(level.stiffness for level in hierarchy.levels)]
        relaxations, prolongations, restrictions = [], [], []
        for matrices, radius, level in zip(grids, radii, hierarchy.levels):
            entries = matrices.at(conductivity)
            weights = DAMPING / (radius * entries[matrices.diagonal])
            relaxations.append(_relaxation(matrices, entries, weights))
            prolongations.append(level.prolongation.swept(factors, weights))
            restrictions.append(prolongations[-1][level.prolongation.order])
        matrix = grids[-1].dense(grids[-1].at(conductivity))
        # a constant potential has no image; giving it one makes the matrix definite and changes nothing else
        shift = jnp.trace(matrix) / len(matrix) * jnp.outer(hierarchy.kernel, hierarchy.kernel)
        inverse = jnp.linalg.inv(matrix + shift)
        return cls(
            hierarchy, stiffness, tuple(relaxations), tuple(prolongations), tuple(restrictions), inverse
        )

    def __call__(self, residual: Columns) -> tuple[Columns, Float[Array, " column"]]:
        """M r and <r, M r>, column by column.

        M is symmetric, and positive on all that is orthogonal to constants.
        """
        return self._cycle(0, residual)

    def _cycle(self, depth: int, residual: Columns) -> tuple[Columns, Float[Array, " column"]]:
        if depth == len(self.hierarchy.levels):
            corrected = jnp.matmul(self.inverse, residual, precision="highest")
            return corrected, (corrected * residual).sum(axis=0)
        matrices = self.hierarchy.levels[depth - 1].stiffness if depth else self.stiffness
        way = self.hierarchy.levels[depth].prolongation
        down = (self.restrictions[depth], way.transposed_indices, way.transposed_indptr)
        up = (self.prolongations[depth], way.indices, way.indptr)
        coarse, _ = self._cycle(depth + 1, csr_product(*down, residual))
        relaxed = matrices.product(self.relaxations[depth], residual)
        return csr_product_inner(*up, coarse, against=residual, onto=relaxed)


def _relaxation(
    matrices: Stiffness, entries: Float[Array, " entry"], weights: Float[Array, " node"]
) -> Float[Array, " entry"]:
    """Two sweeps as one matrix, 2 W - W K W, on the pattern of K."""
    scaled = -weights[matrices.rows()] * entries * weights[matrices.indices]
    return scaled.at[matrices.diagonal].add(2 * weights, unique_indices=True, indices_are_sorted=True)
