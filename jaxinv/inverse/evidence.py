"""Evidence of source and noise variances, and the rules that raise it, for sparse Bayesian learning."""

from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.inverse.duality_gap import safe_root
from jaxinv.inverse.whitening import inverse_triangle

Update = Literal["EM", "MacKay", "Champagne", "LowSNR-BSI"]

_matmul = partial(jnp.matmul, precision="highest")


class Moments(NamedTuple):
    r"""What a rule needs of a component with columns $g$, variance $v$ and measurement covariance $\Sigma$.

    Attributes:
        power: mean over time of $|g^T \Sigma^{-1} y|^2$, summed over the component's columns.
        sensitivity: $g^T \Sigma^{-1} g$, summed likewise.
        reach: $g^T g$, summed likewise.
        size: how many columns share the variance.
    """

    power: Float[Array, " component"]
    sensitivity: Float[Array, " component"]
    reach: Float[Array, " component"]
    size: int


class Fit(NamedTuple):
    r"""What the evidence of variances needs of their measurement covariance $\Sigma$.

    Attributes:
        misfit: mean over time of $y^T \Sigma^{-1} y$.
        log_determinant: of $\Sigma$.
    """

    misfit: Float[Array, ""]
    log_determinant: Float[Array, ""]

    @classmethod
    def of(cls, white: Float[Array, "channel time"], log_determinant: Float[Array, ""]) -> "Fit":
        """Of measurements that are white if the covariance is theirs."""
        return cls(jnp.sum(white**2) / white.shape[1], log_determinant)


def whitening_factor(
    covariance: Float[Array, "channel channel"],
) -> tuple[Float[Array, "channel channel"], Float[Array, ""]]:
    r"""$F$ with $F^T F = \Sigma^{-1}$, and $\log |\Sigma|$; NaN unless $\Sigma$ is positive definite."""
    factor = inverse_triangle(covariance)
    return factor, -2 * jnp.sum(jnp.log(jnp.diag(factor)))


def moments(
    factor: Float[Array, "channel channel"],
    columns: Float[Array, "channel column"],
    white: Float[Array, "channel time"],
    size: int,
) -> Moments:
    """Moments of components of `size` consecutive columns each, given F and `white` = F y."""
    seen = _matmul(factor, columns)
    power = jnp.mean(_matmul(seen.T, white) ** 2, axis=1)
    return _summed(power, jnp.sum(seen**2, axis=0), columns, size)


def moments_of_few(
    columns: Float[Array, "channel column"],
    data: Float[Array, "channel time"],
    variance: Float[Array, " component"],
) -> tuple[Moments, Fit]:
    r"""Moments and fit for noise of variance one; factors are of the size of the columns, not the channels.

    With $M = I + V^{1/2} G^T G V^{1/2}$, $g^T \Sigma^{-1} y$ is a row of $V^{-1/2} M^{-1} V^{1/2} G^T Y$, and
    $g^T \Sigma^{-1} g$ of $V^{-1} (I - M^{-1})$. Where a variance is zero, zeros are given.
    """
    size = columns.shape[1] // len(variance)
    each = jnp.repeat(variance, size)
    root, gram, cross = safe_root(each)[:, None], _matmul(columns.T, columns), _matmul(columns.T, data)
    factor, log_determinant = whitening_factor(jnp.eye(len(each), dtype=data.dtype) + root * gram * root.T)
    solved = _matmul(factor.T, _matmul(factor, root * cross))
    left = data - _matmul(columns, root * solved)
    fit = Fit((jnp.sum(left**2) + jnp.sum(solved**2)) / data.shape[1], log_determinant)
    inverse = jnp.where(each > 0, 1 / jnp.where(each > 0, each, 1), 0)
    power = inverse * jnp.mean(solved**2, axis=1)
    sensitivity = inverse * (1 - jnp.sum(factor**2, axis=0))
    return _summed(power, sensitivity, columns, size), fit


def _summed(power, sensitivity, columns, size):
    """Moments of components from those of their columns."""
    sums = (power, sensitivity, jnp.sum(columns**2, axis=0))
    return Moments(*(x.reshape(-1, size).sum(axis=1) for x in sums), size)


def updated(
    update: Update, variance: Float[Array, " component"], seen: Moments
) -> Float[Array, " component"]:
    """Variances after one step of a rule; what no channel sees, and what is zero, becomes or stays zero.

    EM and Champagne (convex bounding) never raise the negative log evidence, LowSNR-BSI never raises the
    convex bound of it that `negative_log_evidence` gives; MacKay's promises nothing and is the fastest.
    """
    if update == "EM":
        shrinkage = variance * (1 - variance * seen.sensitivity / seen.size)
        return shrinkage + variance**2 * seen.power / seen.size
    against = seen.reach if update == "LowSNR-BSI" else seen.sensitivity
    ratio = jnp.where(against > 0, seen.power / jnp.where(against > 0, against, 1), 0)
    return variance * (ratio if update == "MacKay" else jnp.sqrt(ratio))


def negative_log_evidence(fit: Fit, rank: Float[Array, ""]) -> Float[Array, ""]:
    r"""$-\log p(y)$ a sample, $\tfrac12 (r \log 2\pi + \log |\Sigma| + y^T \Sigma^{-1} y)$, averaged."""
    return (rank * jnp.log(2 * jnp.pi) + fit.log_determinant + fit.misfit) / 2
