"""The L1 estimate (Lasso, minimum current) with a certified gap: homotopy, then FISTA for what it left."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.inverse.duality_gap import duality_gap
from jaxinv.inverse.estimator import Estimate, check_measurements, where_converged
from jaxinv.inverse.homotopy import lasso_path_end
from jaxinv.inverse.validation import check_alpha, check_leadfield, check_noise_cov, check_positive
from jaxinv.inverse.whitening import whitener

_matmul = partial(jnp.matmul, precision="highest")

_CHECK_EVERY = 10  # iterations between evaluations of the gap, each of which costs half an iteration


@flax.struct.dataclass
class LassoSolution:
    """What the iteration reached, for each topography. A pytree.

    Attributes:
        current: in A m.
        gap: duality gap over half the squared norm of the whitened measurements; bounds how far the objective
            is from its minimum.
        iterations: steps of the homotopy and iterations of FISTA together.
        converged: whether the gap is below the tolerance.
    """

    current: Float[Array, "source *time"]
    gap: Float[Array, "*time"]
    iterations: Int[Array, "*time"]
    converged: Bool[Array, "*time"]


@flax.struct.dataclass
class LassoEstimator:
    """The Lasso bound to a leadfield and a covariance. A pytree; make it with `lasso`.

    Attributes:
        gain: whitened leadfield over its spectral norm.
        whitener: of the noise, in 1/V.
        spectral_norm: of the whitened leadfield, in 1/(A m).
        alpha: penalty as a share of the smallest that gives zero.
        tolerance: on the relative duality gap.
        max_iterations: at most.
    """

    gain: Float[Array, "channel source"]
    whitener: Float[Array, "channel channel"]
    spectral_norm: Float[Array, ""]
    alpha: Float[Array, ""]
    tolerance: Float[Array, ""]
    max_iterations: Int[Array, ""]

    def solve(self, measurements: Float[Array, "channel *time"]) -> LassoSolution:
        """Current of each topography by itself, with what the iteration reached; never raises for that.

        Raises:
            ValueError: if the first axis is not the leadfield's channels.
        """
        check_measurements(measurements, len(self.gain))
        measurements = jnp.asarray(measurements, self.gain.dtype)
        return (_solve if measurements.ndim == 1 else _solve_series)(self, measurements)

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Current of each topography by itself.

        Raises:
            ConvergenceError: if one did not converge; use `solve` to have it nevertheless. Under a
                transformation of JAX nothing can be raised, and its current is NaN instead.
            ValueError: if the first axis is not the leadfield's channels.
        """
        solution = self.solve(measurements)

        def describe():
            return (
                f"lasso: relative duality gap {solution.gap.max():.1e} > tolerance {self.tolerance:g} after "
                f"{self.max_iterations} iterations; raise max_iterations, tolerance or alpha, or use solve()"
            )

        return Estimate(where_converged(solution.converged, solution.current, describe))


def lasso(
    leadfield: Float[Array, "channel source"],
    noise_cov: Float[Array, "channel channel"],
    *,
    alpha: float = 0.1,
    tolerance: float = 1e-4,
    max_iterations: int = 5_000,
) -> LassoEstimator:
    r"""Estimator of sparse currents, one topography at a time.

    $\min_x \tfrac12 \lVert W (y - L x) \rVert^2 + \lambda \lVert x \rVert_1$, where $W$ whitens the noise and
    $\lambda = \alpha \lVert (W L)^T W y \rVert_\infty$, so that $\alpha = 1$ gives zero whatever the scale of
    the measurements. The path of solutions is followed to $\lambda$, in about as many steps as sources are
    active; from its end FISTA, restarted where the momentum turns against the gradient, runs until the
    duality gap is below `tolerance`, which mostly it is already. (From zero, FISTA alone needs thousands of
    iterations on a leadfield.) Measurements of zeros give zeros; a source that no channel sees stays at zero.
    Derivatives are forward-mode only, of what was reached.

    Args:
        leadfield: $L$, in V/(A m), fixed orientation.
        noise_cov: $C$, in V², same reference; may lack ranks.
        alpha: in (0, 1).
        tolerance: on the duality gap over $\tfrac12 \lVert W y \rVert^2$; float32 reaches about 1e-6.
        max_iterations: of both together at most, those of FISTA in tens.

    Raises:
        ValueError: for shapes that do not fit, a free orientation, values that are not finite, a leadfield or
            covariance of zeros, or an argument out of its range.

    References:
        Tibshirani 1996, doi:10.1111/j.2517-6161.1996.tb02080.x; Matsuura & Okabe 1995, doi:10.1109/10.387200
        (on EEG and MEG); Efron et al. 2004, doi:10.1214/009053604000000067 (homotopy); Beck & Teboulle 2009,
        doi:10.1137/080716542 (FISTA); O'Donoghue & Candès 2015, doi:10.1007/s10208-013-9150-3 (restarts).
    """
    leadfield, noise_cov = jnp.asarray(leadfield), jnp.asarray(noise_cov)
    check_leadfield(leadfield)
    if leadfield.ndim == 3:
        raise ValueError(
            "lasso needs a leadfield of fixed orientation, (channel, source): give sources normals"
        )
    check_noise_cov(noise_cov, leadfield.shape[0])
    check_positive("tolerance", tolerance)
    check_positive("max_iterations", max_iterations)
    check_alpha(alpha)
    dtype = jnp.result_type(leadfield, noise_cov)
    gain, matrix, norm = _prepare(leadfield.astype(dtype), noise_cov.astype(dtype))
    alpha, tolerance = jnp.asarray(alpha, dtype), jnp.asarray(tolerance, dtype)
    return LassoEstimator(gain, matrix, norm, alpha, tolerance, jnp.asarray(max_iterations, jnp.int32))


