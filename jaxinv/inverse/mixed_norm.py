"""Mixed-norm estimates (MxNE), reweighted (irMxNE) and debiased ones, by the conventions of MNE-Python."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.inverse.bounded_quadratic import bounded_quadratic
from jaxinv.inverse.duality_gap import correlate, group_norms, safe_root
from jaxinv.inverse.estimator import Estimate, check_measurements, where_converged
from jaxinv.inverse.group_lasso import fields, gap_of, group_lasso, largest, rank, slot_sizes
from jaxinv.inverse.group_newton import group_newton
from jaxinv.inverse.validation import (
    check_alpha,
    check_depth,
    check_leadfield,
    check_noise_cov,
    check_positive,
)
from jaxinv.inverse.whitening import whitener

_matmul = partial(jnp.matmul, precision="highest")

_SPARE = 50  # slots beyond the number of channels, which suffice for one topography of fixed orientation
_ALPHA_MAX = 100.0  # smallest penalty that gives zero, in the units in which current is reweighted


@flax.struct.dataclass
class MixedNormSolution:
    """What the iteration reached. A pytree.

    Attributes:
        current: in A m.
        gap: duality gap over half the squared norm of the whitened measurements, the largest of all
            reweightings; bounds how far each objective is from its minimum.
        iterations: Newton steps in all.
        converged: whether the gap is below the tolerance.
    """

    current: Float[Array, "source *orientation_and_time"]
    gap: Float[Array, ""]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


@flax.struct.dataclass
class MixedNormEstimator:
    """The mixed norm bound to a leadfield and a covariance. A pytree; make it with `mixed_norm`.

    Attributes:
        gain: whitened leadfield, transposed, weighted by depth, over the largest norm of a source.
        coarse: the same in single precision, for passes over all sources.
        amplitude: of each source, in A m: what its row of the gain is for.
        whitener: of the noise, in 1/V.
        alpha: penalty as a share of the smallest that gives zero.
        tolerance: on the relative duality gap.
        max_iterations: Newton steps at most, for each reweighting.
        n_reweightings: problems solved at most; one is the mixed norm.
        debias: whether amplitudes are corrected at the end.
        max_active: sources that can be active at once.
    """

    gain: Float[Array, "source orientation channel"]
    coarse: Float[Array, "channel column"]
    amplitude: Float[Array, " source"]
    whitener: Float[Array, "channel channel"]
    alpha: Float[Array, ""]
    tolerance: Float[Array, ""]
    max_iterations: Int[Array, ""]
    n_reweightings: Int[Array, ""]
    debias: bool = flax.struct.field(pytree_node=False)
    max_active: int = flax.struct.field(pytree_node=False)

    def solve(self, measurements: Float[Array, "channel *time"]) -> MixedNormSolution:
        """Current of one topography or a time series, with what was reached; never raises for that.

        Raises:
            ValueError: if the first axis is not the leadfield's channels, or a value is not finite.
        """
        check_measurements(measurements, len(self.whitener))
        measurements = jnp.asarray(measurements, self.gain.dtype)
        series = measurements.reshape(len(measurements), -1)
        solution = _solve(self, series)
        orientation = self.gain.shape[1:2] if self.gain.shape[1] == 3 else ()
        shape = (len(self.gain), *orientation, *measurements.shape[1:])
        return solution.replace(current=solution.current.reshape(shape))

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Current of one topography or a time series.

        Raises:
            ConvergenceError: if it did not converge; use `solve` to have it nevertheless. Under a
                transformation of JAX nothing can be raised, and the current is NaN instead.
            ValueError: if the first axis is not the leadfield's channels, or a value is not finite.
        """
        solution = self.solve(measurements)

        def describe():
            return (
                f"mixed_norm: relative duality gap {solution.gap:.1e} > tolerance {self.tolerance:g} with "
                f"{self.max_iterations} iterations and {self.max_active} active sources at most; raise "
                "max_iterations, max_active, tolerance or alpha, or use solve()"
            )

        return Estimate(where_converged(solution.converged, solution.current, describe))


