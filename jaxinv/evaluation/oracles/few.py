r"""Posterior of a few dipoles or patches out of a dense dictionary (B, C), by Gibbs sampling.

Measured is $Y = \sum_j a_{i_j} x_j^T + E$, with $k$ atoms $i_j$ drawn from the dictionary. Their courses
$x_j$ are integrated out: one of the $k$ is drawn anew from all atoms at once, given which the others are but
not what they do. Chains start in a softened posterior, which joins what would be far apart.
"""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.sparse import csr_array
from scipy.special import comb

from jaxinv.evaluation.oracles.monte_carlo import excess_loss, key_of
from jaxinv.evaluation.oracles.whitened import course_modes, whitened
from jaxinv.inverse import Estimate
from jaxinv.inverse.estimator import check_measurements

_matmul = partial(jnp.matmul, precision="highest")

_TRACE_LEFT_OUT = 1e-4  # of the courses' power, with the modes that hardly any of it is in
_DRAWS = 16  # of every conditional distribution, for the probabilities
_SOFTEST = 0.05  # power of the likelihood that chains start with


@flax.struct.dataclass
class FewSourcesSamples:
    """What the chains found. A pytree.

    Attributes:
        probability: that a node is active.
        error: by how much cross-entropy exceeds that of endless chains, in nats a node.
    """

    probability: Float[Array, " node"]
    error: Float[Array, ""]


