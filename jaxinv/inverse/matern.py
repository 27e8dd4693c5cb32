"""Matérn fields on a triangulated surface: the covariance of a stochastic PDE, never formed whole."""

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse.linalg import splu

from jaxinv.inverse.validation import check_positive

_BLOCK = 512  # unit vectors that are solved for together


class MaternCorrelation:
    r"""Correlation of a Matérn field on a surface.

    The field solves $(\kappa^2 - \Delta)^{(\nu + 1) / 2} x = \text{white noise}$ by linear finite elements,
    so that distance is along the surface: with $K = \kappa^2 M + S$ (lumped mass, stiffness) its covariance
    is $(K^{-1} M)^\nu K^{-1}$, which is divided by its standard deviations, as they rise towards the edge of
    an open surface. Far from edges two points at a distance $d$ correlate by $\tfrac{2^{1 - \nu}}
    {\Gamma(\nu)} (\kappa d)^\nu K_\nu(\kappa d)$, where $\kappa = \sqrt{2 \nu} / \ell$. A vertex without
    triangles is independent of all others. On the host, in float64.

    Args:
        positions: of the vertices, in m.
        faces: triangles, indices into the vertices.
        length: $\ell$, in m, > 0. Much below the edges of the mesh, vertices are independent.
        smoothness: $\nu$, an integer ≥ 1; the field has $\nu - 1$ derivatives and a little more.

    Raises:
        ValueError: for positions or triangles of a wrong shape, indices of no vertex, a triangle without
            area, or an argument out of its range.

    References:
        Lindgren, Rue & Lindström 2011, doi:10.1111/j.1467-9868.2011.00777.x.
    """

    def __init__(
        self,
        positions: Float[np.ndarray, "source 3"],
        faces: Int[np.ndarray, "face 3"],
        *,
        length: float,
        smoothness: int = 1,
    ):
        from jaxinv.mesh.surface_elements import surface_elements  # libigl: not for all of the package

        check_positive("length", length)
        if smoothness != int(smoothness) or smoothness < 1:
            raise ValueError(f"smoothness must be an integer of 1 or more; found {smoothness}")
        self.smoothness = int(smoothness)
        mass, stiffness = surface_elements(np.asarray(positions) / length, faces)
        self._mass = np.where(mass > 0, mass, mass[mass > 0].mean())
        operator = sparse.diags_array(2 * self.smoothness * self._mass) + stiffness
        factor = splu(operator.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
        self._solve = factor.solve
        self._amplitude = 1 / np.sqrt(self._variance())

    def times(self, columns: Float[np.ndarray, "source column"]) -> Float[np.ndarray, "source column"]:
        """The product of the correlation matrix and some columns."""
        columns = self._solve(np.asarray(columns, np.float64) * self._amplitude[:, None])
        for _ in range(self.smoothness):
            columns = self._solve(self._mass[:, None] * columns)
        return columns * self._amplitude[:, None]

    def _variance(self):
        """Diagonal of the covariance: lengths of the columns of a root of it, which is solved for whole."""
        n_sources, variance = len(self._mass), []
        for start in range(0, n_sources, _BLOCK):
            columns = np.zeros((n_sources, min(_BLOCK, n_sources - start)))
            np.fill_diagonal(columns[start:], 1)
            for _ in range((self.smoothness + 1) // 2):
                columns = self._mass[:, None] * self._solve(columns)
            other = self._solve(columns) if self.smoothness % 2 == 0 else columns / self._mass[:, None]
            variance.append(np.einsum("sc,sc->c", columns, other))
        return np.concatenate(variance)
