"""Leadfields of the default head in three layers: OpenMEEG's boundary elements beside our finite elements.

Each layer is the subdivided icosahedron, taken along rays from one centre onto the default head's scalp (cut
at the neck), outer skull or inner skull. A coarse surface holds the first vertices of the finest one, so its
error is that of its flat triangles alone. All layers share rays and triangles. Each of them is seen whole
from the centre and at every vertex lies farther out than the next one: hence they are nested, and cut
neither themselves nor each other.

The brain is one conductor. Sources are vertices of the default head's cortex that lie well inside the inner
skull of every resolution; all surfaces and meshes are given the same positions of sources and electrodes.
"""

import itertools
import os
import time
from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np
import openmeeg
from against_openmeeg import icosphere
from jaxtyping import Float, Int
from rich.console import Console
from sphere_protocol import print_rows

import jaxinv
from jaxinv.head import HeadModel, mid_surface
from jaxinv.head.fsaverage_levels import LEVEL_SETS, signed_distance
from jaxinv.head.fsaverage_surfaces import Surface
from jaxinv.mesh import mesh_level_sets, second_order
from jaxinv.mesh.tetrahedra import FILM
from jaxinv.metrics.forward import mag, rdm
from jaxinv.tissues import nominal_conductivity

TISSUES = ("scalp", "skull", "brain")
BOUNDS = ("scalp", "skull", "csf")  # what the level sets that bound them are called in the default head
CONDUCTIVITY = nominal_conductivity(TISSUES)
OTHER_SKULL = np.array([1.0, 2.0, 1.0])  # factors of the conductivity that is solved for once more
CENTRE = np.array([0.0, -0.02, 0.0])  # m
OUTSIDE, NEAR, MARCHES = 0.2, 1e-5, 500  # m from the centre; m from a level set that count as on it; steps
FINEST = 5  # divisions of the icosahedron: 10,242 vertices
SOURCES, CLEARANCE = "ico4", 5e-3  # least depth under every inner skull, in m
REFERENCE = ("tetra10", 4.5e-3)  # element and spacing, in m, of its corner nodes
OURS = (("tetra", 6e-3), ("tetra", 4e-3), ("tetra10", 7e-3))


class Layers(NamedTuple):
    """Three nested surfaces of the same triangles, outermost first."""

    points: Float[np.ndarray, "layer vertex 3"]
    faces: Int[np.ndarray, "face 3"]

    @classmethod
    def of(cls, divisions: int) -> "Layers":
        """The layers with 10 · 4ⁿ + 2 vertices each.

        Raises:
            ValueError: if they are not nested, or a triangle is not seen from the centre.
        """
        directions, faces = icosphere(divisions)
        radii = finest_radii()[:, : len(directions)]
        points = radii[..., None] * directions
        faces = faces[:, ::-1].astype(np.int64)  # icosphere winds them inwards
        if (np.diff(radii, axis=0) >= 0).any() or (np.linalg.det(points[:, faces]) <= 0).any():
            raise ValueError(f"the layers of {len(directions)} vertices are not nested")
        return cls(CENTRE + points, faces)

    @property
    def n_vertices(self) -> int:
        """Number of vertices of each layer."""
        return self.points.shape[1]

    def surfaces(self) -> list[Surface]:
        """The layers one by one, wound outwards."""
        return [Surface(np.ascontiguousarray(points), self.faces) for points in self.points]

    def thinnest(self) -> list[float]:
        """Least distance of a vertex of scalp and of outer skull from the next surface, in mm."""
        pairs = itertools.pairwise(self.surfaces())
        return [1e3 * float(signed_distance(inner, outer.points).min()) for outer, inner in pairs]

    def depth(self, positions: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, " point"]:
        """Distance under the inner skull, in m."""
        return -signed_distance(self.surfaces()[-1], positions)


