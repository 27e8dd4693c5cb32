"""MUSIC scans: how well each source fits the subspace of the signals, alone or one found after the other."""

from functools import partial
from operator import index

import flax.struct
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int

from jaxinv.inverse.estimator import Estimate, check_measurements
from jaxinv.inverse.small_eigen import gram, inverse_power, largest, product
from jaxinv.inverse.validation import check_leadfield, check_noise_cov
from jaxinv.inverse.whitening import whitener

_matmul = partial(jnp.matmul, precision="highest")


@flax.struct.dataclass
class MusicSolution:
    """Dipoles in the order in which they were found. A pytree.

    Attributes:
        index: which source each is.
        orientation: unit vector, its largest component positive; None for fixed orientation.
        correlation: with what was left of the signal subspace when it was found, in [0, 1]; 0 where nothing
            was left, and then the amplitude is zero too.
        amplitude: least-squares time courses of all together, in A m.
        explained: measurements that they explain, in V.
    """

    index: Int[Array, " dipole"]
    orientation: Float[Array, "dipole 3"] | None
    correlation: Float[Array, " dipole"]
    amplitude: Float[Array, "dipole *time"]
    explained: Float[Array, "channel *time"]


@flax.struct.dataclass
class MusicEstimator:
    """The scan bound to a leadfield and a covariance. A pytree; make it with `music`.

    Attributes:
        gain: whitened leadfield over its largest entry, (orientation, channel, source).
        products: of each source's columns with one another.
        whitener: of the noise, in 1/V.
        n_dipoles: dimension of the signal subspace.
        free: whether the orientation is free.
    """

    gain: Float[Array, "orientation channel source"]
    products: Float[Array, "orientation orientation source"]
    whitener: Float[Array, "channel channel"]
    n_dipoles: int = flax.struct.field(pytree_node=False)
    free: bool = flax.struct.field(pytree_node=False)

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Subspace correlation of each source, from all samples together; times the best orientation if free.

        Raises:
            ValueError: for measurements of other channels, of fewer samples than dipoles, or not finite.
        """
        _check(measurements, len(self.whitener), self.n_dipoles)
        return Estimate(_scan(self, jnp.asarray(measurements, self.gain.dtype)))


@flax.struct.dataclass
class RapMusicEstimator:
    """Recursive MUSIC bound to a leadfield and a covariance. A pytree; see `rap_music` and `trap_music`.

    Attributes:
        gain: whitened leadfield over `scale`, (orientation, channel, source).
        products: of each source's columns with one another.
        whitener: of the noise, in 1/V.
        colouring: pseudo-inverse of the whitener, in V.
        scale: of the whitened leadfield, in 1/(A m).
        n_dipoles: to be found.
        free: whether the orientation is free.
        truncated: whether the subspace loses a dimension with every dipole found (TRAP-MUSIC).
    """

    gain: Float[Array, "orientation channel source"]
    products: Float[Array, "orientation orientation source"]
    whitener: Float[Array, "channel channel"]
    colouring: Float[Array, "channel channel"]
    scale: Float[Array, ""]
    n_dipoles: int = flax.struct.field(pytree_node=False)
    free: bool = flax.struct.field(pytree_node=False)
    truncated: bool = flax.struct.field(pytree_node=False)

    def solve(self, measurements: Float[Array, "channel *time"]) -> MusicSolution:
        """Dipoles that explain all samples together.

        Raises:
            ValueError: for measurements of other channels, of fewer samples than dipoles, or not finite.
        """
        _check(measurements, len(self.whitener), self.n_dipoles)
        return _find(self, jnp.asarray(measurements, self.gain.dtype))

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Current of the dipoles found, in A m, zero in all other sources.

        Raises:
            ValueError: for measurements of other channels, of fewer samples than dipoles, or not finite.
        """
        found = self.solve(measurements)
        current = found.amplitude
        if self.free:
            current = jnp.einsum("d...,di->di...", current, found.orientation)
        nothing = jnp.where(jnp.isfinite(current).all(), 0, jnp.nan).astype(current.dtype)
        elsewhere = jnp.full((self.gain.shape[2], *current.shape[1:]), nothing)
        return Estimate(elsewhere.at[found.index].add(current))


