"""Whitening by a noise covariance that may lack ranks, as every referenced one does."""

from collections.abc import Sequence
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int

from jaxinv.inverse.validation import check_noise_cov

_matmul = partial(jnp.matmul, precision="highest")

_LEAF = 96  # channels


@flax.struct.dataclass
class Whitener:
    r"""What makes the noise white in its range. A pytree.

    Attributes:
        matrix: $W$, with $W^T W = C^+$; $W C W^T$ is an orthogonal projector of rank `rank`; in 1/V.
        rank: dimension of the range of $C$.
        projector: on the range of $C$: what the reference and excluded channels leave.
    """

    matrix: Float[Array, "channel channel"]
    rank: Int[Array, ""]
    projector: Float[Array, "channel channel"]


def whitener(noise_cov: Float[Array, "channel channel"], *, rtol: float | None = None) -> Whitener:
    r"""Whitener of a covariance: $W = G^{-1} P$.

    $P$ projects on the eigenvectors of eigenvalue above `rtol` times the largest, and $G$ is the Cholesky
    factor of $C$ with its null space filled up. So derivatives in $C$ exist where eigenvalues coincide, as
    those of white noise do; they are taken at constant range. Any other $W$ differs by a rotation.

    Args:
        noise_cov: $C$, in V².
        rtol: None is 1e-6, and more for many channels in float32 (channels × machine epsilon): directions
            with less than a thousandth of the largest noise amplitude are taken for what the reference
            removed, not for noiseless ones. A covariance rounded to float32 is so recognised in float64 too.

    Raises:
        ValueError: for a covariance that is not square, finite, symmetric, positive semidefinite and not
            zero. Under a transformation of JAX values cannot be checked; NaN or zeros then give NaN.
    """
    noise_cov = jnp.asarray(noise_cov)
    check_noise_cov(noise_cov, noise_cov.shape[0] if noise_cov.ndim else 0)
    if rtol is None:
        rtol = max(1e-6, len(noise_cov) * float(jnp.finfo(noise_cov.dtype).eps))
    return _whitener(noise_cov, rtol)


def exclude_channels(
    noise_cov: Float[Array, "channel channel"], channels: Sequence[int], *, rereference: bool = True
) -> Float[Array, "channel channel"]:
    r"""Noise covariance with which every estimator ignores some channels, and what they did to the reference.

    $Q C Q$, where $Q$ projects the channels out, and with them the mean of the others: an estimate is that of
    the other channels alone, referenced to their own average. Leadfield and measurements keep all channels;
    what the bad ones measure may be anything finite.

    Args:
        noise_cov: $C$, in V².
        channels: indices of those to ignore, or a mask that is True for them.
        rereference: whether the channels share a reference, as electrodes do.

    Raises:
        ValueError: for a covariance that is none, an index of no channel, or fewer than two channels left.

    References:
        Uusitalo & Ilmoniemi 1997, doi:10.1007/BF02534144 (projections).
    """
    noise_cov = jnp.asarray(noise_cov)
    n_channels = noise_cov.shape[0] if noise_cov.ndim else 0
    check_noise_cov(noise_cov, n_channels)
    bad = np.atleast_1d(channels)
    if bad.dtype == bool and bad.shape == (n_channels,):
        bad = np.flatnonzero(bad)
    known = np.issubdtype(bad.dtype, np.integer) and ((bad >= 0) & (bad < n_channels)).all()
    if bad.size and not known:
        raise ValueError(
            f"channels must be indices of the {n_channels} channels, or a mask of as many; found {channels}"
        )
    bad = bad.astype(int)
    kept = np.setdiff1d(np.arange(n_channels), bad)
    if len(kept) < 2:
        raise ValueError(f"{len(kept)} of {n_channels} channels are left: at least two are needed")
    projector = np.zeros((n_channels, n_channels))
    projector[np.ix_(kept, kept)] = np.eye(len(kept)) - (1 / len(kept) if rereference else 0)
    projector = jnp.asarray(projector, noise_cov.dtype)
    return jnp.linalg.multi_dot([projector, noise_cov, projector], precision="highest")


@jax.jit
def _whitener(noise_cov, rtol):
    spectrum, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(noise_cov))
    kept = spectrum > rtol * spectrum[-1]
    rank = jnp.sum(kept)
    projector = _matmul(vectors * kept, vectors.T)
    removed = jnp.eye(len(noise_cov), dtype=noise_cov.dtype) - projector
    # In units of the mean variance: float32 has no room for V² squared.
    unit = jnp.trace(noise_cov) / rank
    inside = jnp.linalg.multi_dot([projector, noise_cov / unit, projector], precision="highest")
    matrix = _matmul(inverse_triangle(inside + removed), projector) / jnp.sqrt(unit)
    return Whitener(matrix, rank, projector)


def inverse_triangle(cov: Float[Array, "channel channel"]) -> Float[Array, "channel channel"]:
    """The inverse of the Cholesky factor, F with F C F' = 1; NaN where the matrix is not positive definite.

    By halves, so that LAPACK is left with what it does on one core: threads that must wait for a core which
    others use take a thousand times as long as the work. Products with the inverse are faster than
    triangular solves of many columns.
    """
    n_channels = len(cov)
    if n_channels <= _LEAF:
        identity = jnp.eye(n_channels, dtype=cov.dtype)
        return solve_triangular(jnp.linalg.cholesky(cov), identity, lower=True)
    half = n_channels // 2
    first = inverse_triangle(cov[:half, :half])
    across = _matmul(cov[half:, :half], first.T)
    second = inverse_triangle(cov[half:, half:] - _matmul(across, across.T))
    below = -_matmul(second, _matmul(across, first))
    return jnp.block([[first, jnp.zeros_like(below.T)], [below, second]])
