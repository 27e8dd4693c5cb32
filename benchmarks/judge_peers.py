"""MNE-Python and the best solvers of invertmeeg in cells of the judge's grid, beside ours, in one run.

OPENBLAS_NUM_THREADS=1 python benchmarks/judge_peers.py       # needs the extra "bench"; heads take minutes
python benchmarks/judge_peers.py --against MNE-Python --cells A_own_cap-64_10dB --cases 40

The judge tunes, calibrates and times all alike. MNE-Python's methods have the parameters of ours and ought to
be equal: a second table of each cell shows the paired difference of each metric, ours minus theirs, with its
bootstrap 95 % interval. "Equal" is an interval that contains zero, or a mean difference below a thousandth of
the metric. Times are of one case; theirs include what the library prepares anew in every call.

Two things are given to MNE-Python that its users would not give: the variances with which our gamma-MAP
starts, and a window covariance that is a trifle larger in the range of the noise, without which its LCMV
drops a direction at random where a window has fewer samples than there are channels. Its gamma-MAP keeps
variances down to rounding, ours those above a millionth of the largest, which ranks fewer sources. Ours
stands there twice, and the average precision of MNE-Python's lies between that with pruning and that without.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import mne
import numpy as np
from inverse_quality import peer_entrant
from jaxtyping import Array, Float
from mne._fiff.constants import FIFF
from mne.beamformer import apply_lcmv, make_lcmv
from mne.inverse_sparse import gamma_map, mixed_norm
from mne.minimum_norm import apply_inverse, make_inverse_operator
from rich.console import Console
from sphere_protocol import print_rows, write_json

from jaxinv.evaluation import Entrant, standardised
from jaxinv.evaluation.benchmark import Result
from jaxinv.evaluation.case_metrics import metric
from jaxinv.evaluation.entrants import SNR_GRID
from jaxinv.evaluation.intervals import mean_interval
from jaxinv.evaluation.judge import CORE_GRID, Cell, Verdict, classical_entrants, judge
from jaxinv.evaluation.judge.classical import ALPHA, DEPTH, REG, SLOW_CASES, SLOWER_CASES, SLOWEST_CASES
from jaxinv.evaluation.judge.summary import HEADLINES
from jaxinv.evaluation.problem import Given
from jaxinv.head import SourceSpace
from jaxinv.inverse import Estimate, Estimator, LinearEstimator, sparse_bayes

jax.config.update("jax_enable_x64", True)

LIBRARIES = ("MNE-Python", "invertmeeg")
OURS = ("MNE", "sLORETA", "LCMV", "MxNE", "gamma-MAP", "patch posterior")
UNPRUNED = "gamma-MAP, unpruned"
COMPARED = {**{name: name for name in OURS[:5]}, UNPRUNED: "gamma-MAP"}  # ours and MNE-Python's
SOLVERS = ("flex-nl-champagne", "flex-champagne", "ssm")  # the best of `inverse_quality.py`
CELLS = (
    "A_own_cap-64_-5dB_50samples",
    "B_own_cap-64_5dB_50samples",
    "C_own_cap-64_10dB",
    "C_own_cap-64_0dB_50samples",
    "D1_own_cap-64_20dB_20mm",
)
TOLERANCE = 1e-3  # that of our MxNE and gamma-MAP in the judge
EQUAL = 1e-3  # of a metric: a smaller difference is none
MICROVOLT = 1e-6  # what the judge's measurements of unit mean square are scaled to, as an EEG has it
LIFT = 1e-9  # of the noise covariance, added to that of a window for MNE-Python's beamformer
LEFT = 10_242  # vertices of fsaverage5's left hemisphere


@flax.struct.dataclass
class OnHost:
    """A method that JAX cannot trace. A pytree without leaves.

    Attributes:
        solve: from (channel, time) in V to (source, time).
        n_sources: of its answer.
    """

    solve: Callable[[np.ndarray], np.ndarray] = flax.struct.field(pytree_node=False)
    n_sources: int = flax.struct.field(pytree_node=False)

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Calls it on the host."""
        shape = (self.n_sources, *measurements.shape[1:])

        def call(y):
            y = MICROVOLT * np.asarray(y, np.float64)
            return np.asarray(self.solve(y.reshape(len(y), -1)), np.float32).reshape(shape)

        return Estimate(jax.pure_callback(call, jax.ShapeDtypeStruct(shape, jnp.float32), measurements))


