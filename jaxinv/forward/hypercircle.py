r"""Reduced potentials, and reduced currents that bound their error.

A channel's potential $u$ at conductivities $\sigma$ minimises the energy among all potentials; its current
$\sigma \nabla u$ minimises the complementary energy among all currents that balance the load. Both are
sought in small spaces spanned by solutions at chosen conductivities. The energy of the difference between
the potential found and the current found bounds the error of the potential, with no constant and for every
conductivity (Prager & Synge 1947). On the nodes: if $\sum_t K_t q_t = b$, then for any $\tilde u$

$$\lVert u - \tilde u \rVert_{K(\sigma)}^2 \le \sum_t \sigma_t^{-1} \lVert q_t - \sigma_t \tilde u
\rVert_{K_t}^2,$$

because $\langle b - K \tilde u, v \rangle = \sum_t \langle q_t - \sigma_t \tilde u, K_t v \rangle$. Every
solution $u_j$ at $\sigma_j$ gives such a current, $q_t = \sigma_{jt} u_j$, and so does every combination
whose factors sum to one.
"""

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinv.kernels.weighted_solve import weighted_solve


@flax.struct.dataclass
class Hypercircle:
    """Small models of the channels, each in a basis of its own. A pytree.

    The basis of potentials is orthonormal in the energy at `center`, that of balanced currents in the
    complementary energy there.

    Attributes:
        center: conductivities, in S/m.
        energy: matrix of each tissue in the basis of potentials.
        load: of the channel, in that basis.
        root: a factor of `energy`, R with RᵀR = energy.
        current: a current that balances the load: its potential in each tissue, times `root`.
        closed: currents that balance nothing, likewise.
        closed_energy: products of the closed currents with each other, tissue by tissue; of a current that is
            not there, one at `center`.
        mixing: from factors of the closed currents to factors of the solutions that they are made of.
        imbalance: what each solution fails to balance, in the dual norm at `center`.
    """

    center: Float[Array, " tissue"]
    energy: Float[Array, "channel tissue mode mode"]
    load: Float[Array, "channel mode"]
    root: Float[Array, "channel tissue mode mode"]
    current: Float[Array, "channel tissue mode"]
    closed: Float[Array, "channel tissue mode mode"]
    closed_energy: Float[Array, "channel tissue mode mode"]
    mixing: Float[Array, "channel solution mode"]
    imbalance: Float[Array, "channel solution"]

    def padded(self, n_modes: int) -> "Hypercircle":
        """The same models with modes added that are never used; arrays of NumPy."""
        more = n_modes - self.load.shape[1]

        def pad(array, axes):
            return np.pad(array, [(0, more if axis in axes else 0) for axis in range(np.ndim(array))])

        unused = np.zeros(n_modes)
        unused[n_modes - more :] = 1
        share = np.diag(unused)
        return Hypercircle(
            center=self.center,
            energy=pad(self.energy, (2, 3)) + share / self.center.sum(),
            load=pad(self.load, (1,)),
            root=pad(self.root, (2, 3)),
            current=pad(self.current, (2,)),
            closed=pad(self.closed, (2, 3)),
            closed_energy=pad(self.closed_energy, (2, 3)) + share / (1 / self.center).sum(),
            mixing=pad(self.mixing, (1, 2)),
            imbalance=pad(self.imbalance, (1,)),
        )

    def coefficients(self, conductivity: Float[Array, " tissue"]) -> Float[Array, "channel mode"]:
        """The potentials of least energy, in the basis of each channel."""
        return weighted_solve(self.energy, conductivity, self.load)

    def energy_error(
        self, conductivity: Float[Array, " tissue"], coefficients: Float[Array, "channel mode"]
    ) -> Float[Array, " channel"]:
        """Bound on the energy norm, at these conductivities, of the potentials' error; in √W per A."""
        weights = 1 / conductivity
        potential = jnp.einsum("ctij,cj->cti", self.root, coefficients, precision="highest")
        gap = self.current - conductivity[:, None] * potential
        right = -jnp.einsum("t,ctij,cti->cj", weights, self.closed, gap, precision="highest")
        factors = weighted_solve(self.closed_energy, weights, right)
        gap = gap + jnp.einsum("ctij,cj->cti", self.closed, factors, precision="highest")
        bound = jnp.sqrt(jnp.einsum("t,cti->c", weights, gap**2, precision="highest"))
        mixed = jnp.einsum("csj,cj->cs", self.mixing, factors, precision="highest").at[:, 0].add(1)
        left = (jnp.abs(mixed) * self.imbalance).sum(axis=1)
        return bound + left * jnp.sqrt(jnp.max(self.center / conductivity))


