"""The other figures of the forward model on spheres: field, derivatives, anisotropy, identities.

python benchmarks/forward_checks.py                 # about ten minutes on two cores
python benchmarks/forward_checks.py --nodes 45000   # smaller meshes
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from scipy.sparse.linalg import spsolve
from sphere_protocol import (
    CONDUCTIVITY,
    ECCENTRICITIES,
    N_DIRECTIONS,
    N_ELECTRODES,
    RADII,
    SEED,
    dipoles,
    electrodes,
    fibonacci_sphere,
    print_rows,
    write_json,
)

import jaxinv

jax.config.update("jax_enable_x64", True)

POINTS = RADII[0] * fibonacci_sphere(N_ELECTRODES)
STRETCH = np.array([[1.2, 0.1, -0.1], [0.0, 0.9, 0.1], [0.1, 0.0, 1.1]])


def percentile(found, exact, axis, share=95) -> float:
    """Percentile, in per cent, of the relative error over all but `axis`."""
    error = np.linalg.norm(np.asarray(found - exact), axis=axis)
    return float(np.percentile(100 * error / np.linalg.norm(np.asarray(exact), axis=axis), share))


def surface_field(head) -> list[dict]:
    """Tangential field just inside the scalp against the series, by eccentricity."""
    drawn = dipoles()
    forward = jaxinv.FemForward.build(
        head, jaxinv.SourceSpace(drawn.positions), jaxinv.SurfaceField(POINTS), tolerance=1e-8
    )
    free = np.asarray(forward.leadfield()).reshape(N_ELECTRODES, 3, -1, 3)
    rows = []
    for k, eccentricity in enumerate(ECCENTRICITIES):
        at = slice(k * N_DIRECTIONS, (k + 1) * N_DIRECTIONS)
        errors = []
        for moments in (drawn.radial[at], drawn.tangential[at]):
            exact = np.asarray(jaxinv.sphere_field(drawn.positions[at], moments, POINTS, RADII, CONDUCTIVITY))
            found = np.einsum("eisx,sx->eis", free[:, :, at], moments)
            errors.append(percentile(found, exact, axis=(0, 1)))
        rows.append({"eccentricity": eccentricity, "field, relative error p95, %": max(errors)})
    return rows


def derivatives(head) -> list[dict]:
    """Derivatives of leadfield columns, against those of the series; relative error over channels."""
    drawn = dipoles((0.5, 0.8, 0.9))
    sensors = electrodes()
    sources = jaxinv.SourceSpace(drawn.positions, drawn.tangential)
    forward = jaxinv.FemForward.build(head, sources, sensors, tolerance=1e-10)
    at = sensors.positions

    def series(positions, points):
        return jaxinv.sphere_leadfield(positions, drawn.tangential, points, RADII, CONDUCTIVITY)

    def moved_source(positions):
        return forward.leadfield(sources=jaxinv.SourceSpace(positions, drawn.tangential))

    rng = np.random.default_rng(SEED)
    step = rng.normal(size=drawn.positions.shape)
    slide = np.cross(at, rng.normal(size=at.shape))
    turn = rng.normal(size=drawn.positions.shape)
    found, exact = {}, {}
    found["position"] = jax.jvp(moved_source, (drawn.positions,), (step,))[1]
    exact["position"] = jax.jvp(lambda x: series(x, at), (drawn.positions,), (step,))[1]
    found["electrode"] = jax.jvp(lambda x: forward.leadfield(sensors=sensors.at(x)), (at,), (slide,))[1]
    exact["electrode"] = jax.jvp(lambda x: series(drawn.positions, x), (at,), (slide,))[1]
    found["moment"] = jax.jvp(
        lambda q: forward.leadfield(sources=jaxinv.SourceSpace(drawn.positions, q)),
        (drawn.tangential,),
        (turn,),
    )[1]
    free = forward.leadfield(sources=jaxinv.SourceSpace(drawn.positions))
    exact["moment"] = jnp.einsum("csx,sx->cs", free, turn)
    return [
        {"derivative in the": name, "median, %": percentile(found[name], exact[name], 0, 50),
         "p95, %": percentile(found[name], exact[name], 0)}
        for name in found
    ]  # fmt: skip


def anisotropic_ellipsoid(n_nodes: int) -> list[dict]:
    """A homogeneous anisotropic ellipsoid against the series of the sphere that it is, stretched."""
    rows = []
    for element in ("tetra10", "tetra"):
        ball = jaxinv.sphere_head((RADII[0],), (0.33,), n_nodes=n_nodes, element=element)
        mesh = jaxinv.VolumeMesh(ball.mesh.points @ STRETCH.T, ball.mesh.cells, ball.mesh.tissue)
        tensor = 0.33 * STRETCH @ STRETCH.T / np.linalg.det(STRETCH)
        drawn = dipoles((0.2, 0.5, 0.8), RADII[0])
        sources = jaxinv.SourceSpace(drawn.positions @ STRETCH.T)
        sensors = jaxinv.Electrodes(POINTS @ STRETCH.T)
        head = jaxinv.HeadModel(mesh, ("brain",), tensor[None])
        free = jaxinv.FemForward.build(head, sources, sensors).leadfield()
        found = jnp.einsum("csx,sx->cs", free, drawn.radial @ STRETCH.T)
        exact = jaxinv.sphere_leadfield(drawn.positions, drawn.radial, POINTS, (RADII[0],), (0.33,))
        rows.append(
            {"anisotropic ellipsoid": element, "nodes": mesh.n_nodes,
             "median, %": percentile(found, exact, 0, 50), "p95, %": percentile(found, exact, 0)}
        )  # fmt: skip
    return rows


def identities() -> list[dict]:
    """Reciprocity and split tissues, at a tolerance of 1e-12."""
    head = jaxinv.sphere_head(RADII, CONDUCTIVITY, n_nodes=8000)
    drawn = dipoles((0.5,))
    sources = jaxinv.SourceSpace(drawn.positions[:20], drawn.tangential[:20])
    sensors = electrodes()
    forward = jaxinv.FemForward.build(head, sources, sensors, tolerance=1e-12)
    matrix = forward.stiffness_matrix()
    load = np.zeros((matrix.shape[0], 20))
    moments = np.einsum("skx,sx->sk", forward.loads.weights, sources.normals)
    np.add.at(load, (np.asarray(forward.loads.nodes), np.arange(20)[:, None]), moments)
    potential = np.zeros_like(load)
    potential[1:] = spsolve(matrix[1:][:, 1:].tocsc(), load[1:])
    read = np.asarray(forward.weights.columns(matrix.shape[0])).T @ potential
    direct = sensors.reference_operator() @ read
    leadfield = forward.leadfield()
    uniform = jaxinv.HeadModel(head.mesh, head.tissue_names, np.full(4, 0.33))
    single = jaxinv.HeadModel(
        jaxinv.VolumeMesh(head.mesh.points, head.mesh.cells, np.zeros(head.mesh.n_cells, int)),
        ("brain",),
        (0.33,),
    )
    split, whole = (
        jaxinv.FemForward.build(
            h, sources, sensors, source_model="partial-integration", tolerance=1e-12
        ).leadfield()
        for h in (uniform, single)
    )

    def relative(one, other):
        return float(jnp.abs(one - other).max() / jnp.abs(other).max())

    return [
        {
            "identity": "reciprocity (a direct solve from the dipole)",
            "error": f"{relative(direct, leadfield):.1e}",
        },
        {"identity": "four tissues of one conductivity", "error": f"{relative(split, whole):.1e}"},
    ]


def main() -> None:
    """Measures each figure, prints the tables and writes them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=200_000)
    n_nodes = parser.parse_args().nodes
    console = Console()
    head = jaxinv.sphere_head(RADII, CONDUCTIVITY, n_nodes=n_nodes, element="tetra10")
    console.print(f"curved second-order tetrahedra, {head.mesh.n_nodes:,} nodes")
    tables = {}
    for name, measure in {
        "identities": identities,
        "derivatives": lambda: derivatives(head),
        "surface field": lambda: surface_field(head),
        "anisotropy": lambda: anisotropic_ellipsoid(n_nodes),
    }.items():
        tables[name] = measure()
        print_rows(name, tables[name], console)
    console.print(f"written to {write_json('forward_checks', {'nodes': head.mesh.n_nodes, **tables})}")


if __name__ == "__main__":
    main()
