"""The penalty of a sparse estimate from the data alone: Stein's unbiased risk, along a grid."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxinv.inverse.estimator import check_measurements
from jaxinv.inverse.mixed_norm import MixedNormEstimator

_matmul = partial(jnp.matmul, precision="highest")


class RiskCurve(NamedTuple):
    """What each penalty would cost.

    Attributes:
        alpha: the one of least risk, of those that converged.
        alphas: all that were tried.
        risk: estimated squared error of the whitened, noiseless measurements, over rank times time points
            (1 is the noise itself); may be negative by chance.
        converged: whether both estimates that a risk needs reached their tolerance.
    """

    alpha: Float[Array, ""]
    alphas: Float[Array, " alpha"]
    risk: Float[Array, " alpha"]
    converged: Bool[Array, " alpha"]


def choose_alpha(
    key: PRNGKeyArray,
    estimator: MixedNormEstimator,
    measurements: Float[Array, "channel *time"],
    alphas: Float[Array, " alpha"] | None = None,
) -> RiskCurve:
    r"""Penalty of least estimated risk (SURE), for an estimator with all its other arguments.

    With $\mu(B)$ the estimate's field, $B$ the whitened measurements of rank $r$ and $T$ time points, the
    risk is $\lVert B - \mu(B) \rVert^2 - r T + 2\, \mathrm{div}\, \mu$, the divergence from a difference in
    one random direction. It takes two estimates a penalty. The noise covariance must be that of the
    measurements, which for an average of trials is smaller by their number.

    Args:
        key: of the random direction.
        estimator: its own alpha is not used; `estimator.replace(alpha=curve.alpha)` is what was chosen.
        measurements: in V.
        alphas: in (0, 1); None is 15 from 0.9 to 0.1 in a geometric series.

    Raises:
        ValueError: if measurements do not fit or are not finite, or an alpha is out of its range.

    References:
        Deledalle et al. 2014, doi:10.1137/140968045 (the difference and its length).
    """
    check_measurements(measurements, len(estimator.whitener))
    alphas = np.geomspace(0.9, 0.1, 15) if alphas is None else alphas
    if not isinstance(alphas, jax.core.Tracer):
        tried = np.asarray(alphas)
        if tried.ndim != 1 or not tried.size or not np.all((tried > 0) & (tried < 1)):
            raise ValueError(f"alphas must be a series of numbers in (0, 1); found {tried}")
    dtype = estimator.gain.dtype
    series = jnp.asarray(measurements, dtype).reshape(len(measurements), -1)
    return _risk_curve(key, estimator, series, jnp.asarray(alphas, dtype))


@jax.jit
def _risk_curve(key, estimator, measurements, alphas):
    white = _matmul(estimator.whitener, measurements)
    unwhiten = jnp.linalg.pinv(estimator.whitener)
    projector = _matmul(estimator.whitener, unwhiten)
    rank = jnp.trace(projector)
    length = 2 / rank**0.3
    direction = _matmul(projector, jax.random.normal(key, white.shape, white.dtype))
    moved = measurements + length * _matmul(unwhiten, direction)

    def field(current):
        course = current.reshape(*estimator.gain.shape[:2], -1)
        scale = jnp.where(estimator.amplitude > 0, estimator.amplitude, 1)[:, None, None]
        return jnp.einsum("soc,sot->ct", estimator.gain, course / scale, precision="highest")

    def risk(alpha):
        at_alpha = estimator.replace(alpha=alpha)
        both = jax.lax.map(at_alpha.solve, jnp.stack([measurements, moved]))
        here, there = field(both.current[0]), field(both.current[1])
        divergence = jnp.sum((there - here) * direction) / length
        size = rank * white.shape[1]
        return (jnp.sum((white - here) ** 2) + 2 * divergence) / size - 1, both.converged.all()

    risks, converged = jax.lax.map(risk, alphas)
    best = jnp.argmin(jnp.where(converged, risks, jnp.inf))
    return RiskCurve(jnp.where(converged.any(), alphas[best], jnp.nan), alphas, risks, converged)
