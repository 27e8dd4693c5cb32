"""Chains of Hamiltonian Monte Carlo over half-active maps: from measurements to probabilities."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from jaxinv.evaluation.oracles.monte_carlo import excess_loss, key_of

_matmul = partial(jnp.matmul, precision="highest")

_FIRST_STEP = 0.1
_ACCEPTED = 0.8  # share of the proposals that the step is adapted to
_ADAPTATION = 0.3
_JITTER = 0.2  # of the step, either way
_HOT = 0.5  # share of the burn-in that is tempered
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


@jax.jit
def sample(oracle, measurements: Float[Array, " channel"]) -> MapSamples:
    """Chains in the rows of z, cooled down from draws of the linear posterior of a `BinaryMapOracle`."""
    measurements = measurements.astype(oracle.whitener.dtype)
    white = _matmul(oracle.whitener, measurements)
    shape = (oracle.n_chains, len(oracle.coordinates))
    first, key = jax.random.split(key_of(oracle.seed, measurements))
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
    mean, square = sums[:, 1:].sum(axis=(0, 2)) / total
    means, squares = jnp.moveaxis(sums[:, 1:] / counts[:, None, None, None], 1, 0)
    within = jnp.mean(squares - means**2, axis=(0, 1))
    between = jnp.var(means, axis=(0, 1), ddof=1)
    return MapSamples(
        probability=(halves.sum(axis=0) + 0.5) / (total + 1),
        mean=mean,
        std=jnp.sqrt(jnp.maximum(square - mean**2, 0)),
        r_hat=jnp.sqrt(1 + between / jnp.where(within > 0, within, 1)),
        error=excess_loss(one, other),
        accepted=accepted,
    )
