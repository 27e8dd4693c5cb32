"""How fast are exact leadfields? Against PyAMG, CHOLMOD, OpenMEEG and what memory bandwidth allows.

python benchmarks/forward_speed.py                          # CHOLMOD and OpenMEEG need the extra "bench"
python benchmarks/forward_speed.py --cases head --resolution 6
python benchmarks/forward_speed.py --cases openmeeg --divisions 3     # 642 vertices a layer alone

Only solves are compared, not meshing, assembly or the choice of aggregates, which are done once a head. The
case openmeeg alone times everything from the surfaces to the leadfield, our compilation included; OpenMEEG
alone takes some half an hour of it.
Each case writes its own file, with all its times and ratios from one run. Ours uses all cores. PyAMG has
threads in its BLAS alone, which can slow it down several times: it is timed with one and with all. CHOLMOD as
sparsax packages it (without METIS, on serial ATLAS) uses one core. Keep the machine idle: the load before a
case is written down with it.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyamg
from rich.console import Console
from scipy import sparse
from sphere_protocol import CONDUCTIVITY, RADII, SEED, electrodes, print_rows, write_json
from threadpoolctl import threadpool_limits

import jaxinv
from jaxinv import fem
from jaxinv.fem.hierarchy import COARSEST, PROLONGATION, STRENGTH
from jaxinv.fem.solve import BLOCK
from jaxinv.forward.placement import place_sensors
from jaxinv.head import HeadModel, fsaverage_head
from jaxinv.head.fsaverage import cortical_sources

jax.config.update("jax_enable_x64", True)

TOLERANCE, MAX_ITERATIONS = 1e-8, 300
REPEATS = 3  # of which the median counts
MONTAGE = "10-5-149"
SKULLS = (0.001, 0.01, 0.04)  # S/m
CASES = ("head", "sphere", "memory", "openmeeg")
PEER_CHANNELS = 4  # that PyAMG solves; its time is scaled up to all of them
PEERS = {
    "defaults": {},
    "our aggregates": {"strength": STRENGTH, "smooth": PROLONGATION},
    "our aggregates, P smoothed and filtered on every level":
        {"strength": STRENGTH, "smooth": ("jacobi", {"omega": 4 / 3, "filter_entries": True})},
}  # fmt: skip
COPIED, COPIES = 400_000_000, 10  # bytes of the array that is copied, and how often; the best time counts
# Least passes over (node, column) arrays of one iteration, nothing computed twice. The reductions cut it in
# three: <r, M r> before the direction, <d, K d> before the step and the coarsest level before the way up.
#   down: reads K d and r, writes r and, with that at hand, what is restricted of it;
#   up:   reads r and the coarse correction, writes M r;
#   step: reads M r, d and x, writes d, K d and x, of the step before.
# A coarse level has its residual written and read, its correction written and read. Columns that pad a block
# are left out, as is what happens once a round, in double precision.
FINEST_PASSES, COARSE_PASSES = 11, 4


class System(NamedTuple):
    """The transfer matrix of a head as a linear system. A pytree."""

    stiffness: fem.Stiffness
    hierarchy: fem.Hierarchy
    conductivity: jax.Array
    loads: jax.Array

    @classmethod
    def of(cls, head: HeadModel, sensors) -> "System":
        """Assembles what the solvers need."""
        assembled = fem.assemble_stiffness(head.mesh, head.n_tissues, head.conductivity)
        hierarchy = fem.build_hierarchy(assembled, head.nominal_parameters)
        loads = place_sensors(head, sensors, "float64").columns(head.mesh.n_nodes)
        conductivity = jnp.asarray(head.nominal_parameters)
        return cls(assembled.astype("float64"), hierarchy, conductivity, loads - loads.mean(axis=0))

    def matrix(self) -> sparse.csr_matrix:
        """K(σ) for SciPy and PyAMG."""
        return sparse.csr_matrix(self.stiffness.to_scipy(self.conductivity))


@jax.jit
def solve(system: System, conductivity: jax.Array) -> tuple[jax.Array, fem.SolveReport]:
    """Our solve of all channels, from zero."""
    guess = jnp.zeros_like(system.loads)
    return fem.solve_poisson(
        system.stiffness, system.hierarchy, conductivity, system.loads, guess, TOLERANCE, MAX_ITERATIONS
    )


def timed(function: Callable[[], Any], repeats: int = 1) -> tuple[Any, float]:
    """What a function returns, and the median of the seconds that its calls took."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return result, float(np.median(seconds))


