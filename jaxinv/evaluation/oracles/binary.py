r"""Posterior of half-active maps (D2), by Hamiltonian Monte Carlo in the space of the Gaussian field.

Measured is $y = L \theta + \varepsilon$, $\theta = 1[F z > 0]$, $z \sim N(0, I)$: a likelihood that is flat
but for jumps where a source changes sides. Softened labels $\Phi(F z / w)$ have gradients. The covariance of
what $L$ makes of the difference between soft and sharp labels comes from draws of the prior, and is added to
that of the noise; so is what changes if sources of nearly the same field are taken together. The sampler
walks by the soft labels of such groups, in coordinates in which the posterior is about round.
"""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float, Int
from scipy.linalg import solve_triangular
from scipy.sparse import csr_array
from scipy.special import ndtr as host_ndtr

from jaxinv.evaluation.oracles.maps import unit_rows
from jaxinv.evaluation.oracles.whitened import checked, whitened
from jaxinv.inverse import Estimate
from jaxinv.inverse.estimator import check_measurements

_matmul = partial(jnp.matmul, precision="highest")

_PRIOR_DRAWS = 1000  # for the covariance of what is not linear, and of what softening changes
_METRIC_DRAWS = 16  # over which squared derivatives are averaged
_FIRST_STEP = 0.1
_ACCEPTED = 0.8  # share of the proposals that the step is adapted to
_ADAPTATION = 0.3
_JITTER = 0.2  # of the step, either way
_HOT = 0.5  # share of the burn-in that is tempered
_BLOCK = 2000  # sources that are grouped at once
_LEAST_TURN = 0.01  # rad, of a map towards another draw of the prior


@flax.struct.dataclass
class MapSamples:
    """What the chains found. A pytree.

    Attributes:
        probability: that a node is active.
        mean: of the nodes' fields.
        std: of the nodes' fields.
        r_hat: of each node's field, by the two halves of every chain; 1 where they agree.
        error: by how much cross-entropy exceeds that of endless chains, in nats a node: a quarter of the
            divergence between the probabilities of the two halves of the chains.
        accepted: share of the proposals.
    """

    probability: Float[Array, "node *time"]
    mean: Float[Array, "node *time"]
    std: Float[Array, "node *time"]
    r_hat: Float[Array, "node *time"]
    error: Float[Array, "*time"]
    accepted: Float[Array, "*time"]


@flax.struct.dataclass
class Seen:
    """How measurements see labels. A pytree.

    Attributes:
        whitener: of the noise, in 1/V.
        gain: whitened leadfield.
        factor: of the sources' fields, over their standard deviations.
    """

    whitener: Float[Array, "channel channel"]
    gain: Float[Array, "channel source"]
    factor: Float[Array, "source rank"]


