r"""The posterior mean of the current over sets of few cortical patches, by Gibbs sampling.

A current is a sum of some patches of a dictionary, each with a Gaussian time course of its own variance and
spectrum. Time courses are integrated out, in a Fourier basis where the modes of a band are independent and
alike: given patches $g_k$, variances $\gamma_k$ and spectra $w_k$, the whitened measurements of band $b$ have
the covariance $\Sigma_b = \sigma^2 I + \sum_k \gamma_k w_{kb} g_k g_k^T$. What is sampled is which patches
there are, and these few numbers; each scan weighs every patch of the dictionary exactly.
"""

from functools import partial
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Int

from jaxinv.inverse.estimator import Estimate, check_measurements
from jaxinv.inverse.patch_dictionary import PatchDictionary, patch_dictionary
from jaxinv.inverse.validation import check_leadfield, check_noise_cov
from jaxinv.inverse.whitening import whitener

_matmul = partial(jnp.matmul, precision="highest")

_BANDS = 7  # of frequencies, at most, evenly in the logarithm
_SPECTRA = (0.0, 1.0, 2.0, 3.0)  # exponents of 1/f that a time course may have
_RATIOS = np.linspace(-2, 2, 5)  # variances of patches around their common one, in standard deviations
_RATIO_STD = np.log(2.5)
_COMMON = np.linspace(-4, 4, 33)  # log of the common variance, around half of the measurements' power
_NOISE = np.geomspace(0.01, 1.2, 25)  # shares of the measurements' power that may be noise
_HOTTEST = 4.0  # temperature of the first sweep
_COOLED = 0.7  # share of the burn-in after which the temperature is one
_LEAST_SEEN = 1e-6  # of a patch by measurements from which the other patches are taken out


