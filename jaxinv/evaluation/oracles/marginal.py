r"""Posterior of signed maps (D1) on a head of unknown conductivities, by adaptive importance sampling.

Given the conductivities the posterior is Gaussian and its evidence known in closed form, so that only the few
conductivities are sampled, as $v \sim N(0, I)$ with $\log \sigma = \log \sigma_0 + \Phi(v) \log(\sigma_1 /
\sigma_0)$. Draws of the prior, the same for all measurements, come first; then rounds from mixtures of the
prior and a Gaussian that comes closer to the posterior. Every draw counts, weighed by all that drew.
"""

from collections.abc import Callable
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import ndtr
from jaxtyping import Array, Float, Int
from scipy.special import ndtri
from scipy.stats import qmc

from jaxinv.evaluation.entrants import as_pytree
from jaxinv.evaluation.oracles.importance import Rounds, draw_mixture, log_weights, proposal
from jaxinv.evaluation.oracles.maps import probability_above_zero
from jaxinv.evaluation.oracles.monte_carlo import key_of
from jaxinv.evaluation.oracles.whitened import checked
from jaxinv.inverse import Estimate
from jaxinv.inverse.estimator import check_measurements
from jaxinv.inverse.validation import check_noise_cov
from jaxinv.inverse.whitening import whitener

_matmul = partial(jnp.matmul, precision="highest")

_EDGE = 1e-6  # of the unit interval, that draws keep off


@flax.struct.dataclass
class MarginalSolution:
    """What importance sampling found. A pytree.

    Attributes:
        probability: that a node is active.
        mean: of the nodes' fields.
        std: of the nodes' fields.
        ess: effective number of draws; an estimate with fewer than 50 is rough.
        conductivity: posterior geometric mean, in S/m.
    """

    probability: Float[Array, "node *time"]
    mean: Float[Array, "node *time"]
    std: Float[Array, "node *time"]
    ess: Float[Array, "*time"]
    conductivity: Float[Array, "tissue *time"]


