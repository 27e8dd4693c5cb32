"""Inverses on the simulated data sets of invertmeeg's leaderboard, by its own metrics, beside its solvers.

python benchmarks/inverse_quality.py                                      # needs the extra "bench"
python benchmarks/inverse_quality.py --conditions current --name inverse_quality_current
python benchmarks/inverse_quality.py --cases 20 --datasets noisy --entrants jaxinv --seed 7

Generator and metrics are imported from invertmeeg: 32 BioSemi electrodes, 1,284 sources (ico3) along the
normals of fsaverage's white surface, 50 time points, white noise; truth and inverse share the leadfield.
"leaderboard" is what its published table was made with (version 1.0, February 2026): patches diffused over
the mesh, no noise covariance, and decibels that were 10 log10 of a ratio of root mean squares, half those of
power. "current" is what version 1.1 would run: irregular patches of 1 to 60 vertices, decibels of power, and
a covariance from 200 samples of noise.

Not theirs are the outer skull, which no wheel carries (7 mm outside of the inner one, less where the scalp
is near), and the normals, which are those of fsaverage5.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mne
import numpy as np
from invert.benchmark.datasets import BENCHMARK_DATASETS
from invert.benchmark.depth_tuning import (
    RECOMMENDED_DEPTH_BY_CATEGORY,
    RECOMMENDED_DEPTH_BY_SOLVER,
    build_depth_solver_params,
)
from invert.benchmark.runner import evaluate_all
from invert.simulate import SimulationConfig, SimulationGenerator
from invert.solver_registry import get_solver_class, get_solver_spec
from rich.console import Console
from rich.progress import track
from sphere_protocol import print_rows, write_json

from jaxinv.evaluation.intervals import mean_interval
from jaxinv.head.fsaverage_levels import SKULL_SHARE, SKULL_THICKNESS, signed_distance
from jaxinv.head.fsaverage_surfaces import bem_surface, coarse_faces, cortical_surface
from jaxinv.inverse import (
    choose_alpha,
    choose_snr,
    eloreta,
    lasso,
    lcmv,
    loreta,
    minimum_norm,
    mixed_norm,
    music,
    patch_posterior,
    rap_music,
    sparse_bayes,
    trap_music,
)

jax.config.update("jax_enable_x64", True)

DATASETS = {
    "focal": "focal_source",
    "dipoles": "multi_source",
    "patches": "extended_source",
    "noisy": "noisy",
}
PEERS = (
    "flex-nl-champagne", "nl-champagne", "flex-champagne", "omni-champagne", "subspace-sbl",
    "subspace-sbl-plus", "chimera", "ap", "ssm", "flex-music", "lcmv",
)  # fmt: skip
METRICS = {
    "AP": "average_precision", "EMD mm": "EMD", "MLE mm": "Mean_Localization_Error", "blur": "sd",
    "correlation": "correlation",
}  # fmt: skip
MOST_SOURCES = 4  # of any data set; what the MUSIC family, which must be told a number, is told
MARCHENKO_PASTUR_MEDIAN = 0.772  # of the eigenvalues of white noise's covariance, 32 channels and 50 samples

Inverse = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Cases(NamedTuple):
    """Measurements, true currents and a noise covariance (None where none is given) of each case."""

    measurements: np.ndarray
    current: np.ndarray
    noise_cov: list[np.ndarray | None]


def protocol_forward(inner_vertices: int) -> mne.Forward:
    """BioSemi-32 on fsaverage: a three-layer boundary-element head, 1,284 sources along the normals."""
    with tempfile.TemporaryDirectory() as folder:
        subject = Path(folder) / "fsaverage"
        for part in ("bem", "surf"):
            (subject / part).mkdir(parents=True)
        inner, head = bem_surface("inner_skull"), bem_surface("head")
        points, faces = inner.points[:inner_vertices], coarse_faces(inner.faces, inner_vertices)
        gap = -signed_distance(head, points)
        outer = (
            points + vertex_normals(points, faces) * np.minimum(SKULL_THICKNESS, SKULL_SHARE * gap)[:, None]
        )
        layers = {"inner_skull": (points, faces), "outer_skull": (outer, faces), "outer_skin": head}
        for name, (layer_points, layer_faces) in layers.items():
            mne.write_surface(subject / "bem" / f"{name}.surf", 1e3 * layer_points, layer_faces)
        for name, kind in (("white", "white_matter"), ("sphere", "sphere")):
            for hemisphere, surface in zip(("lh", "rh"), cortical_surface(kind)):
                mne.write_surface(
                    subject / "surf" / f"{hemisphere}.{name}", 1e3 * surface.points, surface.faces
                )
        src = mne.setup_source_space(
            "fsaverage", "ico3", surface="white", subjects_dir=folder, add_dist=False
        )
        model = mne.make_bem_model("fsaverage", ico=None, conductivity=(0.3, 0.006, 0.3), subjects_dir=folder)
        bem = mne.make_bem_solution(model)
    trans = Path(mne.__file__).parent / "data" / "fsaverage" / "fsaverage-trans.fif"
    return mne.make_forward_solution(biosemi(), trans=trans, src=src, bem=bem, meg=False, mindist=5.0)


def biosemi() -> mne.Info:
    """32 BioSemi electrodes of mne's montage."""
    names = mne.channels.make_standard_montage("biosemi32").ch_names
    return mne.create_info(names, 1000.0, "eeg").set_montage("biosemi32")