def build_hypercircle(
    energy: Float[np.ndarray, "channel tissue mode mode"],
    load: Float[np.ndarray, "channel mode"],
    solutions: Float[np.ndarray, "channel mode mode"],
    conductivities: Float[np.ndarray, "mode tissue"],
    imbalance: Float[np.ndarray, "channel mode"],
    center: Float[np.ndarray, " tissue"],
) -> tuple[Hypercircle, Float[np.ndarray, "channel mode mode"]]:
    """From what was collected while solving, in any basis; in float64, on the host.

    Args:
        energy: products of the basis in each tissue's stiffness matrix, in m.
        load: products of the basis with each channel's load.
        solutions: the solved potentials in the basis, one a row.
        conductivities: at which they were solved.
        imbalance: of each solution, the residual in the dual norm at `center`.
        center: conductivities at which the new bases are orthonormal.

    Returns:
        The models, and the matrices (old mode, new mode) that take new coefficients to old ones.
    """
    lower = np.linalg.cholesky(np.einsum("t,ctij->cij", center, energy))
    change = np.swapaxes(np.linalg.inv(lower), 1, 2)
    energy = (
        np.swapaxes(change, 1, 2)[:, None] @ energy @ change[:, None]
    )  # products, for BLAS: einsum is slow
    energy = (energy + np.swapaxes(energy, 2, 3)) / 2
    root = square_root(energy)
    solutions = solutions @ lower
    # potentials of the currents, times the root: (channel, solution, tissue, mode)
    currents = np.moveaxis(solutions[:, None] @ np.swapaxes(root, 2, 3), 1, 2) * conductivities[:, :, None]
    closed, factors = _orthonormal(currents[:, 1:] - currents[:, :1], center)
    n_channels, n_modes = load.shape
    padded = np.zeros((n_channels, len(center), n_modes, n_modes))
    padded[..., : n_modes - 1] = np.moveaxis(closed, 1, 3)
    closed_energy = np.swapaxes(padded, 2, 3) @ padded
    closed_energy[..., -1, -1] = 1 / (1 / center).sum()
    mixing = np.zeros((n_channels, n_modes, n_modes))
    mixing[:, 1:, : n_modes - 1] = factors
    mixing[:, 0] = -mixing[:, 1:].sum(axis=1)
    model = Hypercircle(
        center=center,
        energy=energy,
        load=np.einsum("ci,cia->ca", load, change),
        root=root,
        current=currents[:, 0],
        closed=padded,
        closed_energy=closed_energy,
        mixing=mixing,
        imbalance=imbalance,
    )
    return model, change


def square_root(matrices):
    """R with RᵀR a positive semidefinite matrix, whose tiny eigenvalues rounding may have made negative."""
    values, vectors = np.linalg.eigh(matrices)
    return np.sqrt(np.maximum(values, 0))[..., :, None] * np.swapaxes(vectors, -1, -2)


def _orthonormal(currents, center):
    """Closed currents, orthonormal in the complementary energy at the center, and their factors in the given.

    By QR in the space in which that energy is a sum of squares, so that no precision is lost to squaring.
    """
    n_channels, count, n_tissues, n_modes = currents.shape
    if count == 0:
        return currents, np.zeros((n_channels, 0, 0))
    scaled = currents / np.sqrt(center)[:, None]
    columns = np.swapaxes(scaled.reshape(n_channels, count, -1), 1, 2)
    basis, triangle = np.linalg.qr(columns)
    closed = np.swapaxes(basis, 1, 2).reshape(n_channels, count, n_tissues, n_modes)
    return closed * np.sqrt(center)[:, None], np.linalg.inv(triangle)