class Study:
    """What the judge gives of one head, as MNE-Python's objects."""

    def __init__(self, given: Given):
        n_channels = len(given.leadfield)
        names = [f"EEG {i:03d}" for i in range(n_channels)]
        self.info = mne.create_info(names, 1000.0, "eeg")
        self.forward = forward_of(np.asarray(given.leadfield, np.float64), given.sources, self.info)
        self.noise_cov = self.covariance(MICROVOLT**2 * np.asarray(given.noise_cov, np.float64))

    @property
    def n_sources(self) -> int:
        """Number of sources."""
        return self.forward["nsource"]

    def evoked(self, measurements: np.ndarray) -> mne.Evoked:
        """Measurements with the projector of the average reference."""
        evoked = mne.EvokedArray(measurements, self.info)
        return evoked.set_eeg_reference(projection=True)

    def covariance(self, values: np.ndarray) -> mne.Covariance:
        """Of measurements, in V²."""
        return mne.Covariance(values, self.info["ch_names"], [], [], nfree=1)

    def whole(self, estimate: mne.SourceEstimate) -> np.ndarray:
        """(source, time), zero where the estimate has no source."""
        left, right = estimate.vertices
        found = np.zeros((self.n_sources, estimate.data.shape[1]))
        found[left] = estimate.lh_data
        found[self.forward["src"][0]["nuse"] + right] = estimate.rh_data
        return found


def forward_of(leadfield: np.ndarray, sources: SourceSpace, info: mne.Info) -> mne.Forward:
    """An `mne.Forward` of fixed orientation, on the cortical surface of the two hemispheres."""
    positions, normals = np.asarray(sources.positions, float), np.asarray(sources.normals, float)
    faces = np.asarray(sources.faces)
    first = int(np.searchsorted(sources.vertices, LEFT))
    halves = []
    for number, kept in enumerate((np.arange(first), np.arange(first, len(positions)))):
        triangles = faces[np.isin(faces, kept).all(axis=1)] - kept[0]
        alone = np.setdiff1d(np.arange(len(kept)), triangles)  # must be in a triangle too, if it be of itself
        triangles = np.concatenate([triangles, np.repeat(alone[:, None], 3, axis=1)])
        halves.append(
            {
                "id": FIFF.FIFFV_MNE_SURF_LEFT_HEMI + number,
                "type": "surf",
                "coord_frame": FIFF.FIFFV_COORD_HEAD,
                "np": len(kept),
                "rr": positions[kept],
                "nn": normals[kept],
                "ntri": len(triangles),
                "tris": triangles,
                "nuse": len(kept),
                "inuse": np.ones(len(kept), int),
                "vertno": np.arange(len(kept)),
                "nuse_tri": len(triangles),
                "use_tris": triangles,
                "patch_inds": None,
                "pinfo": None,
                "nearest": None,
                "nearest_dist": None,
                "dist": None,
                "dist_limit": None,
                "subject_his_id": "judge",
            }
        )
    solution = {"data": leadfield, "row_names": info["ch_names"], "col_names": [],
                "nrow": leadfield.shape[0], "ncol": leadfield.shape[1]}  # fmt: skip
    about = info.copy()
    with about._unlock():
        about["mri_head_t"] = mne.Transform("mri", "head")
    return mne.Forward(
        sol=solution, sol_grad=None, info=about, src=mne.SourceSpaces(halves), source_rr=positions,
        source_nn=normals, source_ori=FIFF.FIFFV_MNE_FIXED_ORI, surf_ori=True, nchan=leadfield.shape[0],
        nsource=leadfield.shape[1], coord_frame=FIFF.FIFFV_COORD_HEAD, mri_head_t=about["mri_head_t"],
        _orig_sol=leadfield.copy(), _orig_source_ori=FIFF.FIFFV_MNE_FIXED_ORI, _orig_sol_grad=None,
    )  # fmt: skip


def mne_entrants(cell: Cell) -> tuple[Entrant, ...]:
    """Those that the cell suits, on the grids of ours."""
    found = [
        Entrant(method, standardised(partial(_minimum_norm, method=method)), SNR_GRID, "snr")
        for method in ("MNE", "sLORETA")
    ]
    if not cell.is_map:
        found += [
            Entrant("MxNE", standardised(_mixed_norm), ALPHA, "alpha", SLOW_CASES, together=False),
            Entrant("gamma-MAP", standardised(_gamma_map), max_cases=SLOWER_CASES, together=False),
        ]
    if cell.n_times > 1:
        found.append(Entrant("LCMV", standardised(_lcmv), REG, "reg", SLOW_CASES, together=False))
    return tuple(_renamed(entrant, "MNE-Python") for entrant in found)


def _minimum_norm(given: Given, snr: float, method: str) -> LinearEstimator:
    study = Study(given)
    identity = study.evoked(np.eye(len(given.leadfield)))
    operator = make_inverse_operator(
        identity.info, study.forward, study.noise_cov, loose=0.0, fixed=True, depth=None, rank="info"
    )
    return LinearEstimator(jnp.asarray(apply_inverse(identity, operator, snr**-2, method).data))