@flax.struct.dataclass
class BinaryMapOracle:
    """Half-active maps bound to a leadfield and a covariance. A pytree; make it with `binary_map_oracle`.

    Attributes:
        soft: groups of sources; what groups and soft labels change counts as noise.
        sharp: the sources themselves; None unless `exact`.
        node_factor: of the nodes' fields.
        whitener: of the noise alone, in 1/V.
        offset: mean of the measurements, whitened.
        start_gain: from whitened measurements to the linear estimate of z.
        start_root: of its error's covariance.
        coordinates: Q; the chains walk in x, z = Q x.
        seed: of the chains.
        width: of the softened labels, over the fields' standard deviation.
        n_chains: sampled beside one another.
        n_sweeps: of each chain.
        n_burn_in: sweeps of these that do not count.
        n_steps: of each sweep.
    """

    soft: Seen
    sharp: Seen | None
    node_factor: Float[Array, "node rank"]
    whitener: Float[Array, "channel channel"]
    offset: Float[Array, " channel"]
    start_gain: Float[Array, "rank channel"]
    start_root: Float[Array, "rank rank"]
    coordinates: Float[Array, "rank rank"]
    seed: Int[Array, ""]
    width: float = flax.struct.field(pytree_node=False)
    n_chains: int = flax.struct.field(pytree_node=False)
    n_sweeps: int = flax.struct.field(pytree_node=False)
    n_burn_in: int = flax.struct.field(pytree_node=False)
    n_steps: int = flax.struct.field(pytree_node=False)

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Probability that each node is active; `current` is the mean of its field, sample by sample.

        Raises:
            ValueError: if the first axis is not the leadfield's channels, or a value is not finite.
        """
        found = self.solve(measurements)
        return Estimate(found.mean, probability=found.probability, std=found.std)

    def solve(self, measurements: Float[Array, "channel *time"]) -> MapSamples:
        """The same with the Monte Carlo error. Every sample has chains of its own; vmap over some tens.

        Raises:
            ValueError: as `__call__`.
        """
        check_measurements(measurements, len(self.whitener))
        measurements = jnp.asarray(measurements)
        if measurements.ndim == 1:
            return _sample(self, measurements)
        return jax.vmap(partial(_sample, self), in_axes=1, out_axes=-1)(measurements)


def binary_map_oracle(
    leadfield: Float[Array, "channel source"],
    factor: Float[Array, "source rank"],
    node_factor: Float[Array, "node rank"],
    noise_cov: Float[Array, "channel channel"],
    *,
    width: float = 0.2,
    n_groups: int = 4000,
    exact: bool = False,
    n_chains: int = 8,
    n_sweeps: int = 140,
    n_burn_in: int = 60,
    n_steps: int = 10,
    seed: int = 0,
) -> BinaryMapOracle:
    r"""The Bayes answer for half-active maps (D2) on a known head, sampled in float32.

    Two errors remain: of Monte Carlo, which `solve` tells, and of softening, which loses what measurements
    say of a border more precisely than `width`. The second is small for thousands of sources. For few there
    is `exact`, whose chains have the sharp posterior for their limit; among many sources they seldom move.

    Args:
        leadfield: $L$, times the amplitude of an active source, in V.
        factor: $F$.
        node_factor: $B$; a node is active where $B z > 0$.
        noise_cov: of $\varepsilon$, in V², same reference; may lack ranks.
        width: $w$, > 0, over the standard deviation of the field.
        n_groups: of sources, at most; their number for none.
        exact: accept by the sharp labels of all sources, and propose turns towards other maps too.
        n_chains: an even number, sampled beside one another and averaged.
        n_sweeps: of each chain, with those of the burn-in, through half of which it cools down.
        n_burn_in: sweeps that do not count.
        n_steps: of each sweep; each takes one gradient.
        seed: of the chains; the same measurements give the same estimate.

    Raises:
        ValueError: for arrays that are traced, shapes that do not fit, values that are not finite, a
            leadfield or covariance of zeros, or an argument out of its range.

    References:
        Neal 2011, arXiv:1206.1901 (Hamiltonian Monte Carlo); Kaipio & Somersalo 2007,
        doi:10.1016/j.cam.2005.09.027 (approximation errors as noise); Vehtari et al. 2021,
        doi:10.1214/20-BA1221 (split chains).
    """
    if not 0 < width < np.inf:
        raise ValueError(f"width must be positive; found {width}")
    if n_chains < 2 or n_chains % 2:
        raise ValueError(f"n_chains must be even, and 2 or more: halves are compared; found {n_chains}")
    if not 0 <= n_burn_in <= n_sweeps - 4:
        raise ValueError(f"n_burn_in must be from 0 to n_sweeps - 4 = {n_sweeps - 4}; found {n_burn_in}")
    for name, value in (("n_steps", n_steps), ("n_groups", n_groups)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more; found {value}")
    matrix, gain = whitened("leadfield", leadfield, noise_cov)
    factor = checked("factor", factor)
    if len(factor) != gain.shape[1]:
        raise ValueError(f"factor must have a row for each of {gain.shape[1]} sources; found {len(factor)}")
    node_factor = checked("node_factor", node_factor, factor.shape[1])
    sharp, rng = Seen(matrix, gain, unit_rows(factor)), np.random.default_rng(seed)
    arrays = _prepare(sharp, node_factor, width, n_groups, rng)
    arrays = (arrays[0], sharp if exact else None, *arrays[1:])
    return BinaryMapOracle(
        *jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), arrays), jnp.asarray(seed, jnp.int32),
        width=float(width), n_chains=int(n_chains), n_sweeps=int(n_sweeps), n_burn_in=int(n_burn_in),
        n_steps=int(n_steps),
    )  # fmt: skip


def _prepare(sharp, node_factor, width, n_groups, rng):
    """Arrays of the oracle, from draws of the prior."""
    n_channels, rank = len(sharp.gain), sharp.factor.shape[1]
    single = jax.tree.map(lambda array: array.astype(np.float32), sharp)
    group_gain, group_factor = _grouped(single, n_groups, rng)
    white = rng.normal(size=(rank, _PRIOR_DRAWS)).astype(np.float32)
    labels = (single.factor @ white > 0).astype(np.float32)
    field = group_factor @ white
    changed = np.float64(group_gain @ host_ndtr(field / np.float32(width)) - single.gain @ labels)
    root = np.linalg.cholesky(np.eye(n_channels) + changed @ changed.T / _PRIOR_DRAWS)
    soft = Seen(*(np.linalg.solve(root, array) for array in (sharp.whitener, group_gain)), group_factor)
    linear = sharp.gain @ sharp.factor / np.sqrt(2 * np.pi)  # moments of signs: E[θ z] = F / √2π
    rest = np.float64(single.gain @ (labels - np.float32(0.5))) - linear @ white
    measured_cov = linear @ linear.T + rest @ rest.T / _PRIOR_DRAWS + np.eye(n_channels)
    start_gain = np.linalg.solve(measured_cov, linear).T
    spectrum, vectors = np.linalg.eigh(np.eye(rank) - start_gain @ linear)
    start_root = vectors * np.sqrt(np.maximum(spectrum, 0))
    precision = np.eye(rank)
    for draw in field.T[:_METRIC_DRAWS]:
        slope = np.exp(-((draw / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
        derivative = (soft.gain * slope) @ group_factor
        precision += derivative.T @ derivative / _METRIC_DRAWS
    coordinates = solve_triangular(np.linalg.cholesky(precision), np.eye(rank), lower=True).T
    offset = sharp.gain @ (sharp.factor.any(axis=1) / 2)
    return soft, node_factor, sharp.whitener, offset, start_gain, start_root, coordinates


def _grouped(seen, n_groups, rng):
    """Leadfield and factor of groups: each source goes to the most correlated of random ones."""
    n_sources = len(seen.factor)
    if n_groups >= n_sources:
        return seen.gain, seen.factor
    centres = seen.factor[rng.choice(n_sources, n_groups, replace=False)].T
    nearest = [
        np.argmax(seen.factor[at : at + _BLOCK] @ centres, axis=1) for at in range(0, n_sources, _BLOCK)
    ]
    _, group, count = np.unique(np.concatenate(nearest), return_inverse=True, return_counts=True)
    member = csr_array((np.ones(n_sources, np.float32), (group, np.arange(n_sources))))
    return (member @ seen.gain.T).T, (member @ seen.factor) / count[:, None].astype(np.float32)


@jax.jit
def _sample(oracle, measurements):
    """Chains in the rows of z, cooled down from draws of the linear posterior."""
    measurements = measurements.astype(oracle.whitener.dtype)
    white = _matmul(oracle.whitener, measurements)
    shape = (oracle.n_chains, len(oracle.coordinates))
    bits = jax.lax.bitcast_convert_type(jnp.sum(white), jnp.uint32)
    first, key = jax.random.split(jax.random.fold_in(jax.random.key(oracle.seed), bits))
    mean = _matmul(oracle.start_gain, white - oracle.offset)
    z = mean + _matmul(jax.random.normal(first, shape, jnp.float32), oracle.start_root.T)
    soft = partial(_soft_misfit, oracle.soft, _matmul(oracle.soft.whitener, measurements), oracle.width)
    sharp = None if oracle.sharp is None else partial(_sharp_misfit, oracle.sharp, white)
    hottest = jnp.maximum(2 * jnp.mean(soft(z)[0]) / len(white), 1)
    n_hot = _HOT * oracle.n_burn_in

    def sweep(carry, numbered):
        number, now = numbered
        z, step, sums = carry
        temperature = jnp.where(number < n_hot, hottest ** (1 - number / max(n_hot, 1)), 1).astype(z.dtype)
        walk = partial(_walk, soft, sharp, oracle.coordinates, oracle.n_steps)
        z, accepted = walk(z, step, temperature, now)
        if sharp is not None:
            keys = jax.random.split(jax.random.fold_in(now, 1), oracle.n_steps)
            z = jax.lax.scan(lambda z, k: (_turn(sharp, z, temperature, k), None), z, keys)[0]
        counts = number >= oracle.n_burn_in
        half = 2 * (number - oracle.n_burn_in) >= oracle.n_sweeps - oracle.n_burn_in
        share = jnp.mean(accepted)
        adapted = step * jnp.exp(_ADAPTATION * (share - _ACCEPTED))
        field = _matmul(z, oracle.node_factor.T)
        added = jnp.stack([(field > 0).astype(z.dtype), field, field**2]) * counts
        sums = sums.at[half.astype(int)].add(added)
        return (z, jnp.where(counts, step, adapted).astype(z.dtype), sums), share

    empty = jnp.zeros((2, 3, oracle.n_chains, len(oracle.node_factor)), jnp.float32)
    start = (z, jnp.float32(_FIRST_STEP), empty)
    keys = jax.random.split(key, oracle.n_sweeps)
    (_, _, sums), share = jax.lax.scan(sweep, start, (jnp.arange(oracle.n_sweeps), keys))
    return _summary(sums, oracle.n_sweeps - oracle.n_burn_in, jnp.mean(share[oracle.n_burn_in :]))


def _soft_misfit(seen, white, width, z):
    """Half the squared misfit of each chain's soft labels, and its gradient in z."""
    field = _matmul(z, seen.factor.T) / width
    slope = jnp.exp(-(field**2) / 2) / np.float32(width * np.sqrt(2 * np.pi))
    residual = _matmul(ndtr(field), seen.gain.T) - white
    gradient = _matmul(slope * _matmul(residual, seen.gain), seen.factor)
    return jnp.sum(residual**2, axis=1) / 2, gradient


