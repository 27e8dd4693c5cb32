"""What is assumed of the sources before anything is measured: depth weights, loose orientation, variances."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.inverse.small_eigen import gram, largest
from jaxinv.inverse.validation import check_depth, check_loose, check_source_variance
from jaxinv.inverse.whitening import whitener

_DEPTH_LIMIT = 10.0  # largest ratio of source amplitudes that depth weighting allows


@flax.struct.dataclass
class SourcePrior:
    """Covariance of the sources up to a factor, independent from location to location. A pytree.

    Attributes:
        variance: of each source; of its normal component where the orientation is loose.
        loose: variance of the tangential components as a share of the normal one's; None if all are alike.
        normals: unit vectors, where the orientation is loose.
    """

    variance: Float[Array, " source"]
    loose: Float[Array, ""] | None = None
    normals: Float[Array, "source 3"] | None = None

    def after(
        self, gain: Float[Array, "channel source"] | Float[Array, "channel source 3"]
    ) -> Float[Array, "channel source"] | Float[Array, "channel source 3"]:
        """The product of a gain matrix and this covariance."""
        weighted = gain * self.variance.reshape(1, -1, *(1,) * (gain.ndim - 2))
        return weighted if self.loose is None else loosen(weighted, self.normals, self.loose)


def source_prior(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    *,
    depth: float | None = None,
    loose: float | None = None,
    normals: Float[Array, "source 3"] | None = None,
    source_variance: Float[Array, " source"] | None = None,
) -> SourcePrior:
    """Prior of the minimum-norm family: see `minimum_norm_kernel` for the arguments.

    Depth is weighed by what the channels see in the range of the noise: a channel that is excluded, and what
    it does to the reference, has no part in it.

    Raises:
        ValueError: for an argument out of its range or of a wrong shape, or a loose orientation without
            normals or with a leadfield of fixed orientation.
    """
    leadfield = jnp.asarray(leadfield)
    n_sources, dtype = leadfield.shape[1], leadfield.dtype
    check_depth(depth)
    check_loose(loose, normals, leadfield.shape)
    variance = jnp.ones(n_sources, dtype)
    if source_variance is not None:
        check_source_variance(source_variance, n_sources)
        variance = jnp.asarray(source_variance, dtype)
    if depth is not None:
        variance = variance * _depth_weights(leadfield, noise_cov, depth)
    if normals is None or loose is None:
        return SourcePrior(variance)
    return SourcePrior(variance, jnp.asarray(loose, dtype), jnp.asarray(normals, dtype))


def loosen(
    gain: Float[Array, "channel source 3"],
    normals: Float[Array, "source 3"],
    share: float | Float[Array, ""],
) -> Float[Array, "channel source 3"]:
    """The gain with its tangential components times `share`."""
    along = jnp.einsum("csi,si->cs", gain, normals, precision="highest")
    return share * gain + (1 - share) * along[..., None] * normals


@jax.jit
def _depth_weights(leadfield, noise_cov, exponent):
    """Variance of each source before scaling, as MNE-Python limits it (its `limit_depth_chs=True`)."""
    projector = whitener(noise_cov).projector.astype(leadfield.dtype)
    leadfield = jnp.tensordot(projector, leadfield, axes=1, precision="highest")
    if leadfield.ndim == 2:
        power = jnp.sum(leadfield**2, axis=0)
    else:
        parts = jnp.moveaxis(leadfield, 2, 0)
        size = jnp.max(jnp.abs(parts))
        parts = parts / size
        power = largest(gram(parts, parts))[0] * size**2
    power = jnp.where(power > 0, power, jnp.min(jnp.where(power > 0, power, jnp.inf)))
    weight = 1 / power
    allowed = _DEPTH_LIMIT**2 * jnp.min(weight)
    first_beyond = jnp.min(jnp.where(weight > allowed, weight, jnp.inf))
    limit = jnp.where(jnp.isfinite(first_beyond), first_beyond, jnp.max(weight))
    return jnp.minimum(weight / limit, 1) ** exponent
