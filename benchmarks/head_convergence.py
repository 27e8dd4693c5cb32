"""How far is the default head from its limit? Leadfields of the same sources at several resolutions.

python benchmarks/head_convergence.py 4 3 2.5 2 1.25     # mm; the finest needs 12 GB and some forty minutes

Every resolution reads the same electrodes and the same sources, those of the default head. Leadfields are
kept under benchmarks/results/head_convergence, so that a run that was interrupted goes on where it was.
"""

import argparse
import resource
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from sphere_protocol import cells_of, print_rows, write_json

import jaxinv
from jaxinv.fem.elements import shape_functions
from jaxinv.fem.recovery import recover
from jaxinv.head import HeadModel, fsaverage_head
from jaxinv.head.fsaverage_levels import LEVEL_SETS
from jaxinv.mesh import voxel_mesh
from jaxinv.metrics.forward import mag, rdm

jax.config.update("jax_enable_x64", True)

DEFAULT = 2.5e-3  # m
MONTAGE = "10-10-64"
MESHES = ("tetrahedra", "voxels", "adapted voxels")
KEPT = Path(__file__).parent / "results" / "head_convergence"


def build_head(mesh: str, resolution: float) -> HeadModel:
    """The default head, or its level sets sampled at the centres of voxels."""
    head = fsaverage_head(resolution)
    if mesh == "tetrahedra":
        return head
    low, high = head.mesh.points.min(axis=0) - resolution, head.mesh.points.max(axis=0) + resolution
    axes = [np.arange(a, b, resolution) for a, b in zip(low, high)]
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) + resolution / 2
    labels = np.full(len(centres), -1)
    inside = np.arange(len(centres))
    for label, level_set in enumerate(LEVEL_SETS.values()):
        inside = inside[level_set(centres[inside]) < 0]
        labels[inside] = label
    labels = labels.reshape([len(axis) for axis in axes])
    voxels = voxel_mesh(labels, resolution, low, adapt=0.49 if mesh == "adapted voxels" else 0.0)
    return HeadModel(voxels, head.tissue_names, head.conductivity)


def examine(mesh: str, resolution: float, sources, sensors) -> dict:
    """Leadfields of one head by gradient recovery and by partial integration, and what they cost."""
    start = time.perf_counter()
    head = build_head(mesh, resolution)
    meshed = time.perf_counter() - start
    anywhere = jaxinv.SourceSpace(head.mesh.points[head.mesh.cells[head.mesh.tissue == 3][:1]].mean(axis=1))
    start = time.perf_counter()
    forward = jaxinv.FemForward.build(
        head, anywhere, sensors, source_model="partial-integration", tolerance=1e-5, dtype="float32"
    )
    transfer = np.asarray(forward.transfer_matrix())
    solved = time.perf_counter() - start
    cell, local, outside = cells_of(head, "grey", np.asarray(sources.positions))
    recovered = recover(head.mesh, cell, np.asarray(sources.positions))
    weights = np.einsum("skx,sx->sk", recovered.gradient, sources.normals)
    gradients = np.einsum("skx,sx->sk", shape_functions(head.mesh, cell, local)[1], sources.normals)
    own, reference = head.mesh.cells[cell], np.asarray(sensors.reference_operator())
    return {
        "recovery": reference @ np.einsum("csk,sk->cs", transfer[:, recovered.nodes], weights),
        "partial-integration": reference @ np.einsum("csk,sk->cs", transfer[:, own], gradients),
        "nodes": head.mesh.n_nodes, "outside": outside / len(cell), "mesh, s": meshed, "solve, s": solved,
        "peak, GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }  # fmt: skip


def kept(mesh: str, resolution: float, sources, sensors) -> dict:
    """What `examine` returns, from its file if there is one."""
    path = KEPT / f"{mesh.replace(' ', '-')}-{1e3 * resolution:g}mm.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **examine(mesh, resolution, sources, sensors))
    with np.load(path) as file:
        return {name: file[name] if file[name].ndim else file[name].item() for name in file}


def main() -> None:
    """Compares every head with the finest one and with the one twice as fine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("resolution", type=float, nargs="*", default=[4.0, 3.0, 2.5, 2.0, 1.25], help="in mm")
    parser.add_argument("--voxels", type=float, nargs="*", default=[3.0], help="of hexahedra, in mm")
    options = parser.parse_args()
    console = Console(width=160)
    _, sources = jaxinv.fsaverage(DEFAULT)
    sensors = jaxinv.fsaverage_electrodes(MONTAGE)
    cases = [("tetrahedra", r) for r in sorted(options.resolution, reverse=True)]
    cases += [(mesh, r) for r in options.voxels for mesh in MESHES[1:]]
    found = {}
    for mesh, resolution in cases:
        console.print(f"{mesh} at {resolution:g} mm")
        found[mesh, resolution] = kept(mesh, 1e-3 * resolution, sources, sensors)
    finest = min(options.resolution)
    best = found["tetrahedra", finest]["recovery"]
    rows = []
    for (mesh, resolution), case in found.items():
        for model in ("recovery", "partial-integration"):
            topography = 100 * np.asarray(rdm(case[model], best))
            magnitude = 100 * np.abs(np.asarray(mag(case[model], best)) - 1)
            rows.append(
                {"mesh": mesh, "mm": resolution, "nodes": case["nodes"], "source model": model,
                 "RDM median, %": float(np.median(topography)), "p95": float(np.percentile(topography, 95)),
                 "max": float(topography.max()), "abs MAG p95, %": float(np.percentile(magnitude, 95)),
                 "sources outside grey, %": 100 * case["outside"], "mesh, s": case["mesh, s"],
                 "solve, s": case["solve, s"], "peak, GB": case["peak, GB"]}
            )  # fmt: skip
    n_sources = len(sources.positions)
    print_rows(f"{n_sources:,} sources, 64 electrodes, against {finest:g} mm tetrahedra", rows, console)
    path = write_json("head_convergence", {"rows": rows, "finest_mm": finest, "sources": n_sources})
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