@flax.struct.dataclass
class FewSourcesOracle:
    """A few atoms of a dictionary, bound to a covariance. A pytree; make it with `few_sources_oracle`.

    Attributes:
        whitener: of the noise, in 1/V.
        gain: whitened fields of the atoms.
        members: nodes of each atom, filled up with `n_nodes`.
        modes: from samples to the modes of the courses; None where there is one sample.
        variance: of an atom's amplitude in each mode.
        mean: of the amplitude of one sample, whose sign is even; 0 for windows.
        log_prior: of every set of slots with so many atoms.
        prior: probability of each node before anything is measured.
        amplitude: that all amplitudes are multiplied with.
        seed: of the chains.
        n_nodes: of the estimate.
        n_chains: sampled beside one another.
        n_sweeps: of each chain; a sweep draws every slot once.
        n_burn_in: sweeps of these that do not count.
    """

    whitener: Float[Array, "channel channel"]
    gain: Float[Array, "channel atom"]
    members: Int[Array, "atom member"]
    modes: Float[Array, "time mode"] | None
    variance: Float[Array, " mode"]
    mean: Float[Array, ""]
    log_prior: Float[Array, " count"]
    prior: Float[Array, " node"]
    amplitude: Float[Array, ""]
    seed: Int[Array, ""]
    n_nodes: int = flax.struct.field(pytree_node=False)
    n_chains: int = flax.struct.field(pytree_node=False)
    n_sweeps: int = flax.struct.field(pytree_node=False)
    n_burn_in: int = flax.struct.field(pytree_node=False)

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Probability (node,) that each node is active in the window; `current` is the same.

        Raises:
            ValueError: as `solve`.
        """
        probability = self.solve(measurements).probability
        return Estimate(probability, probability=probability)

    def solve(self, measurements: Float[Array, "channel *time"]) -> FewSourcesSamples:
        """The same with its Monte Carlo error.

        Raises:
            ValueError: if the first axis is not the fields' channels, a value is not finite, or the number of
                samples is not that of `course_cov`.
        """
        check_measurements(measurements, len(self.whitener))
        measurements = jnp.asarray(measurements, self.gain.dtype)
        measurements = measurements.reshape(len(measurements), -1)
        n_times = 1 if self.modes is None else len(self.modes)
        if measurements.shape[1] != n_times:
            raise ValueError(f"measurements have {measurements.shape[1]} samples; courses are of {n_times}")
        return _solve(self, measurements)


def few_sources_oracle(
    fields: Float[Array, "channel atom"],
    members: Bool[csr_array, "atom node"],
    noise_cov: Float[Array, "channel channel"],
    counts: tuple[int, int],
    *,
    spread: float = 0.0,
    course_cov: Float[Array, "time time"] | None = None,
    noise_course_cov: Float[Array, "time time"] | None = None,
    n_chains: int = 4,
    n_sweeps: int = 40,
    n_burn_in: int = 16,
    seed: int = 0,
) -> FewSourcesOracle:
    r"""The Bayes answer for a few sources of a known dictionary, sampled in float32.

    Approximate: by Monte Carlo, whose error `solve` tells, and by taking amplitudes for Gaussian. Of one
    sample an amplitude is $\pm N(1, \mathrm{spread}^2)$, both signs alike; a window's course is Gaussian with
    `course_cov`, independent of the others'.

    Args:
        fields: $a_i$ of each atom at an amplitude of one, referenced, in V. Every atom is as probable as the
            others: draw the dictionary from the prior.
        members: nodes that are active where an atom is; scipy's sparse matrix, or a dense one.
        noise_cov: in V², same reference; may lack ranks.
        counts: fewest and most sources, all counts alike.
        spread: standard deviation of the amplitude of one sample, over its mean; >= 0.
        course_cov: of a course over the samples of a window, amplitude included; None for one sample.
        noise_course_cov: of the noise over the samples, which must be regular; None for white noise.
        n_chains: an even number, sampled beside one another and averaged.
        n_sweeps: of each chain; in a sweep every source is drawn anew once.
        n_burn_in: sweeps that do not count, through which the chain cools down.
        seed: of the chains; the same measurements give the same estimate.

    Raises:
        ValueError: for arrays that are traced, shapes that do not fit, values that are not finite, a
            covariance of zeros, or an argument out of its range.

    References:
        Liu 1994, doi:10.1080/01621459.1994.10476829 (collapsed Gibbs sampling); Jun et al. 2005,
        doi:10.1016/j.neuroimage.2005.06.003 (sampling several sources).
    """
    matrix, gain = whitened("fields", fields, noise_cov)
    members = csr_array(members)
    if members.shape[0] != gain.shape[1]:
        raise ValueError(f"members must have a row for each of {gain.shape[1]} atoms; found {members.shape}")
    fewest, most = counts
    if not 1 <= fewest <= most:
        raise ValueError(f"counts must be the fewest and the most sources, 1 or more; found {counts}")
    if not 0 <= spread < np.inf:
        raise ValueError(f"spread must not be negative; found {spread}")
    if n_chains < 2 or n_chains % 2:
        raise ValueError(f"n_chains must be even, and 2 or more: halves are compared; found {n_chains}")
    if not 0 <= n_burn_in < n_sweeps:
        raise ValueError(f"n_burn_in must be from 0 to n_sweeps - 1 = {n_sweeps - 1}; found {n_burn_in}")
    modes, variance, mean = None, np.array([spread**2]), 1.0
    if course_cov is not None:
        modes, variance = course_modes(course_cov, noise_course_cov, _TRACE_LEFT_OUT)
        mean = 0.0
    elif noise_course_cov is not None:
        raise ValueError("noise_course_cov is of a window: give course_cov too")
    number = np.arange(most + 1)
    allowed = (number >= fewest) / (most - fewest + 1)
    with np.errstate(divide="ignore"):
        log_prior = np.log(allowed / comb(most, number))
    share = np.asarray(members.astype(bool).mean(axis=0)).ravel()
    prior = 1 - np.mean([(1 - share) ** k for k in range(fewest, most + 1)], axis=0)
    single = partial(jnp.asarray, dtype=jnp.float32)
    return FewSourcesOracle(
        single(matrix), single(gain), jnp.asarray(_padded(members), jnp.int32),
        None if modes is None else single(modes), single(variance), single(mean), single(log_prior),
        single(prior), single(1.0), jnp.asarray(seed, jnp.int32), n_nodes=members.shape[1],
        n_chains=int(n_chains), n_sweeps=int(n_sweeps), n_burn_in=int(n_burn_in),
    )  # fmt: skip


def _padded(members):
    """Columns of every row, filled up with the number of columns."""
    count = np.diff(members.indptr)
    found = np.full((members.shape[0], max(1, count.max())), members.shape[1])
    found[np.arange(found.shape[1]) < count[:, None]] = members.indices
    return found


@jax.jit
def _solve(oracle, measurements):
    white = _matmul(oracle.whitener, measurements)
    if oracle.modes is not None:
        white = _matmul(white, oracle.modes)
    keys = jax.random.split(key_of(oracle.seed, measurements), oracle.n_chains)
    found = jax.vmap(partial(_chain, oracle, white))(keys)
    halves = found.reshape(2, oracle.n_chains // 2, -1).mean(axis=1)
    n_kept = oracle.n_chains * (oracle.n_sweeps - oracle.n_burn_in)
    prior = jnp.clip(oracle.prior, 1e-6, 1 - 1e-6)  # counts as one more draw
    one, other = (n_kept / 2 * halves + prior) / (n_kept / 2 + 1)
    probability = (n_kept * halves.mean(axis=0) + oracle.prior) / (n_kept + 1)
    return FewSourcesSamples(jnp.clip(probability, 0, 1), excess_loss(one, other))


def _chain(oracle, white, key):
    """Probabilities of the nodes, averaged over the sweeps that count."""
    n_slots = len(oracle.log_prior) - 1
    fewest = jnp.argmax(jnp.isfinite(oracle.log_prior))
    n_burn_in, n_updates = n_slots * oracle.n_burn_in, n_slots * oracle.n_sweeps
    power = jnp.sum(oracle.gain**2, axis=0)
    atom = jax.random.randint(jax.random.fold_in(key, n_updates), (n_slots,), 0, len(power))
    state = (atom, jnp.arange(n_slots) < fewest, jnp.ones(n_slots, white.dtype))

    def update(carry, number):
        state, hits = carry
        soft = jnp.maximum(
            1 - 2 * number.astype(white.dtype) / max(n_burn_in, 1), 0
        )  # 0 from half of the burn-in
        drawn = jax.random.fold_in(key, number)
        state, probability = _draw_slot(oracle, white, power, state, number % n_slots, _SOFTEST**soft, drawn)
        return (state, hits + jnp.where(number < n_burn_in, 0, probability)), None

    start = (state, jnp.zeros(oracle.n_nodes, white.dtype))
    hits = jax.lax.scan(update, start, jnp.arange(n_updates))[0][1]
    return hits / (n_updates - n_burn_in)


def _draw_slot(oracle, white, power, state, slot, warm, key):
    """One slot drawn from its distribution given the others' atoms; probabilities of the nodes meanwhile."""
    atom, present, sign = state
    others = present & (jnp.arange(len(atom)) != slot)
    even, odd = _evidence(oracle, white, power, atom, others, sign, warm)
    evidence = even + jnp.abs(odd) + jnp.log1p(jnp.exp(-2 * jnp.abs(odd))) - jnp.log(2.0)
    top = jnp.max(evidence)
    weight = jnp.cumsum(jnp.exp(evidence - top))
    n_others = jnp.sum(others)
    log_on = oracle.log_prior[n_others + 1] + top + jnp.log(weight[-1] / len(power))
    p_on = jax.nn.sigmoid(log_on - oracle.log_prior[n_others])
    at, which, turn, on = jax.random.uniform(key, (4,), white.dtype)
    places = (jnp.arange(_DRAWS, dtype=white.dtype) + at) / _DRAWS * weight[-1]
    drawn = jnp.minimum(jnp.searchsorted(weight, places), len(power) - 1)
    new = drawn[jnp.minimum((which * _DRAWS).astype(int), _DRAWS - 1)]
    state = (
        atom.at[slot].set(new),
        present.at[slot].set(on < p_on),
        sign.at[slot].set(jnp.where(turn < jax.nn.sigmoid(2 * odd[new]), 1, -1).astype(sign.dtype)),
    )
    nodes = jnp.zeros(oracle.n_nodes, white.dtype)  # indices beyond it are dropped
    share = nodes.at[oracle.members[drawn]].add(p_on / _DRAWS, mode="drop")
    held = jnp.where(others[:, None], oracle.members[atom], oracle.n_nodes)
    return state, jnp.maximum(nodes.at[held].set(1.0, mode="drop"), jnp.minimum(share, 1))


