"""Squared extrapolation of iterations that are slow but sure (SQUAREM)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

GROWTH = 4  # of the reach, after an extrapolation that went so far; and its inverse, after one that failed
FALL = 0.1  # no extrapolation takes more of a number: what is on its way to zero may yet turn
ROUNDING = 8  # units in the last place that costs are not told apart by


class Extrapolation(NamedTuple):
    """Positive numbers that a rule improves step by step, with a longer step after every two of the rule's.

    Attributes:
        begun: where the last two steps of the rule began.
        tried: where the next one begins: extrapolated, or reached by the rule.
        reached: by the last step of the rule that counts.
        cost: not to be exceeded where an extrapolation has led.
        reach: of an extrapolation, in steps of the rule, at most.
        halfway: whether the next step is the second after an extrapolation.
    """

    begun: Float[Array, " unknown"]
    tried: Float[Array, " unknown"]
    reached: Float[Array, " unknown"]
    cost: Float[Array, ""]
    reach: Float[Array, ""]
    halfway: Bool[Array, ""]

    @classmethod
    def begin(cls, start: Float[Array, " unknown"]) -> "Extrapolation":
        """Before the first step."""
        infinite = jnp.full((), jnp.inf, start.dtype)
        return cls(start, start, start, infinite, jnp.full((), GROWTH, start.dtype), jnp.zeros((), bool))

    def mapped(self, change: Callable[[Float[Array, " unknown"]], Float[Array, " other"]]) -> "Extrapolation":
        """With every set of numbers changed alike."""
        return self._replace(begun=change(self.begun), tried=change(self.tried), reached=change(self.reached))

    def moved(
        self, stepped: Float[Array, " unknown"], cost: Float[Array, ""], least: Float[Array, " unknown"]
    ) -> tuple["Extrapolation", Bool[Array, ""]]:
        """After one step of the rule; and whether the step counts.

        It does not where the extrapolation that it began from had too high a cost: the next one begins from
        what the rule had reached before. Numbers that the rule has made zero stay so.

        Args:
            stepped: what the rule makes of `tried`.
            cost: at `tried`; that of the rule never rises from step to step.
            least: no extrapolation makes a number smaller than this.

        References:
            Varadhan & Roland 2008, doi:10.1111/j.1467-9469.2007.00585.x.
        """
        rounding = ROUNDING * jnp.finfo(cost.dtype).eps * jnp.abs(self.cost)
        counts = self.halfway | (cost <= self.cost + rounding) | jnp.isinf(self.cost)
        far, length = _far(self.begun, self.tried, stepped, self.reach, least)
        extrapolates = self.halfway
        reached = jnp.where(counts, stepped, self.reached)
        grown = jnp.where(length >= self.reach, GROWTH * self.reach, self.reach)
        shrunk = jnp.maximum(self.reach / GROWTH, 1)
        after = Extrapolation(
            begun=self.tried,
            tried=jnp.where(extrapolates, far, reached),
            reached=reached,
            cost=jnp.where(counts, cost, jnp.inf),
            reach=jnp.where(extrapolates, grown, jnp.where(counts, self.reach, shrunk)),
            halfway=counts & ~extrapolates,
        )
        return after, counts


def _far(first, second, third, reach, least):
    """Along the parabola through three points of equal distance; and how far, in steps."""
    step, bend = second - first, third - 2 * second + first
    squares = jnp.sum(step**2), jnp.sum(bend**2)
    ratio = jnp.where(squares[1] > 0, squares[0] / jnp.where(squares[1] > 0, squares[1], 1), jnp.inf)
    length = jax.lax.stop_gradient(jnp.clip(jnp.sqrt(ratio), 1, reach))
    far = first + length * (2 * step + length * bend)
    return jnp.where(third > 0, jnp.maximum(far, jnp.maximum(least, FALL * third)), 0), length