def music(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    *,
    n_dipoles: int,
) -> MusicEstimator:
    """Scan of all sources: cosine of the angle between a source's topographies and the signal subspace.

    The subspace is spanned by the `n_dipoles` strongest eigenvectors of the whitened measurements' second
    moments; the estimate has no time axis and no unit. With free orientation, the estimate is the
    correlation times the best orientation (of arbitrary sign). Zero where no channel sees a source.

    Args:
        leadfield: in V/(A m).
        noise_cov: in V², same reference; may lack ranks.
        n_dipoles: of time courses that are not multiples of each other; as many samples are needed.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, a leadfield or covariance of
            zeros, or a number of dipoles that is not from 1 to channels.
        TypeError: for a number of dipoles that is no integer.

    References:
        Mosher et al. 1992, doi:10.1109/10.141192.
    """
    gain, products, matrix, _, _ = _checked(leadfield, noise_cov, n_dipoles)
    return MusicEstimator(gain, products, matrix, index(n_dipoles), jnp.ndim(leadfield) == 3)


def rap_music(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    *,
    n_dipoles: int,
) -> RapMusicEstimator:
    """Recursive MUSIC: the best source of a scan is projected out, and the rest is scanned again.

    As in MNE-Python, the signal subspace is projected too, and its basis is not made orthonormal again.
    Arguments, and what it raises, as for `music`.

    References:
        Mosher & Leahy 1999, doi:10.1109/78.740118.
    """
    return _recursive(leadfield, noise_cov, n_dipoles, False)


def trap_music(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    *,
    n_dipoles: int,
) -> RapMusicEstimator:
    """Recursive MUSIC whose projected subspace is truncated by one dimension for each source found.

    So that a number of dipoles that is too large does not find sources near those already found: their
    correlation is small. Arguments, and what it raises, as for `music`.

    References:
        Mäkelä et al. 2018, doi:10.1016/j.neuroimage.2017.11.013.
    """
    return _recursive(leadfield, noise_cov, n_dipoles, True)


def _recursive(leadfield, noise_cov, n_dipoles, truncated):
    prepared = _checked(leadfield, noise_cov, n_dipoles)
    return RapMusicEstimator(*prepared, index(n_dipoles), jnp.ndim(leadfield) == 3, truncated)


def _checked(leadfield, noise_cov, n_dipoles):
    leadfield, noise_cov = jnp.asarray(leadfield), jnp.asarray(noise_cov)
    check_leadfield(leadfield)
    check_noise_cov(noise_cov, leadfield.shape[0])
    if not 1 <= index(n_dipoles) <= leadfield.shape[0]:
        raise ValueError(f"n_dipoles must be from 1 to {leadfield.shape[0]}, the channels; found {n_dipoles}")
    dtype = jnp.result_type(leadfield, noise_cov)
    return _prepare(leadfield.astype(dtype), noise_cov.astype(dtype))


@jax.jit
def _prepare(leadfield, noise_cov):
    matrix = whitener(noise_cov).matrix
    columns = jnp.moveaxis(leadfield.reshape(*leadfield.shape[:2], -1), 2, 0)
    gain = _matmul(matrix, columns)
    scale = jnp.max(jnp.abs(gain))
    gain = gain / scale
    return gain, gram(gain, gain), matrix, _matmul(noise_cov, matrix.T), scale


def _check(measurements, n_channels, n_dipoles):
    check_measurements(measurements, n_channels)
    n_samples = 1 if jnp.ndim(measurements) == 1 else jnp.shape(measurements)[1]
    if n_samples < n_dipoles:
        raise ValueError(f"{n_dipoles} dipoles need as many samples at least; measurements have {n_samples}")


@jax.jit
def _scan(estimator, measurements):
    white = _matmul(estimator.whitener, measurements.reshape(len(measurements), -1))
    subspace = _signal_subspace(white, estimator.n_dipoles)
    inside = _matmul(subspace.T, estimator.gain)
    correlation, orientation = _correlate(inside, estimator.products, jnp.trace(estimator.products))
    return (correlation * orientation).T if estimator.free else correlation


