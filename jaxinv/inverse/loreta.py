"""LORETA: the smoothest current on a cortical mesh, by a Laplacian prior that is never inverted whole."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import sparse
from scipy.sparse.linalg import splu

from jaxinv.inverse.estimator import LinearEstimator
from jaxinv.inverse.minimum_norm import kernel_of_prior
from jaxinv.inverse.source_prior import source_prior
from jaxinv.inverse.validation import check_leadfield, check_noise_cov, check_positive, check_triangles
from jaxinv.inverse.whitening import whitener

_matmul = partial(jnp.matmul, precision="highest")


def loreta(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    mesh: Int[Array, "cell corner"],
    *,
    snr: float = 3.0,
    depth: float | None = None,
    length: float = 10.0,
) -> LinearEstimator:
    r"""LORETA estimator: a minimum norm whose source covariance is $R = D (B^T B)^{-1} D$.

    $B = (1 + \kappa) I - N$, where $N$ averages a source's neighbours in the mesh and
    $\kappa = 1 / (4\,\mathrm{length}^2)$; $D^2$ are the depth weights; and $R$ is scaled to
    $\mathrm{tr}(\tilde L R \tilde L^T) = \mathrm{rank}(C)$, as in `minimum_norm_kernel`. With free
    orientation each component is smooth by itself. Sources without neighbours are independent. Made on the
    host, once, from concrete arrays; the estimator itself is differentiable in the measurements.

    Args:
        leadfield: $L$, in V/(A m).
        noise_cov: $C$, in V², same reference; may lack ranks.
        mesh: edges (edge, 2) or triangles (face, 3), indices into the sources: `SourceSpace.faces`.
        snr: amplitude signal-to-noise ratio, > 0.
        depth: exponent in [0, 1] of depth weighting, as in `minimum_norm_kernel`.
        length: distance over which currents are alike, in edges of the mesh. Without it (infinite) the
            mean of a closed surface would be free.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, indices of no source, arrays
            that are traced, or an argument out of its range.

    References:
        Pascual-Marqui et al. 1994, doi:10.1016/0167-8760(84)90014-X.
    """
    check_triangles("mesh", mesh, "give its triangles or edges")
    if any(isinstance(array, jax.core.Tracer) for array in (leadfield, noise_cov, mesh)):
        raise ValueError("loreta factors a sparse matrix on the host: build it outside of jit, grad and vmap")
    leadfield, noise_cov = jnp.asarray(leadfield), jnp.asarray(noise_cov)
    check_leadfield(leadfield)
    check_noise_cov(noise_cov, leadfield.shape[0])
    check_positive("snr", snr)
    dtype = jnp.result_type(leadfield, noise_cov)
    weights = np.sqrt(source_prior(leadfield, noise_cov, depth=depth).variance)
    weights = weights.reshape(-1, *(1,) * (leadfield.ndim - 2))
    columns = np.moveaxis(np.asarray(leadfield * weights, np.float64), 0, -1)
    smooth = laplacian_covariance_times(mesh, columns.reshape(len(columns), -1), length=length)
    spread = np.moveaxis(smooth.reshape(columns.shape) * weights[..., None], -1, 0)
    spread = spread / np.abs(spread).max() * np.abs(leadfield).max()
    arrays = leadfield.astype(dtype), jnp.asarray(spread, dtype), noise_cov.astype(dtype)
    return LinearEstimator(_kernel(*arrays, jnp.asarray(snr, dtype)))


@jax.jit
def _kernel(leadfield, spread, noise_cov, snr):
    noise = whitener(noise_cov)
    gain, spread = (
        _matmul(noise.matrix, array.reshape(len(array), -1)).reshape(array.shape)
        for array in (leadfield, spread)
    )
    return kernel_of_prior(gain, spread, noise, snr, "MNE")


def laplacian_covariance_times(
    mesh: Int[np.ndarray, "cell corner"], columns: Float[np.ndarray, "source column"], *, length: float = 10.0
) -> Float[np.ndarray, "source column"]:
    r"""$(B^T B)^{-1} X$ for columns $X$, with $B$ as `loreta` defines it; by one sparse factor, on the host.

    Raises:
        ValueError: for a mesh that is not (edge, 2) or (face, 3) or indexes no source, or a length that is
            not positive.
    """
    check_positive("length", length)
    n_sources = len(columns)
    adjacency = _adjacency(np.asarray(mesh), n_sources)
    degree = np.maximum(adjacency.sum(axis=0), 1)
    # B is the inverse of the degrees times a symmetric matrix, which alone is factored.
    symmetric = sparse.diags_array(degree * (1 + 1 / (4 * length**2))) - adjacency
    factor = splu(symmetric.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    return factor.solve(degree[:, None] ** 2 * factor.solve(np.asarray(columns, np.float64)))


def _adjacency(mesh, n_sources):
    """Symmetric matrix of ones where two sources share a row of the mesh."""
    if mesh.ndim != 2 or mesh.shape[1] not in (2, 3) or not np.issubdtype(mesh.dtype, np.integer):
        raise ValueError(f"mesh must hold indices (edge, 2) or (face, 3), not {mesh.dtype} {mesh.shape}")
    if mesh.size and (mesh.min() < 0 or mesh.max() >= n_sources):
        raise ValueError(f"mesh must index the {n_sources} sources; found {mesh.min()} to {mesh.max()}")
    corners = range(mesh.shape[1])
    pairs = np.concatenate([mesh[:, [i, j]] for i in corners for j in corners if i != j])
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    ones = np.ones(len(pairs))
    return sparse.coo_array((ones, (pairs[:, 0], pairs[:, 1])), (n_sources, n_sources)).tocsr()
