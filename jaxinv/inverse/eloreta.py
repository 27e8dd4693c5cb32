"""eLORETA: weights of the minimum norm for which every single source is localised without error."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.inverse.estimator import LinearEstimator, where_converged
from jaxinv.inverse.small_eigen import inverse_power
from jaxinv.inverse.source_prior import SourcePrior, loosen, source_prior
from jaxinv.inverse.validation import check_leadfield, check_noise_cov, check_positive
from jaxinv.inverse.whitening import inverse_triangle, whitener

_matmul = partial(jnp.matmul, precision="highest")

_BLOCK = 512  # sources, at most, whose gain stays in the cache while their weights are found and used
_RTOL = 1e-7  # of three eigenvalues: an orientation that is seen less is not seen, as in MNE-Python
_REMEMBERED = 5  # images that are combined
_ROUNDING = 1e-12  # of the residuals' inner products
_ROUGH = 1e-4  # change up to which float32 is good enough
_ROUGH_STEPS = 10  # at most: rounding may keep the change above that
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
    prior = source_prior(leadfield, noise_cov, loose=loose, normals=normals)
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
    inner = _blocks(gain)
    gains = (inner, inner if prior.loose is None else _blocks(_halfway(gain, prior)))
    ridge = snr**-2 * jnp.eye(n_channels, dtype=gain.dtype)
    step = partial(_step, rank=noise.rank, force_equal=force_equal)
    gram, change, iterations = _fixed_point(step, gains, ridge, noise.rank, tolerance, max_iterations)
    gram, weights = step(inverse_triangle(gram + ridge), (inner, inner))
    whiten = inverse_triangle(gram + ridge)
    transform = _matmul(whiten.T, _matmul(whiten, noise.matrix)) * scale

    def rows(block):
        return jnp.tensordot(_spread(*block), transform, axes=(0, 0), precision="highest")

    kernel = jax.lax.map(rows, (inner, weights)).transpose(0, 2, 1, 3).reshape(-1, gain.shape[2], n_channels)
    kernel = _halfway(jnp.moveaxis(kernel[:n_sources], 2, 0), prior).transpose(1, 2, 0)
    kernel = kernel[:, 0] if leadfield.ndim == 2 else kernel
    return EloretaSolution(kernel, change, iterations, change <= tolerance)


def _halfway(gain, prior: SourcePrior):
    """The gain times the square root of the orientation prior."""
    return gain if prior.loose is None else loosen(gain, prior.normals, jnp.sqrt(prior.loose))


def _blocks(gain):
    """(channel, source, component) to (block, channel, component, source of the block), filled with zeros."""
    n_channels, n_sources, n_components = gain.shape
    n_blocks = -(-n_sources // _BLOCK)
    size = -(-n_sources // n_blocks)
    padded = jnp.pad(gain, ((0, 0), (0, n_blocks * size - n_sources), (0, 0)))
    return padded.reshape(n_channels, n_blocks, size, n_components).transpose(1, 0, 3, 2)


def _step(whiten, gains, *, rank, force_equal):
    """Weights that the whitener of the measurements asks for, and the Gram matrix of trace `rank` they give.

    In the precision of the gains.
    """
    inner, outer = gains
    n_channels, dtype = len(whiten), inner.dtype
    precise, whiten = whiten.dtype, whiten.astype(dtype)

    def add(total, block):
        part, weighted = block
        seen = _matmul(whiten, part.reshape(n_channels, -1)).reshape(part.shape)
        weight = _inverse_root(_products(seen), force_equal)
        spread = _spread(weighted, weight).reshape(n_channels, -1)
        return total + _matmul(weighted.reshape(n_channels, -1), spread.T), weight

    total, weights = jax.lax.scan(add, jnp.zeros((n_channels, n_channels), dtype), (inner, outer))
    total, weights = total.astype(precise), weights.astype(precise)
    size = jnp.trace(total) / rank
    return total / size, weights / size


def _products(seen):
    """Of the columns of each source; one sum an entry, which XLA's CPU loops do fastest within the cache."""
    n = seen.shape[1]
    entry = {(i, j): jnp.sum(seen[:, i] * seen[:, j], axis=0) for i in range(n) for j in range(i, n)}
    return jnp.stack([jnp.stack([entry[min(i, j), max(i, j)] for j in range(n)]) for i in range(n)])


def _spread(part, weight):
    """Gain of a block times its weights."""
    return sum(weight[:, j] * part[:, j, None] for j in range(len(weight)))


