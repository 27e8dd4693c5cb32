"""Heads that no training sees, as they are and as methods know them, solved once and kept on the disk."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from jaxinv.evaluation.judge.anatomy import anatomy, content_hash
from jaxinv.forward.exact import FemForward
from jaxinv.head import Electrodes, SourceSpace, SurfaceField
from jaxinv.head.fsaverage import cortical_sources, fsaverage_electrodes, fsaverage_head
from jaxinv.head.montages import MONTAGES
from jaxinv.head.placement import place_in_tissue
from jaxinv.io import read_segmentation
from jaxinv.simulate.geodesic import surface_graph
from jaxinv.whole_file import whole_file

ELECTRODES = tuple(sorted({name for names in MONTAGES.values() for name in names}))
FIELD_ELECTRODES = MONTAGES["10-5-149"]


@dataclass(frozen=True)
class Protocol:
    """What the heads of the judge are made by. Frozen: another one is another benchmark.

    Attributes:
        validation_heads: seeds of the warps of the heads on which methods are tuned.
        test_heads: of those on which they are judged; none is among the others. A name instead of a seed is
            that of a file with a segmentation of scalp, skull and brain, in MNI152's coordinates
            (`jaxinv.io.read_segmentation`): a real head.
        truth_resolution: of the meshes that make measurements, in m.
        known_resolution: of the meshes of the leadfields that methods are given, in m.
        truth_surface: on which activity lives.
        known_surface: of the nodes that methods know.
        n_draws: pairs of conductivities and electrode positions a head.
        n_field_draws: likewise, where the electric field is measured.
        displacement: farthest that an electrode misses its place, in m.
        n_dipoles: places of dipoles off the grid, a head.
        tolerance: relative residual of the solver.
        seed: of all that is drawn.
    """

    validation_heads: tuple[int, ...] = (101,)
    test_heads: tuple[int | str, ...] = (201, 202)
    truth_resolution: float = 3.6e-3
    known_resolution: float = 4e-3
    truth_surface: str = "ico5"
    known_surface: str = "ico4"
    n_draws: int = 8
    n_field_draws: int = 4
    displacement: float = 5e-3
    n_dipoles: int = 4000
    tolerance: float = 1e-6
    seed: int = 0

    def __post_init__(self):
        shared = set(self.validation_heads) & set(self.test_heads)
        if shared:
            raise ValueError(f"heads {sorted(shared)} are both for validation and for test: choose others")
        for head in self.test_heads:
            if isinstance(head, str):
                read_segmentation(head)  # says what is wrong before anything is built

    @cached_property
    def digest(self) -> str:
        """A hash of all of it, and of what the files hold."""
        heads = [head if isinstance(head, int) else content_hash(head) for head in self.test_heads]
        text = json.dumps({**asdict(self), "test_heads": heads}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class TrueHead:
    """A head with its truth, and the leadfields that methods are given. Channels are unreferenced potentials.

    Attributes:
        surface: where activity lives: the cortex, finely.
        dipoles: places of dipoles, off that grid.
        nodes: of the methods, where they are in this head.
        template_nodes: the same vertices in the default head.
        carried: node of each vertex of the surface: the nearest along the cortex.
        dipole_carried: node of each dipole's place.
        electrodes: where they are thought to be, in m.
        leadfields: of the surface, at each draw of conductivities and electrode positions.
        dipole_leadfields: of the dipoles, likewise.
        conductivity: of each draw, in S/m.
        own: leadfield of the nodes in this head, at nominal conductivities.
        template: leadfield of the nodes in the default head.
        names: of the channels.
    """

    surface: SourceSpace
    dipoles: SourceSpace
    nodes: SourceSpace
    template_nodes: SourceSpace
    carried: Int[np.ndarray, " vertex"]
    dipole_carried: Int[np.ndarray, " dipole"]
    electrodes: Float[np.ndarray, "electrode 3"]
    leadfields: Float[np.ndarray, "draw channel vertex"]
    dipole_leadfields: Float[np.ndarray, "draw channel dipole"]
    conductivity: Float[np.ndarray, "draw tissue"]
    own: Float[np.ndarray, "channel node"]
    template: Float[np.ndarray, "channel node"]
    names: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Writes it to one file, whole or not at all."""
        arrays = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, SourceSpace):
                for part in fields(value):
                    if getattr(value, part.name) is not None:
                        arrays[f"{field.name}.{part.name}"] = np.asarray(getattr(value, part.name))
            else:
                arrays[field.name] = np.asarray(value)
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> "TrueHead":
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file is truncated or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                spaces, values = {}, {}
                for key in file.files:
                    name, _, part = key.partition(".")
                    if part:
                        spaces.setdefault(name, {})[part] = file[key]
                    else:
                        values[name] = file[key]
                values["names"] = tuple(values["names"].tolist())
                return cls(**values, **{name: SourceSpace(**parts) for name, parts in spaces.items()})
        except (zipfile.BadZipFile, EOFError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no head of the judge: delete it, and it is made again ({error})"
            ) from error


def true_head(
    name: int | str, protocol: Protocol, directory: Path, *, field: bool, report: Callable[[str], None]
) -> TrueHead:
    """A head, from the directory if it is there; else it is built and kept: some two minutes.

    Args:
        name: the seed of its warp, or the file of its segmentation.
        protocol: all else.
        directory: where heads are kept.
        field: the electric field under the electrodes instead of potentials.
        report: is told what is done.
    """
    label = name if isinstance(name, int) else Path(name).stem
    path = Path(directory) / f"{protocol.digest}-{label}{'-field' if field else ''}.npz"
    if path.exists():
        return TrueHead.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = _build(name, protocol, field, lambda text: report(f"head {label}: {text}"))
    head.save(path)
    return head


