"""Is the default head whole? Its mesh, sources and electrodes at several resolutions.

python benchmarks/head_validity.py 4 3 2        # mm; writes benchmarks/results/head_validity.json
"""

import argparse
import time

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.sparse.csgraph import connected_components

from benchmarks_io import write_result
from jaxinv.head import (
    MONTAGES,
    cortical_sources,
    fsaverage_head,
    project_electrodes,
    source_displacement,
)


def examine(resolution: float, sources: str) -> dict:
    """The figures of one head."""
    start = time.perf_counter()
    head = fsaverage_head(resolution)
    meshed = time.perf_counter()
    space = cortical_sources(head, sources)
    moved = source_displacement(space, sources)
    mesh = head.mesh
    return {
        "resolution_mm": 1e3 * resolution,
        "nodes": mesh.n_nodes,
        "cells": mesh.n_cells,
        "inverted_cells": int((mesh.corner_volumes <= 0).sum()),
        "components": mesh.count_components(),
        "leaking_nodes": len(head.shared_nodes(("csf", "grey", "white"), ("scalp",))),
        "litres": dict(
            zip(head.tissue_names, (1e3 * np.bincount(mesh.tissue, mesh.volumes)).round(3).tolist())
        ),
        "sources": space.n_sources,
        "sources_in_grey_percent": 100 * float(np.mean(moved < 1e-9)),
        "sources_moved_over_1mm_percent": 100 * float(np.mean(moved > 1e-3)),
        "largest_move_mm": 1e3 * float(moved.max()),
        "mesh_seconds": meshed - start,
    }
