"""Whether a head is valid, in numbers: what `jaxinv head` prints and the report repeats."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from rich.table import Table
from scipy.spatial import cKDTree

from jaxinv.head import Electrodes, HeadModel, SourceSpace, SurfaceField
from jaxinv.head.fsaverage import project_electrodes, source_displacement

INSIDE, OUTSIDE = ("csf", "grey", "white"), ("scalp",)


@dataclass(frozen=True)
class HeadReport:
    """What was found on a head, its sources and its sensors; lengths in m, volumes in m³.

    Attributes:
        nodes: of the mesh.
        cells: of the mesh.
        pieces: in which the mesh falls; 1 when it is whole.
        inverted: cells without positive volume.
        leaking: nodes shared by the inside of the skull and the scalp.
        volumes: of each tissue.
        node_volume: the paper's: mean over sources of the mean volume of the cells at the nearest grey node.
        sources: their number.
        sources_moved: how many did not lie in grey matter and were moved there; None where not known.
        source_displacement: median and largest of those, in m.
        sensors: electrodes.
        channels: of a measurement.
        electrode_displacement: median and largest by the projection onto the scalp, in m.
        farthest_electrode: the one moved farthest.
    """

    nodes: int
    cells: int
    pieces: int
    inverted: int
    leaking: int
    volumes: dict[str, float]
    node_volume: float
    sources: int
    sources_moved: int | None
    source_displacement: tuple[float, float]
    sensors: int
    channels: int
    electrode_displacement: tuple[float, float]
    farthest_electrode: str

    @classmethod
    def of(
        cls,
        head: HeadModel,
        sources: SourceSpace,
        sensors: Electrodes | SurfaceField,
        subdivision: str | None = None,
    ) -> "HeadReport":
        """Examine a head.

        Args:
            head: fsaverage.
            sources: on it.
            sensors: on it, named as in the 10-5 system.
            subdivision: "ico3", "ico4" or "ico5" for cortical sources, else None.
        """
        mesh = head.mesh
        moved = np.zeros(0) if subdivision is None else source_displacement(sources, subdivision)
        moved = moved[moved > 0]
        _, displacement = project_electrodes(sensors.names)
        return cls(
            nodes=mesh.n_nodes,
            cells=mesh.n_cells,
            pieces=mesh.count_components(),
            inverted=int((mesh.corner_volumes <= 0).any(axis=1).sum()),
            leaking=len(head.shared_nodes(INSIDE, OUTSIDE)),
            volumes={name: float(mesh.volumes[mesh.tissue == label].sum())
                     for label, name in enumerate(head.tissue_names)},
            node_volume=mean_node_volume(head, np.asarray(sources.positions)),
            sources=sources.n_sources,
            sources_moved=None if subdivision is None else len(moved),
            source_displacement=(float(np.median(moved)), float(moved.max())) if len(moved) else (0.0, 0.0),
            sensors=len(sensors.names),
            channels=sensors.n_channels,
            electrode_displacement=(float(np.median(displacement)), float(displacement.max())),
            farthest_electrode=sensors.names[int(displacement.argmax())],
        )  # fmt: skip

    def rows(self) -> tuple[tuple[str, str], ...]:
        """Names and values, as text."""
        volumes = ", ".join(f"{name} {1e6 * volume:.0f}" for name, volume in self.volumes.items())
        placed = "inside the grey matter's volume"
        if self.sources_moved is not None:
            median, largest = self.source_displacement
            placed = (
                f"{self.sources_moved} moved into grey matter, by {1e3 * median:.2f} mm (median), "
                f"at most {1e3 * largest:.2f} mm"
            )
        median, largest = self.electrode_displacement
        return (
            ("nodes", f"{self.nodes:,}"),
            ("cells", f"{self.cells:,}"),
            ("inverted or flat cells", str(self.inverted)),
            ("connected pieces", str(self.pieces)),
            ("nodes that leak through the skull", str(self.leaking)),
            ("volumes (cm³)", volumes),
            ("sources", f"{self.sources:,}; {placed}"),
            ("mean node volume (cm³)", f"{1e6 * self.node_volume:.4f}"),
            ("electrodes", f"{self.sensors}, {self.channels} channels"),
            (
                "electrodes moved by the projection",
                f"{1e3 * median:.1f} mm (median), at most {1e3 * largest:.1f} mm ({self.farthest_electrode})",
            ),
        )

    def to_rich(self) -> Table:
        """For a terminal."""
        table = Table(title="the head", show_header=False)
        for name, value in self.rows():
            table.add_row(name, value)
        return table


def mean_node_volume(head: HeadModel, positions: Float[np.ndarray, "source 3"]) -> float:
    """The paper's node volume, in m³: the mean volume of the cells around a node, averaged over sources.

    A source stands for the node of grey matter that is nearest to it.
    """
    cells, volumes = head.mesh.corner_cells, head.mesh.volumes
    flat = cells.ravel()
    total = np.bincount(flat, np.repeat(volumes, cells.shape[1]), minlength=head.mesh.n_nodes)
    count = np.bincount(flat, minlength=head.mesh.n_nodes)
    grey = head.mesh.nodes_of(head.label("grey"))
    _, nearest = cKDTree(head.mesh.points[grey]).query(positions)
    chosen = grey[nearest]
    return float(np.mean(total[chosen] / count[chosen]))