@flax.struct.dataclass
class PatchPosteriorEstimator:
    """A prior of few patches bound to a leadfield and a covariance. A pytree; make it with `patch_posterior`.

    Attributes:
        gain: whitened fields of the patches over `scale`, in single precision, in which is sampled.
        dictionary: of patches.
        whitener: of the noise, in 1/V.
        rank: of the noise.
        scale: of the whitened leadfield, in 1/(A m).
        n_patches: that may be active at once.
        n_chains: sampled beside one another and averaged.
        n_sweeps: of each chain.
        n_burn_in: sweeps of these that do not count.
        learn_noise: whether the noise is only known up to a factor.
        seed: of the chains.
    """

    gain: Float[Array, "channel patch"]
    dictionary: PatchDictionary
    whitener: Float[Array, "channel channel"]
    rank: Float[Array, ""]
    scale: Float[Array, ""]
    n_patches: int = flax.struct.field(pytree_node=False)
    n_chains: int = flax.struct.field(pytree_node=False)
    n_sweeps: int = flax.struct.field(pytree_node=False)
    n_burn_in: int = flax.struct.field(pytree_node=False)
    learn_noise: bool = flax.struct.field(pytree_node=False)
    seed: int = flax.struct.field(pytree_node=False)

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Posterior mean of the current, and how many patches hold each source (at most one) in the mean.

        Samples are those of one window, evenly in time.

        Raises:
            ValueError: if the first axis is not the leadfield's channels, or a value is not finite.
        """
        check_measurements(measurements, len(self.whitener))
        measurements = jnp.asarray(measurements, self.whitener.dtype)
        current, probability = _sample(self, measurements.reshape(len(measurements), -1))
        return Estimate(current.reshape(-1, *measurements.shape[1:]), probability=probability)


def patch_posterior(
    leadfield: Float[Array, "channel source"],
    noise_cov: Float[Array, "channel channel"],
    faces: Int[np.ndarray, "face 3"] | None = None,
    *,
    n_orders: int = 4,
    share: float = 0.1,
    n_patches: int = 6,
    learn_noise: bool = True,
    n_chains: int = 3,
    n_sweeps: int = 40,
    n_burn_in: int = 15,
    seed: int = 0,
) -> PatchPosteriorEstimator:
    r"""Estimator that averages over all sets of few patches of cortex, each by its posterior probability.

    The prior: from none to `n_patches` patches, every number as probable as every other; every patch of the
    dictionary (see `PatchDictionary`; any source, any size) as probable as every other; variances log-normal
    around a common one; time courses with a spectrum of $f^0$ to $f^{-3}$, independent of each other. Where
    several places explain the measurements alike, the mean shows all of them, which one best set would not.
    The chains are short: the mean has a Monte Carlo error, which more chains and sweeps make smaller.

    Args:
        leadfield: $L$, fixed orientation, in V/(A m).
        noise_cov: $C$, in V², same reference; may lack ranks.
        faces: triangles of the cortical surface, indices into the sources; None allows single sources alone.
        n_orders: sizes of patches.
        share: that each neighbour gets in a step of the diffusion that makes patches; see `patch_dictionary`.
        n_patches: that may be active at once.
        learn_noise: the noise is known up to a factor only, which is sampled too, between 1 and 120 % of
            the measurements' power. Noise that is given counts as a ten thousandth of it at least.
        n_chains: sampled beside one another.
        n_sweeps: of each chain, with those of the burn-in, through which it cools down.
        n_burn_in: sweeps that do not count.
        seed: of the chains; the same measurements give the same estimate.

    Raises:
        ValueError: for a leadfield of free orientation, shapes that do not fit, values that are not finite, a
            leadfield or covariance of zeros, or an argument out of its range.

    References:
        Geweke 1996, "Variable selection and model comparison in regression" (Gibbs sampling of sets); Costa
        et al. 2017, doi:10.1016/j.neuroimage.2016.11.064 (a Bayesian sampler for EEG).
    """
    leadfield, noise_cov = jnp.asarray(leadfield), jnp.asarray(noise_cov)
    check_leadfield(leadfield)
    if leadfield.ndim == 3:
        raise ValueError("patch_posterior needs a leadfield of fixed orientation, (channel, source)")
    check_noise_cov(noise_cov, leadfield.shape[0])
    for name, value in (("n_patches", n_patches), ("n_chains", n_chains)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more; found {value}")
    if not 0 <= n_burn_in < n_sweeps:
        raise ValueError(f"n_burn_in must be from 0 to n_sweeps - 1 = {n_sweeps - 1}; found {n_burn_in}")
    dtype = jnp.result_type(leadfield, noise_cov)
    dictionary = patch_dictionary(faces, leadfield.shape[1], n_orders=n_orders, share=share)
    gain, matrix, rank, scale = _prepare(leadfield.astype(dtype), noise_cov.astype(dtype), dictionary)
    return PatchPosteriorEstimator(
        gain, dictionary, matrix, rank, scale,
        n_patches=int(n_patches), n_chains=int(n_chains), n_sweeps=int(n_sweeps),
        n_burn_in=int(n_burn_in), learn_noise=bool(learn_noise), seed=int(seed),
    )  # fmt: skip


@jax.jit
def _prepare(leadfield, noise_cov, dictionary):
    noise = whitener(noise_cov)
    gain = _matmul(noise.matrix, leadfield)
    scale = jnp.sqrt(jnp.sum(gain**2) / (noise.rank * gain.shape[1]))
    fields = dictionary.fields(gain / scale).reshape(len(gain), -1)
    return fields.astype(jnp.float32), noise.matrix, noise.rank.astype(leadfield.dtype), scale


class _Problem(NamedTuple):
    """Measurements in the Fourier basis, of power one a channel and mode, and what they are explained by.

    What the patches see of the modes is kept band by band, as the modes of a band are alike.
    """

    gain: Float[Array, "channel patch"]
    power: Float[Array, " patch"]
    modes: Float[Array, "channel mode"]
    seen: tuple[Float[Array, "mode patch"], ...]
    count: Float[Array, " band"]
    spectra: Float[Array, "spectrum band"]
    ratios: Float[Array, " ratio"]
    ratio_prior: Float[Array, " ratio"]
    common: Float[Array, " common"]
    noise: Float[Array, " noise"]
    size: Float[Array, ""]  # values that are measured


class _State(NamedTuple):
    """Slots that hold a patch or none, and what they have in common."""

    on: Bool[Array, " slot"]
    patch: Int[Array, " slot"]
    ratio: Int[Array, " slot"]
    spectrum: Int[Array, " slot"]
    noise: Float[Array, ""]
    common: Float[Array, ""]


@jax.jit
def _sample(estimator, measurements):
    gain = estimator.gain
    basis, count, spectra = _bands(measurements.shape[1])
    white = _matmul(estimator.whitener, measurements)
    size = estimator.rank * measurements.shape[1]
    level = jnp.sqrt(jnp.sum(white**2) / size)
    level = jnp.where(level > 0, level, 1)
    modes = _matmul(white / level, jnp.asarray(basis.T, white.dtype)).astype(gain.dtype)
    seen = tuple(_matmul(part.T, gain) for part in jnp.split(modes, np.cumsum(count)[:-1], axis=1))
    power = jnp.sum(gain**2, axis=0)
    usual = jnp.median(jnp.where(power > 0, power, jnp.max(power)))
    known = jnp.clip(level**-2, _NOISE[0] ** 2, None)[None]
    problem = _Problem(
        gain, power, modes, seen, count, spectra,
        _RATIOS * _RATIO_STD, -(_RATIOS**2) / 2 - np.log(np.sum(np.exp(-(_RATIOS**2) / 2))),
        jnp.log(estimator.rank / 2 / usual) + _COMMON, _NOISE if estimator.learn_noise else known, size,
    )  # fmt: skip
    problem = jax.tree.map(lambda values: jnp.asarray(values, gain.dtype), problem)
    keys = jax.random.split(jax.random.key(estimator.seed), estimator.n_chains)
    lengths = (estimator.n_patches, estimator.n_sweeps, estimator.n_burn_in)
    means, held = jax.lax.map(partial(_chain, problem, lengths), keys)
    shape = (*means.shape[1:-1], *estimator.dictionary.peak.shape)
    current = estimator.dictionary.currents(means.mean(axis=0).reshape(shape).astype(white.dtype))
    held = estimator.dictionary.currents(held.mean(axis=0).reshape(shape[1:]).astype(white.dtype))
    current = _matmul(current.T, jnp.asarray(basis, white.dtype)) * (level / estimator.scale)
    return current, jnp.clip(held, 0, 1)


def _bands(n_times):
    """Orthonormal Fourier basis (mode, time), numbers of modes a band, and spectra of mean one over bands."""
    time = np.arange(n_times)
    basis, frequency = [np.full(n_times, n_times**-0.5)], [1]
    for k in range(1, n_times // 2 + 1):
        waves = (np.cos, np.sin) if 2 * k < n_times else (np.cos,)
        for wave in waves:
            row = wave(2 * np.pi * k * time / n_times)
            basis.append(row / np.linalg.norm(row))
            frequency.append(k)
    frequency = np.array(frequency, float)
    edges = np.geomspace(1, frequency.max() + 1.01, _BANDS + 1)
    band = np.unique(np.searchsorted(edges, frequency, side="right"), return_inverse=True)[1]
    count = np.bincount(band)
    spectra = np.array([np.bincount(band, frequency**-slope) / count for slope in _SPECTRA])
    spectra = spectra / ((spectra @ count) / n_times)[:, None]
    return np.array(basis), count, spectra


def _chain(problem, lengths, key):
    """Means over the sweeps that count: amplitudes (mode, patch) and expected numbers of each patch."""
    n_slots, n_sweeps, n_burn_in = lengths
    first, key = jax.random.split(key)
    state = _State(
        on=jnp.zeros(n_slots, bool),
        patch=jnp.zeros(n_slots, jnp.int32),
        ratio=jnp.full(n_slots, len(problem.ratios) // 2, jnp.int32),
        spectrum=jax.random.randint(first, (n_slots,), 0, len(problem.spectra), jnp.int32),
        noise=problem.noise[4 * len(problem.noise) // 5],
        common=problem.common[len(problem.common) // 2],
    )
    cooling = jnp.maximum(_COOLED * n_burn_in, 1)

    def sweep(carry, number):
        state, means, held = carry
        temperature = jnp.maximum(1, _HOTTEST ** (1 - number / cooling)).astype(problem.gain.dtype)
        temperature = jnp.where(n_burn_in > 0, temperature, 1)
        weight = (number >= n_burn_in).astype(problem.gain.dtype)
        now = jax.random.fold_in(key, number)

        def visit(slot, inner):
            state, means, held = inner
            state, mean, expected = _visit(problem, state, slot, temperature, jax.random.fold_in(now, slot))
            means = tuple(total + weight * new for total, new in zip(means, mean))
            return state, means, held + weight * expected

        state, means, held = jax.lax.fori_loop(0, n_slots, visit, (state, means, held))
        for name, values in (("noise", problem.noise), ("common", problem.common)):
            now = jax.random.fold_in(now, n_slots)
            scores = jax.vmap(partial(_log_likelihood, problem, state, name))(values)
            state = state._replace(**{name: values[_draw(now, scores / temperature)]})
        return (state, means, held), None

    empty = jax.tree.map(jnp.zeros_like, (problem.seen, problem.power))
    (_, means, held), _ = jax.lax.scan(sweep, (state, *empty), jnp.arange(n_sweeps))
    return jnp.concatenate(means) / (n_sweeps - n_burn_in), held / (n_sweeps - n_burn_in)


def _visit(problem, state, slot, temperature, key):
    """A slot drawn anew, given the others; the mean amplitudes and numbers of patches that it may hold.

    Sums over bands, ratios and slots are written out term by term: XLA's reduction over the first axis of a
    long array computes each output by itself, exponentials and all, ten times slower.
    """
    first, second, third = jax.random.split(key, 3)
    n_slots, n_atoms = len(state.on), len(problem.power)
    others = state.on & (jnp.arange(n_slots) != slot)
    precision, filtered = _without(problem, state, others)
    power = [_matmul(jnp.ones(len(part), part.dtype), part**2) for part in filtered]
    any_spectrum = jax.random.randint(first, (), 0, len(problem.spectra))
    spectrum = problem.spectra[jnp.where(state.on[slot], state.spectrum[slot], any_spectrum)]
    variance = jnp.exp(state.common + problem.ratios)
    n_on = jnp.sum(others)
    odds = jnp.log((n_on + 1) / (n_slots - n_on) / n_atoms).astype(variance.dtype)

    def log_bayes_factor(variance):
        terms = zip(variance * spectrum, precision, power, problem.count)
        return sum(a * e / (1 + a * p) - n * jnp.log(1 + a * p) for a, p, e, n in terms) / 2

    score = [log_bayes_factor(v) / temperature + p + odds for v, p in zip(variance, problem.ratio_prior)]
    score = jnp.stack(score)
    top = jnp.maximum(jnp.max(score), 0)
    weights = jnp.exp(score - top)
    weights = jax.lax.optimization_barrier(weights / (jnp.sum(weights) + jnp.exp(-top)))
    held = sum(weights)
    shrunk = [
        sum(w * (a / (1 + a * p)) for w, a in zip(weights, variance * s)) for s, p in zip(spectrum, precision)
    ]
    amplitude = tuple(row * part for row, part in zip(jax.lax.optimization_barrier(shrunk), filtered))
    chosen = jnp.searchsorted(jnp.cumsum(held), jax.random.uniform(second, dtype=held.dtype))
    patch = jnp.minimum(chosen, n_atoms - 1)
    at_patch = jnp.stack([row[patch] for row in power])
    scaled = variance[:, None, None] * problem.spectra
    gained = 1 + scaled * jnp.stack([row[patch] for row in precision])
    score = jnp.sum(scaled * at_patch / gained - problem.count * jnp.log(gained), axis=-1) / 2
    pair = _draw(third, (score / temperature + problem.ratio_prior[:, None]).ravel())
    state = state._replace(
        on=state.on.at[slot].set(chosen < n_atoms),
        patch=state.patch.at[slot].set(patch.astype(jnp.int32)),
        ratio=state.ratio.at[slot].set((pair // len(problem.spectra)).astype(jnp.int32)),
        spectrum=state.spectrum.at[slot].set((pair % len(problem.spectra)).astype(jnp.int32)),
    )
    return state, amplitude, held


def _without(problem, state, others):
    """With some slots as noise, band by band: gᵀ Σ⁻¹ g (patch,) and gᵀ Σ⁻¹ y (mode, patch) of every patch."""
    _, half = _inner(problem, state, others)
    rows = _matmul(problem.gain[:, state.patch].T, problem.gain)
    covered = [_matmul(part, rows) for part in half]
    precision = [problem.power - sum(row**2 for row in part) for part in covered]
    fitted = _fitted(problem, state, half)
    filtered = [part - _matmul(fit, rows) for part, fit, rows in zip(problem.seen, fitted, covered)]
    precision = [jnp.maximum(part, _LEAST_SEEN) / state.noise for part in precision]
    return precision, [part / state.noise for part in filtered]


def _fitted(problem, state, half):
    """Half of each band times what the patches of the slots see: (mode, slot), band by band."""
    return [_matmul(part[:, state.patch], root.T) for part, root in zip(problem.seen, half)]


def _inner(problem, state, on):
    """Of each band: Cholesky factor A of Dᵀ G D + σ² I, and A⁻¹ D, where D² are the slots' variances."""
    variance = jnp.where(on, jnp.exp(state.common + problem.ratios[state.ratio]), 0)
    root = jnp.sqrt(variance[:, None] * problem.spectra[state.spectrum]).T
    columns = problem.gain[:, state.patch]
    gram = _matmul(columns.T, columns)
    noise = state.noise * jnp.eye(len(on), dtype=gram.dtype)
    factor = jnp.linalg.cholesky(root[:, :, None] * gram * root[:, None] + noise)
    half = jax.vmap(lambda a, d: solve_triangular(a, jnp.diag(d), lower=True))(factor, root)
    return factor, half


def _log_likelihood(problem, state, name, value):
    """Of all measurements, up to a constant, with one number changed; Σ by the few rows of the slots."""
    state = state._replace(**{name: value})
    factor, half = _inner(problem, state, state.on)
    fitted = sum(jnp.sum(fit**2) for fit in _fitted(problem, state, half))
    misfit = (jnp.sum(problem.modes**2) - fitted) / state.noise
    diagonal = jnp.diagonal(factor, axis1=1, axis2=2) ** 2 / state.noise
    log_determinant = _matmul(problem.count, jnp.sum(jnp.log(diagonal), axis=1))
    return -(problem.size * jnp.log(state.noise) + log_determinant + misfit) / 2


def _draw(key, scores):
    """One of the places, with probabilities as the exponentials of the scores."""
    weights = jnp.cumsum(jnp.exp(scores - jnp.max(scores)))
    threshold = jax.random.uniform(key, dtype=weights.dtype) * weights[-1]
    return jnp.minimum(jnp.searchsorted(weights, threshold), len(weights) - 1)