def _inverse_root(matrices, force_equal):
    if len(matrices) == 1:
        seen = matrices > 0
        return jnp.where(seen, 1 / jnp.sqrt(jnp.where(seen, matrices, 1)), 0)
    root = inverse_power(matrices, 0.5, _RTOL)
    if not force_equal:
        return root
    trace = jnp.einsum("ijs,ijs->s", matrices, root, precision="highest")
    equal = jnp.where(trace > 0, 3 / jnp.where(trace > 0, trace, 1), 0)
    return jnp.eye(3, dtype=root.dtype)[..., None] * equal


def _fixed_point(step, gains, ridge, rank, tolerance, max_iterations):
    """The Gram matrix that gives itself, from equal weights; its last change and the iterations.

    Far from it, steps in float32 are as good and cost half; those that decide are in the gains' precision.
    """
    n_blocks, n_channels, n_components, size = gains[0].shape
    dtype = gains[0].dtype
    rough = tuple(gain.astype(jnp.float32) for gain in gains)

    def advance(gains, state):
        guess, image, weights, history, _, iterations = state
        matrix, whiten = _covariance(guess, image, ridge)
        image, new = step(whiten, gains)
        change = jnp.linalg.norm((new - weights).ravel()) / jnp.linalg.norm(weights.ravel())
        guess, history = _extrapolate(matrix, image, history, iterations)
        return guess, image, new, history, change, iterations + 1

    def far(state):
        *_, change, iterations = state
        steps = jnp.minimum(max_iterations, _ROUGH_STEPS)
        return (change > jnp.maximum(tolerance, _ROUGH)) & (iterations < steps)

    def unfinished(state):
        *_, change, iterations = state
        return ~(change <= tolerance) & (iterations < max_iterations)

    def solve(_, start):
        weight = jnp.eye(n_components, dtype=dtype)[..., None] * (rank / jnp.trace(start))
        weights = jnp.broadcast_to(weight, (n_blocks, n_components, n_components, size))
        history = jnp.zeros((2, _REMEMBERED, *start.shape), dtype)
        start = start * (rank / jnp.trace(start))
        state = (start, start, weights, history, jnp.full((), jnp.inf, dtype), jnp.int32(0))
        if dtype != jnp.float32:
            state = jax.lax.while_loop(far, partial(advance, rough), state)
        guess, image, _, _, change, iterations = jax.lax.while_loop(
            unfinished, partial(advance, gains), state
        )
        matrix, _ = _covariance(guess, image, ridge)
        return matrix, (change, iterations.astype(dtype))  # its derivative wants floating point

    flat = rough[1].swapaxes(0, 1).reshape(n_channels, -1)
    start = _matmul(flat, flat.T).astype(dtype)
    residual = lambda gram: gram - step(inverse_triangle(gram + ridge), gains)[0]  # noqa: E731
    gram, (change, iterations) = jax.lax.custom_root(residual, start, solve, _solve_tangent, has_aux=True)
    return gram, jax.lax.stop_gradient(change), jax.lax.stop_gradient(iterations).astype(jnp.int32)


def _covariance(guess, image, ridge):
    """The guess, or the image where the guess is no covariance of measurements; and what whitens them."""
    whiten = inverse_triangle(guess + ridge)
    usable = jnp.isfinite(whiten).all()
    # Chosen first, so that under vmap one factorisation waits for the other: LAPACK's batches can block
    # each other for ever in one program.
    matrix = jnp.where(usable, guess, image)
    return matrix, jax.lax.cond(usable, lambda: whiten, lambda: inverse_triangle(matrix + ridge))


def _extrapolate(gram, image, history, iterations):
    """Anderson's next iterate: the combination of the last images whose residual is least.

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
    factor = inverse_triangle(inner + jnp.diag(diagonal))
    share = _matmul(factor.T, _matmul(factor, filled.astype(gram.dtype)))
    return _matmul(share / jnp.sum(share), images).reshape(gram.shape), history


def _solve_tangent(linear, right):
    return jax.lax.custom_linear_solve(linear, right, _iterate_linear, _iterate_linear)


def _iterate_linear(linear, right):
    """Solve x - J x = right, where J contracts; NaN if it contracts too slowly for the steps there are."""

    def advance(state):
        x, _, steps = state
        missing = right - linear(x)
        return x + missing, jnp.linalg.norm(missing), steps + 1

    def unfinished(state):
        _, missing, steps = state
        return (missing > limit) & (steps < _TANGENT_STEPS)

    limit = 10 * jnp.finfo(right.dtype).eps * jnp.linalg.norm(right)
    first = (right, jnp.full((), jnp.inf, right.dtype), jnp.int32(0))
    found, missing, _ = jax.lax.while_loop(unfinished, advance, first)
    enough = missing <= jnp.finfo(right.dtype).eps ** 0.5 * jnp.linalg.norm(right)
    return jnp.where(enough, found, jnp.nan)