@cache
def finest_radii() -> Float[np.ndarray, "layer vertex"]:
    """Where rays through the finest icosahedron's vertices first meet the three surfaces from outside.

    A level set is nowhere larger than the distance from its surface, so that steps of its value cannot
    pass it.
    """
    directions, _ = icosphere(FINEST)
    radii = np.full((len(BOUNDS), len(directions)), OUTSIDE)
    for radius, name in zip(radii, BOUNDS):
        left = np.arange(len(directions))
        for _ in range(MARCHES):
            value = LEVEL_SETS[name](CENTRE + radius[left, None] * directions[left])
            radius[left] -= value
            left = left[value > NEAR]
            if left.size == 0:
                break
        else:
            raise RuntimeError(f"{left.size} rays did not reach the {name} in {MARCHES} steps")
    return radii


class Solved(NamedTuple):
    """A leadfield, the seconds of each step to it, CPU seconds of all, and the seconds of one more solve."""

    leadfield: Float[np.ndarray, "channel source"]
    unknowns: int
    steps: dict[str, float]
    cpu: float
    again: float | None = None

    @property
    def seconds(self) -> float:
        """Wall time of all steps."""
        return sum(self.steps.values())


class Clock:
    """Wall time of steps, one after the other, and CPU time of all of them."""

    def __init__(self):
        self.steps, self.wall, self.cpu = {}, time.perf_counter(), time.process_time()

    def lap(self, step: str) -> None:
        """Ends a step."""
        now = time.perf_counter()
        self.steps[step], self.wall = now - self.wall, now

    def stop(self, leadfield, unknowns: int) -> Solved:
        """What was solved in the steps so far."""
        return Solved(np.asarray(leadfield), unknowns, self.steps, time.process_time() - self.cpu)


def boundary_elements(layers: Layers, sources: jaxinv.SourceSpace, sensors: jaxinv.Electrodes) -> Solved:
    """OpenMEEG's leadfield, average reference, by its adjoint gain.

    That solves for the electrodes alone. The inverse of the head matrix gives the same gain (to 5e-15 at 642
    vertices a layer), in about the same time there.

    Raises:
        RuntimeError: if OpenMEEG finds that the surfaces intersect.
    """
    clock = Clock()
    inwards = layers.faces[:, ::-1]
    surfaces = [(np.asfortranarray(surface.points), inwards) for surface in layers.surfaces()[::-1]]
    geometry = openmeeg.make_nested_geometry(surfaces, CONDUCTIVITY[::-1])
    if not geometry.selfCheck():
        raise RuntimeError(f"OpenMEEG refuses the layers of {layers.n_vertices} vertices")
    clock.lap("geometry")
    head = openmeeg.HeadMat(geometry)
    clock.lap("head matrix")
    dipoles = openmeeg.Matrix(np.asfortranarray(np.hstack([sources.positions, sources.normals])))
    electrodes = openmeeg.Sensors(openmeeg.Matrix(np.asfortranarray(sensors.positions)), geometry)
    to_electrodes = openmeeg.Head2EEGMat(geometry, electrodes)
    gain = openmeeg.GainEEGadjoint(geometry, dipoles, head, to_electrodes).array()
    gain = gain - gain.mean(axis=0)
    clock.lap("solve and sources")
    return clock.stop(gain, head.nlin())


def mesh_layers(layers: Layers, element: str, spacing: float) -> HeadModel:
    """The layers in tetrahedra that conform to them."""
    surfaces = layers.surfaces()
    bounds = np.array([surfaces[0].points.min(axis=0), surfaces[0].points.max(axis=0)])
    inside = [partial(signed_distance, surface) for surface in surfaces]
    mesh = mesh_level_sets(inside, bounds, spacing, film=FILM * spacing)
    return HeadModel(second_order(mesh) if element == "tetra10" else mesh, TISSUES, CONDUCTIVITY)


def finite_elements(
    layers: Layers,
    sources: jaxinv.SourceSpace,
    sensors: jaxinv.Electrodes,
    element: str,
    spacing: float,
    *,
    again: bool = False,
) -> Solved:
    """Ours; if asked, also timed once more at another conductivity of the skull, all compiled."""
    clock = Clock()
    head = mesh_layers(layers, element, spacing)
    clock.lap("mesh")
    forward = jaxinv.FemForward.build(head, sources, sensors)
    clock.lap("build with a first solve")
    leadfield = jax.block_until_ready(forward.leadfield())
    clock.lap("leadfield")
    solved = clock.stop(leadfield, head.mesh.n_nodes)
    if not again:
        return solved
    start = time.perf_counter()
    jax.block_until_ready(forward.leadfield(OTHER_SKULL * CONDUCTIVITY))
    return solved._replace(again=time.perf_counter() - start)