@flax.struct.dataclass
class MarginalMapOracle:
    """Signed maps bound to a family of fields. A pytree; make it with `marginal_map_oracle`.

    Attributes:
        field_of: from conductivities in S/m to the fields (channel, rank), in V.
        low: lower corner of the box, as logarithms.
        high: upper corner, likewise.
        node_factor: of the nodes' fields.
        whitener: of the noise, in 1/V.
        first: draws of the prior.
        first_roots: inverse Cholesky factors of the whitened measurements' covariance at these.
        seed: of the later rounds.
        n_rounds: later rounds, each from a proposal of its own.
        n_draws: of each later round.
        n_kept: draws resampled at last, for the fields.
    """

    field_of: Callable[[Float[Array, " tissue"]], Float[Array, "channel rank"]]
    low: Float[Array, " tissue"]
    high: Float[Array, " tissue"]
    node_factor: Float[Array, "node rank"]
    whitener: Float[Array, "channel channel"]
    first: Float[Array, "draw tissue"]
    first_roots: Float[Array, "draw channel channel"]
    seed: Int[Array, ""]
    n_rounds: int = flax.struct.field(pytree_node=False)
    n_draws: int = flax.struct.field(pytree_node=False)
    n_kept: int = flax.struct.field(pytree_node=False)

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Probability that each node is active; `current` is the mean of its field, sample by sample.

        Raises:
            ValueError: if the first axis is not the fields' channels, or a value is not finite.
        """
        found = self.solve(measurements)
        return Estimate(found.mean, probability=found.probability, std=found.std)

    def solve(self, measurements: Float[Array, "channel *time"]) -> MarginalSolution:
        """The same with the effective number of draws. Every sample has draws of its own.

        Raises:
            ValueError: as `__call__`.
        """
        check_measurements(measurements, len(self.whitener))
        measurements = jnp.asarray(measurements, self.whitener.dtype)
        if measurements.ndim == 1:
            return _solve(self, measurements)
        return jax.vmap(partial(_solve, self), in_axes=1, out_axes=-1)(measurements)


def marginal_map_oracle(
    field_of: Callable[[Float[Array, " tissue"]], Float[Array, "channel rank"]],
    low: Float[Array, " tissue"],
    high: Float[Array, " tissue"],
    node_factor: Float[Array, "node rank"],
    noise_cov: Float[Array, "channel channel"],
    *,
    n_first: int = 512,
    n_rounds: int = 3,
    n_draws: int = 64,
    n_kept: int = 64,
    seed: int = 0,
) -> MarginalMapOracle:
    r"""The Bayes answer for signed maps (D1) on a head whose conductivities are unknown, by sampling them.

    As `signed_map_oracle`, with $A(\sigma)$ and $\sigma$ log-uniform in a box. Converges to the exact answer;
    `solve` tells how many draws the answer rests on. The level of the noise is taken for known and for
    telling nothing of the conductivities.

    Args:
        field_of: $A$, from (tissue,) in S/m to (channel, rank) in V; jittable, and a pytree or a function.
        low: lower corner of the box, in S/m.
        high: upper corner; a tissue with equal bounds is known.
        node_factor: $B$; a node is active where $B z > 0$.
        noise_cov: in V², same reference; may lack ranks.
        n_first: draws of the prior, a power of two, shared by all measurements: they cost when building.
        n_rounds: later rounds for each measurement.
        n_draws: of each of these; each takes one set of fields.
        n_kept: draws, by their weights, over which fields are averaged; each takes one set of fields.
        seed: of the draws; the same measurements give the same estimate.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, a box that is empty or not
            positive, a covariance of zeros, or an argument out of its range.

    References:
        Veach & Guibas 1995, doi:10.1145/218380.218498 (balance heuristic); Cappé et al. 2004,
        doi:10.1198/106186004X12803 (population Monte Carlo).
    """
    low, high = (np.atleast_1d(np.asarray(bound, np.float64)) for bound in (low, high))
    if low.shape != high.shape or low.ndim != 1 or not (np.isfinite(high).all() and (low > 0).all()):
        raise ValueError(f"low and high must be positive, one a tissue; found {low} and {high}")
    if (low > high).any():
        raise ValueError(f"low must not be above high; found {low} and {high}")
    for name, value, least in (
        ("n_first", n_first, 32), ("n_rounds", n_rounds, 0), ("n_draws", n_draws, 1), ("n_kept", n_kept, 1)
    ):  # fmt: skip
        if value < least:
            raise ValueError(f"{name} must be {least} or more; found {value}")
    noise_cov = jnp.asarray(noise_cov)
    field_of = as_pytree(field_of)
    fields = jax.eval_shape(field_of, jnp.asarray(low, noise_cov.dtype))
    check_noise_cov(noise_cov, fields.shape[0])
    dtype = jnp.result_type(fields.dtype, noise_cov)
    node_factor = checked("node_factor", node_factor, fields.shape[1])
    unit = qmc.Sobol(len(low), seed=seed).random(n_first)
    first = ndtri(np.clip(unit, _EDGE, 1 - _EDGE))
    arrays = (np.log(low), np.log(high), node_factor, whitener(noise_cov).matrix, first)
    low, high, node_factor, matrix, first = (jnp.asarray(array, dtype) for array in arrays)
    roots = _inverse_roots(field_of, low, high, matrix, first)
    return MarginalMapOracle(
        field_of, low, high, node_factor, matrix, first, roots, jnp.asarray(seed, jnp.int32),
        n_rounds=int(n_rounds), n_draws=int(n_draws), n_kept=int(n_kept),
    )  # fmt: skip


@jax.jit
def _inverse_roots(field_of, low, high, matrix, draws):
    def one(draw):
        return _inverse_root(_matmul(matrix, field_of(_conductivity(low, high, draw)).astype(matrix.dtype)))

    return jax.lax.map(one, draws)


def _conductivity(low, high, draw):
    return jnp.exp(low + (high - low) * ndtr(draw))


def _inverse_root(fields):
    """Of the covariance of whitened measurements."""
    identity = jnp.eye(len(fields), dtype=fields.dtype)
    root = jnp.linalg.cholesky(_matmul(fields, fields.T) + identity)
    return solve_triangular(root, identity, lower=True)


def _log_evidence(inverse_root, white):
    """Up to a constant."""
    explained = jnp.sum(_matmul(inverse_root, white) ** 2, axis=-1)
    return jnp.sum(jnp.log(jnp.diagonal(inverse_root, axis1=-2, axis2=-1)), axis=-1) - explained / 2


@jax.jit
def _solve(oracle, measurements):
    white = _matmul(oracle.whitener, measurements)
    key = key_of(oracle.seed, measurements)
    fields_at = partial(_whitened_fields, oracle)
    n_first, n_tissues = oracle.first.shape
    n_later = oracle.n_rounds * oracle.n_draws
    state = Rounds(
        jnp.concatenate([oracle.first, jnp.zeros((n_later, n_tissues), white.dtype)]),
        jnp.pad(_log_evidence(oracle.first_roots, white), (0, n_later)),
        jnp.zeros((oracle.n_rounds, n_tissues), white.dtype),
        jnp.tile(jnp.eye(n_tissues, dtype=white.dtype), (oracle.n_rounds, 1, 1)),
    )

    def search(number, state):
        mean, root = proposal(state.draws, log_weights(state, number, n_first, oracle.n_draws))
        new = draw_mixture(jax.random.fold_in(key, number), mean, root, oracle.n_draws)
        found = jax.lax.map(lambda draw: _log_evidence(_inverse_root(fields_at(draw)), white), new)
        start = n_first + number * oracle.n_draws
        return Rounds(
            jax.lax.dynamic_update_slice_in_dim(state.draws, new, start, 0),
            jax.lax.dynamic_update_slice_in_dim(state.evidence, found, start, 0),
            state.means.at[number].set(mean),
            state.roots.at[number].set(root),
        )

    if oracle.n_rounds:
        state = jax.lax.fori_loop(0, oracle.n_rounds, search, state)
    draws, log_weight = state.draws, log_weights(state, oracle.n_rounds, len(oracle.first), oracle.n_draws)
    weight = jnp.exp(log_weight)
    place = ((jnp.arange(oracle.n_kept) + 0.5) / oracle.n_kept).astype(weight.dtype)
    chosen = jnp.minimum(jnp.searchsorted(jnp.cumsum(weight), place), len(weight) - 1)

    def add(sums, draw):
        mean, std = _posterior(oracle.node_factor, fields_at(draw), white)
        new = jnp.stack([probability_above_zero(mean, std), mean, mean**2 + std**2])
        return sums + new / oracle.n_kept, None

    empty = jnp.zeros((3, len(oracle.node_factor)), weight.dtype)
    probability, mean, square = jax.lax.scan(add, empty, draws[chosen])[0]
    share = jnp.sum(weight[:, None] * ndtr(draws), axis=0)
    return MarginalSolution(
        probability=probability,
        mean=mean,
        std=jnp.sqrt(jnp.maximum(square - mean**2, 0)),
        ess=1 / jnp.sum(weight**2),
        conductivity=jnp.exp(oracle.low + (oracle.high - oracle.low) * share),
    )


def _whitened_fields(oracle, draw):
    fields = oracle.field_of(_conductivity(oracle.low, oracle.high, draw))
    return _matmul(oracle.whitener, fields.astype(oracle.whitener.dtype))


def _posterior(node_factor, fields, white):
    """Mean and standard deviation of the nodes' fields at one conductivity."""
    inverse_root = _inverse_root(fields)
    half = _matmul(inverse_root, fields)
    mean = _matmul(node_factor, _matmul(half.T, _matmul(inverse_root, white)))
    explained = jnp.sum(_matmul(half, node_factor.T) ** 2, axis=0)
    return mean, jnp.sqrt(jnp.maximum(jnp.sum(node_factor**2, axis=1) - explained, 0))
