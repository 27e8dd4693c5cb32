r"""Adaptive importance sampling of a few numbers whose prior is $N(0, I)$."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from jaxtyping import Array, Float, Int, PRNGKeyArray

_matmul = partial(jnp.matmul, precision="highest")

_DEFENSIVE = 0.2  # share of the later draws that come from the prior
_SPREAD = 1.2  # standard deviation of the others, over that found
_LEAST_STD = 0.01  # of the others; that of the prior is one
_FEWEST = 30  # effective draws that tempering leaves for a mean and covariance, at least
_HALVINGS = 20  # by which the temperature is found


class Rounds(NamedTuple):
    """Draws of all rounds with their evidence, and proposals of the later ones; zeros before they come."""

    draws: Float[Array, "draw tissue"]
    evidence: Float[Array, " draw"]
    means: Float[Array, "round tissue"]
    roots: Float[Array, "round tissue tissue"]


def log_weights(
    state: Rounds, n_rounds: Int[Array, ""] | int, n_first: int, n_draws: int
) -> Float[Array, " draw"]:
    """Of each draw of so many rounds, normalised: prior times evidence over the mixture of all proposals."""
    prior = jnp.sum(norm.logpdf(state.draws), axis=1)
    proposed = jax.vmap(partial(_log_normal, state.draws))(state.means, state.roots)
    proposed = proposed + jnp.log((1 - _DEFENSIVE) * n_draws).astype(prior.dtype)
    drew = jnp.arange(len(state.means)) < n_rounds
    n_prior = (n_first + _DEFENSIVE * n_draws * n_rounds) * jnp.ones((), prior.dtype)
    parts = jnp.concatenate([(jnp.log(n_prior) + prior)[None], jnp.where(drew[:, None], proposed, -jnp.inf)])
    log_weight = state.evidence + prior - logsumexp(parts, axis=0)
    there = jnp.arange(len(state.draws)) < n_first + n_rounds * n_draws
    log_weight = jnp.where(there, log_weight, -jnp.inf)
    return log_weight - logsumexp(log_weight)


def proposal(
    draws: Float[Array, "draw tissue"], log_weight: Float[Array, " draw"]
) -> tuple[Float[Array, " tissue"], Float[Array, "tissue tissue"]]:
    """Mean and Cholesky factor of the weighted draws, tempered until enough of them count."""

    def effective(power):
        weight = _tempered(log_weight, power)
        return 1 / jnp.sum(weight**2)

    def halve(_, bounds):
        middle = (bounds[0] + bounds[1]) / 2
        enough = effective(middle) >= _FEWEST
        return jnp.where(enough, middle, bounds[0]), jnp.where(enough, bounds[1], middle)

    zero, one = jnp.zeros((), log_weight.dtype), jnp.ones((), log_weight.dtype)
    power = jax.lax.fori_loop(0, _HALVINGS, halve, (zero, one))[0]
    weight = _tempered(log_weight, jnp.where(effective(one) >= _FEWEST, one, power))
    mean = _matmul(weight, draws)
    cov = _matmul((weight[:, None] * (draws - mean)).T, draws - mean)
    return mean, jnp.linalg.cholesky(_SPREAD**2 * cov + _LEAST_STD**2 * jnp.eye(len(mean), dtype=cov.dtype))


def _tempered(log_weight, power):
    """Weights, of sum one; nothing where there is no draw yet."""
    return jax.nn.softmax(jnp.where(jnp.isneginf(log_weight), -jnp.inf, power * log_weight))


def draw_mixture(
    key: PRNGKeyArray, mean: Float[Array, " tissue"], root: Float[Array, "tissue tissue"], n_draws: int
) -> Float[Array, "draw tissue"]:
    """Draws of the mixture of the prior and a Gaussian."""
    first, second = jax.random.split(key)
    normal = jax.random.normal(first, (n_draws, len(mean)), mean.dtype)
    of_prior = jax.random.uniform(second, (n_draws, 1), mean.dtype) < _DEFENSIVE
    return jnp.where(of_prior, normal, mean + _matmul(normal, root.T))


def _log_normal(draws, mean, root):
    scaled = solve_triangular(root, (draws - mean).T, lower=True)
    return jnp.sum(norm.logpdf(scaled), axis=0) - jnp.sum(jnp.log(jnp.diagonal(root)))
