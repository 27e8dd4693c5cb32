"""How accurate are leadfields on a layered sphere? Source model × element × nodes × eccentricity.

python benchmarks/forward_accuracy.py                   # all of it: some twenty minutes on two cores
python benchmarks/forward_accuracy.py --nodes 45000     # one size
python benchmarks/forward_accuracy.py --figure docs/images/forward_accuracy.png
python benchmarks/forward_accuracy.py --nodes 428000 --elements hexahedron "adapted hexahedron"
"""

import argparse
import time
from pathlib import Path

import jax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.progress import track
from sphere_protocol import (
    CONDUCTIVITY,
    ECCENTRICITIES,
    RADII,
    cells_of,
    dipoles,
    electrodes,
    exact_leadfields,
    measure,
    print_rows,
    worst,
    write_json,
)

import jaxinv
from jaxinv.fem.elements import shape_functions
from jaxinv.fem.recovery import recover

jax.config.update("jax_enable_x64", True)

# Source models that place 2,400 dipoles in seconds; full subtraction runs on the smaller meshes alone.
MODELS = ("recovery", "localized-subtraction", "venant", "partial-integration")
ADAPTED = "adapted hexahedron"  # nodes shifted at the interfaces
VOXEL_MODELS = ("recovery", "partial-integration")
ELEMENTS = ("tetra10", "tetra", ADAPTED, "hexahedron")
NODES = (45_000, 200_000)


def examine(element: str, n_nodes: int, models: tuple[str, ...]) -> list[dict]:
    """One row a source model and eccentricity, on one mesh."""
    adapt = {"element": "hexahedron", "adapt": 0.49} if element == ADAPTED else {"element": element}
    head = jaxinv.sphere_head(RADII, CONDUCTIVITY, n_nodes=n_nodes, **adapt)
    drawn = dipoles()
    exact = exact_leadfields(drawn)
    inside = jaxinv.SourceSpace(drawn.positions[:1])
    start = time.perf_counter()
    forward = jaxinv.FemForward.build(head, inside, electrodes())
    built = time.perf_counter() - start
    rows = []
    for model in models if element.startswith("tetra") else VOXEL_MODELS:
        start = time.perf_counter()
        outside = 0
        if element.startswith("tetra"):
            free = forward.replace(source_model=model).leadfield(sources=jaxinv.SourceSpace(drawn.positions))
        else:
            free, outside = voxel_leadfield(forward, head, model, drawn.positions)
        common = {
            "source model": model, "element": element, "nodes": head.mesh.n_nodes, "outside": outside,
            "build, s": built, "place, s": time.perf_counter() - start,
        }  # fmt: skip
        rows += [{**common, **row} for row in measure(free, drawn, exact, ECCENTRICITIES)]
    return rows


def voxel_leadfield(forward, head, model: str, positions: np.ndarray) -> tuple[np.ndarray, int]:
    """Sources near a staircase may lie in a cell of another tissue: they are read from the nearest of theirs.

    Returns:
        The leadfield (channel, source, 3), and the number of such sources.
    """
    cell, local, outside = cells_of(head, "brain", positions)
    if model == "recovery":
        recovered = recover(head.mesh, cell, positions)
        nodes, weights = recovered.nodes, recovered.gradient
    else:
        nodes, weights = head.mesh.cells[cell], shape_functions(head.mesh, cell, local)[1]
    transfer = np.asarray(forward.transfer_matrix())
    free = np.stack([np.einsum("sk,skx->sx", row[nodes], weights) for row in transfer])
    return np.einsum("ce,esx->csx", np.asarray(forward.sensors.reference_operator()), free), outside


def summarise(rows: list[dict]) -> list[dict]:
    """The worst over all eccentricities of each mesh and source model."""
    keys = dict.fromkeys((row["source model"], row["element"], row["nodes"]) for row in rows)
    names = ("RDM median", "RDM p95", "RDM max", "MAG p95")
    summary = []
    for model, element, nodes in keys:
        own = [r for r in rows if (r["source model"], r["element"], r["nodes"]) == (model, element, nodes)]
        found = worst([{name: row[name] for name in ("eccentricity", *names)} for row in own])
        outside = max(row["outside"] for row in own)
        labels = {"source model": model, "element": element, "nodes": nodes, "outside": outside}
        summary.append({**labels, **found})
    return summary


def draw(rows: list[dict], path: Path) -> None:
    """95th percentile of the RDM over eccentricity, one line a mesh and source model."""
    figure, axes = plt.subplots(1, len(NODES), figsize=(10, 4), sharey=True, layout="constrained")
    colours = dict(zip(MODELS, plt.get_cmap("tab10").colors))
    styles = dict(zip(ELEMENTS, ("-", "--", "-.", ":")))
    for axis, size in zip(axes, NODES):
        for key in dict.fromkeys((r["source model"], r["element"]) for r in rows):
            own = [
                r for r in rows
                if (r["source model"], r["element"]) == key and 0.7 < r["nodes"] / size < 1.3
            ]  # fmt: skip
            if own:
                axis.plot(
                    [r["eccentricity"] for r in own], [r["RDM p95"] for r in own],
                    styles[key[1]], color=colours.get(key[0], "k"), label=", ".join(key),
                )  # fmt: skip
        axis.set(yscale="log", xlabel="eccentricity", title=f"about {size:,} nodes")
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("RDM, 95th percentile (%)")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Examines every mesh and source model, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="*", default=NODES)
    parser.add_argument("--elements", nargs="*", default=ELEMENTS)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--name", default="forward_accuracy", help="of the JSON file")
    options = parser.parse_args()
    console, rows = Console(width=160), []
    cases = [(element, n_nodes) for n_nodes in options.nodes for element in options.elements]
    for element, n_nodes in track(cases, description="meshes", console=console):
        rows += examine(element, n_nodes, tuple(options.models))
    print_rows("Worst over all eccentricities, %", summarise(rows), console)
    print_rows("By eccentricity, %", rows, console)
    if options.figure:
        draw(rows, options.figure)
    path = write_json(options.name, {"summary": summarise(rows), "rows": rows})
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
