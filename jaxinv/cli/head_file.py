"""A head model in one file."""

import zipfile
from pathlib import Path

import numpy as np

from jaxinv.head import HeadModel
from jaxinv.mesh import VolumeMesh


def save_head(path: Path, head: HeadModel) -> None:
    """Write a head model as .npz, without pickle."""
    np.savez(
        path, points=head.mesh.points, cells=head.mesh.cells, tissue=head.mesh.tissue,
        tissue_names=np.array(head.tissue_names), conductivity=head.conductivity,
    )  # fmt: skip


def load_head(path: Path) -> HeadModel:
    """Read a head model.

    Raises:
        ValueError: if the file is not there, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as saved:
            mesh = VolumeMesh(saved["points"], saved["cells"], saved["tissue"])
            return HeadModel(mesh, tuple(str(name) for name in saved["tissue_names"]), saved["conductivity"])
    except (OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not there or damaged: begin the run anew") from error
