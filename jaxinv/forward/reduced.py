"""`ReducedForward`: leadfields of new conductivities in milliseconds, with a bound on their error."""

import functools
import itertools
from functools import partial
from os import PathLike
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.stats import qmc

from jaxinv.fem.loads import SourceLoads
from jaxinv.forward.exact import FemForward, check_dtype
from jaxinv.forward.files import read_pytree, write_pytree
from jaxinv.forward.hypercircle import Hypercircle
from jaxinv.forward.offline import (
    offline_problem,
    reduce_channels,
    referenced_loads,
    row_least,
    slope_loads,
)
from jaxinv.forward.reduced_rows import ReducedRows
from jaxinv.head.sensors import Contacts, Electrodes, Sensors, SurfaceField
from jaxinv.head.source_space import SourceSpace
from jaxinv.tissues import conductivity_range

TRAINING_CASES = 256  # conductivities at which the bound is held to the tolerance, beside the box's corners
MAX_MODES = 120
LEAST_TOLERANCE = 1e-5  # solves for it go to some 1e-11
DTYPES = ("float32", "float64")
SLOPES, LOOSEST = 10, 0.5  # tolerance of the slopes, over that of the potentials; and at most


@flax.struct.dataclass
class ReducedForward:
    """Leadfields of one head as a function of its conductivities, certified. A pytree.

    Each channel's potential is sought in a small space of potentials solved for beforehand, by Galerkin
    projection; the leadfield row of the result is a combination of a few stored rows. A current that balances
    the load, from a space of its own, bounds the error for every conductivity (`jaxinv.forward.hypercircle`).

    Attributes:
        potentials: rows of the referenced channels.
        slopes: rows of the derivatives of each electrode's potential in its position, along the `tangents`;
            None where electrodes stay in place.
        tangents: two directions along the scalp at each electrode.
        conductivity: nominal, in S/m.
        low: lower corner of the box of conductivities, in S/m.
        high: upper corner, in S/m.
        sources: where current flows.
        sensors: what is measured.
        tissue_names: one a conductivity.
        row_least: conductivities at which the constant of the bound was found, in S/m.
        tolerance: relative error of a row that the bound was brought to.
        displacement: farthest that an electrode may be moved along the scalp, in m.
    """

    potentials: ReducedRows
    slopes: ReducedRows | None
    tangents: Float[Array, "channel 3 2"] | None
    conductivity: Float[Array, " tissue"]
    low: Float[Array, " tissue"]
    high: Float[Array, " tissue"]
    sources: SourceSpace
    sensors: Sensors
    row_least: Float[Array, " tissue"]
    tissue_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    tolerance: float = flax.struct.field(pytree_node=False)
    displacement: float = flax.struct.field(pytree_node=False)
    conductivities_at_once: ClassVar[int] = 64

    @classmethod
    def build(
        cls,
        forward: FemForward,
        low: Float[np.ndarray, " tissue"] | None = None,
        high: Float[np.ndarray, " tissue"] | None = None,
        *,
        tolerance: float = 1e-3,
        displacement: float = 0.0,
        dtype: str = "float32",
        max_modes: int = MAX_MODES,
        channels_per_block: int = 32,
        cache: str | PathLike | None = None,
        progress: bool = True,
    ) -> "ReducedForward":
        """Solves where it must until every row is certified.

        Channels are reduced in blocks; a block in work holds `channels_per_block` × nodes × modes numbers of
        eight bytes (2 GB for 32 channels, 100,000 nodes and 80 modes).

        Args:
            forward: the exact operator; JAX's float64 must be switched on.
            low: least conductivity of each tissue, in S/m; the literature's (`jaxinv.tissues`) when None.
            high: greatest, likewise.
            tolerance: relative error of a leadfield row, in the L2 norm over the sources, that the bound must
                reach at every corner of the box and `TRAINING_CASES` points in it.
            displacement: how far `sensors=` may move an electrode along the scalp, in m. More than 0 reduces
                two more channels an electrode, the slopes of its potential, to `SLOPES` times the tolerance:
                three times as many in all. Needs an operator that was built here, with its head.
            dtype: of the result, "float32" or "float64".
            max_modes: most solutions a block.
            channels_per_block: channels reduced together.
            cache: directory where finished blocks are kept and looked for, under a hash of all that they
                depend on: an interrupted build goes on from there. None keeps nothing.
            progress: show a progress bar.

        Raises:
            ValueError: for a box that is empty or not positive, a tolerance outside [1e-5, 1), another
                dtype, no modes or channels, a source model whose loads depend on the conductivity, a
                displacement of what is not an electrode, or float64 switched off.
            RuntimeError: if a solve does not converge, or `max_modes` do not reach the tolerance.
        """
        low, high = _box(forward.tissue_names, low, high)
        _check_options(tolerance, dtype, max_modes=max_modes, channels_per_block=channels_per_block)
        check_dtype("float64")
        _check_loads(forward)
        _check_displacement(forward, displacement)
        training, least = _training(low, high), row_least(forward, low, high)
        reduce = partial(
            reduce_channels,
            forward,
            problem=functools.cache(partial(offline_problem, forward, np.sqrt(low * high), least, training)),
            training=training,
            max_modes=max_modes,
            channels_per_block=channels_per_block,
            cache=cache,
            progress=progress,
        )
        potentials, slopes, tangents = reduce(referenced_loads(forward), tolerance=tolerance), None, None
        if displacement > 0:
            loads, tangents = slope_loads(forward)
            slopes = reduce(loads, tolerance=min(SLOPES * tolerance, LOOSEST))
        cast = jnp.dtype(dtype)
        rows = jax.tree.map(lambda array: jnp.asarray(array, cast), (potentials, slopes, tangents))
        return cls(
            *rows,
            conductivity=jnp.asarray(forward.mean_conductivity, cast),
            low=jnp.asarray(low, cast),
            high=jnp.asarray(high, cast),
            sources=forward.sources,
            sensors=forward.sensors,
            tissue_names=forward.tissue_names,
            row_least=jnp.asarray(least, cast),
            tolerance=tolerance,
            displacement=float(displacement),
        )

    def leadfield(
        self,
        conductivity: Float[Array, " tissue"] | None = None,
        *,
        sources: SourceSpace | None = None,
        sensors: Sensors | None = None,
        extrapolate: bool = False,
    ) -> Float[Array, "channel source"] | Float[Array, "channel source 3"]:
        """Leadfield in V/(A m), in the sensors' reference; differentiable in the conductivity to any order.

        Args:
            conductivity: of each tissue, in S/m; nominal when None.
            sources: none but those of the build.
            sensors: the same electrodes, moved along the scalp by `displacement` at most, to first order in
                how far; may be traced. Those of the build when None.
            extrapolate: allow conductivities outside the box, where nothing was held to the tolerance;
                `error_bound` holds there too.

        Raises:
            ValueError: for a conductivity of the wrong shape or outside the box, other sources or sensors, or
                electrodes that moved too far. Under `jit`, where nothing can be raised, such a leadfield is
                NaN.
        """
        if sources is not None and sources is not self.sources:
            raise ValueError(
                "a ReducedForward knows the sources of its build alone: build another, or use FemForward"
            )
        conductivity = self._checked(conductivity, extrapolate)
        moved = self._moved(sensors)
        leadfield = self.potentials.at(conductivity)
        if moved is not None:
            leadfield = leadfield + self._change(moved, self.slopes.at(conductivity))
        leadfield = self._within_box(conductivity, extrapolate, leadfield)
        return leadfield if self.sources.is_fixed else leadfield.reshape(*leadfield.shape[:-1], -1, 3)

    def project(
        self,
        conductivity: Float[Array, " tissue"],
        current: Float[Array, "source *time"],
        *,
        sensors: Sensors | None = None,
        extrapolate: bool = False,
    ) -> Float[Array, "channel *time"]:
        """Measurements, in V, of currents (A m) along the sources' normals, without forming the leadfield.

        Args:
            conductivity: of each tissue, in S/m.
            current: of each source, in A m; (source, 3) and (source, 3, time) where orientation is free.
            sensors: as in `leadfield`.
            extrapolate: as in `leadfield`.

        Raises:
            ValueError: as `leadfield`.
        """
        conductivity = self._checked(conductivity, extrapolate)
        if not self.sources.is_fixed:
            current = current.reshape(-1, *current.shape[2:])
        measured = self.potentials.project(conductivity, current)
        if (moved := self._moved(sensors)) is not None:
            measured = measured + self._change(moved, self.slopes.project(conductivity, current))
        return self._within_box(conductivity, extrapolate, measured)

    @property
    def conductivity_range(self) -> tuple[Float[Array, " tissue"], Float[Array, " tissue"]]:
        """The corners of the box that was certified, in S/m."""
        return self.low, self.high

    def error_bound(self, conductivity: Float[Array, " tissue"] | None = None) -> Float[Array, " channel"]:
        """Bound on each row's error in the L2 norm over the sources, relative to the exact leadfield's row.

        Exact is the finite-element leadfield that the model was built from, its matrices in double precision
        and its electrodes in place. Holds for every conductivity, outside the box too; infinite where nothing
        can be said. Two things in it are not proven: the sums' rounding errors are taken for independent, and
        what the solver left unsolved, a few percent of the bound, is weighed by an estimate.
        """
        return self.potentials.error_bound(self._checked(conductivity, extrapolate=True), self.row_least)

    def save(self, path: str | PathLike) -> None:
        """Writes everything to one .npz file."""
        write_pytree(path, "jaxinv ReducedForward", self)

    @classmethod
    def load(cls, path: str | PathLike) -> "ReducedForward":
        """Reads what `save` wrote; needs JAX, but not jax-fem, PyAMG or MNE-Python.

        Raises:
            ValueError: if the file is truncated or holds something else, or holds float64 arrays while JAX
                has float64 switched off.
        """
        reduced = read_pytree(path, "jaxinv ReducedForward", STORED_TYPES)
        check_dtype(reduced.conductivity.dtype)
        return jax.tree.map(jnp.asarray, reduced)

    def _moved(self, sensors) -> Float[Array, "channel 2"] | None:
        """How far each electrode was moved along its tangents; NaN where that is too far and traced."""
        if sensors is None or sensors is self.sensors:
            return None
        if self.slopes is None:
            raise ValueError(
                "this ReducedForward knows the sensors of its build alone: build it with displacement= to "
                "move electrodes, or use FemForward"
            )
        own = self.sensors
        if (type(sensors), sensors.names, sensors.reference) != (type(own), own.names, own.reference):
            raise ValueError("sensors must be the electrodes of the build, moved: self.sensors.at(positions)")
        shift = (jnp.asarray(sensors.positions) - own.positions).astype(self.tangents.dtype)
        distance = jnp.linalg.norm(shift, axis=1)
        limit = self.displacement * (1 + 1e-3)  # of rounding
        if not isinstance(distance, jax.core.Tracer) and (distance > limit).any():
            farthest = int(jnp.argmax(distance))
            raise ValueError(
                f"electrode {own.names[farthest]} was moved by {1e3 * float(distance[farthest]):.1f} mm, "
                f"farther than displacement={self.displacement:g} m allows: build with more"
            )
        along = jnp.einsum("cxk,cx->ck", self.tangents, shift, precision="highest")
        return jnp.where((distance <= limit)[:, None], along, jnp.nan)

    def _change(self, moved: Float[Array, "channel 2"], slopes: Float[Array, "slope ..."]) -> Array:
        """Of referenced channels, from the slopes of the unreferenced ones."""
        slopes = slopes.reshape(*moved.shape, *slopes.shape[1:])
        change = jnp.einsum("ck,ck...->c...", moved, slopes, precision="highest")
        return jnp.tensordot(
            self.sensors.reference_operator(change.dtype), change, axes=1, precision="highest"
        )

    def _checked(self, conductivity, extrapolate):
        if conductivity is None:
            conductivity = self.conductivity
        if jnp.shape(conductivity) != self.conductivity.shape:
            raise ValueError(
                f"conductivity must have shape {self.conductivity.shape}, in S/m for each of "
                f"{self.tissue_names}; found {jnp.shape(conductivity)}"
            )
        conductivity = jnp.asarray(conductivity, self.conductivity.dtype)
        if isinstance(conductivity, jax.core.Tracer):
            return conductivity
        known = np.asarray(conductivity)
        if not (known > 0).all():
            raise ValueError(f"conductivity must be positive, in S/m; found {known.tolist()}")
        if not extrapolate and not isinstance(self.low, jax.core.Tracer):
            low, high = np.asarray(self.low), np.asarray(self.high)
            outside = ~_inside(known, low, high)
            if outside.any():
                named = {
                    name: f"{own:g} not in [{least:g}, {most:g}]"
                    for name, own, least, most, o in zip(self.tissue_names, known, low, high, outside)
                    if o
                }
                raise ValueError(
                    f"conductivity lies outside the box that was certified, in S/m: {named}; build with a "
                    "wider low and high, or pass extrapolate=True and look at error_bound"
                )
        return conductivity

    def _within_box(self, conductivity, extrapolate, values):
        if extrapolate or not any(isinstance(array, jax.core.Tracer) for array in (conductivity, self.low)):
            return values
        return jnp.where(_inside(conductivity, self.low, self.high).all(), values, jnp.nan)


