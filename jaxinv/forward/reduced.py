"""`ReducedForward`: leadfields of new conductivities in milliseconds, with a bound on their error."""

import itertools
from os import PathLike
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.stats import qmc

from jaxinv.forward.exact import FemForward, check_dtype
from jaxinv.forward.files import read_pytree, write_pytree
from jaxinv.forward.greedy import relative
from jaxinv.forward.hypercircle import Hypercircle
from jaxinv.forward.offline import reduce_channels
from jaxinv.head.sensors import Contacts, Electrodes, Sensors, SurfaceField
from jaxinv.head.source_space import SourceSpace
from jaxinv.tissues import conductivity_range

TRAINING_CASES = 256  # conductivities at which the bound is held to the tolerance, beside the box's corners
MAX_MODES = 120


@flax.struct.dataclass
class ReducedForward:
    """Leadfields of one head as a function of its conductivities, certified. A pytree.

    Each channel's potential is sought in a small space of potentials solved for beforehand, by Galerkin
    projection; the leadfield row of the result is a combination of a few stored rows. A current that balances
    the load, from a space of its own, bounds the error for every conductivity (`jaxinv.forward.hypercircle`).

    Attributes:
        model: of the channels' potentials.
        weights: from a potential's coefficients to those of its row.
        dropped: to the coefficients that are left out of the row.
        rows: orthonormal rows of each channel, by source (and x, y, z where orientation is free).
        row_constant: norm of a row over the energy norm of its potential, at most, at 1 S/m in the sources'
            tissue.
        conductivity: nominal, in S/m.
        low: lower corner of the box of conductivities, in S/m.
        high: upper corner, in S/m.
        sources: where current flows.
        sensors: what is measured.
        tissue_names: one a conductivity.
        row_tissue: index of the sources' tissue.
        tolerance: relative error of a row that the bound was brought to.
    """

    model: Hypercircle
    weights: Float[Array, "channel part mode"]
    dropped: Float[Array, "channel rest mode"]
    rows: Float[Array, "channel part row"]
    row_constant: Float[Array, ""]
    conductivity: Float[Array, " tissue"]
    low: Float[Array, " tissue"]
    high: Float[Array, " tissue"]
    sources: SourceSpace
    sensors: Sensors
    tissue_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    row_tissue: int = flax.struct.field(pytree_node=False)
    tolerance: float = flax.struct.field(pytree_node=False)
    conductivities_at_once: ClassVar[int] = 64

    @classmethod
    def build(
        cls,
        forward: FemForward,
        low: Float[np.ndarray, " tissue"] | None = None,
        high: Float[np.ndarray, " tissue"] | None = None,
        *,
        tolerance: float = 1e-3,
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
            dtype: of the result, "float32" or "float64".
            max_modes: most solutions a block.
            channels_per_block: channels reduced together.
            cache: directory where finished blocks are kept and looked for, under a hash of all that they
                depend on: an interrupted build goes on from there. None keeps nothing.
            progress: show a progress bar.

        Raises:
            ValueError: for a box that is empty or not positive, a tolerance outside (0, 1), a source model
                whose loads depend on the conductivity, or float64 switched off.
            RuntimeError: if a solve does not converge, or `max_modes` do not reach the tolerance.
        """
        low, high = _box(forward.tissue_names, low, high)
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, not {tolerance:g}")
        check_dtype("float64")
        reduction = reduce_channels(
            forward,
            low,
            high,
            _training(low, high),
            tolerance=tolerance,
            max_modes=max_modes,
            channels_per_block=channels_per_block,
            cache=cache,
            progress=progress,
        )
        cast = jnp.dtype(dtype)
        return cls(
            **jax.tree.map(lambda array: jnp.asarray(array, cast), reduction.arrays),
            conductivity=jnp.asarray(forward.mean_conductivity, cast),
            low=jnp.asarray(low, cast),
            high=jnp.asarray(high, cast),
            sources=forward.sources,
            sensors=forward.sensors,
            tissue_names=forward.tissue_names,
            row_tissue=reduction.row_tissue,
            tolerance=tolerance,
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
            sensors: none but those of the build.
            extrapolate: allow conductivities outside the box, where nothing was held to the tolerance;
                `error_bound` holds there too.

        Raises:
            ValueError: for a conductivity of the wrong shape or outside the box, or other sources or sensors.
                Under `jit`, where nothing can be raised, a leadfield outside the box is NaN.
        """
        self._check_geometry(sources, sensors)
        conductivity = self._checked(conductivity, extrapolate)
        parts = self._parts(self.model.coefficients(conductivity))
        leadfield = jnp.einsum("cp,cpr->cr", parts, self.rows, precision="highest")
        leadfield = self._within_box(conductivity, extrapolate, leadfield)
        return leadfield if self.sources.is_fixed else leadfield.reshape(*leadfield.shape[:-1], -1, 3)

    def project(
        self,
        conductivity: Float[Array, " tissue"],
        current: Float[Array, "source *time"],
        *,
        extrapolate: bool = False,
    ) -> Float[Array, "channel *time"]:
        """Measurements, in V, of currents (A m) along the sources' normals, without forming the leadfield.

        Args:
            conductivity: of each tissue, in S/m.
            current: of each source, in A m; (source, 3) and (source, 3, time) where orientation is free.
            extrapolate: as in `leadfield`.

        Raises:
            ValueError: as `leadfield`.
        """
        conductivity = self._checked(conductivity, extrapolate)
        if not self.sources.is_fixed:
            current = current.reshape(-1, *current.shape[2:])
        seen = jnp.tensordot(self.rows, current, axes=1, precision="highest")
        parts = self._parts(self.model.coefficients(conductivity))
        measured = jnp.einsum("cp,cp...->c...", parts, seen, precision="highest")
        return self._within_box(conductivity, extrapolate, measured)

    @property
    def conductivity_range(self) -> tuple[Float[Array, " tissue"], Float[Array, " tissue"]]:
        """The corners of the box that was certified, in S/m."""
        return self.low, self.high

    def error_bound(self, conductivity: Float[Array, " tissue"] | None = None) -> Float[Array, " channel"]:
        """Bound on each row's error in the L2 norm over the sources, relative to the exact leadfield's row.

        Exact is the finite-element leadfield that the model was built from. Holds for every conductivity,
        outside the box too; infinite where nothing can be said.
        """
        conductivity = self._checked(conductivity, extrapolate=True)
        coefficients = self.model.coefficients(conductivity)
        error = self.model.energy_error(conductivity, coefficients)
        error = self.row_constant * error / jnp.sqrt(conductivity[self.row_tissue])
        cut = jnp.linalg.norm(
            jnp.einsum("cpm,cm->cp", self.dropped, coefficients, precision="highest"), axis=1
        )
        norm = jnp.hypot(jnp.linalg.norm(self._parts(coefficients), axis=1), cut)
        return jnp.where(norm > 0, relative(error + cut, norm - error), 0)

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

    def _parts(self, coefficients):
        return jnp.einsum("cpm,cm->cp", self.weights, coefficients, precision="highest")

    def _check_geometry(self, sources, sensors) -> None:
        for name, given, own in (("sources", sources, self.sources), ("sensors", sensors, self.sensors)):
            if given is not None and given is not own:
                raise ValueError(
                    f"a ReducedForward knows the {name} of its build alone: build another, or use FemForward"
                )

    def _checked(self, conductivity, extrapolate):
        if conductivity is None:
            return self.conductivity
        if jnp.shape(conductivity) != self.conductivity.shape:
            raise ValueError(
                f"conductivity must have shape {self.conductivity.shape}, in S/m for each of "
                f"{self.tissue_names}; found {jnp.shape(conductivity)}"
            )
        conductivity = jnp.asarray(conductivity, self.conductivity.dtype)
        if not extrapolate and not isinstance(conductivity, jax.core.Tracer):
            outside = ~np.asarray(self._inside(conductivity))
            if outside.any():
                named = {
                    name: f"{float(value):g} not in [{float(low):g}, {float(high):g}]"
                    for name, value, low, high, o in zip(
                        self.tissue_names, conductivity, self.low, self.high, outside
                    )
                    if o
                }
                raise ValueError(
                    f"conductivity lies outside the box that was certified, in S/m: {named}; build with a "
                    "wider low and high, or pass extrapolate=True and look at error_bound"
                )
        return conductivity

    def _inside(self, conductivity):
        slack = 1e-6  # single precision may round a corner outwards
        return (conductivity >= self.low * (1 - slack)) & (conductivity <= self.high * (1 + slack))

    def _within_box(self, conductivity, extrapolate, values):
        if extrapolate or not isinstance(conductivity, jax.core.Tracer):
            return values
        return jnp.where(self._inside(conductivity).all(), values, jnp.nan)


STORED_TYPES = (Contacts, Electrodes, Hypercircle, ReducedForward, SourceSpace, SurfaceField)


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


def _training(low, high):
    """The corners of the box, and points of a Sobol sequence in the logarithms."""
    varying = np.flatnonzero(low < high)
    corners = np.tile(low, (2 ** len(varying), 1))
    for corner, picked in zip(corners, itertools.product((False, True), repeat=len(varying))):
        corner[varying] = np.where(picked, high, low)[varying] if len(varying) else corner[varying]
    sobol = qmc.Sobol(len(low), seed=0).random(TRAINING_CASES)
    return np.concatenate([corners, np.exp(np.log(low) + sobol * np.log(high / low))])