def pyamg_row(system: System, name: str, blas_threads: int) -> dict:
    """PyAMG's smoothed aggregation and conjugate gradients, one channel after the other."""
    matrix, n_channels = system.matrix(), system.loads.shape[1]
    chosen = np.linspace(0, n_channels - 1, PEER_CHANNELS).astype(int)
    columns = np.ascontiguousarray(np.asarray(system.loads)[:, chosen].T)
    np.random.seed(SEED)  # noqa: NPY002 (PyAMG's generator)
    histories = [[] for _ in columns]
    with threadpool_limits(blas_threads, "blas"):
        solver, set_up = timed(
            lambda: pyamg.smoothed_aggregation_solver(matrix, max_coarse=COARSEST, **PEERS[name])
        )
        solver.solve(columns[0], maxiter=1)  # inverts the coarsest level
        found, seconds = timed(
            lambda: [
                solver.solve(column, tol=TOLERANCE, maxiter=MAX_ITERATIONS, accel="cg", residuals=history)
                for column, history in zip(columns, histories)
            ]
        )
    left = np.linalg.norm(columns - (matrix @ np.array(found).T).T, axis=1)
    return {
        "PyAMG": name, "BLAS threads": blas_threads, "set-up, s": set_up,
        "all channels, s": seconds * n_channels / PEER_CHANNELS, "iterations": max(map(len, histories)) - 1,
        "residual": float((left / np.linalg.norm(columns, axis=1)).max()),
    }  # fmt: skip


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a large copy by all cores."""
    source = np.ones(COPIED // 8)
    target, n_threads = np.zeros_like(source), os.cpu_count()
    parts = list(zip(np.array_split(target, n_threads), np.array_split(source, n_threads)))
    with ThreadPoolExecutor(n_threads) as pool:

        def copy():
            return list(pool.map(lambda part: np.copyto(*part), parts))

        return 2 * source.nbytes / min(timed(copy)[1] for _ in range(COPIES))


def iteration_bytes(system: System) -> tuple[int, int]:
    """Least bytes of matrices and of vectors that one iteration of all blocks moves."""
    levels, n_columns = system.hierarchy.levels, system.loads.shape[1]
    grids = [system.stiffness, *(level.stiffness for level in levels)]
    ways = [level.prolongation for level in levels]
    # K of the product; Q of every level but the coarsest, on the pattern of its K; the ways up and down
    patterns = [(grid.indices, grid.indptr) for grid in (grids[0], *grids[:-1])]
    patterns += [(way.indices, way.indptr) for way in ways]
    patterns += [(way.transposed_indices, way.transposed_indptr) for way in ways]
    matrices = 4 * sum(2 * indices.size + indptr.size for indices, indptr in patterns)
    inverse = 4 * grids[-1].n_nodes ** 2  # of the coarsest level
    passes = FINEST_PASSES * grids[0].n_nodes + COARSE_PASSES * sum(grid.n_nodes for grid in grids[1:])
    return -(-n_columns // BLOCK) * (matrices + inverse), 4 * n_columns * passes


def head_row(resolution: float, console: Console) -> dict:
    """The default head: ours against PyAMG, and against the memory's bandwidth."""
    head = fsaverage_head(resolution)
    system, set_up = timed(lambda: System.of(head, jaxinv.fsaverage_electrodes(MONTAGE)))
    at_skull = {}
    for skull in SKULLS:  # the first of which compiles
        report = solve(system, system.conductivity.at[head.label("skull")].set(skull))[1]
        at_skull[f"iterations at {skull:g} S/m of skull"] = int(report.iterations)
    (_, report), ours = timed(lambda: solve(system, system.conductivity), REPEATS)
    bandwidth, (matrices, vectors) = copy_bandwidth(), iteration_bytes(system)
    bound = (matrices + vectors) * int(report.iterations) / bandwidth
    peers = [pyamg_row(system, name, threads) for name in PEERS for threads in {1, os.cpu_count()}]
    print_rows("PyAMG, channel by channel", peers, console)
    best = min(peers, key=lambda peer: peer["all channels, s"])
    return {
        "nodes": head.mesh.n_nodes, "channels": system.loads.shape[1], "cores": os.cpu_count(),
        "assembly and set-up, s": set_up, "ours, s": ours, "residual": float(report.residual.max()),
        "fastest PyAMG": best["PyAMG"], "PyAMG, s": best["all channels, s"],
        "PyAMG / ours": best["all channels, s"] / ours, **at_skull,
        "copy, GB/s": bandwidth / 1e9, "matrices, GB an iteration": matrices / 1e9,
        "vectors, GB an iteration": vectors / 1e9, "bandwidth bound, s": bound, "ours / bound": ours / bound,
        "peers": peers,
    }  # fmt: skip