STORED_TYPES = (
    Contacts, Electrodes, Hypercircle, ReducedForward, ReducedRows, SourceSpace, SurfaceField,
)  # fmt: skip


def _inside(conductivity, low, high):
    slack = 1e-6  # single precision may round a corner outwards
    return (conductivity >= low * (1 - slack)) & (conductivity <= high * (1 + slack))


def _box(tissue_names, low, high):
    if low is None or high is None:
        known = conductivity_range(tissue_names)
        low, high = known[0] if low is None else low, known[1] if high is None else high
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    shape = (len(tissue_names),)
    if low.shape != shape or high.shape != shape or not ((low > 0) & (low <= high)).all():
        raise ValueError(
            f"low and high must have shape {shape}, in S/m for each of {tissue_names}, with 0 < low <= high; "
            f"found {low.tolist()} and {high.tolist()}"
        )
    return low, high


def _check_options(tolerance: float, dtype: str, **counts: int) -> None:
    if not LEAST_TOLERANCE <= tolerance < 1:
        raise ValueError(
            f"tolerance must lie between {LEAST_TOLERANCE:g}, below which solves are not sharp enough, "
            f"and 1; found {tolerance:g}"
        )
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES}, not {dtype!r}")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more; found {value}")


def _check_loads(forward: FemForward) -> None:
    if not isinstance(forward.loads, SourceLoads):
        raise ValueError(
            f"the loads of source_model={forward.source_model!r} depend on the conductivity, so that its "
            'leadfields cannot be reduced: build with "recovery", "venant" or "partial-integration"'
        )


def _check_displacement(forward: FemForward, displacement: float) -> None:
    if not 0 <= displacement < np.inf:
        raise ValueError(f"displacement must be 0 or more, in m, not {displacement:g}")
    if displacement > 0 and not isinstance(forward.sensors, Electrodes):
        raise ValueError(
            f"only Electrodes can be moved along the scalp, not {type(forward.sensors).__name__}: build with "
            "displacement=0"
        )
    if displacement > 0:
        forward.require_head()


def _training(low, high):
    """The corners of the box, and points of a Sobol sequence in the logarithms."""
    varying = np.flatnonzero(low < high)
    corners = np.tile(low, (2 ** len(varying), 1))
    for corner, picked in zip(corners, itertools.product((False, True), repeat=len(varying))):
        corner[varying] = np.where(picked, high[varying], low[varying])
    sobol = qmc.Sobol(len(low), seed=0).random(TRAINING_CASES)
    return np.concatenate([corners, np.exp(np.log(low) + sobol * np.log(high / low))])
