"""How fast are the sparse inverses against invertmeeg's, of fixed orientation, solvers alone?

OPENBLAS_NUM_THREADS=1 python benchmarks/against_invertmeeg.py    # needs the extra "bench"; a minute

Problems, medians and differences are those of `inverse_speed.py`. invertmeeg's mixed norm is stopped at the
duality gap of ours. Its sparse Bayes has the start and the pruning of ours and is stopped by its own rule,
ours with the loosest tolerance that reaches the same cost, or a lower one. Keep the machine idle.
"""

import argparse
from functools import partial

import mne
import numpy as np
from inverse_speed import GAP, Problem, against
from invert.solvers.bayesian.sbl_core import sbl_iterate
from invert.solvers.minimum_norm.mxne import SolverMxNEBCD
from invert.solvers.music.flex_music import SolverFLEXMUSIC
from rich.console import Console
from sphere_protocol import print_rows, write_json

from jaxinv import inverse

PEER = "invertmeeg"
TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6)


def compared(name: str, ours, theirs, cost, repeats: int) -> dict:
    """A row of the table, with the cost that each has reached."""
    row = against(name, ours, theirs, repeats, PEER)
    return {**row, "cost, jaxinv": float(cost(ours())), f"cost, {PEER}": float(cost(theirs()))}


def mixed_norm(options, n_times: int, alpha: float) -> dict:
    """To one duality gap."""
    problem = Problem(options.montage, options.sparse_sources, n_times)
    gain, white = problem.white("fixed")
    estimator = inverse.mixed_norm(problem.leadfields["fixed"], problem.noise_cov, alpha=alpha)
    largest = np.linalg.norm(gain.T @ white, axis=1).max()

    def cost(current):
        misfit = np.sum((white - gain @ current) ** 2) / 2
        return misfit + alpha * largest * np.linalg.norm(current, axis=1).sum()

    def ours():
        return estimator.solve(problem.data).current

    solver = SolverMxNEBCD(prep_leadfield=False)
    solver.make_inverse_operator(problem.forwards["fixed"], noise_cov=problem.covariance)
    least = float(cost(np.asarray(ours())))
    rules = {
        "alpha": alpha, "tol": GAP * np.sum(white**2) / least, "depth": 0, "debias": False,
        "time_pca": False, "center_data": False,
    }  # fmt: skip

    def theirs():
        return solver.apply_inverse_operator(problem.evoked, **rules).data

    return compared(f"MxNE, {n_times} samples, alpha {alpha}", ours, theirs, cost, options.repeats)


def bayes(options, update: str, rule: str) -> dict:
    """To one cost."""
    problem = Problem(options.montage, options.sparse_sources, 20)
    gain, white = problem.white("fixed")
    start = np.sqrt(np.sum(white**2) / white.shape[1] / np.sum(gain**2))

    def ours(tolerance):
        leadfield = problem.leadfields["fixed"]
        estimator = inverse.sparse_bayes(leadfield, problem.noise_cov, update=update, tolerance=tolerance)
        return estimator.solve(problem.data).variance

    def theirs():
        found = sbl_iterate(start * gain, white, np.eye(len(white)), rule, pruning_thresh=1e-6)
        variance = np.zeros(gain.shape[1])
        variance[found.active_set] = start**2 * found.gammas
        return variance

    def cost(variance):
        covariance = np.eye(len(white)) + (gain * np.asarray(variance)) @ gain.T
        fit = np.sum(white * np.linalg.solve(covariance, white)) / white.shape[1]
        return (fit + np.linalg.slogdet(covariance)[1]) / 2

    goal = cost(theirs())
    tolerance = next((t for t in TOLERANCES if cost(ours(t)) <= goal), TOLERANCES[-1])
    name = f"sparse Bayes, {update}, to {tolerance:g}"
    return compared(name, partial(ours, tolerance), theirs, cost, options.repeats)


def rap_music(options) -> dict:
    """Four dipoles; the difference is the share of sources that the other did not find."""
    problem = Problem(options.montage, options.sources, 20)
    estimator = inverse.rap_music(problem.leadfields["fixed"], problem.noise_cov, n_dipoles=4)
    solver = SolverFLEXMUSIC("RAP-MUSIC", prep_leadfield=False)
    solver.make_inverse_operator(
        problem.forwards["fixed"], problem.evoked, noise_cov=problem.covariance, n_orders=0, n=4, k=4
    )
    white = solver._sensor_transform @ problem.data

    def ours():
        return estimator.solve(problem.data).index

    def theirs():
        solver.make_flex(white, 4, 4, 0.0, False)
        return np.array([source for _, source in solver.candidates])

    row = against("RAP-MUSIC (difference: share of sources)", ours, theirs, options.repeats, PEER)
    return {**row, "difference": 1 - len(np.intersect1d(ours(), theirs())) / 4}


def main() -> None:
    """Runs all, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--montage", default="10-5-149")
    parser.add_argument("--sources", type=int, default=20_000, help="of RAP-MUSIC")
    parser.add_argument("--sparse-sources", type=int, default=5_000, help="of MxNE and sparse Bayes")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    console = Console(width=160)
    with mne.use_log_level("ERROR"):
        rows = [
            *(mixed_norm(options, n_times, alpha) for n_times in (20, 1) for alpha in (0.5, 0.2)),
            bayes(options, "MacKay", "mackay"),
            bayes(options, "Champagne", "convexity"),
            rap_music(options),
        ]
    print_rows("Sparse solvers against invertmeeg's", rows, console)
    console.print(f"written to {write_json('against_invertmeeg', {'options': vars(options), 'rows': rows})}")


if __name__ == "__main__":
    main()