def errors(leadfield: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """RDM and MAG over the sources, in per cent."""
    topography = 100 * np.asarray(rdm(leadfield, reference))
    magnitude = 100 * np.abs(np.asarray(mag(leadfield, reference)) - 1)
    return {
        "RDM": float(np.median(topography)), "RDM p95": float(np.percentile(topography, 95)),
        "MAG - 1": float(np.median(magnitude)), "MAG - 1 p95": float(np.percentile(magnitude, 95)),
    }  # fmt: skip


def deep_sources(layers: list[Layers]) -> jaxinv.SourceSpace:
    """The cortical sources at least `CLEARANCE` under the inner skull of all layers."""
    space = mid_surface(SOURCES)
    depth = np.min([layer.depth(np.asarray(space.positions)) for layer in layers], axis=0)
    return space.take(np.flatnonzero(depth >= CLEARANCE))


def compare(divisions: list[int], montage: str, console: Console) -> dict:
    """Solves all, prints the table and returns what it says.

    Args:
        divisions: of the icosahedron, of the surfaces that boundary elements are solved on.
        montage: of the default head.
        console: to print to.
    """
    finest, coarse = Layers.of(FINEST), [Layers.of(n) for n in divisions]
    sensors, sources = jaxinv.fsaverage_electrodes(montage), deep_sources([finest, *coarse])
    reference = finite_elements(finest, sources, sensors, *REFERENCE)
    rows = []

    def add(method: str, layers: Layers, solved: Solved, own: np.ndarray) -> None:
        own = errors(solved.leadfield, own)
        rows.append(
            {"method": method, "vertices a layer": layers.n_vertices, "unknowns": solved.unknowns,
             "seconds": solved.seconds, "CPU seconds": solved.cpu,
             **errors(solved.leadfield, reference.leadfield),
             "RDM, same surfaces": own["RDM"], "RDM p95, same surfaces": own["RDM p95"],
             "steps, s": solved.steps, "another conductivity, s": solved.again}
        )  # fmt: skip
        said = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in solved.steps.items())
        more = "" if solved.again is None else f"; another conductivity {solved.again:.1f} s"
        rdms = f"RDM {rows[-1]['RDM']:.2f} and {rows[-1]['RDM p95']:.2f} %"
        console.print(f"{method}, {layers.n_vertices:,} vertices a layer: {said}{more}; {rdms}")

    add("reference", finest, reference, reference.leadfield)
    for element, spacing in OURS:
        solved = finite_elements(finest, sources, sensors, element, spacing, again=True)
        add(f"jaxinv, {element}, {1e3 * spacing:g} mm", finest, solved, reference.leadfield)
    slowest = max(row["seconds"] for row in rows[1:])
    peers = {}
    for layers in coarse:
        same = finite_elements(layers, sources, sensors, *REFERENCE)
        add("as the reference", layers, same, same.leadfield)
        solved = boundary_elements(layers, sources, sensors)
        add("OpenMEEG", layers, solved, same.leadfield)
        peers[f"OpenMEEG at {layers.n_vertices:,} a layer / slowest of ours"] = solved.seconds / slowest
    hidden = ("steps, s", "another conductivity, s")
    shown = [{name: value for name, value in row.items() if name not in hidden} for row in rows]
    print_rows("Three layers of the default head, against the reference, %", shown, console)
    return {
        "sources": sources.n_sources, "channels": sensors.n_channels, "cores": os.cpu_count(), **peers,
        **{f"thinnest at {layers.n_vertices:,}, mm": layers.thinnest() for layers in (finest, *coarse)},
        "peers": rows,
    }  # fmt: skip
