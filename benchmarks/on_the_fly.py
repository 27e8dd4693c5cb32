"""The reduced forward model against the exact one: its error, its bound, its cost, and training with it.

python benchmarks/on_the_fly.py                                   # the head of `make run`
python benchmarks/on_the_fly.py --resolution 3e-3 --montage 10-5-149 --tolerances 1e-3 --cases 100 \
    --networks --name on_the_fly_149
python benchmarks/on_the_fly.py --displacement 5e-3 --tolerances 1e-2 --networks --name on_the_fly_moved
python benchmarks/on_the_fly.py --montage 10-20 --tolerances .5 .2 .1 .05 .02 .01 .005 .002 \
    --networks --name error_over_modes --picture docs/images/reduction.png
python benchmarks/on_the_fly.py --tolerances .1 --cases 3 --networks paper --updates 18 \
    --montage 10-5-149 --field --sources 15684 --name on_the_fly_paper  # the published task's sizes
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from sphere_protocol import SEED, print_rows, write_json

import jaxinv
from jaxinv.head.fsaverage import fsaverage_electrodes
from jaxinv.networks import UNetConfig
from jaxinv.simulate import HalfActiveMaps, WhiteNoise, simulate_batch
from jaxinv.training import TrainConfig, train

jax.config.update("jax_enable_x64", True)

BATCH = 64
TRAINING = TrainConfig(warmup=1, patience=None, batch_size=BATCH, validation_size=64, validation_leadfields=2)
NETWORKS = {"quick": UNetConfig.quick, "paper": UNetConfig.paper}


def median_seconds(call: Callable, repeats: int = 20) -> float:
    """Of a call that has been compiled."""
    jax.block_until_ready(call())
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        spent.append(time.perf_counter() - start)
    return float(np.median(spent))


def held_out(reduced: jaxinv.ReducedForward, count: int) -> np.ndarray:
    """Conductivities log-uniform in the box, which the offline stage has not seen."""
    low, high = (np.asarray(bound, np.float64) for bound in reduced.conductivity_range)
    share = np.random.default_rng(SEED + 1).random((count, len(low)))
    return np.exp(np.log(low) + share * np.log(high / low)).clip(low, high)


def errors(exact: np.ndarray, reduced: jaxinv.ReducedForward, cases: np.ndarray) -> dict:
    """Relative error of every row against the exact leadfield, and the bound on it."""
    found = [(np.asarray(reduced.leadfield(s)), np.asarray(reduced.error_bound(s))) for s in cases]
    rows, bounds = (np.stack(part) for part in zip(*found))
    true = np.linalg.norm(rows - exact, axis=2) / np.linalg.norm(exact, axis=2)
    return {
        "worst error": float(true.max()),
        "median error": float(np.median(true)),
        "worst bound": float(bounds.max()),
        "bound / error, least": float((bounds / true).min()),
        "median": float(np.median(bounds / true)),
    }


def costs(reduced: jaxinv.ReducedForward) -> dict:
    """Milliseconds of what is done online, in single precision."""
    sigma = jnp.asarray(held_out(reduced, BATCH), jnp.float32)
    n_sources = reduced.sources.n_sources
    rng = np.random.default_rng(SEED)
    current = jnp.asarray(rng.normal(size=(BATCH, n_sources)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(reduced.sensors.n_channels, n_sources)), jnp.float32)
    leadfield = jax.jit(lambda r, s: r.leadfield(s))
    scalar = jax.jit(lambda s, r: jnp.vdot(weights, r.leadfield(s)))
    gradient = jax.jit(jax.value_and_grad(lambda s, r: jnp.vdot(weights, r.leadfield(s))))
    bound = jax.jit(lambda r, s: r.error_bound(s))
    project = jax.jit(jax.vmap(lambda r, s, j: r.project(s, j), in_axes=(None, 0, 0)))
    activity, noise = HalfActiveMaps.build(reduced.sources, 20e-3), WhiteNoise((20.0, 20.0))
    simulate = jax.jit(simulate_batch, static_argnames=("size", "conductivities"))
    key = jax.random.key(SEED)
    return {
        "leadfield, ms": 1e3 * median_seconds(lambda: leadfield(reduced, sigma[0])),
        "scalar, ms": 1e3 * median_seconds(lambda: scalar(sigma[0], reduced)),
        "scalar and gradient, ms": 1e3 * median_seconds(lambda: gradient(sigma[0], reduced)),
        "bound, ms": 1e3 * median_seconds(lambda: bound(reduced, sigma[0])),
        f"{BATCH} projected, ms": 1e3 * median_seconds(lambda: project(reduced, sigma, current)),
        f"{BATCH} simulated, ms": 1e3
        * median_seconds(
            lambda: simulate(key, reduced, activity, noise, BATCH, conductivities=BATCH), repeats=5
        ),
    }


def training_rates(reduced: jaxinv.ReducedForward, network: str, updates: int) -> dict:
    """Samples a second with a leadfield for every sample, and with one for many."""
    activity, noise = HalfActiveMaps.build(reduced.sources, 20e-3), WhiteNoise((20.0, 20.0))
    fresh = replace(TRAINING, updates=updates, evaluate_every=updates, checkpoint_every=updates)
    rates = {}
    for name, config in (("fresh", fresh), ("fixed", replace(fresh, updates_per_leadfield=updates // 6))):
        with tempfile.TemporaryDirectory() as directory:
            result = train(reduced, activity, noise, NETWORKS[network](), config, Path(directory) / "run")
        rates[name] = BATCH * float(np.median([row["rate"] for row in result.history[2:]]))
    return {"network": network, **rates, "fresh / fixed": rates["fresh"] / rates["fixed"]}


def draw(rows: list[dict], path: Path) -> None:
    """Error and bound over the number of modes."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    modes = [row["modes"] for row in rows]
    for name, style in (("worst bound", "o-"), ("worst error", "s-"), ("median error", "^--")):
        axes.semilogy(modes, [row[name] for row in rows], style, label=name)
    axes.set(xlabel="modes of a channel", ylabel="relative error of a leadfield row")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Builds, measures, prints the tables and writes them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=float, default=4e-3, help="of the head, in m")
    parser.add_argument("--sources", default="ico4", help="ico3, ico4, ico5, or a number in the volume")
    parser.add_argument("--montage", default="10-10-64")
    parser.add_argument("--field", action="store_true", help="channels are Ex, Ey, Ez under each electrode")
    parser.add_argument("--tolerances", type=float, nargs="+", default=[1e-1, 3e-2, 1e-2])
    parser.add_argument("--displacement", type=float, default=0.0, help="of electrodes, in m")
    parser.add_argument(
        "--cache", type=Path, help="where finished blocks of channels are kept and looked for"
    )
    parser.add_argument("--cases", type=int, default=20, help="held-out conductivities")
    parser.add_argument("--networks", nargs="*", default=["quick"], choices=sorted(NETWORKS))
    parser.add_argument("--updates", type=int, default=60, help="of each training, 18 or more")
    parser.add_argument("--name", default="on_the_fly", help="of the file with the results")
    parser.add_argument("--picture", type=Path, help="where to draw error and bound over the modes")
    options = parser.parse_args()
    console, rows, online, training = Console(width=200), [], [], []
    space = int(options.sources) if options.sources.isdigit() else options.sources
    head, sources = jaxinv.fsaverage(options.resolution, sources=space)
    sensors = fsaverage_electrodes(options.montage, field=options.field)
    forward = jaxinv.FemForward.build(head, sources, sensors)
    exact = None
    for tolerance in options.tolerances:
        start = time.perf_counter()
        reduced = jaxinv.ReducedForward.build(
            forward, tolerance=tolerance, displacement=options.displacement, cache=options.cache
        )
        spent = time.perf_counter() - start
        cases = held_out(reduced, options.cases)
        if exact is None:
            exact = np.stack([np.asarray(forward.leadfield(s)) for s in cases])
            solve = median_seconds(lambda: forward.leadfield(cases[0]), repeats=1)  # noqa: B023
        modes, parts = reduced.potentials.model.load.shape[1], reduced.potentials.rows.shape[1]
        described = {"tolerance": tolerance, "modes": modes, "parts": parts, "offline, s": spent}
        rows.append({**described, **errors(exact, reduced, cases)})
        measured = costs(reduced)
        online.append(
            {"tolerance": tolerance, **measured, "exact / reduced": 1e3 * solve / measured["leadfield, ms"]}
        )
        print_rows("Error of a row, relative", rows, console)
        print_rows(f"Online, against {solve:.1f} s for the exact leadfield", online, console)
    if options.picture:
        draw(rows, options.picture)
    for network in options.networks:
        training.append(training_rates(reduced, network, options.updates))
    if training:
        print_rows("Training, samples a second", training, console)
    size = {"nodes": head.mesh.n_nodes, "channels": sensors.n_channels, "sources": sources.n_sources,
            "displacement": options.displacement}  # fmt: skip
    result = {"head": size, "rows": rows, "online": online, "exact seconds": solve, "training": training}
    console.print(f"written to {write_json(options.name, result)}")


if __name__ == "__main__":
    main()
