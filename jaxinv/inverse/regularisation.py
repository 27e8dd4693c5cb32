"""Signal-to-noise ratio from the data: generalised cross-validation and the L-curve, for minimum norms."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.inverse.estimator import check_measurements
from jaxinv.inverse.minimum_norm import scaled_gram
from jaxinv.inverse.source_prior import source_prior
from jaxinv.inverse.validation import check_leadfield, check_noise_cov
from jaxinv.inverse.whitening import whitener

_matmul = partial(jnp.matmul, precision="highest")


@flax.struct.dataclass
class SnrChoice:
    """A signal-to-noise ratio, and the curve it was read off. A pytree.

    Attributes:
        snr: chosen, of those tried: the `snr` of `minimum_norm` with the same prior.
        tried: ratios, ascending.
        score: of each; the choice has the lowest.
    """

    snr: Float[Array, ""]
    tried: Float[Array, " snr"]
    score: Float[Array, " snr"]


@flax.struct.dataclass
class RegularisationSpectrum:
    """Measurements in the eigenvectors of the whitened signal's covariance. A pytree; see `spectrum_of`.

    Attributes:
        variance: of the signal in each, with trace `rank`; that of the noise is one.
        power: of the measurements in each, summed over time.
        kept: one where there is noise, else zero.
    """

    variance: Float[Array, " channel"]
    power: Float[Array, " channel"]
    kept: Float[Array, " channel"]

    def cross_validation(self, snr: Float[Array, ""]) -> Float[Array, ""]:
        """Mean square of the whitened residual, over the squared share of freedom that is left to it."""
        left = 1 / (1 + snr**2 * self.variance)
        rank = self.kept.sum()
        return (self.power @ left**2 / rank) / (self.kept @ left / rank) ** 2

    def residual(self, snr: Float[Array, ""]) -> Float[Array, ""]:
        """Squared norm of the whitened residual."""
        return self.power @ (1 / (1 + snr**2 * self.variance)) ** 2

    def size(self, snr: Float[Array, ""]) -> Float[Array, ""]:
        r"""Squared norm of the estimate, $J^T R^{-1} J$."""
        return self.power @ (self.variance / (self.variance + snr**-2) ** 2)

    def curvature(self, snr: Float[Array, ""]) -> Float[Array, ""]:
        """Of the L-curve, log norm of the estimate over log norm of the residual; highest at its corner."""

        def point(log_snr):
            return jnp.log(jnp.stack([self.residual(jnp.exp(log_snr)), self.size(jnp.exp(log_snr))])) / 2

        def slope(log_snr):
            return jax.jvp(point, (log_snr,), (jnp.ones_like(log_snr),))[1]

        first, second = jax.jvp(slope, (jnp.log(snr),), (jnp.ones_like(snr),))
        turning = first[1] * second[0] - first[0] * second[1]
        return turning / jnp.sum(first**2) ** 1.5


def spectrum_of(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    measurements: Float[Array, "channel *time"],
    **prior,
) -> RegularisationSpectrum:
    """One eigendecomposition, after which every ratio costs as many multiplications as there are channels.

    Arguments and errors are those of `choose_snr`. Differentiable in the measurements; in the leadfield and
    covariance only where no two eigenvalues of the signal coincide.
    """
    leadfield, noise_cov = jnp.asarray(leadfield), jnp.asarray(noise_cov)
    check_leadfield(leadfield)
    check_noise_cov(noise_cov, leadfield.shape[0])
    check_measurements(measurements, leadfield.shape[0])
    dtype = jnp.result_type(leadfield, noise_cov)
    leadfield, noise_cov, measurements = (jnp.asarray(a, dtype) for a in (leadfield, noise_cov, measurements))
    return _spectrum(leadfield, noise_cov, measurements, source_prior(leadfield, noise_cov, **prior))


@jax.jit
def _spectrum(leadfield, noise_cov, measurements, prior):
    n_channels = len(leadfield)
    noise = whitener(noise_cov)
    gain = _matmul(noise.matrix, leadfield.reshape(n_channels, -1)).reshape(leadfield.shape)
    spread = prior.after(gain).reshape(n_channels, -1)
    gram, _ = scaled_gram(gain.reshape(n_channels, -1), spread, noise.rank)
    variance, vectors = jnp.linalg.eigh(gram)
    white = _matmul(noise.matrix, measurements.reshape(n_channels, -1))
    power = jnp.sum(_matmul(vectors.T, white) ** 2, axis=1)
    # Where there is no noise there is no signal either: as many of the lowest eigenvalues are zero. Their
    # vectors are any of those of zero signal, so that the power stays; where noise is missing there is none.
    kept = (jnp.arange(n_channels) >= n_channels - noise.rank).astype(gram.dtype)
    return RegularisationSpectrum(jnp.maximum(variance, 0) * kept, power, kept)


def choose_snr(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    measurements: Float[Array, "channel *time"],
    *,
    by: str = "cross-validation",
    tried: Float[Array, " snr"] | None = None,
    depth: float | None = None,
    loose: float | None = None,
    normals: Float[Array, "source 3"] | None = None,
    source_variance: Float[Array, " source"] | None = None,
) -> SnrChoice:
    r"""The `snr` for a minimum norm with this prior, from the measurements; time points are taken together.

    Cross-validation minimises $\tfrac1r \lVert (I - H) W y \rVert^2 / (\tfrac1r \mathrm{tr}(I - H))^2$,
    where $H$ maps whitened measurements to those that the estimate predicts and $r$ is the rank of the noise.
    The L-curve's corner is where the curve of log norms, estimate against residual, bends most; its score is
    minus the curvature. Cross-validation knows white residuals from signal and is the better of the two for
    one topography; the corner withstands noise that the covariance leaves out. Jits and vmaps; scores are
    differentiable in the measurements.

    Args:
        leadfield: $L$, in V/(A m).
        noise_cov: $C$, in V², same reference; may lack ranks.
        measurements: in V.
        by: "cross-validation" or "L-curve".
        tried: ratios > 0; None is 200 from 0.03 to 100, evenly in the logarithm.
        depth: as are `loose`, `normals` and `source_variance`, that of `minimum_norm_kernel`.

    Raises:
        ValueError: for measurements of zeros (NaN under a transformation of JAX), ratios that are not
            positive, shapes that do not fit, or an argument out of its range.

    References:
        Golub et al. 1979, doi:10.1080/00401706.1979.10489751 (cross-validation); Hansen & O'Leary 1993,
        doi:10.1137/0914086 (L-curve).
    """
    if by not in ("cross-validation", "L-curve"):
        raise ValueError(f"by must be 'cross-validation' or 'L-curve', not {by!r}")
    spectrum = spectrum_of(
        leadfield, noise_cov, measurements,
        depth=depth, loose=loose, normals=normals, source_variance=source_variance,
    )  # fmt: skip
    tried = jnp.geomspace(0.03, 100, 200) if tried is None else jnp.sort(jnp.asarray(tried))
    known = not isinstance(tried, jax.core.Tracer)
    if tried.ndim != 1 or not tried.size or (known and not (tried > 0).all()):
        raise ValueError("tried must be a vector of positive ratios")
    if not isinstance(spectrum.power, jax.core.Tracer) and not spectrum.power.any():
        raise ValueError("measurements are zero: there is nothing to choose a signal-to-noise ratio by")
    return _choose(spectrum, tried.astype(spectrum.power.dtype), by)


@partial(jax.jit, static_argnums=2)
def _choose(spectrum, tried, by):
    if by == "L-curve":
        score = -jax.vmap(spectrum.curvature)(tried)
    else:
        score = jax.vmap(spectrum.cross_validation)(tried)
    best = tried[jnp.argmin(jnp.where(jnp.isnan(score), jnp.inf, score))]
    power = jnp.sum(spectrum.power)
    return SnrChoice(jnp.where((power > 0) & jnp.isfinite(power), best, jnp.nan), tried, score)
