"""`FemForward`: exact finite-element leadfields, differentiable in the conductivities."""

from os import PathLike
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import sparse

from jaxinv import fem
from jaxinv.fem.loads import Loads, SensorLoads, SourceLoads
from jaxinv.fem.multigrid import Hierarchy, Level, Prolongation
from jaxinv.fem.singular_loads import LocalizedLoads, SourceGroup, SubtractionLoads
from jaxinv.fem.solve import SolveReport, solve_poisson
from jaxinv.fem.stiffness import Parameters, Stiffness
from jaxinv.forward.files import read_pytree, write_pytree
from jaxinv.forward.placement import BRAIN_TISSUES, place_sensors, place_sources
from jaxinv.head.conductivity import Conductivity, ConductivityKind, is_positive
from jaxinv.head.head_model import HeadModel
from jaxinv.head.sensors import Contacts, Electrodes, Sensors, SurfaceField
from jaxinv.head.source_space import SourceSpace
from jaxinv.tissues import conductivity_range

MAX_ITERATIONS = 300
FINEST_TOLERANCE = {"float64": 1e-13, "float32": 1e-6}


@flax.struct.dataclass
class FemForward:
    """Leadfields of a head by finite elements. A pytree: pass it to jitted functions as an argument.

    One adjoint solve a channel gives the transfer matrix, whose rows are the potentials of unit
    currents at the sensors; a leadfield is its gradient at the sources. All channels are solved
    together by conjugate gradients with a multigrid cycle whose aggregates are chosen at the nominal
    conductivity.

    Attributes:
        stiffness: stiffness matrices of the tissues.
        hierarchy: of the multigrid cycle.
        loads: of unit dipoles at the sources.
        weights: of the sensors on the nodes.
        start: potentials at the nominal conductivity; every solve begins at their best multiples.
        conductivity: nominal, in S/m: of each tissue, (tissue,) or (tissue, 3, 3); of a head with a tensor
            for each cell the mean of each tissue.
        sources: the source space.
        sensors: electrodes or surface field.
        conductivity_kind: "scalar", "tensor" or "cell tensor", as the head has it.
        tissue_names: one a conductivity.
        source_model: name of the source model.
        tolerance: relative residual to which every channel is solved.
        head: the head; None for one read from a file that was saved without it.
    """

    stiffness: Stiffness
    hierarchy: Hierarchy
    loads: Loads
    weights: SensorLoads
    start: Float[Array, "node channel"]
    conductivity: Parameters
    sources: SourceSpace
    sensors: Sensors
    conductivity_kind: ConductivityKind = flax.struct.field(pytree_node=False)
    tissue_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    source_model: str = flax.struct.field(pytree_node=False)
    tolerance: float = flax.struct.field(pytree_node=False)
    head: HeadModel | None = flax.struct.field(pytree_node=False, default=None)
    conductivities_at_once: ClassVar[int] = 1

    @classmethod
    def build(
        cls,
        head: HeadModel,
        sources: SourceSpace,
        sensors: Sensors,
        *,
        source_model: str = "recovery",
        tolerance: float = 1e-8,
        dtype: str = "float64",
    ) -> "FemForward":
        """Assembles a head and solves it at its nominal conductivity.

        Args:
            head: mesh, tissues and conductivities.
            sources: where current flows; with normals the leadfield is (channel, source), without
                (channel, source, 3).
            sensors: electrodes, contacts or surface field.
            source_model: a key of `jaxinv.fem.SOURCE_MODELS`; "recovery" is the most accurate and the
                only one with a derivative in the position.
            tolerance: relative residual of each channel's solve. 1e-8 is for work, 1e-12 for tests of
                gradients and identities, 1e-5 in single precision for training.
            dtype: "float64", or "float32" for training.

        Raises:
            ValueError: for an unknown source model or dtype, a tolerance that the dtype cannot reach,
                float64 while JAX has it switched off, sources outside the grey matter, or sensors far
                from the scalp.
            RuntimeError: if the nominal solve does not converge.
        """
        _check_options(source_model, tolerance, dtype)
        weights = place_sensors(head, sensors, dtype)
        loads = place_sources(head, sources, source_model, dtype)
        assembled = fem.assemble_stiffness(head.mesh, head.n_tissues, head.conductivity)
        hierarchy = fem.build_hierarchy(
            assembled, head.nominal_parameters, fem.linear_interpolation(head.mesh)
        )
        forward = cls(
            stiffness=assembled.astype(dtype),
            hierarchy=hierarchy,
            loads=loads,
            weights=weights,
            start=jnp.zeros((head.mesh.n_nodes, sensors.n_channels), dtype),
            conductivity=jnp.asarray(_nominal(head), dtype),
            conductivity_kind=head.conductivity_kind,
            sources=jax.tree.map(jnp.asarray, sources),
            sensors=jax.tree.map(jnp.asarray, sensors),
            tissue_names=head.tissue_names,
            source_model=source_model,
            tolerance=tolerance,
            head=head,
        )
        potential, report = _transfer(forward, forward.conductivity)
        _require_convergence(report, forward.conductivity)
        return forward.replace(start=potential)

    def leadfield(
        self,
        conductivity: Float[Array, " tissue"] | None = None,
        *,
        sources: SourceSpace | None = None,
        sensors: Sensors | None = None,
    ) -> Float[Array, "channel source"] | Float[Array, "channel source 3"]:
        """Leadfield in V/(A m) (V/m per A m for a surface field), in the sensors' reference.

        Differentiable in the conductivity (`jvp`, `vjp`, higher orders), in the sources' moments, and
        once in the positions of `sources` and `sensors`, where the derivative is the recovered one of the
        physical leadfield, not of the piecewise function; usable under `jit` and `vmap`.

        Args:
            conductivity: of each tissue, in S/m; nominal when None. In a head with tensors these are
                mean conductivities (a third of the trace), to which the tensors are scaled; a head with a
                tensor for each tissue also takes tensors (tissue, 3, 3), whose symmetric part counts.
            sources: other sources than those of the build; placed on the host.
            sensors: other sensors; placed on the host, and solved for.

        Raises:
            ValueError: for a conductivity of the wrong shape, or not positive; for traced source
                positions with a source model that has no derivative in them.
            RuntimeError: if the solver does not converge. Under `jit`, where nothing can be raised,
                the rows that did not converge are NaN.
        """
        conductivity = self._checked(conductivity)
        dtype = self.conductivity.dtype
        loads = self.loads
        if sources is not None:
            loads = place_sources(self.require_head(), sources, self.source_model, dtype)
        weights = None if sensors is None else place_sensors(self.require_head(), sensors, dtype)
        potential = self._potential(conductivity, weights)
        field = loads.field(potential, conductivity)
        field = field + loads.direct(self.weights if weights is None else weights, conductivity)
        sources = self.sources if sources is None else sources
        if sources.is_fixed:
            normals = jnp.asarray(sources.normals, dtype=field.dtype)
            field = jnp.einsum("csx,sx->cs", field, normals, precision="highest")
        operator = (self.sensors if sensors is None else sensors).reference_operator(field.dtype)
        return jnp.tensordot(operator, field, axes=1, precision="highest")

    def dipole_leadfield(
        self,
        positions: Float[Array, "dipole 3"],
        *,
        conductivity: Float[Array, " tissue"] | None = None,
        transfer: Float[Array, "channel node"] | None = None,
        tissues: tuple[str, ...] = BRAIN_TISSUES,
    ) -> Float[Array, "channel dipole 3"]:
        """Leadfield of dipoles anywhere in the brain, along x, y and z, in the sensors' reference.

        An equivalent dipole of a whole patch of cortex lies below it, in the white matter, where `leadfield`
        refuses sources. Differentiable once in the positions.

        Args:
            positions: in m; placed on the host.
            conductivity: as in `leadfield`.
            transfer: what `transfer_matrix` gave at that conductivity; saves the solve.
            tissues: in which the dipoles may lie; any in a head that has none of these.

        Raises:
            ValueError: for a position outside the tissues, and for a source model other than "recovery".
        """
        dtype = self.conductivity.dtype
        loads = place_sources(self.require_head(), SourceSpace(positions), self.source_model, dtype, tissues)
        if transfer is None:
            transfer = self.transfer_matrix(conductivity)
        field = jnp.einsum("cdk,dkx->cdx", transfer[:, loads.nodes], loads.weights, precision="highest")
        operator = self.sensors.reference_operator(field.dtype)
        return jnp.tensordot(operator, field, axes=1, precision="highest")

    def project(
        self,
        conductivity: Float[Array, " tissue"],
        current: Float[Array, "source *time"],
        *,
        sensors: Sensors | None = None,
    ) -> Float[Array, "channel *time"]:
        """Measurements, in V, of currents (A m): the leadfield times the currents.

        Args:
            conductivity: as in `leadfield`.
            current: of each source, along its normal; (source, 3) or (source, 3, time) if free.
            sensors: as in `leadfield`.
        """
        leadfield = self.leadfield(conductivity, sensors=sensors)
        return jnp.tensordot(leadfield, current, axes=leadfield.ndim - 1, precision="highest")

    @property
    def conductivity_range(self) -> tuple[Float[np.ndarray, " tissue"], Float[np.ndarray, " tissue"]]:
        """Lower and upper conductivity of each tissue in the literature, in S/m.

        Raises:
            ValueError: for a tissue that `jaxinv.tissues` does not know.
        """
        return conductivity_range(self.tissue_names)

    def transfer_matrix(
        self, conductivity: Float[Array, " tissue"] | None = None
    ) -> Float[Array, "channel node"]:
        """Unreferenced potential (V) at each node for a unit current (A) at each sensor; of zero mean.

        Differentiable and checked as `leadfield` is.
        """
        return self._potential(self._checked(conductivity)).T

    def stiffness_matrix(self, conductivity: Float[np.ndarray, " tissue"] | None = None) -> sparse.csr_array:
        """K(σ) as a SciPy matrix (node, node), in S."""
        return self.stiffness.to_scipy(np.asarray(self.parameters(self._checked(conductivity))))

    def solve_report(self, conductivity: Float[Array, " tissue"] | None = None) -> SolveReport:
        """What the solver reaches at a conductivity: convergence, iterations and residuals."""
        return _transfer(self, self._checked(conductivity))[1]

    def save(self, path: str | PathLike) -> None:
        """Writes everything but the head's mesh to one .npz file."""
        write_pytree(path, "jaxinv FemForward", self.replace(head=None))

    @classmethod
    def load(cls, path: str | PathLike) -> "FemForward":
        """Reads what `save` wrote; needs JAX, but not jax-fem, PyAMG or MNE-Python.

        Raises:
            ValueError: if the file is truncated or holds something else, or holds float64 arrays
                while JAX has float64 switched off.
        """
        forward = read_pytree(path, "jaxinv FemForward", STORED_TYPES)
        check_dtype(forward.conductivity.dtype)
        return jax.tree.map(jnp.asarray, forward)

    @property
    def mean_conductivity(self) -> Float[Array, " tissue"]:
        """Nominal conductivity of each tissue, in S/m; of a tensor a third of the trace."""
        if self.conductivity_kind == "tensor":
            return jnp.trace(self.conductivity, axis1=1, axis2=2) / 3
        return self.conductivity

    def _checked(self, conductivity):
        if conductivity is None:
            return self.conductivity
        shapes = dict.fromkeys([(len(self.tissue_names),), self.conductivity.shape])
        if jnp.shape(conductivity) not in shapes:
            raise ValueError(
                f"conductivity must have shape {' or '.join(map(str, shapes))}, in S/m for each of "
                f"{self.tissue_names}; found {jnp.shape(conductivity)}"
            )
        if not isinstance(conductivity, jax.core.Tracer):
            bad = ~is_positive(np.asarray(conductivity))
            if bad.any():
                named = [name for name, b in zip(self.tissue_names, bad) if b]
                raise ValueError(f"conductivity must be positive, in S/m; that of {named} is not")
        return jnp.asarray(conductivity, dtype=self.conductivity.dtype)

    def parameters(self, conductivity: Conductivity) -> Parameters:
        """What the stiffness is linear in: values or tensors in S/m, or scales of the cells' tensors."""
        if self.conductivity_kind == "scalar" or conductivity.ndim == 3:
            return conductivity
        ratio = conductivity / self.mean_conductivity
        return ratio if self.conductivity_kind == "cell tensor" else ratio[:, None, None] * self.conductivity

    def _potential(self, conductivity, weights=None):
        forward = self
        if weights is not None:
            start = jnp.zeros((self.stiffness.n_nodes, weights.nodes.shape[0]), self.conductivity.dtype)
            forward = self.replace(weights=weights, start=start)
        potential, report = _transfer(forward, conductivity)
        report, at = jax.lax.stop_gradient((report, conductivity))  # without what `grad` traces
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((report, at))):
            _require_convergence(report, at)
        return potential

    def require_head(self) -> HeadModel:
        """The head.

        Raises:
            ValueError: if the operator was read from a file, which holds none.
        """
        if self.head is None:
            raise ValueError(
                "this operator was read from a file, which holds no mesh: build it again from its head "
                "(jaxinv.HeadModel.load) to place other sources or sensors"
            )
        return self.head


