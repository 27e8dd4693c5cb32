"""Sparse Bayesian learning (gamma-MAP, Champagne): a variance for each source, most driven to zero."""

from functools import partial
from typing import Literal, NamedTuple, get_args

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.inverse.duality_gap import safe_root
from jaxinv.inverse.estimator import Estimate, check_measurements, where_converged
from jaxinv.inverse.evidence import (
    Fit,
    Update,
    moments,
    moments_of_few,
    negative_log_evidence,
    updated,
    whitening_factor,
)
from jaxinv.inverse.extrapolation import Extrapolation
from jaxinv.inverse.validation import check_leadfield, check_noise_cov, check_positive
from jaxinv.inverse.whitening import whitener

NoiseLearning = Literal[False, "homoscedastic", "heteroscedastic"]

_matmul = partial(jnp.matmul, precision="highest")

_NOISE_FLOOR = 1e-4  # of the given variance: fewer samples than channels can be explained without any noise
_SHRINK = 2  # the iteration goes on with the sources that are left when so many times fewer are
_FEWEST = 16  # sources, below which fewer would not be faster


@flax.struct.dataclass
class SparseBayesSolution:
    """What the iteration reached. A pytree.

    Attributes:
        current: posterior mean, in A m.
        std: posterior standard deviation at the variances found, in A m; the same at all times.
        variance: of each source (of each of its orientations), in (A m)².
        noise_cov: given or learned, in V².
        cost: negative log density of the whitened measurements a sample (LowSNR-BSI: its upper bound).
        change: relative change of the variances in the last iteration.
        iterations: done.
        converged: whether `change` is below the tolerance, and the cost a number.
    """

    current: Float[Array, "source ..."]
    std: Float[Array, "source ..."]
    variance: Float[Array, " source"]
    noise_cov: Float[Array, "channel channel"]
    cost: Float[Array, ""]
    change: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