@jax.jit
def _find(estimator, measurements):
    """Without what is left of every source's columns: their products with what was found suffice."""
    gain, free, left_over = estimator.gain, estimator.free, estimator.products
    white = _matmul(estimator.whitener, measurements.reshape(len(measurements), -1))
    signal = _signal_subspace(white, estimator.n_dipoles)
    power, inside = jnp.trace(left_over), _matmul(signal.T, gain)
    basis = jnp.zeros((len(white), 0), white.dtype)
    found = []
    for k in range(estimator.n_dipoles):
        correlation, orientation = _correlate(inside, left_over, power)
        best = jnp.argmax(correlation)
        direction = _upright(orientation[:, best])
        topography = _matmul(gain[:, :, best].T, direction)
        found.append((best, direction, correlation[best], topography))
        left = topography - _matmul(basis, _matmul(basis.T, topography))
        left = left - _matmul(basis, _matmul(basis.T, left))
        left = jnp.where(correlation[best] > 0, left / jnp.linalg.norm(left), 0)
        basis = jnp.concatenate([basis, left[:, None]], axis=1)
        if k == estimator.n_dipoles - 1:
            break
        subspace = signal - _matmul(basis, _matmul(basis.T, signal))
        if estimator.truncated:
            subspace = jnp.linalg.svd(subspace, full_matrices=False)[0][:, : estimator.n_dipoles - k - 1]
            subspace = subspace - _matmul(basis, _matmul(basis.T, subspace))  # of what the signal lacks
        seen = _matmul(jnp.concatenate([left[:, None], subspace], axis=1).T, gain)
        left_over = left_over - seen[:, None, 0] * seen[None, :, 0]
        inside = seen[:, 1:]
    index, direction, correlation, topography = (jnp.stack(x) for x in zip(*found))
    triangle = jnp.triu(_matmul(basis.T, topography.T))
    triangle = triangle + jnp.diag(jnp.where(jnp.diag(triangle) == 0, 1, 0).astype(triangle.dtype))
    amplitude = solve_triangular(triangle, _matmul(basis.T, white)) * (correlation > 0)[:, None]
    explained = _matmul(estimator.colouring, _matmul(topography.T, amplitude))
    return MusicSolution(
        index=index,
        orientation=direction if free else None,
        correlation=correlation,
        amplitude=amplitude.reshape(-1, *measurements.shape[1:]) / estimator.scale,
        explained=explained.reshape(measurements.shape),
    )


def _signal_subspace(white, n_dipoles):
    """Strongest left singular vectors, the strongest first; zeros where there is no signal."""
    size = jnp.max(jnp.abs(white))
    white = white / jnp.where(size > 0, size, 1)
    spectrum, vectors = jnp.linalg.eigh(_matmul(white, white.T))
    kept = spectrum > len(white) * jnp.finfo(white.dtype).eps * spectrum[-1]
    return (vectors * kept)[:, ::-1][:, :n_dipoles]


def _correlate(inside, total, power):
    """Largest correlation of each source with the subspace, and its orientation (orientation, source).

    Orientations of which less than a millionth is left (of amplitude; float32: more) count as not seen.

    Args:
        inside: products of the sources' columns with the subspace, (orientation, dimension, source).
        total: of these columns with one another, as far as they are not explained.
        power: of the whole columns.
    """
    rtol = _rtol(inside.dtype)
    seen = jnp.trace(total) > rtol * power
    if len(inside) == 1:
        part = jnp.sum(inside[0] ** 2, axis=0)
        share = jnp.where(seen, part / jnp.where(seen, total[0, 0], 1), 0)
        return jnp.sqrt(jnp.clip(share, 0, 1)), jnp.ones_like(share)[None]
    root = inverse_power(jnp.where(seen, total, 0), 0.5, rtol)
    share, vector = largest(product(product(root, gram(inside, inside)), root))
    orientation = product(root, vector)
    norm = jnp.linalg.norm(orientation, axis=0)
    return jnp.sqrt(jnp.clip(share, 0, 1)), orientation / jnp.where(norm > 0, norm, 1)


def _rtol(dtype):
    """Of differences of products, whose rounding is some units of the products'."""
    return max(1e-12, 1000 * float(jnp.finfo(dtype).eps))


def _upright(vector):
    """Of the two signs, the one whose largest component is positive."""
    return vector * jnp.where(vector[jnp.argmax(jnp.abs(vector))] < 0, -1, 1)