def _evidence(oracle, white, power, atom, others, sign, warm):
    """Logarithm of every atom's evidence, and by how much its sign moves it; the others' courses are out."""
    variance = oracle.amplitude**2 * jnp.maximum(oracle.variance, 1e-6)
    mean = oracle.amplitude * oracle.mean
    fields = oracle.gain[:, atom] * others
    gram = warm * _matmul(fields.T, fields)
    cov = _inverse(
        gram + jnp.eye(len(atom), dtype=white.dtype) / variance[:, None, None]
    )  # (mode, slot, slot)
    rest = white - _matmul(fields, jnp.where(others, sign * mean, 0)[:, None])
    explained = warm * jnp.einsum("mjk,ck,cm->jm", cov, fields, rest, precision="highest")
    shared = _matmul(oracle.gain.T, fields)
    shared = (shared[:, :, None] * shared[:, None, :]).reshape(len(power), -1)
    seen = warm * _matmul(oracle.gain.T, rest - _matmul(fields, explained))
    left = warm * power[:, None] - warm**2 * _matmul(shared, cov.reshape(len(variance), -1).T)
    left = jnp.maximum(left, 0)
    gained = 1 + left * variance
    even = (variance * seen**2 - left * mean**2) / gained - jnp.log(gained)
    return jnp.sum(even, axis=1) / 2, jnp.sum(mean * seen / gained, axis=1)


def _inverse(matrix):
    """Of small symmetric positive definite matrices, by Gauss and Jordan."""
    for pivot in range(matrix.shape[-1]):
        row = matrix[..., pivot, :] / matrix[..., pivot, pivot, None]
        column = matrix[..., :, pivot].at[..., pivot].set(0)
        swept = matrix - column[..., :, None] * row[..., None, :]
        inverse_pivot = 1 / matrix[..., pivot, pivot]
        swept = swept.at[..., :, pivot].set(-column * inverse_pivot[..., None])
        swept = swept.at[..., pivot, :].set(row.at[..., pivot].set(inverse_pivot))
        matrix = swept
    return matrix
