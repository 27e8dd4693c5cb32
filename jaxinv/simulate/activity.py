"""What the cortex does: random activity of fixed-orientation sources, one draw at a time."""

from typing import Literal, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxinv.head.source_space import SourceSpace
from jaxinv.simulate.gaussian_field import squared_exponential_factor
from jaxinv.simulate.geodesic import geodesic_neighbours
from jaxinv.simulate.uniform import uniform

NOMINAL_MOMENT = 10e-9
"""Amplitude of a source, in A m; noise is scaled to the signal, so it cancels from every figure of merit."""


@flax.struct.dataclass
class Activity:
    """State of every source. A pytree.

    Attributes:
        label: 1 where the source is active, else 0; float32.
        current: dipole moment along the normal, in A m, float32.
    """

    label: Float[Array, " source"]
    current: Float[Array, " source"]


class ActivityModel(Protocol):
    """What draws activity: a pytree, so that it can be an argument of a jitted function."""

    def sample(self, key: PRNGKeyArray) -> Activity:
        """One draw; `vmap` over keys for many."""
        ...


@flax.struct.dataclass
class HalfActiveMaps:
    r"""Smooth maps in which about half of the sources are active. A pytree.

    A Gaussian field $g$ of unit variance and covariance $\exp(-d^2 / 2 \ell^2)$, $d$ Euclidean, is drawn;
    the active sources are those with $g > 0$. The current is `amplitude` times the label ("binary", the task
    of the paper, D2), or `amplitude` times $g$ ("signed", D1, for which the Bayes answer is known).

    Attributes:
        factor: $F$, so that $g = F z$ with white $z$; float32.
        amplitude: in A m.
        kind: "binary" or "signed".
    """

    factor: Float[Array, "source rank"]
    amplitude: Float[Array, ""]
    kind: str = flax.struct.field(pytree_node=False)

    @classmethod
    def build(
        cls,
        sources: SourceSpace,
        correlation_length: float = 20e-3,
        kind: Literal["binary", "signed"] = "binary",
        *,
        amplitude: float = NOMINAL_MOMENT,
        tolerance: float = 1e-3,
    ) -> "HalfActiveMaps":
        r"""Factor the covariance on the host: a second for 5,000 sources at 20 mm, more for a shorter length.

        Args:
            sources: with normals.
            correlation_length: $\ell$, in m, > 0.
            kind: "binary" or "signed".
            amplitude: in A m, > 0.
            tolerance: share of the field's variance that the low-rank factor may miss, in (0, 1).

        Raises:
            ValueError: for sources without normals, or an argument out of its range.
        """
        _check_fixed(sources)
        _check_amplitude(amplitude)
        if kind not in ("binary", "signed"):
            raise ValueError(f'kind must be "binary" or "signed", not {kind!r}')
        factor = squared_exponential_factor(sources.positions, correlation_length, tolerance=tolerance)
        return cls(jnp.asarray(factor, jnp.float32), jnp.asarray(amplitude, jnp.float32), kind)

    @property
    def mean_current(self) -> Float[Array, " source"]:
        """Over all maps, in A m: half of the amplitude, or nothing where currents have both signs."""
        mean = self.amplitude / 2 if self.kind == "binary" else jnp.zeros_like(self.amplitude)
        return jnp.full(len(self.factor), mean)

    def sample(self, key: PRNGKeyArray) -> Activity:
        """One map."""
        white = jax.random.normal(key, self.factor.shape[1:], jnp.float32)
        field = jnp.matmul(self.factor, white, precision="highest")
        label = (field > 0).astype(jnp.float32)
        return Activity(label, self.amplitude * (label if self.kind == "binary" else field))


@flax.struct.dataclass
class Dipoles:
    """A few focal sources on random nodes. A pytree.

    Each has a random sign and a moment uniform between half and one and a half times `amplitude`.

    Attributes:
        amplitude: in A m.
        n_sources: number of sources in the space.
        n: fewest and most dipoles, each number as likely as another.
    """

    amplitude: Float[Array, ""]
    n_sources: int = flax.struct.field(pytree_node=False)
    n: tuple[int, int] = flax.struct.field(pytree_node=False)

    @classmethod
    def build(
        cls, sources: SourceSpace, n: tuple[int, int] = (1, 4), *, amplitude: float = NOMINAL_MOMENT
    ) -> "Dipoles":
        """Check and keep the numbers.

        Args:
            sources: with normals.
            n: fewest and most dipoles, both included.
            amplitude: in A m, > 0.

        Raises:
            ValueError: for sources without normals, or an argument out of its range.
        """
        _check_fixed(sources)
        _check_amplitude(amplitude)
        return cls(jnp.asarray(amplitude, jnp.float32), sources.n_sources, _count_range(n, sources.n_sources))

    @property
    def mean_current(self) -> Float[Array, " source"]:
        """Over all draws, in A m: nothing, as signs are random."""
        return jnp.zeros(self.n_sources, jnp.float32)

    def sample(self, key: PRNGKeyArray) -> Activity:
        """One set of dipoles, on different nodes."""
        node_key, key = jax.random.split(key)
        lottery = uniform(node_key, (self.n_sources,))
        nodes = jax.lax.top_k(lottery, self.n[1])[1]
        present, moment = _present_and_moment(key, self.n, self.amplitude)
        empty = jnp.zeros(self.n_sources, jnp.float32)
        return Activity(empty.at[nodes].set(present), empty.at[nodes].set(present * moment))