def _mixed_norm(given: Given, alpha: float) -> OnHost:
    study = Study(given)

    def solve(y):
        # Its gap is relative to twice what ours is relative to.
        found = mixed_norm(
            study.evoked(y), study.forward, study.noise_cov, alpha=100 * alpha, loose=0.0, depth=DEPTH,
            tol=TOLERANCE / 2, debias=False, rank="info",
        )  # fmt: skip
        return study.whole(found)

    return OnHost(solve, study.n_sources)


def _gamma_map(given: Given, _) -> OnHost:
    study = Study(given)
    no_data = study.evoked(np.zeros((len(given.leadfield), 1)))
    whitener, _ = mne.cov.compute_whitener(study.noise_cov, no_data.info, pca=True, rank="info")
    gain = whitener @ study.forward["sol"]["data"]
    gain = gain / np.linalg.norm(gain, ord=np.inf)

    def solve(y):
        # As ours begins: the variance that explains the power of the measurements, in its units. From ones it
        # has come elsewhere, by a hundredth, when its change falls below so wide a tolerance.
        white = whitener @ y
        power = np.mean(white**2) * len(white) / np.linalg.norm(white @ white.T)
        found = gamma_map(
            study.evoked(y), study.forward, study.noise_cov, alpha=1.0, loose=0.0, depth=None, tol=TOLERANCE,
            update_mode=2, gammas=np.full(study.n_sources, power / np.sum(gain**2)), rank="info",
        )  # fmt: skip
        return study.whole(found)

    return OnHost(solve, study.n_sources)


def _lcmv(given: Given, reg: float) -> OnHost:
    study = Study(given)

    def solve(y):
        # It drops the weakest direction for that of the reference. Fewer samples than channels leave others
        # just as weak, unless the range of the noise is lifted.
        data_cov = y @ y.T / y.shape[1] + LIFT * study.noise_cov.data
        evoked = study.evoked(y)
        filters = make_lcmv(
            evoked.info, study.forward, study.covariance(data_cov), reg, study.noise_cov,
            weight_norm="unit-noise-gain", depth=None, rank="info",
        )  # fmt: skip
        return study.whole(apply_lcmv(evoked, filters))

    return OnHost(solve, study.n_sources)


def invertmeeg_entrants(cell: Cell) -> tuple[Entrant, ...]:
    """Those that did best of what takes a window, given the noise covariance as all are."""
    if cell.n_times == 1:
        return ()

    def make(given: Given, _, solver: str) -> OnHost:
        study = Study(given)
        inverse = peer_entrant(solver, study.forward, study.info, True)
        noise = study.noise_cov.data
        # Not all of them take a covariance that lacks ranks. No leadfield has anything in this direction.
        noise = noise + np.trace(noise) / len(noise) ** 2
        return OnHost(lambda y: inverse(y, noise), study.n_sources)

    found = (
        Entrant(name, standardised(partial(make, solver=name)), max_cases=SLOWEST_CASES, together=False)
        for name in SOLVERS
    )
    return tuple(_renamed(entrant, "invertmeeg") for entrant in found)


def _renamed(entrant: Entrant, library: str) -> Entrant:
    return Entrant(**{**vars(entrant), "name": f"{entrant.name} ({library})"})


def entrants(cell: Cell, against: Sequence[str]) -> tuple[Entrant, ...]:
    """Ours, then theirs. Ours without a counterpart are there for invertmeeg's."""
    ours = tuple(entrant for entrant in classical_entrants(cell) if entrant.name in OURS)
    if "invertmeeg" not in against:
        ours = tuple(entrant for entrant in ours if entrant.name != "patch posterior")
    if "MNE-Python" in against and not cell.is_map:
        ours = (*ours, Entrant(UNPRUNED, standardised(_unpruned), max_cases=SLOWER_CASES, together=False))
    theirs = {"MNE-Python": mne_entrants, "invertmeeg": invertmeeg_entrants}
    return (*ours, *(entrant for library in against for entrant in theirs[library](cell)))


def _unpruned(given: Given, _) -> Estimator:
    leadfield, noise_cov = (array.astype(jnp.float64) for array in (given.leadfield, given.noise_cov))
    return sparse_bayes(leadfield, noise_cov, tolerance=TOLERANCE, pruning=0.0)