def sphere_row(n_nodes: int, console: Console) -> dict | None:
    """Four layers of tetrahedra: ours against a sparse factorization and its solves."""
    try:
        import sparsax
    except ModuleNotFoundError:
        console.print(r'sphere: skipped, as CHOLMOD needs sparsax: pip install "jaxinv\[bench]"')
        return None
    system = System.of(jaxinv.sphere_head(RADII, CONDUCTIVITY, n_nodes, "tetra"), electrodes())
    solve(system, system.conductivity)
    (potential, report), ours = timed(lambda: solve(system, system.conductivity), REPEATS)
    upper = sparse.triu(system.matrix()[1:, 1:], format="coo")  # grounded at the first node: definite
    pattern, values = (jnp.asarray(upper.row), jnp.asarray(upper.col)), jnp.asarray(upper.data)
    loads = system.loads[1:]
    # the first call also orders the pattern, which like our set-up is done once a head: the second counts
    _, first = timed(lambda: sparsax.solve(*pattern, 2 * values, loads))
    direct, factored = timed(lambda: sparsax.solve(*pattern, values, loads))
    _, solved = timed(lambda: sparsax.solve(*pattern, values, loads))  # by the factor that was kept
    direct = jnp.pad(direct, ((1, 0), (0, 0)))
    difference = jnp.linalg.norm(direct - direct.mean(axis=0) - potential) / jnp.linalg.norm(potential)
    return {
        "nodes": len(potential), "channels": loads.shape[1], "cores": os.cpu_count(), "ours, s": ours,
        "iterations": int(report.iterations), "CHOLMOD with ordering, s": first, "CHOLMOD, s": factored,
        "of which solves, s": solved, "CHOLMOD / ours": factored / ours, "difference": float(difference),
        "sparsax": sparsax.__version__,
    }  # fmt: skip


def openmeeg_row(divisions: list[int], console: Console) -> dict | None:
    """Three layers of the default head: ours against OpenMEEG, both held to far finer finite elements."""
    try:
        from three_layers import compare
    except ModuleNotFoundError:
        console.print(r'openmeeg: skipped, as it is missing: pip install "jaxinv\[bench]"')
        return None
    return {**compare(divisions, MONTAGE, console), "peak, GB": peak()}


def peak() -> float:
    """Most memory that this process has held so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def build_saved(path: Path) -> dict:
    """Builds a forward model from a saved head, and what memory that took."""
    head, before = HeadModel.load(path), peak()
    sources = cortical_sources(head)
    sensors = jaxinv.fsaverage_electrodes(MONTAGE)
    forward, seconds = timed(
        lambda: jaxinv.FemForward.build(head, sources, sensors, tolerance=TOLERANCE, dtype="float64")
    )
    return {
        "nodes": head.mesh.n_nodes, "channels": sensors.n_channels, "sources": sources.n_sources,
        "build, s": seconds, "with the head, GB": before, "peak, GB": peak(),
        "transfer matrix, GB": forward.stiffness.n_nodes * sensors.n_channels * 8 / 1e9,
    }  # fmt: skip


def memory_row(resolution: float, _: Console) -> dict:
    """Peak memory of building a forward model, without that of meshing."""
    # a process that is spawned inherits the peak of its parent; one that the small fork server forks does not
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([])
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, context) as pool:
        path = Path(folder) / "head.npz"
        fsaverage_head(resolution).save(path)
        return pool.submit(build_saved, path).result()


def main() -> None:
    """Runs the cases, prints what they found and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, help="default: all of them")
    parser.add_argument("--resolution", type=float, default=3.0, help="of the case head, in mm")
    parser.add_argument("--nodes", type=int, default=200_000, help="of the case sphere")
    parser.add_argument("--memory-resolution", type=float, default=2.0, help="of the case memory, in mm")
    parser.add_argument(
        "--divisions", type=int, nargs="+", default=[3, 4], help="of the case openmeeg: 3 gives 642 vertices"
    )
    options = parser.parse_args()
    console = Console(width=160)
    cases = {
        "head": (head_row, 1e-3 * options.resolution),
        "sphere": (sphere_row, options.nodes),
        "memory": (memory_row, 1e-3 * options.memory_resolution),
        "openmeeg": (openmeeg_row, options.divisions),
    }
    for name in options.cases or cases:
        run, size = cases[name]
        load = os.getloadavg()[0]
        row = run(size, console)
        if row is not None:
            row["load before"] = load
            shown = [{"quantity": key, "value": value} for key, value in row.items() if key != "peers"]
            print_rows(f"{name}, relative residual {TOLERANCE:g}", shown, console)
            console.print(f"written to {write_json(f'forward_speed_{name}', {'rows': [row]})}")


if __name__ == "__main__":
    main()
