"""Where the cases of a cell are made: one head with its activity's places, as seen by the cell's sensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Array, Float, Int
from scipy.sparse import csr_array

from jaxinv.evaluation.judge.cells import SENSORS, Cell
from jaxinv.evaluation.judge.true_head import TrueHead, carrying
from jaxinv.evaluation.problem import KnownHead
from jaxinv.head import SourceSpace
from jaxinv.head.fsaverage import mid_surface
from jaxinv.head.montages import MONTAGES
from jaxinv.head.sensors import FIELD_COMPONENTS
from jaxinv.simulate.activity import NOMINAL_MOMENT
from jaxinv.simulate.gaussian_field import squared_exponential_factor
from jaxinv.simulate.geodesic import surface_graph

NOISE_LENGTH = 50e-3  # m, over which correlated noise decays between electrodes


@dataclass(frozen=True, eq=False)
class World:
    """A head in one cell: referenced leadfields of the truth, and what the methods know.

    Attributes:
        surface: where activity lives.
        dipoles: places of dipoles.
        carried: node of each vertex of the surface.
        dipole_carried: node of each dipole's place.
        leadfields: of the surface, one a draw, in V/(A m).
        dipole_leadfields: of the dipoles, likewise.
        known: leadfield and sources that the methods are given, and where their nodes truly are.
        moment: of each vertex where the cortex is active, in A m: proportional to its area.
        noise_factor: from white numbers to referenced noise of unit variance in the mean.
        field_factor: of the Gaussian field on the surface, for maps.
    """

    surface: SourceSpace
    dipoles: SourceSpace
    carried: Int[np.ndarray, " vertex"]
    dipole_carried: Int[np.ndarray, " dipole"]
    leadfields: Sequence[Float[np.ndarray, "channel vertex"]]
    dipole_leadfields: Sequence[Float[np.ndarray, "channel dipole"]]
    known: KnownHead
    moment: Float[np.ndarray, " vertex"]
    noise_factor: Float[np.ndarray, "channel white"]
    field_factor: Float[np.ndarray, "vertex rank"] | None

    @property
    def n_nodes(self) -> int:
        """Number of nodes that methods know."""
        return self.known.nodes.n_sources

    @cached_property
    def carry(self) -> csr_array:
        """Means over the vertices of each node, weighted by area."""
        return carrying(self.carried, np.asarray(self.surface.area), self.n_nodes)

    @cached_property
    def node_factor(self) -> Float[np.ndarray, "node rank"]:
        """Of the Gaussian field, carried to the nodes."""
        return (self.carry @ self.field_factor).astype(np.float32)

    @cached_property
    def graph(self) -> csr_array:
        """Edges of the surface."""
        return surface_graph(self.surface.positions, self.surface.faces)

    @property
    def noise_cov(self) -> Float[np.ndarray, "channel channel"]:
        """Of noise of unit variance in the mean."""
        return self.noise_factor @ self.noise_factor.T


def make_world(cell: Cell, head: TrueHead, factors: dict[float, Float[np.ndarray, "vertex rank"]]) -> World:
    """The head of a cell.

    Args:
        cell: of the grid.
        head: with all electrodes.
        factors: of the Gaussian field on the surface by correlation length; see `field_factor`.
    """
    pick, electrodes = _channels(cell, head)
    reference = np.eye(len(pick))
    if not cell.is_field:
        reference = reference - 1 / len(pick)

    def seen(leadfield):
        return (reference @ leadfield[pick]).astype(np.float32)

    own = seen(head.own)
    crime = cell.knowledge == "crime"
    if crime:
        surface = dipoles = head.nodes
        carried = dipole_carried = np.arange(head.nodes.n_sources)
        leadfields = dipole_leadfields = [own]
    else:
        surface, dipoles, carried, dipole_carried = (
            head.surface,
            head.dipoles,
            head.carried,
            head.dipole_carried,
        )
        leadfields, dipole_leadfields = _Seen(head.leadfields, seen), _Seen(head.dipole_leadfields, seen)
    factor = factors[cell.correlation_length] if cell.is_map else None
    if crime and factor is not None:
        factor = factor[np.searchsorted(head.surface.vertices, head.nodes.vertices)]
    area = np.asarray(surface.area)
    n_nodes = head.nodes.n_sources
    moment = NOMINAL_MOMENT * area / (area.sum() / n_nodes)
    told, sources, node_moment = own, head.nodes, np.bincount(carried, moment, n_nodes)
    if cell.knowledge == "template":  # the areas are the default head's too
        told, sources, area_told = (
            seen(head.template),
            head.template_nodes,
            np.asarray(head.template_nodes.area),
        )
        node_moment = NOMINAL_MOMENT * area_told / area_told.mean()
    prior, mean_current = None, np.zeros(n_nodes, np.float32)
    if factor is not None:
        node = carrying(carried, area, n_nodes) @ factor
        prior = (node_moment[:, None] / NOMINAL_MOMENT * node).astype(np.float32)
    if cell.scenario == "D2":
        mean_current = (node_moment / 2).astype(np.float32)
    return World(
        surface, dipoles, carried, dipole_carried, leadfields, dipole_leadfields,
        KnownHead(told, sources, prior, head.nodes, mean_current), moment,
        _noise_factor(cell, electrodes, reference), factor,
    )  # fmt: skip


def field_factor(correlation_length: float, surface: str) -> Float[np.ndarray, "vertex rank"]:
    """Factor of the Gaussian field on a surface, in the default head's coordinates; a minute for 10 mm."""
    positions = mid_surface(surface).positions
    return squared_exponential_factor(positions, correlation_length).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Seen(Sequence):
    """Leadfields of the cell's channels, made when they are asked for."""

    leadfields: Float[np.ndarray, "draw channel vertex"]
    seen: object

    def __getitem__(self, draw):
        return self.seen(self.leadfields[draw])

    def __len__(self):
        return len(self.leadfields)


def _channels(cell: Cell, head: TrueHead) -> tuple[Int[np.ndarray, " channel"], Float[Array, "electrode 3"]]:
    """Which of the head's channels the cell has, and where its electrodes are."""
    names = MONTAGES[SENSORS[cell.sensors]]
    components = FIELD_COMPONENTS if cell.is_field else ("",)
    place = {name: i for i, name in enumerate(head.names)}
    pick = np.array([place[name + component] for name in names for component in components])
    return pick, head.electrodes[pick[:: len(components)] // len(components)]


def _noise_factor(cell: Cell, electrodes, reference) -> Float[np.ndarray, "channel white"]:
    factor = np.eye(len(electrodes))
    if cell.noise == "correlated":
        distance = np.linalg.norm(electrodes[:, None] - electrodes, axis=2)
        factor = np.linalg.cholesky(np.exp(-distance / NOISE_LENGTH))
    if cell.is_field:
        factor = np.kron(factor, np.eye(len(FIELD_COMPONENTS)))
    factor = reference @ factor
    return factor * np.sqrt(len(factor) / np.sum(factor**2))
