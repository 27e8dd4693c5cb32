"""Gaussian-process estimates: currents that are a Matérn field on the cortex, with their uncertainty."""

from functools import lru_cache, partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float, Int

from jaxinv.inverse.estimator import Estimate, LinearEstimator, check_measurements
from jaxinv.inverse.matern import MaternCorrelation
from jaxinv.inverse.minimum_norm import scaled_gram
from jaxinv.inverse.source_prior import source_prior
from jaxinv.inverse.validation import check_leadfield, check_noise_cov, check_positive, check_triangles
from jaxinv.inverse.whitening import whitener

_matmul = partial(jnp.matmul, precision="highest")

_CORRELATIONS_KEPT = 16  # of cortices and lengths


@flax.struct.dataclass
class GaussianProcessEstimator:
    """A Gaussian prior bound to a leadfield and a covariance. A pytree; make it with `gaussian_process`.

    Attributes:
        kernel: from measurements in V to the posterior mean in A m.
        std: posterior standard deviation, in A m; no measurement changes it.
        prior_std: standard deviation before anything is measured, in A m.
        whitener: of the noise, in 1/V.
        signal_cov: of the whitened measurements without noise; that of the noise is one.
    """

    kernel: Float[Array, "source channel"] | Float[Array, "source 3 channel"]
    std: Float[Array, " source"] | Float[Array, "source 3"]
    prior_std: Float[Array, " source"] | Float[Array, "source 3"]
    whitener: Float[Array, "channel channel"]
    signal_cov: Float[Array, "channel channel"]

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Posterior mean and standard deviation, sample by sample.

        Raises:
            ValueError: if the first axis is not the leadfield's channels, or a value is not finite.
        """
        current = LinearEstimator(self.kernel)(measurements).current
        std = self.std.reshape(*self.std.shape, *(1,) * (current.ndim - self.std.ndim))
        return Estimate(current, std=jnp.broadcast_to(std, current.shape))

    def log_evidence(self, measurements: Float[Array, "channel *time"]) -> Float[Array, ""]:
        """Logarithm of how much likelier the measurements are under this prior than as noise alone.

        Time points count as independent. Of several priors (lengths, smoothnesses, ratios) the one with the
        highest value explains the measurements best.

        Raises:
            ValueError: if the first axis is not the leadfield's channels, or a value is not finite.
        """
        check_measurements(measurements, len(self.whitener))
        return _log_evidence(self, jnp.asarray(measurements, self.kernel.dtype))


def gaussian_process(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    positions: Float[Array, "source 3"],
    faces: Int[Array, "face 3"],
    *,
    length: float = 10e-3,
    smoothness: int = 1,
    snr: float = 3.0,
    depth: float | None = None,
    source_variance: Float[Array, " source"] | None = None,
) -> GaussianProcessEstimator:
    r"""Estimator whose prior is a Matérn field on the cortex: posterior mean and standard deviation.

    The prior covariance is $R = D \rho D$: correlations $\rho$ that fall with distance along the surface (see
    `MaternCorrelation`), and variances $D^2$ as those of `minimum_norm_kernel`, scaled so that $\mathrm{tr}
    (\tilde L R \tilde L^T) = \mathrm{snr}^2\,\mathrm{rank}(C)$. The mean is $R \tilde L^T (\tilde L R \tilde
    L^T + I)^{-1} W y$. Without correlation it is the minimum norm: that is what `length=0` gives, and what a
    length far below the edges of the mesh tends to. With free orientation the components are fields of their
    own. Made on the host from concrete arrays: one sparse factor, and two solves a source for the variances,
    which take seconds and are kept for the next leadfields of the same cortex. The estimator itself is
    differentiable in the measurements.

    Args:
        leadfield: $L$, in V/(A m).
        noise_cov: $C$, in V², same reference; may lack ranks.
        positions: of the sources, in m.
        faces: triangles of the cortical surface, indices into the sources: `SourceSpace.faces`.
        length: of the Matérn correlation, in m, ≥ 0.
        smoothness: $\nu$ of the Matérn correlation, an integer ≥ 1.
        snr: amplitude signal-to-noise ratio, > 0.
        depth: exponent in [0, 1] of depth weighting, as is `source_variance`, that of `minimum_norm_kernel`.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, indices of no source, arrays
            that are traced, or an argument out of its range.

    References:
        Rasmussen & Williams 2006, ISBN 978-0-262-18253-9 (ch. 2); Lindgren et al. 2011,
        doi:10.1111/j.1467-9868.2011.00777.x; Hauk 2004, doi:10.1016/j.neuroimage.2003.12.008 (white prior).
    """
    arrays = (leadfield, noise_cov, positions, faces)
    if any(isinstance(array, jax.core.Tracer) for array in arrays):
        raise ValueError(
            "gaussian_process factors a sparse matrix on the host: build it outside of jit, grad and vmap"
        )
    leadfield, noise_cov = jnp.asarray(leadfield), jnp.asarray(noise_cov)
    check_leadfield(leadfield)
    check_noise_cov(noise_cov, leadfield.shape[0])
    check_positive("snr", snr)
    if length:
        check_triangles("faces", faces, "give them, or length=0")
    if len(positions) != leadfield.shape[1]:
        raise ValueError(
            f"positions must hold the leadfield's {leadfield.shape[1]} sources, not {len(positions)}"
        )
    dtype = jnp.result_type(leadfield, noise_cov)
    variance = source_prior(leadfield, noise_cov, depth=depth, source_variance=source_variance).variance
    amplitude = np.sqrt(np.asarray(variance, np.float64)).reshape(-1, *(1,) * (leadfield.ndim - 2))
    columns = np.moveaxis(np.asarray(leadfield, np.float64) * amplitude, 0, -1)
    if length:
        correlation = _correlation(_Cortex(positions, faces), float(length), smoothness)
        columns = correlation.times(columns.reshape(len(columns), -1)).reshape(columns.shape)
    spread = np.moveaxis(columns, -1, 0) * amplitude
    amplitude = np.broadcast_to(amplitude, leadfield.shape[1:])
    arrays = (leadfield, noise_cov, spread, amplitude, snr)
    return _condition(*(jnp.asarray(array, dtype) for array in arrays))


class _Cortex:
    """Positions and faces, equal to others with the same values."""

    def __init__(self, positions, faces):
        self.positions, self.faces = np.asarray(positions), np.asarray(faces)
        self._key = tuple((array.shape, array.tobytes()) for array in (self.positions, self.faces))

    def __eq__(self, other):
        return self._key == other._key

    def __hash__(self):
        return hash(self._key)


@lru_cache(maxsize=_CORRELATIONS_KEPT)
def _correlation(cortex, length, smoothness):
    return MaternCorrelation(cortex.positions, cortex.faces, length=length, smoothness=smoothness)


@jax.jit
def _condition(leadfield, noise_cov, spread, amplitude, snr):
    noise = whitener(noise_cov)
    n_channels, shape = len(leadfield), leadfield.shape[1:]
    gain, spread = (_matmul(noise.matrix, array.reshape(n_channels, -1)) for array in (leadfield, spread))
    gram, scale = scaled_gram(gain, spread, noise.rank)
    signal_cov = snr**2 * gram
    root = jnp.linalg.cholesky(signal_cov + jnp.eye(n_channels, dtype=gram.dtype))
    prior_std = snr * jnp.sqrt(scale) * amplitude.reshape(-1)
    spread = snr**2 * scale * spread
    kernel = _matmul(spread.T, cho_solve((root, True), noise.matrix))
    explained = jnp.sum(solve_triangular(root, spread, lower=True) ** 2, axis=0)
    std = jnp.sqrt(jnp.maximum(prior_std**2 - explained, 0))
    return GaussianProcessEstimator(
        kernel.reshape(*shape, n_channels),
        std.reshape(shape),
        prior_std.reshape(shape),
        noise.matrix,
        signal_cov,
    )


@jax.jit
def _log_evidence(estimator, measurements):
    white = _matmul(estimator.whitener, measurements.reshape(len(measurements), -1))
    root = jnp.linalg.cholesky(estimator.signal_cov + jnp.eye(len(white), dtype=white.dtype))
    left = solve_triangular(root, white, lower=True)
    entropy = white.shape[1] * jnp.sum(jnp.log(jnp.diag(root)))
    return (jnp.sum(white**2) - jnp.sum(left**2)) / 2 - entropy