def _sharp_misfit(seen, white, z):
    label = (_matmul(z, seen.factor.T) > 0).astype(z.dtype)
    return jnp.sum((white - _matmul(label, seen.gain.T)) ** 2, axis=1) / 2


def _walk(soft, sharp, coordinates, n_steps, z, step, temperature, key):
    """One trajectory of every chain; where it ended or began, and the probabilities to accept it."""
    push, share, threshold = _randoms(key, z)
    step = step * (1 + _JITTER * (2 * share[:, None] - 1))

    def force(z):
        misfit, gradient = soft(z)
        return misfit, _matmul(gradient / temperature + z, coordinates)

    def leap(_, state):
        z, push, _, slope = state
        push = push - step / 2 * slope
        z = z + step * _matmul(push, coordinates.T)
        misfit, slope = force(z)
        return z, push - step / 2 * slope, misfit, slope

    misfit, slope = force(z)
    end, last_push, last_misfit, _ = jax.lax.fori_loop(0, n_steps, leap, (z, push, misfit, slope))
    if sharp is not None:
        misfit, last_misfit = sharp(z), sharp(end)
    gained = jnp.sum(z**2 - end**2 + push**2 - last_push**2, axis=1) / 2
    accept = jnp.nan_to_num(jnp.exp(jnp.minimum(gained + (misfit - last_misfit) / temperature, 0)))
    taken = threshold < accept
    return jnp.where(taken[:, None], end, z), accept