def rows_of(verdict: Verdict) -> list[dict]:
    """A row a method: the scenario's headline metrics and times."""
    rows = []
    for result in verdict.results:
        found = result.intervals()
        shown = {}
        for key in HEADLINES[verdict.cell.scenario]:
            m = metric(key)
            shown[f"{m.title} {m.unit}".strip()] = (
                f"{m.shown(found[key].mean)} [{m.shown(found[key].low)}, {m.shown(found[key].high)}]"
                if key in found
                else "–"
            )
        seconds = {"set-up, s": result.setup_seconds, "a case, s": result.apply_seconds}
        seconds = {key: "–" if value is None else float(value) for key, value in seconds.items()}
        rows.append({"method": result.name, "cases": result.n_cases, "chosen": result.setting,
                     **shown, **seconds})  # fmt: skip
    return rows


def differences(verdict: Verdict) -> list[dict]:
    """Each method that both have: paired differences, ours minus theirs, in SI units."""
    of_name = {result.name: result for result in verdict.results}
    found = []
    for name, peer in COMPARED.items():
        theirs = of_name.get(f"{peer} (MNE-Python)")
        if theirs is not None:
            keys = dict.fromkeys(("bce", "average_precision", *HEADLINES[verdict.cell.scenario]))
            compared = {key: _difference(of_name[name], theirs, key) for key in keys}
            found.append({"cell": verdict.cell.name, "method": name, "ours": of_name[name].setting,
                          "theirs": theirs.setting, "metrics": compared})  # fmt: skip
    return found


def _difference(ours: Result, theirs: Result, key: str) -> dict:
    mine, peer = ours.metrics[key], theirs.metrics[key]
    interval = mean_interval(mine - peer)
    small = abs(interval.mean) < EQUAL * abs(np.nanmean(mine))
    return {
        **asdict(interval),
        "largest": float(np.nanmax(np.abs(mine - peer))),
        "equal": bool(small or interval.low <= 0 <= interval.high),
    }


def rows_of_differences(found: list[dict]) -> list[dict]:
    """A row a method, a column a metric."""
    rows = []
    for each in found:
        unequal = [metric(key).title for key, value in each["metrics"].items() if not value["equal"]]
        row = {"method": each["method"], "verdict": f"differ in {', '.join(unequal)}" if unequal else "equal"}
        for key, value in each["metrics"].items():
            m = metric(key)
            low, mean, high, largest = (
                f"{m.scale * value[part]:.2g}" for part in ("low", "mean", "high", "largest")
            )
            row[f"{m.title} {m.unit}".strip()] = f"{mean} [{low}, {high}], largest {largest}"
        same = each["ours"] == each["theirs"]
        rows.append({**row, "chosen": each["ours"] if same else f"{each['ours']} / {each['theirs']}"})
    return rows


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    of_name = {cell.name: cell for cell in CORE_GRID if not cell.is_field}
    parser.add_argument("--cells", nargs="+", default=CELLS, choices=list(of_name), metavar="CELL",
                        help="by the names that `jaxinv judge` gives them")  # fmt: skip
    parser.add_argument("--cases", type=int, default=100, help="test cases a cell, at most")
    parser.add_argument("--validation", type=int, default=50, help="cases a cell on which methods are tuned")
    parser.add_argument("--against", nargs="+", default=LIBRARIES, choices=LIBRARIES)
    parser.add_argument("--directory", type=Path, default=Path("runs/judge_peers"),
                        help="where heads and results are kept")  # fmt: skip
    parser.add_argument("--name", default="judge_peers", help="of the result file")
    given = parser.parse_args()

    mne.set_log_level("ERROR")
    console = Console(width=200)
    verdicts = judge(
        given.directory, lambda cell: entrants(cell, given.against),
        cells=[of_name[name] for name in given.cells], n_cases=given.cases, n_validation=given.validation,
    )  # fmt: skip
    cells = []
    for verdict in verdicts:
        print_rows(f"{verdict.cell.name}: {verdict.cell.title}", rows_of(verdict), console)
        compared = differences(verdict)
        if compared:
            title = f"{verdict.cell.name}: ours minus MNE-Python's"
            print_rows(title, rows_of_differences(compared), console)
        results = [
            {"method": result.name, "chosen": result.setting, "cases": result.n_cases,
             "setup_seconds": result.setup_seconds, "apply_seconds": result.apply_seconds,
             "metrics": {key: asdict(interval) for key, interval in result.intervals().items()}}
            for result in verdict.results
        ]  # fmt: skip
        cells.append({"cell": verdict.cell.name, "title": verdict.cell.title, "results": results,
                      "differences": compared})  # fmt: skip
    result = {"cases": given.cases, "validation cases": given.validation, "cells": cells}
    console.print(f"written to {write_json(given.name, result)}")


if __name__ == "__main__":
    main()