@flax.struct.dataclass
class SparseBayesEstimator:
    """Sparse Bayesian learning bound to a leadfield and a covariance. A pytree; make it with `sparse_bayes`.

    Attributes:
        gain: whitened leadfield over `scale`.
        whitener: of the given noise, in 1/V.
        colouring: pseudo-inverse of the whitener, in V.
        scale: of the whitened leadfield, in 1/(A m).
        tolerance: on the relative change of the variances.
        pruning: share of the largest variance below which a variance is set to zero.
        max_iterations: at most.
        update: rule of iteration.
        learn_noise: what is learned of the noise.
    """

    gain: Float[Array, "channel source"] | Float[Array, "channel source 3"]
    whitener: Float[Array, "channel channel"]
    colouring: Float[Array, "channel channel"]
    scale: Float[Array, ""]
    tolerance: Float[Array, ""]
    pruning: Float[Array, ""]
    max_iterations: Int[Array, ""]
    update: Update = flax.struct.field(pytree_node=False)
    learn_noise: NoiseLearning = flax.struct.field(pytree_node=False)

    def solve(self, measurements: Float[Array, "channel *time"]) -> SparseBayesSolution:
        """Variances and current of all samples together; never raises for what the iteration reached.

        Raises:
            ValueError: if the first axis is not the leadfield's channels, or a value is not finite.
        """
        check_measurements(measurements, len(self.gain))
        return _solve(self, jnp.asarray(measurements, self.gain.dtype))

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Posterior mean and standard deviation of the current, from all samples together.

        Raises:
            ConvergenceError: if the variances did not settle; use `solve` to have them nevertheless. Under a
                transformation of JAX nothing can be raised, and the estimate is NaN instead.
            ValueError: if the first axis is not the leadfield's channels, or a value is not finite.
        """
        solution = self.solve(measurements)

        def describe():
            return (
                f"sparse_bayes: relative change {solution.change:.1e} > tolerance {self.tolerance:g} after "
                f"{solution.iterations} iterations; raise max_iterations or tolerance, or use solve()"
            )

        found = Estimate(solution.current, std=solution.std)
        return where_converged(solution.converged, found, describe)


def sparse_bayes(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    *,
    update: Update = "Champagne",
    learn_noise: NoiseLearning = False,
    tolerance: float = 1e-6,
    pruning: float = 1e-6,
    max_iterations: int = 10_000,
) -> SparseBayesEstimator:
    r"""Estimator with a zero-mean Gaussian prior of its own variance for each source, learned from the data.

    Variances maximise the evidence of all samples together (type-II likelihood), with $y \sim N(0, C +
    \sum_s \gamma_s L_s L_s^T)$; with free orientation the three of a source share $\gamma_s$. At a maximum
    most are zero. There are many local maxima; the start is the same variance for all. EM and Champagne
    (convex bounding) raise the evidence at every step, MacKay's rule (the default of MNE-Python's gamma-MAP)
    mostly does so faster; LowSNR-BSI minimises a convex bound that is tight where noise prevails. Every
    second step is followed by an extrapolation along both, which stands where the evidence is no lower.

    Measurements of zeros give zeros; a source that no channel sees stays at zero. Derivatives are
    forward-mode only, of what was reached.

    Args:
        leadfield: $L$, in V/(A m).
        noise_cov: $C$, in V², same reference; may lack ranks.
        update: "EM", "MacKay", "Champagne" or "LowSNR-BSI".
        learn_noise: False takes $C$ as given; "homoscedastic" learns a factor of it; "heteroscedastic" learns
            $C^{1/2} \mathrm{diag}(\lambda) C^{1/2}$, which for a diagonal $C$, and for white noise that was
            referenced, is independent noise of another variance at each electrode. No $\lambda$ falls below
            1e-4. It wants more samples than channels.
        tolerance: on $\sum_s |\Delta \gamma_s| / \sum_s \gamma_s$ of one iteration (and of learned noise).
        pruning: share of the largest variance, in [0, 1), below which a variance is set to zero for good.
        max_iterations: at most, each of the cost of two products with the leadfield.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, a leadfield or covariance of
            zeros, or an argument out of its range.

    References:
        Wipf & Nagarajan 2009, doi:10.1016/j.neuroimage.2008.02.059 (gamma-MAP); Wipf et al. 2010,
        doi:10.1016/j.neuroimage.2009.06.083 (Champagne); Cai et al. 2021,
        doi:10.1016/j.neuroimage.2020.117411 (noise); Hashemi et al. 2021,
        doi:10.1016/j.neuroimage.2021.118309 (LowSNR-BSI, and all as majorisation and minimisation).
    """
    leadfield, noise_cov = jnp.asarray(leadfield), jnp.asarray(noise_cov)
    check_leadfield(leadfield)
    check_noise_cov(noise_cov, leadfield.shape[0])
    check_positive("tolerance", tolerance)
    check_positive("max_iterations", max_iterations)
    if update not in get_args(Update):
        raise ValueError(f"update must be one of {get_args(Update)}, not {update!r}")
    if learn_noise not in get_args(NoiseLearning):
        raise ValueError(f"learn_noise must be one of {get_args(NoiseLearning)}, not {learn_noise!r}")
    if update == "LowSNR-BSI" and learn_noise:
        raise ValueError(
            "LowSNR-BSI takes the noise as given: learn_noise must be False, or choose Champagne"
        )
    if not isinstance(pruning, jax.core.Tracer) and not 0 <= pruning < 1:
        raise ValueError(f"pruning must be a share in [0, 1); found {pruning}")
    dtype = jnp.result_type(leadfield, noise_cov)
    prepared = _prepare(leadfield.astype(dtype), noise_cov.astype(dtype), learn_noise == "heteroscedastic")
    tolerance, pruning = jnp.asarray(tolerance, dtype), jnp.asarray(pruning, dtype)
    limit = jnp.asarray(max_iterations, jnp.int32)
    return SparseBayesEstimator(*prepared, tolerance, pruning, limit, update, learn_noise)


@partial(jax.jit, static_argnums=2)
def _prepare(leadfield, noise_cov, symmetric):
    """Whitened gain, its scale and the whitener; symmetric where noise is learned channel by channel."""
    noise = whitener(noise_cov)
    matrix = noise.matrix
    if symmetric:
        unit = jnp.max(jnp.abs(matrix))
        spectrum, vectors = jnp.linalg.eigh(_matmul(matrix.T / unit, matrix / unit))
        kept = jnp.arange(len(spectrum)) >= len(spectrum) - noise.rank
        root = jnp.where(kept, jnp.sqrt(jnp.where(kept, spectrum, 1)), 0)
        matrix = _matmul(vectors * root, vectors.T) * unit
    gain = _matmul(matrix, leadfield.reshape(len(leadfield), -1)).reshape(leadfield.shape)
    scale = jnp.max(jnp.abs(gain))
    return gain / scale, matrix, _matmul(noise_cov, matrix.T), scale


class _Problem(NamedTuple):
    """What stays the same: whitened samples, and the range of the noise in which they lie."""

    data: Float[Array, "channel sample"]
    projector: Float[Array, "channel channel"]
    rank: Float[Array, ""]


class _State(NamedTuple):
    """Of the iteration.

    Attributes:
        variances: of the sources, then of the noise at each channel, in the units of the normalised gain and
            the given noise.
        change: relative, in the last step.
        iterations: done.
    """

    variances: Extrapolation
    change: Float[Array, ""]
    iterations: Int[Array, ""]


@jax.jit
def _solve(estimator, measurements):
    white = _matmul(estimator.whitener, measurements.reshape(len(measurements), -1))
    data = _fewer_samples(white)
    power = jnp.sum(estimator.gain.reshape(len(data), estimator.gain.shape[1], -1) ** 2, axis=(0, 2))
    start = jnp.sum(data**2) / data.shape[1] / jnp.sum(power)
    one = jnp.ones((), data.dtype)
    variances = jnp.concatenate([jnp.where(power > 0, start, 0), jnp.ones(len(data), data.dtype)])
    projector = _matmul(estimator.whitener, estimator.colouring)
    problem = _Problem(data, projector, jnp.trace(projector))
    state = _State(Extrapolation.begin(variances), one, jnp.int32(0))
    end = _iterate(estimator, problem, estimator.gain, state)
    variance, noise = _parted(problem, end.variances.reached)
    current, std, cost = _posterior(estimator, problem, white, variance, noise)
    shape = (*estimator.gain.shape[1:], *measurements.shape[1:])
    std = std.reshape(*estimator.gain.shape[1:], *(1,) * (measurements.ndim - 1))
    return SparseBayesSolution(
        current=current.reshape(shape) / estimator.scale,
        std=jnp.broadcast_to(std, shape) / estimator.scale,
        variance=variance / estimator.scale / estimator.scale,
        noise_cov=_matmul(estimator.colouring * noise, estimator.colouring.T),
        cost=cost,
        change=end.change,
        iterations=end.iterations,
        converged=(end.change <= estimator.tolerance) & jnp.isfinite(cost),
    )


def _fewer_samples(white):
    """As many samples as channels at most, of the same second moments."""
    n_channels, n_samples = white.shape
    if n_samples <= n_channels:
        return white
    spectrum, vectors = jnp.linalg.eigh(_matmul(white, white.T))
    return vectors * jnp.sqrt(jnp.maximum(spectrum, 0) * (n_channels / n_samples))


def _parted(problem, variances):
    """Of the sources, and of the noise."""
    return jnp.split(variances, [len(variances) - len(problem.data)])


def _iterate(estimator, problem, gain, state):
    """Until it converged or, once so few sources are left that it pays, with those alone to its end."""
    size = gain.shape[1]
    enough = size // _SHRINK if size >= _SHRINK * _FEWEST else -1

    def n_left(state):
        return jnp.sum(state.variances.reached[:size] > 0)

    def unfinished(state):
        busy = (state.change > estimator.tolerance) & (state.iterations < estimator.max_iterations)
        return busy & (n_left(state) > enough)

    def go_on(state):
        left = jnp.nonzero(
            state.variances.reached[:size] > 0, size=enough, fill_value=len(problem.data) + size
        )[0]
        left = jnp.concatenate([left, jnp.arange(size, size + len(problem.data))])
        few = state.variances.mapped(lambda values: values.at[left].get(mode="fill", fill_value=0))
        end = _iterate(
            estimator,
            problem,
            gain.at[:, left[:enough]].get(mode="fill", fill_value=0),
            state._replace(variances=few),
        )
        whole = jnp.zeros_like(state.variances.reached)
        return end._replace(
            variances=end.variances.mapped(lambda values: whole.at[left].set(values, mode="drop"))
        )

    state = jax.lax.while_loop(unfinished, partial(_step, estimator, problem, gain), state)
    if enough < 0:
        return state
    return jax.lax.cond(n_left(state) > enough, lambda state: state, go_on, state)


def _step(estimator, problem, gain, state):
    """One step of the rule from where the last or an extrapolation has led, with what is too small pruned."""
    tried = state.variances.tried
    variance, noise = _parted(problem, tried)
    columns = gain.reshape(len(gain), -1)
    if not estimator.learn_noise and columns.shape[1] < len(gain):
        seen, fit = moments_of_few(columns, problem.data, variance)
    else:
        factor, log_determinant = whitening_factor(_covariance(estimator, problem, gain, variance, noise))
        white = _matmul(factor, problem.data)
        fit = Fit.of(white, log_determinant)
        seen = moments(factor, columns, white, columns.shape[1] // gain.shape[1])
        noise = _learned_noise(estimator, problem, factor, white, noise)
    cost = _cost(estimator, problem, fit, variance, seen.reach)
    variance = updated(estimator.update, variance, seen)
    largest = jnp.max(variance)
    variance = jnp.where(variance > estimator.pruning * largest, variance, 0)
    stepped = jnp.concatenate([variance, noise])
    least = jnp.concatenate([
        jnp.full_like(variance, estimator.pruning * largest), jnp.full_like(noise, _NOISE_FLOOR)
    ])  # fmt: skip
    variances, counts = state.variances.moved(stepped, cost, least)
    change = jnp.maximum(
        *(_change(*pair) for pair in zip(_parted(problem, stepped), _parted(problem, tried)))
    )
    return _State(variances, jnp.where(counts, change, state.change), state.iterations + 1)


def _learned_noise(estimator, problem, factor, white, noise):
    """Noise is one more component (a factor of all), or one for each channel."""
    if not estimator.learn_noise:
        return noise
    if estimator.learn_noise == "heteroscedastic":
        seen = moments(factor, problem.projector, white, 1)
    else:
        seen = moments(factor, problem.projector, white, len(noise))._replace(size=problem.rank)
    return jnp.maximum(jnp.broadcast_to(updated(estimator.update, noise, seen), noise.shape), _NOISE_FLOOR)


def _covariance(estimator, problem, gain, variance, noise_variance):
    """Of the whitened measurements; one in the directions that the noise covariance lacks."""
    noise = jnp.eye(len(gain), dtype=gain.dtype)
    if estimator.learn_noise:
        noise = noise + _matmul(problem.projector * (noise_variance - 1), problem.projector)
    weighted = gain * variance.reshape(-1, *(1,) * (gain.ndim - 2))
    return noise + _matmul(weighted.reshape(len(gain), -1), gain.reshape(len(gain), -1).T)


def _change(new, old):
    size = jnp.sum(old)
    return jnp.sum(jnp.abs(new - old)) / jnp.where(size > 0, size, 1)


def _posterior(estimator, problem, white, variance, noise):
    """Mean and standard deviation of each column's current, and the cost."""
    columns = estimator.gain.reshape(len(white), -1)
    factor, log_determinant = whitening_factor(
        _covariance(estimator, problem, estimator.gain, variance, noise)
    )
    each = jnp.repeat(variance, estimator.gain[0, 0].size)
    seen, white = _matmul(factor, columns), _matmul(factor, white)
    mean = each[:, None] * _matmul(seen.T, white)
    std = safe_root(jnp.maximum(each - each**2 * jnp.sum(seen**2, axis=0), 0))
    fit = Fit.of(white, log_determinant)
    return mean, std, _cost(estimator, problem, fit, each, jnp.sum(columns**2, axis=0))


def _cost(estimator, problem, fit, variance, reach):
    """Negative log evidence; LowSNR-BSI's is bounded by taking the trace for the logarithm."""
    if estimator.update == "LowSNR-BSI":
        fit = fit._replace(log_determinant=jnp.sum(variance * reach))
    return negative_log_evidence(fit, problem.rank)