def mixed_norm(
    leadfield: Float[Array, "channel source"] | Float[Array, "channel source 3"],
    noise_cov: Float[Array, "channel channel"],
    *,
    alpha: float = 0.3,
    tolerance: float = 1e-4,
    depth: float | None = None,
    n_reweightings: int = 1,
    debias: bool = False,
    max_iterations: int = 200,
    max_active: int | None = None,
) -> MixedNormEstimator:
    r"""Estimator of few sources that are active through a whole window of time (MxNE, irMxNE).

    $\min_X \tfrac12 \lVert W (Y - L X) \rVert_F^2 + \lambda \sum_s \lVert X_s \rVert_F$, where $W$ whitens
    the noise and $X_s$ holds all orientations and time points of a source; $\lambda = \alpha \max_s \lVert
    (W L_s)^T W Y \rVert_F$, so that $\alpha = 1$ gives zero. For one topography it is the Lasso (fixed
    orientation; `lasso` follows its path exactly) or the group Lasso (free). Sources are few, and a source's
    orientation may turn with time. It is solved by Newton's method on one variance a source, in
    working sets that all sources certify (see `group_lasso.py`), mostly in 2 to 20 steps.

    With more than one of `n_reweightings` (irMxNE) the penalty approaches $\sqrt{\lVert X_s \rVert_F}$, which
    biases amplitudes less and leaves fewer sources: each problem weights its sources with $2 \sqrt{\lVert X_s
    \rVert_F}$ of the one before, in MNE-Python's units, where the penalty that gives zero is 100. It ends
    when the active sources stay the same and currents change by less than `tolerance`. Not convex: it finds a
    local minimum. Measurements of zeros give zeros; a source that no channel sees stays at zero. Derivatives
    are forward-mode only, of what was reached.

    Args:
        leadfield: $L$, in V/(A m).
        noise_cov: $C$, in V², same reference; may lack ranks.
        alpha: in (0, 1); a hundredth of MNE-Python's. `choose_alpha` takes it from the measurements.
        tolerance: on the duality gap over $\tfrac12 \lVert W Y \rVert_F^2$ (MNE-Python's is on the gap over
            twice that); float32 reaches about 1e-5.
        depth: exponent in [0, 1] of depth weighting, 0.8 in MNE-Python: source $s$ is penalised by
            $\lVert W L_s \rVert_F^\mathrm{depth}$. None does not weight.
        n_reweightings: problems solved at most, at least 1, which is the mixed norm (`n_mxne_iter` of
            MNE-Python).
        debias: multiply each source's time course by a factor of one or more, so that together they fit the
            measurements best: the penalty shrinks amplitudes.
        max_iterations: Newton steps at most, for each reweighting.
        max_active: sources that can be active at once; None is the number of channels and 50 more. Series at
            a small alpha may need more. Time and memory of a step grow with its square.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, a leadfield or covariance of
            zeros, or an argument out of its range.

    References:
        Gramfort et al. 2012, doi:10.1088/0031-9155/57/7/1937 (MxNE); Strohmeier et al. 2016,
        doi:10.1109/TMI.2016.2553445 (irMxNE).
    """
    leadfield, noise_cov = jnp.asarray(leadfield), jnp.asarray(noise_cov)
    check_leadfield(leadfield)
    check_noise_cov(noise_cov, leadfield.shape[0])
    for name, value in (("tolerance", tolerance), ("max_iterations", max_iterations)):
        check_positive(name, value)
    check_alpha(alpha)
    check_depth(depth)
    max_active = leadfield.shape[0] + _SPARE if max_active is None else max_active
    for name, value in (("n_reweightings", n_reweightings), ("max_active", max_active)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more; found {value}")
    dtype = jnp.result_type(leadfield, noise_cov)
    gain, amplitude, matrix = _prepare(leadfield.astype(dtype), noise_cov.astype(dtype), depth or 0.0)
    return MixedNormEstimator(
        gain,
        gain.reshape(-1, len(matrix)).T.astype(jnp.float32),
        amplitude,
        matrix,
        jnp.asarray(alpha, dtype),
        jnp.asarray(tolerance, dtype),
        jnp.asarray(max_iterations, jnp.int32),
        jnp.asarray(n_reweightings, jnp.int32),
        debias=bool(debias),
        max_active=min(int(max_active), leadfield.shape[1]),
    )


@partial(jax.jit, static_argnums=2)
def _prepare(leadfield, noise_cov, depth):
    matrix = whitener(noise_cov).matrix
    n_channels, n_sources = leadfield.shape[:2]
    rows = _matmul(matrix, leadfield.reshape(n_channels, -1)).T.reshape(n_sources, -1, n_channels)
    unit = jnp.max(jnp.abs(rows))
    norms = group_norms(rows / unit)
    seen = norms > 0
    weight = jnp.where(seen, jnp.where(seen, norms, 1) ** -depth, 0)
    weight = weight / jnp.max(weight * norms)
    return rows / unit * weight[:, None, None], weight / unit, matrix


@jax.jit
def _solve(estimator, measurements):
    """A series, scaled so that the data have norm one, and no more columns than channels."""
    white = _matmul(estimator.whitener, measurements)
    size = jnp.linalg.norm(white)
    target = white / jnp.where(size > 0, size, 1)
    courses = None
    if target.shape[1] > target.shape[0]:
        courses, triangle = jnp.linalg.qr(target.T)
        target = triangle.T
    gain = estimator.gain
    ranking = rank(gain, estimator.coarse, target, jnp.zeros(len(gain), bool), estimator.max_active)
    largest_norm = jnp.max(ranking.exact)
    penalty = estimator.alpha * largest_norm
    limits = (estimator.tolerance, estimator.max_iterations)
    solution = group_lasso(gain, estimator.coarse, target, penalty, ranking, *limits)
    unit = size**2 * largest_norm / _ALPHA_MAX
    solution = _reweight(gain, target, penalty, unit, solution, estimator)
    value = solution.value
    if estimator.debias:
        value = value * _bias(gain[solution.index], target, value)[:, None, None]
    value = value * (size * estimator.amplitude[solution.index])[:, None, None]
    if courses is not None:
        value = _matmul(value, courses.T)
    current = jnp.zeros((*gain.shape[:2], value.shape[2]), gain.dtype).at[solution.index].set(value)
    return MixedNormSolution(current, solution.gap, solution.steps, solution.gap <= estimator.tolerance)


def _reweight(gain, target, penalty, unit, solution, estimator):
    """Go on with the sources in the slots, the strongest first: the others have lost all weight."""
    tolerance = estimator.tolerance

    def solve_again(size, state):
        whole, _, solves = state
        value, active = whole.value[:size], gain[whole.index[:size]]
        norms = group_norms(value)
        weight = 2 * safe_root(unit * norms)
        start = jnp.where(weight > 0, norms / (penalty * jnp.where(weight > 0, weight, 1)), 0)
        active = active * weight[:, None, None]
        _, new, steps = group_newton(active, target, penalty, start, tolerance, estimator.max_iterations)
        residual = target - fields(active, new)
        gap = gap_of(target, penalty, residual, group_norms(correlate(active, residual)), new)
        new = new * weight[:, None, None]
        same = ((group_norms(new) > 0) == (norms > 0)).all()
        settled = same & (jnp.max(jnp.abs(new - value)) <= tolerance * jnp.max(jnp.abs(new)))
        new = whole.value.at[:size].set(new)
        gap, steps = jnp.maximum(whole.gap, gap), whole.steps + steps
        return whole._replace(value=new, gap=gap, steps=steps), settled, solves + 1

    def unfinished(size, state):
        whole, settled, solves = state
        room = ~jnp.any(whole.value[size:])
        return (whole.gap <= tolerance) & ~settled & (solves < estimator.n_reweightings) & room

    order = largest(group_norms(solution.value), len(solution.index))
    solution = solution._replace(index=solution.index[order], value=solution.value[order])
    state = (solution, jnp.asarray(False), jnp.asarray(1))
    for size in slot_sizes(len(order)):
        state = jax.lax.while_loop(partial(unfinished, size), partial(solve_again, size), state)
    return state[0]


def _bias(active, target, value):
    """Factors of one or more that make the values fit the data best."""
    norms = group_norms(value)
    scale = jnp.where(norms > 0, norms, 1)
    unit = value / scale[:, None, None]
    fields = jnp.einsum("soc,sot->sct", active, unit, precision="highest").reshape(len(active), -1)
    gram = _matmul(fields, fields.T)
    gram = gram + jnp.diag(100 * jnp.finfo(gram.dtype).eps * jnp.diag(gram))
    slope = _matmul(fields, target.reshape(-1)) - _matmul(gram, norms)
    extra = bounded_quadratic(gram, slope, jnp.zeros_like(norms), norms > 0)
    return 1 + extra / scale
