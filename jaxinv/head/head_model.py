"""What is conducted: a volume mesh, the names of its tissues and their conductivities."""

import zipfile
from dataclasses import dataclass
from functools import cached_property
from os import PathLike

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxinv.head.conductivity import Conductivity, ConductivityKind, check_conductivity, conductivity_kind
from jaxinv.mesh.locate import CellLocator
from jaxinv.mesh.volume_mesh import VolumeMesh
from jaxinv.whole_file import whole_file


@dataclass(frozen=True, eq=False)
class HeadModel:
    """A meshed head and its nominal conductivities. Lives on the host, in NumPy.

    Attributes:
        mesh: the volume mesh.
        tissue_names: one name a label, outermost first by custom.
        conductivity: nominal, in S/m: one value a tissue, one symmetric positive definite tensor a tissue
            (tissue, 3, 3), or one a cell (cell, 3, 3), as diffusion imaging gives. As many tensors as
            tissues are taken as one a tissue.

    Raises:
        ValueError: if a label of the mesh has no name, a name no cell, or a conductivity is missing, not
            finite, not positive (definite) or not symmetric.
    """

    mesh: VolumeMesh
    tissue_names: tuple[str, ...]
    conductivity: Conductivity

    def __post_init__(self):
        object.__setattr__(self, "tissue_names", tuple(self.tissue_names))
        object.__setattr__(self, "conductivity", np.asarray(self.conductivity, dtype=np.float64))
        n_labels = int(self.mesh.tissue.max()) + 1
        if n_labels > len(self.tissue_names):
            raise ValueError(
                f"the mesh has tissue labels up to {n_labels - 1} but tissue_names has "
                f"{len(self.tissue_names)} names: name every label"
            )
        if len(set(self.tissue_names)) != len(self.tissue_names):
            raise ValueError(f"tissue_names has a name twice: {self.tissue_names}")
        counts = np.bincount(self.mesh.tissue, minlength=len(self.tissue_names))
        if (counts == 0).any():
            missing = [name for name, count in zip(self.tissue_names, counts) if count == 0]
            raise ValueError(f"no cell of the mesh is labelled {missing}: drop the names or refine the mesh")
        check_conductivity(self.conductivity, self.tissue_names, self.mesh.n_cells)

    @property
    def n_tissues(self) -> int:
        """Number of tissues."""
        return len(self.tissue_names)

    @cached_property
    def locator(self) -> CellLocator:
        """Finds the cells that hold positions; its search tree is made once."""
        return CellLocator(self.mesh)

    @property
    def conductivity_kind(self) -> ConductivityKind:
        """Form of the conductivity: "scalar" or "tensor", one a tissue, or "cell tensor"."""
        return conductivity_kind(self.conductivity, self.n_tissues)

    @property
    def nominal_parameters(self) -> Float[np.ndarray, " tissue"] | Float[np.ndarray, "tissue 3 3"]:
        """Nominal value of what the stiffness matrix is linear in.

        The conductivity, in S/m, where it is given by tissue. Tensors of cells are fixed data: what may
        vary is a dimensionless scale of each tissue's tensors, nominally 1.
        """
        return np.ones(self.n_tissues) if self.conductivity_kind == "cell tensor" else self.conductivity

    @property
    def mean_conductivity(self) -> Float[np.ndarray, " tissue"]:
        """A third of the tensors' trace, averaged over the volume of each tissue, in S/m."""
        if self.conductivity_kind == "scalar":
            return self.conductivity
        trace = np.trace(self.conductivity, axis1=1, axis2=2) / 3
        if self.conductivity_kind == "tensor":
            return trace
        total, volume = (
            np.bincount(self.mesh.tissue, weights, self.n_tissues)
            for weights in (trace * self.mesh.volumes, self.mesh.volumes)
        )
        return total / volume

    def label(self, tissue_name: str) -> int:
        """Label of a tissue.

        Raises:
            ValueError: if the head has no tissue of that name.
        """
        if tissue_name not in self.tissue_names:
            raise ValueError(f"no tissue {tissue_name!r} in this head; it has {self.tissue_names}")
        return self.tissue_names.index(tissue_name)

    def labels_of(self, tissues: tuple[str, ...]) -> list[int]:
        """Labels of those of some tissues that the head has; of all its tissues if it has none of them."""
        named = [self.label(name) for name in tissues if name in self.tissue_names]
        return named or list(range(self.n_tissues))

    def holds(
        self, positions: Float[np.ndarray, "point 3"], tissues: tuple[str, ...]
    ) -> Bool[np.ndarray, " point"]:
        """Whether positions (m) lie in one of some tissues; anywhere in a head that has none of them."""
        cell, _, distance = self.locator.find(positions)
        return (distance == 0) & np.isin(self.mesh.tissue[cell], self.labels_of(tissues))

    def shared_nodes(self, one: tuple[str, ...], other: tuple[str, ...]) -> Int[np.ndarray, " node"]:
        """Nodes that lie on cells of both groups of tissues.

        A continuous finite-element potential conducts through a shared node, so the nodes shared by
        what lies inside the skull and what lies outside it are leaks.
        """
        nodes = [self.mesh.nodes_of(*(self.label(name) for name in group)) for group in (one, other)]
        return np.intersect1d(*nodes, assume_unique=True)

    def save(self, path: str | PathLike) -> None:
        """Writes the head to one compressed .npz file, whole or not at all."""
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez_compressed(
                file, kind="jaxinv head", points=self.mesh.points, cells=self.mesh.cells,
                tissue=self.mesh.tissue, tissue_names=np.array(self.tissue_names),
                conductivity=self.conductivity,
            )  # fmt: skip

    @classmethod
    def load(cls, path: str | PathLike) -> "HeadModel":
        """Reads what `save` wrote; needs neither mne nor nilearn.

        Raises:
            OSError: if there is no such file, or it cannot be read.
            ValueError: if the file is truncated or holds something else.
        """
        with open(path, "rb") as file:
            complete = zipfile.is_zipfile(file)
        if not complete:
            raise ValueError(f"{path} is not a head file, or is truncated: make it again")
        try:
            with np.load(path, allow_pickle=False) as file:
                mesh = VolumeMesh(file["points"], file["cells"], file["tissue"])
                return cls(mesh, tuple(file["tissue_names"].tolist()), file["conductivity"])
        except (zipfile.BadZipFile, EOFError, KeyError) as error:
            raise ValueError(
                f"{path} is not a head file, or is truncated: make it again ({error})"
            ) from error