def _turn(sharp, z, temperature, key):
    """Every chain turned towards a draw of the prior, by a random angle, or left where it is."""
    other, share, threshold = _randoms(key, z)
    angle = np.float32(_LEAST_TURN) * np.float32(np.pi / _LEAST_TURN) ** share[:, None]
    end = jnp.cos(angle) * z + jnp.sin(angle) * other
    gained = (sharp(z) - sharp(end)) / temperature
    return jnp.where((jnp.log(threshold) < gained)[:, None], end, z)


def _randoms(key, z):
    """For every chain, normal numbers as in z and two uniform ones. One call compiles faster than three."""
    numbers = jax.random.normal(key, (len(z), z.shape[1] + 2), z.dtype)
    return numbers[:, 2:], *ndtr(numbers[:, :2]).T


def _summary(sums, n_sweeps, accepted):
    """Of sums over (half of a chain; active, field and field²; chain; node)."""
    counts = jnp.array([n_sweeps - n_sweeps // 2, n_sweeps // 2], sums.dtype)
    n_chains = sums.shape[2]
    halves = sums[:, 0].sum(axis=0).reshape(2, n_chains // 2, -1).sum(axis=1)
    total = n_chains * n_sweeps
    one, other = (halves + 0.5) / (total / 2 + 1)
    divergence = one * jnp.log(one / other) + (1 - one) * jnp.log((1 - one) / (1 - other))
    mean, square = sums[:, 1:].sum(axis=(0, 2)) / total
    means, squares = jnp.moveaxis(sums[:, 1:] / counts[:, None, None, None], 1, 0)
    within = jnp.mean(squares - means**2, axis=(0, 1))
    between = jnp.var(means, axis=(0, 1), ddof=1)
    return MapSamples(
        probability=(halves.sum(axis=0) + 0.5) / (total + 1),
        mean=mean,
        std=jnp.sqrt(jnp.maximum(square - mean**2, 0)),
        r_hat=jnp.sqrt(1 + between / jnp.where(within > 0, within, 1)),
        error=jnp.mean(divergence) / 4,
        accepted=accepted,
    )