def vertex_normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Outward unit normals, weighted by the area of the faces."""
    across = np.cross(points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]])
    normals = np.zeros_like(points)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], across)
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def cached_forward(inner_vertices: int, cache: Path | None) -> mne.Forward:
    """The forward with fixed orientation, from `cache` if it is there; solving it takes minutes."""
    if cache is not None and cache.exists():
        forward = mne.read_forward_solution(cache)
    else:
        forward = protocol_forward(inner_vertices)
        if cache is not None:
            mne.write_forward_solution(cache, forward)
    return mne.convert_forward_solution(forward, surf_ori=True, force_fixed=True, use_cps=True)


def draw(forward: mne.Forward, dataset: str, conditions: str, n_cases: int, seed: int) -> Cases:
    """Cases of a data set, by invertmeeg's generator."""
    spec = BENCHMARK_DATASETS[DATASETS[dataset]]
    published = conditions == "leaderboard"
    config = SimulationConfig(
        batch_size=n_cases,
        n_sources=spec.n_sources,
        n_orders=spec.n_orders,
        snr_range=tuple(2 * bound if published else bound for bound in spec.snr_range),
        n_timepoints=spec.n_timepoints,
        source_spatial_model="diffusion_basis" if published else spec.source_spatial_model,
        patch_rank=spec.patch_rank,
        random_seed=seed,
        estimate_noise_cov=True,
        return_noise_cov=True,
    )
    measurements, current, meta = next(SimulationGenerator(forward, config=config).generate())
    covs = [None if published else cov for cov in meta["noise_cov_est_scaled"]]
    return Cases(measurements, current, covs)


def noise_covariance(measurements: np.ndarray, given: np.ndarray | None) -> np.ndarray:
    """The given one, or white noise of the variance that the median eigenvalue of the measurements tells."""
    if given is not None:
        return given
    spectrum = np.linalg.eigvalsh(measurements @ measurements.T / measurements.shape[1])
    return np.median(spectrum) / MARCHENKO_PASTUR_MEDIAN * np.eye(len(measurements))


def own_entrants(leadfield: np.ndarray, faces: np.ndarray) -> dict[str, Inverse]:
    """Every classical estimator of jaxinv; what each regularises by is chosen from the measurements."""

    def linear(make):
        def estimate(x, noise):
            return make(noise, float(choose_snr(leadfield, noise, x).snr))(x).current

        return estimate

    def fixed(make):
        return lambda x, noise: make(noise)(x).current

    def bayes(update, learn_noise):
        def estimate(x, noise):
            bound = sparse_bayes(leadfield, noise, update=update, learn_noise=learn_noise, tolerance=1e-4)
            return bound.solve(x).current

        return estimate

    def mixed(n_reweightings):
        def estimate(x, noise):
            bound = mixed_norm(leadfield, noise, depth=0.8, n_reweightings=n_reweightings)
            return bound.replace(alpha=choose_alpha(jax.random.key(0), bound, x).alpha).solve(x).current

        return estimate

    def norms(method):
        return linear(lambda noise, snr: minimum_norm(leadfield, noise, snr=snr, method=method))

    def beamformer(x, noise):
        return lcmv(leadfield, x @ x.T / x.shape[1], noise, normalisation="unit-gain")(x).current

    def subspace(make):
        return fixed(lambda noise: make(leadfield, noise, n_dipoles=MOST_SOURCES))

    return {
        "MNE": norms("MNE"),
        "dSPM": norms("dSPM"),
        "sLORETA": norms("sLORETA"),
        "eLORETA": linear(lambda noise, snr: eloreta(leadfield, noise, snr=snr)),
        "LORETA": linear(lambda noise, snr: loreta(leadfield, noise, faces, snr=snr)),
        "LCMV": beamformer,
        "lasso": lambda x, noise: lasso(leadfield, noise).solve(x).current,
        "MxNE": mixed(1),
        "irMxNE": mixed(10),
        "Champagne": bayes("Champagne", "homoscedastic"),
        "gamma-MAP (MacKay)": bayes("MacKay", "homoscedastic"),
        "EM": bayes("EM", "homoscedastic"),
        "LowSNR-BSI": bayes("LowSNR-BSI", False),
        "MUSIC": subspace(music),
        "RAP-MUSIC": subspace(rap_music),
        "TRAP-MUSIC": subspace(trap_music),
        "patch posterior": fixed(lambda noise: patch_posterior(leadfield, noise, faces)),
    }


