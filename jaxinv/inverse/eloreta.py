"""eLORETA: weights of the minimum norm for which every single source is localised without error."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve, solve_triangular
from jaxtyping import Array, Bool, Float, Int

from jaxinv.inverse.estimator import LinearEstimator, where_converged
from jaxinv.inverse.small_eigen import inverse_power
from jaxinv.inverse.source_prior import SourcePrior, loosen, source_prior
from jaxinv.inverse.validation import check_leadfield, check_noise_cov, check_positive
from jaxinv.inverse.whitening import whitener

_matmul = partial(jnp.matmul, precision="highest")

_BLOCK = 128  # sources whose gain stays in the cache while their weights are found and used
_RTOL = 1e-7  # of three eigenvalues: an orientation that is seen less is not seen, as in MNE-Python
_REMEMBERED = 5  # images that are combined
_ROUNDING = 1e-12  # of the residuals' inner products
_TANGENT_STEPS = 200  # at most, each of which about halves the error


@flax.struct.dataclass
class EloretaSolution:
    """What the iteration reached. A pytree.

    Attributes:
        kernel: from measurements in V to current in A m.
        change: of the source covariance in the last iteration, relative.
        iterations: done.
        converged: whether the change is below the tolerance.
    """

    kernel: Float[Array, "source channel"] | Float[Array, "source 3 channel"]
    change: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


def eloreta(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    *,
    snr: float = 3.0,
    force_equal: bool | None = None,
    loose: float | None = None,
    normals: Float[Array, "source 3"] | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 100,
) -> LinearEstimator:
    """eLORETA, ready to be applied: the kernel of `solve_eloreta`, with its arguments.

    Raises:
        ConvergenceError: if the weights did not converge; use `solve_eloreta` to have them nevertheless.
            Under a transformation of JAX nothing can be raised, and the kernel is NaN instead.
        ValueError: as `solve_eloreta`.
    """
    solution = solve_eloreta(
        leadfield, noise_cov, snr=snr, force_equal=force_equal, loose=loose, normals=normals,
        tolerance=tolerance, max_iterations=max_iterations,
    )  # fmt: skip

    def describe():
        return (
            f"eLORETA: weights still changed by {solution.change:.1e} > tolerance {tolerance:g} after "
            f"{solution.iterations} iterations; raise max_iterations or tolerance, lower snr, or use "
            "solve_eloreta()"
        )

    return LinearEstimator(where_converged(solution.converged, solution.kernel, describe))


def solve_eloreta(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    *,
    snr: float = 3.0,
    force_equal: bool | None = None,
    loose: float | None = None,
    normals: Float[Array, "source 3"] | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 100,
) -> EloretaSolution:
    r"""eLORETA's kernel with what its iteration reached; never raises for that.

    $K = R \tilde L^T (\tilde L R \tilde L^T + \mathrm{snr}^{-2} I)^{-1} W$, where $W$ whitens the noise,
    $\tilde L = W L$, and the source covariance $R$ has the blocks $R_s \propto (\tilde L_s^T (\tilde L R
    \tilde L^T + \mathrm{snr}^{-2} I)^{-1} \tilde L_s)^{-1/2}$, one a location, scaled to $\mathrm{tr}(\tilde
    L R \tilde L^T) = \mathrm{rank}(C)$. This is a fixed point; iterating towards it about halves the
    distance. It compensates depth by itself. A source that no channel sees has a row of zeros.
    Differentiable in both arrays and in `snr`, by the implicit function theorem.

    Args:
        leadfield: $L$, in V/(A m).
        noise_cov: $C$, in V², same reference; may lack ranks.
        snr: amplitude signal-to-noise ratio, > 0; a larger one needs more iterations.
        force_equal: give the three components of a location one weight instead of a 3 × 3 matrix. None is
            False, which MNE-Python does by default (its documentation says True where loose); with
            a loose orientation only True keeps sources close to their normals.
        loose: variance of the tangential components as a share of the normal one's, in (0, 1]; applied
            again after each iteration, as MNE-Python does. None is 1.
        normals: unit vectors, needed if `loose` is below 1.
        tolerance: on the relative change of $R$ in one iteration; float32 reaches about 1e-6.
        max_iterations: at most. (MNE-Python stops after 20 by default, whatever is reached, and warns.)

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, a leadfield or covariance of
            zeros, or an argument out of its range.

    References:
        Pascual-Marqui 2007, arXiv:0710.3341; Pascual-Marqui et al. 2011, doi:10.1098/rsta.2011.0081.
    """
    leadfield, noise_cov = jnp.asarray(leadfield), jnp.asarray(noise_cov)
    check_leadfield(leadfield)
    check_noise_cov(noise_cov, leadfield.shape[0])
    check_positive("snr", snr)
    check_positive("tolerance", tolerance)
    check_positive("max_iterations", max_iterations)
    dtype = jnp.result_type(leadfield, noise_cov)
    leadfield = leadfield.astype(dtype)
    prior = source_prior(leadfield, loose=loose, normals=normals)
    snr, tolerance = jnp.asarray(snr, dtype), jnp.asarray(tolerance, dtype)
    limit = jnp.asarray(max_iterations, jnp.int32)
    return _solve(leadfield, noise_cov.astype(dtype), prior, snr, tolerance, limit, bool(force_equal))


@partial(jax.jit, static_argnums=6)
def _solve(leadfield, noise_cov, prior, snr, tolerance, max_iterations, force_equal):
    noise = whitener(noise_cov)
    n_channels, n_sources = leadfield.shape[:2]
    gain = _matmul(noise.matrix, _halfway(leadfield, prior).reshape(n_channels, -1))
    scale = jnp.sqrt(noise.rank / jnp.sum(gain**2))
    gain = (gain * scale).reshape(n_channels, n_sources, -1)
    # The orientation prior enters the iteration twice: reapplied to weights that were fitted with it.
    inner, outer = _blocks(gain), _blocks(_halfway(gain, prior))
    ridge = snr**-2 * jnp.eye(n_channels, dtype=gain.dtype)
    step = partial(_step, ridge=ridge, rank=noise.rank, force_equal=force_equal)
    gram, change, iterations = _fixed_point(step, inner, outer, ridge, noise.rank, tolerance, max_iterations)
    gram, weights = step(gram, inner, inner)
    transform = cho_solve(cho_factor(gram + ridge), noise.matrix) * scale

    def rows(block):
        part, weight = block
        spread = jnp.einsum("ijs,cjs->sic", weight, part, precision="highest")
        return _matmul(spread, transform)

    kernel = jax.lax.map(rows, (inner, weights)).reshape(-1, gain.shape[2], n_channels)[:n_sources]
    kernel = _halfway(jnp.moveaxis(kernel, 2, 0), prior).transpose(1, 2, 0)
    kernel = kernel[:, 0] if leadfield.ndim == 2 else kernel
    return EloretaSolution(kernel, change, iterations, change <= tolerance)


def _halfway(gain, prior: SourcePrior):
    """The gain times the square root of the orientation prior."""
    return gain if prior.loose is None else loosen(gain, prior.normals, jnp.sqrt(prior.loose))


def _blocks(gain):
    """(channel, source, component) to (block, channel, component, source of the block), filled with zeros."""
    n_channels, n_sources, n_components = gain.shape
    padded = jnp.pad(gain, ((0, 0), (0, -n_sources % _BLOCK), (0, 0)))
    return padded.reshape(n_channels, -1, _BLOCK, n_components).transpose(1, 0, 3, 2)


def _step(gram, inner, outer, *, ridge, rank, force_equal):
    """Weights that the Gram matrix asks for, and the Gram matrix that they give, of trace `rank`."""
    identity = jnp.eye(len(gram), dtype=gram.dtype)
    triangle = jnp.linalg.cholesky(gram + ridge)
    whiten = solve_triangular(triangle, identity, lower=True)

    def add(total, block):
        part, weighted = block
        seen = _matmul(whiten, part.reshape(len(gram), -1)).reshape(part.shape)
        weight = _inverse_root(jnp.einsum("cis,cjs->ijs", seen, seen, precision="highest"), force_equal)
        return total + _weighted_gram(weighted, weight), weight

    gram, weights = jax.lax.scan(add, jnp.zeros_like(gram), (inner, outer))
    size = jnp.trace(gram) / rank
    return gram / size, weights / size


def _weighted_gram(part, weight):
    spread = jnp.einsum("ijs,cjs->cis", weight, part, precision="highest")
    return _matmul(part.reshape(len(part), -1), spread.reshape(len(part), -1).T)


def _inverse_root(matrices, force_equal):
    if len(matrices) == 1:
        seen = matrices > 0
        return jnp.where(seen, 1 / jnp.sqrt(jnp.where(seen, matrices, 1)), 0)
    root = inverse_power(matrices, 0.5, max(_RTOL, 10 * float(jnp.finfo(matrices.dtype).eps)))
    if not force_equal:
        return root
    trace = jnp.einsum("ijs,ijs->s", matrices, root, precision="highest")
    equal = jnp.where(trace > 0, 3 / jnp.where(trace > 0, trace, 1), 0)
    return jnp.eye(3, dtype=root.dtype)[..., None] * equal


def _fixed_point(step, inner, outer, ridge, rank, tolerance, max_iterations):
    """The Gram matrix that gives itself, from equal weights; its last change and the iterations."""
    n_blocks, n_channels, n_components, _ = inner.shape
    ones = jnp.broadcast_to(
        jnp.eye(n_components, dtype=inner.dtype)[..., None], (n_blocks, n_components, n_components, _BLOCK)
    )

    def advance(state):
        gram, weights, history, _, iterations = state
        image, new = step(gram, inner, outer)
        change = jnp.linalg.norm((new - weights).ravel()) / jnp.linalg.norm(weights.ravel())
        gram, history = _extrapolate(gram, image, history, iterations, ridge)
        return gram, new, history, change, iterations + 1

    def unfinished(state):
        *_, change, iterations = state
        return (change > tolerance) & (iterations < max_iterations)

    def solve(_, start):
        size = jnp.trace(start) / rank
        history = jnp.zeros((2, _REMEMBERED, *start.shape), start.dtype)
        first = (start / size, ones / size, history, jnp.full((), jnp.inf, start.dtype), jnp.int32(0))
        gram, _, _, change, iterations = jax.lax.while_loop(unfinished, advance, first)
        return gram, (change, iterations.astype(gram.dtype))  # its derivative wants floating point

    start = jax.lax.scan(
        lambda total, block: (total + _weighted_gram(*block), None),
        jnp.zeros((n_channels, n_channels), inner.dtype),
        (outer, ones),
    )[0]
    residual = lambda gram: gram - step(gram, inner, outer)[0]  # noqa: E731
    gram, (change, iterations) = jax.lax.custom_root(residual, start, solve, _solve_tangent, has_aux=True)
    return gram, jax.lax.stop_gradient(change), jax.lax.stop_gradient(iterations).astype(jnp.int32)


def _extrapolate(gram, image, history, iterations, ridge):
    """Anderson's next iterate: the combination of the last images whose residual is least.

    The image itself where the combination is no covariance of measurements with noise.

    References:
        Walker & Ni 2011, doi:10.1137/10078356X.
    """
    place = iterations % _REMEMBERED
    history = history.at[:, place].set(jnp.stack([image, image - gram]))
    images, residuals = (part.reshape(_REMEMBERED, -1) for part in history)
    # Weights of sum one that minimise the norm of the residual; a place not yet filled gets none.
    filled = jnp.arange(_REMEMBERED) <= iterations
    inner = jnp.where(filled[:, None] & filled, _matmul(residuals, residuals.T), 0)
    diagonal = jnp.where(filled, _ROUNDING * jnp.trace(inner), 1)
    share = jnp.linalg.solve(inner + jnp.diag(diagonal), filled.astype(gram.dtype))
    mixed = _matmul(share / jnp.sum(share), images).reshape(gram.shape)
    usable = jnp.isfinite(jnp.linalg.cholesky(mixed + ridge)).all()
    return jnp.where(usable, mixed, image), history


def _solve_tangent(linear, right):
    return jax.lax.custom_linear_solve(linear, right, _iterate_linear, _iterate_linear)


def _iterate_linear(linear, right):
    """Solve x - J x = right, where J contracts."""

    def advance(state):
        x, _, steps = state
        missing = right - linear(x)
        return x + missing, jnp.linalg.norm(missing), steps + 1

    def unfinished(state):
        _, missing, steps = state
        return (missing > limit) & (steps < _TANGENT_STEPS)

    limit = 10 * jnp.finfo(right.dtype).eps * jnp.linalg.norm(right)
    first = (right, jnp.full((), jnp.inf, right.dtype), jnp.int32(0))
    return jax.lax.while_loop(unfinished, advance, first)[0]