STORED_TYPES = (
    Contacts, Electrodes, FemForward, Hierarchy, Level, LocalizedLoads, Prolongation, SensorLoads,
    SourceGroup, SourceLoads, SourceSpace, Stiffness, SubtractionLoads, SurfaceField,
)  # fmt: skip


solve = jax.jit(solve_poisson)


def _transfer(forward: FemForward, conductivity):
    parameters, loads = forward.parameters(conductivity), forward.weights.columns(forward.stiffness.n_nodes)
    operator = (forward.stiffness, forward.hierarchy, parameters)
    return solve(*operator, loads, forward.start, forward.tolerance, MAX_ITERATIONS)


def _nominal(head: HeadModel) -> Conductivity:
    return head.mean_conductivity if head.conductivity_kind == "cell tensor" else head.conductivity


def _check_options(source_model, tolerance, dtype) -> None:
    if source_model not in fem.SOURCE_MODELS:
        raise ValueError(f"unknown source_model {source_model!r}; known are {sorted(fem.SOURCE_MODELS)}")
    if dtype not in FINEST_TOLERANCE:
        raise ValueError(f'dtype must be "float64" or "float32", not {dtype!r}')
    if not FINEST_TOLERANCE[dtype] <= tolerance < 1:
        raise ValueError(
            f"tolerance must lie between {FINEST_TOLERANCE[dtype]:g} and 1 in {dtype}, not {tolerance:g}"
        )
    check_dtype(dtype)


def check_dtype(dtype) -> None:
    """Refuse float64 while JAX has it switched off."""
    if np.dtype(dtype) == np.float64 and not jax.config.jax_enable_x64:
        raise ValueError(
            'a float64 operator needs float64 switched on: call jax.config.update("jax_enable_x64", True) '
            'first, or build with dtype="float32"'
        )


def _require_convergence(report: SolveReport, conductivity) -> None:
    if not bool(np.all(report.converged)):
        worst = int(np.argmax(np.nan_to_num(report.residual, nan=np.inf)))
        raise RuntimeError(
            f"the solver did not converge for {int(np.sum(~np.asarray(report.converged)))} channels: after "
            f"{int(report.iterations)} iterations the relative residual of channel {worst} is "
            f"{float(report.residual[worst]):.1e}, at {np.asarray(conductivity).tolist()} S/m; raise the "
            "tolerance, or look for badly shaped cells"
        )