@flax.struct.dataclass
class Patches:
    """A few patches of cortex, each of constant current. A pytree.

    A patch is all sources within a radius of a random node, along the surface. Each patch has a random sign
    and a moment a node uniform between half and one and a half times `amplitude`; where two overlap they add.

    Attributes:
        neighbour: near sources of each source, padded with the number of sources; int32.
        distance: to them along the surface, in m, padded with infinity; float32.
        amplitude: in A m a node.
        n: fewest and most patches.
        radius: smallest and largest, in m.
    """

    neighbour: Int[Array, "source neighbour"]
    distance: Float[Array, "source neighbour"]
    amplitude: Float[Array, ""]
    n: tuple[int, int] = flax.struct.field(pytree_node=False)
    radius: tuple[float, float] = flax.struct.field(pytree_node=False)

    @classmethod
    def build(
        cls,
        sources: SourceSpace,
        n: tuple[int, int] = (1, 3),
        radius: tuple[float, float] = (10e-3, 30e-3),
        *,
        amplitude: float = NOMINAL_MOMENT,
    ) -> "Patches":
        """Find each source's neighbours on the host: seconds, and 50 MB twice for 20,000 sources and 30 mm.

        Args:
            sources: with normals and faces.
            n: fewest and most patches, both included.
            radius: smallest and largest, in m, uniform between.
            amplitude: in A m a node, > 0.

        Raises:
            ValueError: for sources without normals or faces, or an argument out of its range.
        """
        _check_fixed(sources)
        _check_amplitude(amplitude)
        low, high = (float(r) for r in radius)
        if not 0 < low <= high < np.inf:
            raise ValueError(f"radius must be (low, high) in m with 0 < low <= high; found {radius}")
        if sources.faces is None or len(sources.faces) == 0:
            raise ValueError("Patches needs sources with faces: they grow along the cortical surface")
        neighbour, distance = geodesic_neighbours(sources.positions, sources.faces, high)
        counts = _count_range(n, sources.n_sources)
        return cls(
            jnp.asarray(neighbour),
            jnp.asarray(distance),
            jnp.asarray(amplitude, jnp.float32),
            counts,
            (low, high),
        )

    @property
    def mean_current(self) -> Float[Array, " source"]:
        """Over all draws, in A m: nothing, as signs are random."""
        return jnp.zeros(len(self.neighbour), jnp.float32)

    def sample(self, key: PRNGKeyArray) -> Activity:
        """One set of patches."""
        n_sources, most = self.neighbour.shape[0], self.n[1]
        centre_key, radius_key, key = jax.random.split(key, 3)
        centres = jax.random.randint(centre_key, (most,), 0, n_sources, jnp.int32)
        radius = uniform(radius_key, (most, 1), *self.radius)
        present, moment = _present_and_moment(key, self.n, self.amplitude)
        inside = present[:, None] * (self.distance[centres] <= radius)
        near, empty = self.neighbour[centres], jnp.zeros(n_sources, jnp.float32)
        return Activity(
            empty.at[near].max(inside, mode="drop"),
            empty.at[near].add(inside * moment[:, None], mode="drop"),
        )


def _present_and_moment(key, n, amplitude):
    """Which of the most possible generators are there, and the moment of each."""
    count_key, moment_key = jax.random.split(key)
    low, high = n
    count = jax.random.randint(count_key, (), low, high + 1, jnp.int32)
    present = jnp.arange(high, dtype=jnp.int32) < count
    signed = uniform(moment_key, (high,), -1.0, 1.0)
    return present.astype(jnp.float32), amplitude * (jnp.copysign(jnp.float32(0.5), signed) + signed)


def _check_fixed(sources: SourceSpace) -> None:
    if not sources.is_fixed:
        raise ValueError("sources must have fixed orientation: give the SourceSpace normals")


def _check_amplitude(amplitude: float) -> None:
    if not 0 < amplitude < np.inf:
        raise ValueError(f"amplitude must be positive, in A m; found {amplitude}")


def _count_range(n, n_sources: int) -> tuple[int, int]:
    low, high = (int(count) for count in n)
    if not 1 <= low <= high <= n_sources:
        raise ValueError(f"n must be (low, high) with 1 <= low <= high <= {n_sources} sources; found {n}")
    return low, high
