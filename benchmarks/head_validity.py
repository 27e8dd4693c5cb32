"""Is the default head whole? Its mesh, sources and electrodes at several resolutions.

python benchmarks/head_validity.py 4 3 2        # mm; writes benchmarks/results/head_validity.json
"""

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxinv import VolumeMesh
from jaxinv.head import MONTAGES, cortical_sources, fsaverage_head, project_electrodes, source_displacement


def enclosed_volume(mesh: VolumeMesh) -> float:
    """By the divergence theorem on the outer surface, in m³."""
    one, two, three = np.swapaxes(mesh.points[mesh.boundary_faces()], 0, 1)
    return float(np.einsum("fx,fx->", one, np.cross(two, three)) / 6)


def examine(resolution: float, sources: str = "ico5") -> dict[str, float]:
    """The figures of one head."""
    start = time.perf_counter()
    head = fsaverage_head(resolution)
    seconds = time.perf_counter() - start
    moved = source_displacement(cortical_sources(head, sources), sources)
    mesh = head.mesh
    return {
        "resolution, mm": 1e3 * resolution,
        "nodes": mesh.n_nodes,
        "cells": mesh.n_cells,
        "inverted cells": int((mesh.corner_volumes <= 0).sum()),
        "volume of overlaps, share": mesh.volumes.sum() / enclosed_volume(mesh) - 1,
        "disconnected nodes": mesh.n_nodes - len(np.unique(mesh.cells)) + mesh.count_components() - 1,
        "leaking nodes": len(head.shared_nodes(("csf", "grey", "white"), ("scalp",))),
        "sources in grey matter, %": 100 * float(np.mean(moved < 1e-9)),
        "sources moved over 1 mm, %": 100 * float(np.mean(moved > 1e-3)),
        "farthest move, mm": 1e3 * float(moved.max()),
        "seconds": seconds,
    }


def main() -> None:
    """Examine the heads, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("resolution", type=float, nargs="*", default=[4.0, 3.0, 2.0], help="in mm")
    rows = [examine(1e-3 * resolution) for resolution in parser.parse_args().resolution]
    table = Table("", title="fsaverage, conforming tetrahedra")
    for _ in rows:
        table.add_column(justify="right")
    for name in rows[0]:
        values = [row[name] for row in rows]
        table.add_row(name, *(f"{x:,.4g}" if isinstance(x, float) else f"{x:,}" for x in values))
    console = Console()
    console.print(table)
    displacement = 1e3 * project_electrodes(MONTAGES["10-5-149"])[1]
    console.print(
        f"149 electrodes moved by {np.median(displacement):.1f} mm (median), "
        f"at most {displacement.max():.1f} mm"
    )
    result = {
        "heads": rows,
        "electrode_displacement_mm": dict(zip(MONTAGES["10-5-149"], displacement.round(2).tolist())),
        "versions": {name: version(name) for name in ("jaxinv", "libigl", "mne", "nilearn", "numpy")},
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
    }
    path = Path(__file__).parent / "results" / "head_validity.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1))
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