def peer_entrant(name: str, forward: mne.Forward, info: mne.Info, given: bool) -> Inverse:
    """A solver of invertmeeg, with the arguments that its own benchmark gives it.

    Args:
        name: of the solver.
        forward: of fixed orientation.
        info: of the measurements.
        given: whether it is told the noise covariance.
    """
    spec = get_solver_spec(name)
    depth = build_depth_solver_params(
        solvers=[name],
        depth_by_category=RECOMMENDED_DEPTH_BY_CATEGORY,
        depth_by_solver=RECOMMENDED_DEPTH_BY_SOLVER,
    ).get(spec.solver_id, {})
    init = {key.removeprefix("init__"): value for key, value in depth.items() if key.startswith("init__")}
    make = {key.removeprefix("make__"): value for key, value in depth.items() if not key.startswith("init__")}

    def estimate(x, noise):
        solver = get_solver_class(name)(**{**spec.default_kwargs, **init})
        evoked = mne.EvokedArray(x, info, verbose=False)
        cov = mne.Covariance(noise, info["ch_names"], [], [], 1) if given else None
        solver.make_inverse_operator(forward, evoked, alpha="auto", noise_cov=cov, **make)
        return solver.apply_inverse_operator(evoked).data

    return estimate


def measured(
    inverse: Inverse, cases: Cases, adjacency, positions: np.ndarray, title: str
) -> tuple[dict, float]:
    """Each metric of each case, and the median seconds an estimate took."""
    found, seconds = [], []
    columns = zip(cases.measurements, cases.current, cases.noise_cov)
    for x, truth, given in track(list(columns), description=title, transient=True):
        noise = noise_covariance(x, given)
        start = time.perf_counter()
        estimate = np.asarray(inverse(x, noise), np.float64)
        seconds.append(time.perf_counter() - start)
        estimate = estimate if estimate.ndim == 2 else np.repeat(estimate[:, None], truth.shape[1], axis=1)
        found.append(evaluate_all(truth, estimate, adjacency, adjacency, positions, positions))
    values = {title: np.array([row[key] for row in found], np.float64) for title, key in METRICS.items()}
    return values, float(np.median(seconds))


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100, help="of each data set")
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument("--conditions", default="leaderboard", choices=("leaderboard", "current"))
    parser.add_argument(
        "--entrants", nargs="+", help="names of solvers, or jaxinv or invertmeeg for all of it"
    )
    parser.add_argument("--inner-vertices", type=int, default=2562, help="of inner and outer skull each")
    parser.add_argument("--forward", type=Path, help="file that keeps the forward between runs (*-fwd.fif)")
    parser.add_argument("--name", default="inverse_quality", help="of the result file")
    given = parser.parse_args()

    mne.set_log_level("ERROR")
    console = Console(width=160)
    forward = cached_forward(given.inner_vertices, given.forward)
    adjacency = mne.spatial_src_adjacency(forward["src"])
    positions = 1e3 * np.concatenate([space["rr"][space["vertno"]] for space in forward["src"]])
    offsets = (0, len(forward["src"][0]["vertno"]))
    faces = np.concatenate(
        [
            offset + np.searchsorted(space["vertno"], space["use_tris"])
            for offset, space in zip(offsets, forward["src"])
        ]
    )
    leadfield = jnp.asarray(forward["sol"]["data"])
    has_noise = given.conditions == "current"
    entrants = {f"jaxinv {name}": solve for name, solve in own_entrants(leadfield, faces).items()}
    entrants |= {f"invertmeeg {name}": peer_entrant(name, forward, biosemi(), has_noise) for name in PEERS}
    if given.entrants:
        entrants = {
            name: solve
            for name, solve in entrants.items()
            if any(wanted in (name, *name.split(" ", 1)) for wanted in given.entrants)
        }
    result = {"conditions": given.conditions, "cases": given.cases, "case seed": given.seed, "datasets": {}}
    for dataset in given.datasets:
        cases = draw(forward, dataset, given.conditions, given.cases, given.seed)
        rows, kept = [], []
        for name, inverse in entrants.items():
            values, seconds = measured(inverse, cases, adjacency, positions, f"{dataset}: {name}")
            intervals = {metric: mean_interval(value) for metric, value in values.items()}
            kept.append({"entrant": name, "seconds": seconds,
                         **{metric: vars(interval) for metric, interval in intervals.items()}})  # fmt: skip
            cells = {m: f"{i.mean:.3g} [{i.low:.3g}, {i.high:.3g}]" for m, i in intervals.items()}
            rows.append({"entrant": name, **cells, "s": seconds})
        order = np.argsort([-row["AP"]["mean"] for row in kept])
        title = (
            f"{dataset}, {given.conditions}: mean over {given.cases} cases and its bootstrap 95 % interval"
        )
        print_rows(title, [rows[k] for k in order], console)
        result["datasets"][dataset] = [kept[k] for k in order]
    console.print(f"written to {write_json(given.name, result)}")


if __name__ == "__main__":
    main()
