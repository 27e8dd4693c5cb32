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
from jaxtyping import Array, Float, Int
from scipy.linalg import solve_triangular
from scipy.sparse import csr_array
from scipy.special import ndtr

from jaxinv.evaluation.oracles.map_chains import MapSamples, Seen, sample
from jaxinv.evaluation.oracles.maps import unit_rows
from jaxinv.evaluation.oracles.whitened import checked, whitened
from jaxinv.inverse import Estimate
from jaxinv.inverse.estimator import check_measurements

_PRIOR_DRAWS = 1000  # for the covariance of what is not linear, and of what softening changes
_METRIC_DRAWS = 16  # over which squared derivatives are averaged
_BLOCK = 2000  # sources that are grouped at once


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
            return sample(self, measurements)
        return jax.vmap(partial(sample, self), in_axes=1, out_axes=-1)(measurements)


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
    changed = np.float64(group_gain @ ndtr(field / np.float32(width)) - single.gain @ labels)
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