@jax.jit
def _prepare(leadfield, noise_cov):
    noise = whitener(noise_cov)
    gain = _matmul(noise.matrix, leadfield)
    size = jnp.max(jnp.abs(gain))
    largest = jnp.linalg.eigvalsh(_matmul(gain / size, gain.T / size))[-1]
    # Never below the true norm by rounding: steps must not be too long.
    norm = size * jnp.sqrt(largest) * (1 + len(gain) * jnp.finfo(gain.dtype).eps)
    return gain / norm, noise.matrix, norm


@jax.jit
def _solve(estimator, measurements):
    """One topography, scaled so that the gain and the data have norm one."""
    white = _matmul(estimator.whitener, measurements)
    size = jnp.linalg.norm(white)
    target = white / jnp.where(size > 0, size, 1)
    penalty = estimator.alpha * jnp.max(jnp.abs(_matmul(estimator.gain.T, target)))
    limit = estimator.max_iterations
    start, steps = lasso_path_end(estimator.gain, target, penalty, limit)
    iterate, gap, iterations = fista(
        estimator.gain, target, penalty, start, steps, estimator.tolerance, limit
    )
    current = iterate * (size / estimator.spectral_norm)
    return LassoSolution(current, gap, iterations, gap <= estimator.tolerance)


_solve_series = jax.jit(jax.vmap(_solve, (None, 1), -1))


def fista(
    gain: Float[Array, "channel source"],
    target: Float[Array, " channel"],
    penalty: Float[Array, ""],
    start: Float[Array, " source"],
    steps: Int[Array, ""],
    tolerance: Float[Array, ""],
    max_iterations: Int[Array, ""],
) -> tuple[Float[Array, " source"], Float[Array, ""], Int[Array, ""]]:
    """Minimise the Lasso's objective from `start`, having done `steps` already.

    The gain must have spectral norm one at most, and the target norm one (or zero).

    Returns:
        The minimiser, the relative duality gap and the number of steps in all.
    """

    def step(_, state):
        iterate, ahead, momentum = state
        gradient = _matmul(gain.T, _matmul(gain, ahead) - target)
        new = _soft_threshold(ahead - gradient, penalty)
        restart = jnp.vdot(ahead - new, new - iterate) > 0
        momentum = jnp.where(restart, 1, momentum)
        following = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + jnp.where(restart, 0, (momentum - 1) / following) * (new - iterate)
        return new, ahead, following

    def advance(state):
        *fista, _, iterations = state
        fista = jax.lax.fori_loop(0, _CHECK_EVERY, step, tuple(fista))
        return *fista, _relative_gap(gain, target, penalty, fista[0]), iterations + _CHECK_EVERY

    def unfinished(state):
        *_, gap, iterations = state
        return (gap > tolerance) & (iterations < max_iterations)

    first = (start, start, jnp.ones((), gain.dtype), _relative_gap(gain, target, penalty, start), steps)
    iterate, _, _, gap, iterations = jax.lax.while_loop(unfinished, advance, first)
    return iterate, gap, iterations


def _relative_gap(gain, target, penalty, iterate):
    """Primal minus dual objective; the target has norm one (or zero, when all is zero)."""
    residual = target - _matmul(gain, iterate)
    correlation = jnp.abs(_matmul(gain.T, residual))
    return duality_gap(target, penalty, residual, correlation, penalty * jnp.sum(jnp.abs(iterate)))


def _soft_threshold(x, by):
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - by, 0)