def _build(name: int | str, protocol: Protocol, field: bool, report: Callable[[str], None]) -> TrueHead:
    anatomic = anatomy(name)
    rng = np.random.default_rng([protocol.seed, anatomic.number])
    default = fsaverage_electrodes(FIELD_ELECTRODES if field else ELECTRODES, reference=None, field=field)
    report("leadfields that methods are given")
    known_head = fsaverage_head(protocol.known_resolution)
    template_nodes = cortical_sources(known_head, protocol.known_surface)
    template = _leadfield(FemForward.build(known_head, template_nodes, default, tolerance=protocol.tolerance))
    own_head, nodes = anatomic.build(protocol.known_resolution, protocol.known_surface)
    sensors = anatomic.sensors(default)
    own = _leadfield(FemForward.build(own_head, nodes, sensors, tolerance=protocol.tolerance))
    report("its truth")
    head, surface = anatomic.build(protocol.truth_resolution, protocol.truth_surface)
    dipoles, nearest = _dipoles(head, surface, anatomic.tissue, protocol.n_dipoles, rng)
    both = SourceSpace(
        np.concatenate([surface.positions, dipoles.positions]),
        np.concatenate([surface.normals, dipoles.normals]),
    )
    forward = FemForward.build(head, both, sensors, tolerance=protocol.tolerance)
    low, high = forward.conductivity_range
    n_draws = protocol.n_field_draws if field else protocol.n_draws
    conductivity = low * (high / low) ** rng.random((n_draws, len(low)))
    leadfields = []
    for number, sigma in enumerate(conductivity):
        report(f"draw {number + 1} of {n_draws}")
        moved = sensors.at(_moved(np.asarray(sensors.positions), protocol.displacement, rng))
        leadfields.append(_leadfield(forward, sigma, moved))
    leadfields = np.stack(leadfields)
    carried = nearest_along(surface, np.searchsorted(surface.vertices, nodes.vertices))
    return TrueHead(
        surface=surface, dipoles=dipoles, nodes=nodes, template_nodes=template_nodes,
        carried=carried, dipole_carried=carried[nearest], electrodes=np.asarray(sensors.positions),
        leadfields=leadfields[:, :, : surface.n_sources], conductivity=conductivity,
        dipole_leadfields=leadfields[:, :, surface.n_sources :], own=own, template=template,
        names=sensors.channel_names,
    )  # fmt: skip


def nearest_along(surface: SourceSpace, chosen: Int[np.ndarray, " node"]) -> Int[np.ndarray, " vertex"]:
    """Which of the chosen vertices is nearest to each vertex, along the edges of the surface.

    A vertex that no edge joins with a chosen one gets the nearest through space.
    """
    graph = surface_graph(surface.positions, surface.faces)
    distance, _, origin = dijkstra(
        graph, directed=False, indices=chosen, min_only=True, return_predecessors=True
    )
    node = np.full(surface.n_sources, -1)
    node[chosen] = np.arange(len(chosen))
    reached = np.isfinite(distance)
    carried = np.zeros(surface.n_sources, int)
    carried[reached] = node[origin[reached]]
    positions = np.asarray(surface.positions)
    for vertex in np.flatnonzero(~reached):
        carried[vertex] = np.argmin(np.linalg.norm(positions[chosen] - positions[vertex], axis=1))
    return carried


def carrying(
    carried: Int[np.ndarray, " vertex"], area: Float[np.ndarray, " vertex"], n_nodes: int
) -> csr_array:
    """Matrix (node, vertex) that gives each node the mean of its vertices, weighted by their areas."""
    total = np.bincount(carried, area, n_nodes)
    weight = area / total[carried]
    return csr_array((weight, (carried, np.arange(len(carried)))), shape=(n_nodes, len(carried)))


def _dipoles(head, surface, tissue, count, rng) -> tuple[SourceSpace, Int[np.ndarray, " dipole"]]:
    """Places spread evenly over the surface, off its vertices, and the nearest corner of their triangles."""
    faces, points = np.asarray(surface.faces), np.asarray(surface.positions)
    corners = points[faces]
    across = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    chosen = rng.choice(len(faces), count, p=across / across.sum())
    share = rng.dirichlet(np.ones(3), count)
    positions, _ = place_in_tissue(np.einsum("dk,dkx->dx", share, corners[chosen]), head, tissue)
    normals = np.einsum("dk,dkx->dx", share, np.asarray(surface.normals)[faces[chosen]])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return SourceSpace(positions, normals), faces[chosen, np.argmax(share, axis=1)]


def _moved(positions, displacement, rng):
    """Positions that miss their place, uniformly in a ball."""
    way = rng.normal(size=positions.shape)
    length = displacement * rng.random((len(positions), 1)) ** (1 / 3)
    return positions + length * way / np.linalg.norm(way, axis=1, keepdims=True)


def _leadfield(forward: FemForward, conductivity=None, sensors: Electrodes | SurfaceField | None = None):
    return np.asarray(forward.leadfield(conductivity, sensors=sensors), np.float32)
