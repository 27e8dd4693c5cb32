"""Finite elements and OpenMEEG's boundary elements on the same three-layer sphere, both against the series.

python benchmarks/against_openmeeg.py                 # needs the extra "bench"; about three minutes
"""

import argparse
import time

import jax
import numpy as np
import openmeeg
from rich.console import Console
from scipy.spatial import ConvexHull
from sphere_protocol import (
    N_ELECTRODES,
    Dipoles,
    dipoles,
    exact_leadfields,
    fibonacci_sphere,
    measure,
    print_rows,
    write_json,
)

import jaxinv

jax.config.update("jax_enable_x64", True)

RADII, CONDUCTIVITY = np.array([0.092, 0.086, 0.080]), np.array([0.43, 0.01, 0.33])
ECCENTRICITIES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.97)
POINTS = RADII[0] * fibonacci_sphere(N_ELECTRODES)
CASES = (("tetra10", 45_000), ("tetra10", 200_000), ("tetra", 200_000))


def icosphere(divisions: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors, 10 · 4ⁿ + 2 of them, and triangles wound inwards, as OpenMEEG wants them."""
    golden = (1 + np.sqrt(5)) / 2
    points = np.array([(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)])
    points = np.concatenate([np.roll(points, k, axis=1) for k in range(3)]) / np.hypot(1, golden)
    for _ in range(divisions):
        faces = ConvexHull(points).simplices
        edges = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0)
        points = np.concatenate([points, points[edges].sum(axis=1)])
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    faces = ConvexHull(points).simplices
    outward = np.linalg.det(points[faces]) > 0
    return points, np.where(outward[:, None], faces[:, [0, 2, 1]], faces)


def boundary_elements(drawn: Dipoles, divisions: int) -> np.ndarray:
    """OpenMEEG's leadfield (channel, source, 3), average reference."""
    points, faces = icosphere(divisions)
    spheres = [(np.asfortranarray(radius * points), faces) for radius in RADII[::-1]]
    geometry = openmeeg.make_nested_geometry(spheres, CONDUCTIVITY[::-1])
    head = openmeeg.HeadMat(geometry)
    head.invert()
    n_sources = len(drawn.positions)
    unit = np.hstack([np.repeat(drawn.positions, 3, axis=0), np.tile(np.eye(3), (n_sources, 1))])
    sources = openmeeg.DipSourceMat(geometry, openmeeg.Matrix(np.asfortranarray(unit)), "Brain")
    sensors = openmeeg.Sensors(openmeeg.Matrix(np.asfortranarray(POINTS)), geometry)
    gain = openmeeg.GainEEG(head, sources, openmeeg.Head2EEGMat(geometry, sensors)).array()
    return (gain - gain.mean(axis=0)).reshape(N_ELECTRODES, n_sources, 3)


def finite_elements(drawn: Dipoles, element: str, n_nodes: int) -> tuple[np.ndarray, int]:
    """Ours, and the number of nodes that was made."""
    head = jaxinv.sphere_head(RADII, CONDUCTIVITY, n_nodes=n_nodes, element=element)
    sources = jaxinv.SourceSpace(drawn.positions)
    forward = jaxinv.FemForward.build(head, sources, jaxinv.Electrodes(POINTS))
    return np.asarray(forward.leadfield()), head.mesh.n_nodes


def main() -> None:
    """Runs both, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--divisions", type=int, default=3, help="of the icosahedron: 3 gives 642 vertices")
    divisions = parser.parse_args().divisions
    console, rows = Console(width=160), []
    drawn = dipoles(ECCENTRICITIES, RADII[-1])
    exact = exact_leadfields(drawn, RADII, CONDUCTIVITY)
    start = time.perf_counter()
    peer = boundary_elements(drawn, divisions)
    spent = time.perf_counter() - start
    witness = [np.einsum("csx,sx->cs", peer, moments) for moments in (drawn.radial, drawn.tangential)]
    found = [(f"OpenMEEG, {10 * 4**divisions + 2} vertices a layer", peer, spent)]
    for element, n_nodes in CASES:
        start = time.perf_counter()
        free, nodes = finite_elements(drawn, element, n_nodes)
        found.append((f"jaxinv, {element}, {nodes:,} nodes", free, time.perf_counter() - start))
    for name, free, seconds in found:
        against = measure(free, drawn, witness, ECCENTRICITIES)
        for row, other in zip(measure(free, drawn, exact, ECCENTRICITIES), against):
            rows.append(
                {"model": name, **row, "RDM median from OpenMEEG": other["RDM median"],
                 "RDM p95 from OpenMEEG": other["RDM p95"],
                 "RDM max from OpenMEEG": other["RDM max"], "seconds": seconds}
            )  # fmt: skip
    print_rows("Three layers, against the series and against OpenMEEG, %", rows, console)
    console.print(f"written to {write_json('against_openmeeg', {'rows': rows})}")


if __name__ == "__main__":
    main()
