"""The protocol of every sphere benchmark: layers, electrodes, dipoles and the measures that are reported."""

import itertools
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.spatial import cKDTree

import jaxinv
from jaxinv.mesh import CellLocator
from jaxinv.metrics.forward import mag, rdm

RADII = np.array([0.092, 0.086, 0.080, 0.078])
CONDUCTIVITY = np.array([0.43, 0.01, 1.79, 0.33])
ECCENTRICITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
N_ELECTRODES = 70
N_DIRECTIONS = 200
SEED = 0
PACKAGES = ("jaxinv", "jax", "jax-fem", "invertmeeg", "mne", "numpy", "openmeeg", "pyamg", "scipy")


class Dipoles(NamedTuple):
    """Unit dipoles, `N_DIRECTIONS` at each eccentricity."""

    positions: np.ndarray
    radial: np.ndarray
    tangential: np.ndarray


def fibonacci_sphere(count: int) -> np.ndarray:
    """Points spread evenly over the unit sphere."""
    index = np.arange(count) + 0.5
    height = 1 - 2 * index / count
    angle = np.pi * (1 + np.sqrt(5)) * index
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)


def electrodes() -> jaxinv.Electrodes:
    """70 electrodes on the outermost sphere, average reference."""
    return jaxinv.Electrodes(RADII[0] * fibonacci_sphere(N_ELECTRODES))


def dipoles(eccentricities=ECCENTRICITIES, radius: float = RADII[-1]) -> Dipoles:
    """Random directions, a radial and a tangential dipole each; none is left out."""
    rng = np.random.default_rng(SEED)
    radial = rng.normal(size=(len(eccentricities), N_DIRECTIONS, 3))
    radial /= np.linalg.norm(radial, axis=2, keepdims=True)
    tangential = np.cross(radial, rng.normal(size=radial.shape))
    tangential /= np.linalg.norm(tangential, axis=2, keepdims=True)
    positions = radius * np.asarray(eccentricities)[:, None, None] * radial
    return Dipoles(*(array.reshape(-1, 3) for array in (positions, radial, tangential)))


def measure(free: np.ndarray, drawn: Dipoles, exact: list[np.ndarray], eccentricities) -> list[dict]:
    """RDM and MAG in per cent, one row an eccentricity: the worse of both orientations."""
    rows = []
    for k, eccentricity in enumerate(eccentricities):
        at = slice(k * N_DIRECTIONS, (k + 1) * N_DIRECTIONS)
        both = []
        for moments, reference in zip((drawn.radial, drawn.tangential), exact):
            found = np.einsum("csx,sx->cs", np.asarray(free)[:, at], moments[at])
            topography = 100 * np.asarray(rdm(found, reference[:, at]))
            magnitude = 100 * np.abs(np.asarray(mag(found, reference[:, at])) - 1)
            both.append((*np.percentile(topography, [50, 95, 100]), np.percentile(magnitude, 95)))
        names = ("RDM median", "RDM p95", "RDM max", "MAG p95")
        rows.append({"eccentricity": eccentricity, **dict(zip(names, np.max(both, axis=0).tolist()))})
    return rows


def worst(rows: list[dict]) -> dict:
    """The worst of each measure over the eccentricities."""
    return {name: max(row[name] for row in rows) for name in rows[0] if name != "eccentricity"}


def exact_leadfields(drawn: Dipoles, radii=RADII, conductivity=CONDUCTIVITY) -> list[np.ndarray]:
    """The analytic leadfields of the radial and of the tangential dipoles."""
    at = radii[0] * fibonacci_sphere(N_ELECTRODES)
    return [
        np.asarray(jaxinv.sphere_leadfield(drawn.positions, moments, at, radii, conductivity))
        for moments in (drawn.radial, drawn.tangential)
    ]


def cells_of(head, tissue: str, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The cell of a tissue that holds each position or is nearest to it.

    Returns:
        The cells, the local coordinates there (the middle of a cell that does not hold its position), and
        how many positions no cell of the tissue holds.
    """
    own = head.mesh.tissue == head.label(tissue)
    cell, local, distance = CellLocator(head.mesh).find(positions)
    outside = np.flatnonzero(~own[cell] | (distance > 0))
    candidates = np.flatnonzero(own)
    centroids = head.mesh.points[head.mesh.corner_cells[candidates]].mean(axis=1)
    cell[outside] = candidates[cKDTree(centroids).query(positions[outside])[1]]
    local[outside] = 0.25 if head.mesh.element.startswith("tetra") else 0.5
    return cell, local, len(outside)


def print_rows(title: str, rows: list[dict], console: Console) -> None:
    """A table of dictionaries that share their keys."""
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(
            *(f"{value:,.3g}" if isinstance(value, float) else f"{value}" for value in row.values())
        )
    console.print(table)


def write_json(name: str, result: dict) -> Path:
    """Writes a result with versions, machine and seed under `benchmarks/results`."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    devices = sorted({device.device_kind for device in jax.devices()})
    versions = {package: _version(package) for package in PACKAGES}
    path.write_text(
        json.dumps(
            {**result, "versions": versions, "machine": machine, "devices": devices, "seed": SEED}, indent=1
        )
    )
    return path


def _version(package: str) -> str | None:
    names = itertools.chain([package], [package.replace("-", "_")])
    for name in names:
        try:
            return version(name)
        except ModuleNotFoundError:
            continue
    return None
