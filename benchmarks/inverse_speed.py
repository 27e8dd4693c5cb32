"""How fast are the classical inverses? Against MNE-Python on the same forward, covariance and stopping rule.

python benchmarks/inverse_speed.py
python benchmarks/inverse_speed.py --cases kernels eloreta --sources 5000

Leadfields are of a layered sphere. Times are medians of alternating runs after the first call, which compiles
and is shown too. Ours uses all cores, and so does MNE-Python's BLAS. What MNE-Python asks its users to call
is timed; where its stopping rule cannot be given there, its solver is called with the rule of ours. The
"difference" of the results is relative to the largest value. Keep the machine idle.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import mne
import numpy as np
from mne.inverse_sparse._gamma_map import _gamma_map_opt
from mne.inverse_sparse.mxne_optim import iterative_mixed_norm_solver, mixed_norm_solver, norm_l2inf
from mne.minimum_norm import apply_inverse, make_inverse_operator, prepare_inverse_operator
from rich.console import Console
from sphere_protocol import SEED, print_rows, write_json

from jaxinv import inverse
from jaxinv.head.montages import montage, template_positions

jax.config.update("jax_enable_x64", True)

SNR = 3.0
BATCH = 256
GAP = 1e-4 / 2  # of mixed norms, over the squared norm of the whitened data
CASES = ("kernels", "eloreta", "apply", "sparse", "bayes", "scan", "batch")


class Problem:
    """A forward model, noise and measurements of a few sources, for MNE-Python and as arrays."""

    def __init__(self, montage_name: str, n_sources: int, n_times: int, n_active: int = 4):
        rng = np.random.default_rng(SEED)
        names = montage(montage_name)
        places = dict(zip(names, template_positions(names)))
        channels = mne.channels.make_dig_montage(places, coord_frame="head")
        info = mne.create_info(list(names), 100.0, "eeg").set_montage(channels)
        sphere = mne.make_sphere_model("auto", "auto", info)
        normals = rng.normal(size=(n_sources, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        positions = sphere["r0"] + normals * rng.uniform(0.04, 0.07, (n_sources, 1))
        sources = mne.setup_volume_source_space(pos={"rr": positions, "nn": normals}, sphere=sphere)
        free = mne.make_forward_solution(info, None, sources, sphere, eeg=True, meg=False)
        n_channels = free["nchan"]
        reference = np.eye(n_channels) - 1 / n_channels
        free["sol"]["data"] = reference @ free["sol"]["data"]
        fixed = mne.convert_forward_solution(free, force_fixed=True, use_cps=False)
        fixed["sol"]["data"] = reference @ fixed["sol"]["data"]  # it went back to the potentials without one
        for forward in (fixed, free):
            forward["_orig_sol"] = forward["sol"]["data"].copy()  # turning into local frames begins from it
        self.forwards = {"fixed": fixed, "free": free}
        self.leadfields = {
            "fixed": jnp.asarray(fixed["sol"]["data"]),
            "free": jnp.asarray(free["sol"]["data"].reshape(n_channels, -1, 3)),
        }
        active = rng.choice(self.leadfields["fixed"].shape[1], n_active, replace=False)
        clean = fixed["sol"]["data"][:, active] @ (1e-8 * rng.normal(size=(n_active, n_times)))
        level = np.sqrt((clean**2).mean()) / SNR
        self.data = clean + level * reference @ rng.normal(size=clean.shape)
        self.noise_cov = jnp.asarray(level**2 * reference)
        self.evoked = mne.EvokedArray(self.data, info).set_eeg_reference(projection=True)
        self.covariance = mne.Covariance(
            level**2 * reference, list(names), [], self.evoked.info["projs"], nfree=1
        )

    def operator(self, orientation: str):
        """MNE-Python's inverse operator."""
        fixed = orientation == "fixed"
        return make_inverse_operator(
            self.evoked.info, self.forwards[orientation], self.covariance,
            loose=0.0 if fixed else 1.0, fixed=fixed, depth=None,
        )  # fmt: skip

    def white(self, orientation: str):
        """Whitened leadfield (channel, column) and measurements, for solvers of MNE-Python."""
        matrix = np.asarray(inverse.whitener(self.noise_cov).matrix)
        leadfield = np.asarray(self.leadfields[orientation])
        return matrix @ leadfield.reshape(len(leadfield), -1), matrix @ self.data


def seconds(call: Callable) -> float:
    """Of one call, until its result is there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def medians(repeats: int, *calls: Callable) -> list[float]:
    """Of alternating runs."""
    return np.median([[seconds(call) for call in calls] for _ in range(repeats)], axis=0).tolist()


def against(name: str, ours: Callable, theirs: Callable, repeats: int, peer_name: str = "MNE-Python") -> dict:
    """A row of the table; both calls give an array."""
    first = seconds(ours)
    found, expected = np.asarray(ours()), np.asarray(theirs())
    mine, peer = medians(repeats, ours, theirs)
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    return {"method": name, "first, s": first, "jaxinv, s": mine, f"{peer_name}, s": peer,
            "times as fast": peer / mine, "difference": difference}  # fmt: skip


def kernels(options) -> list[dict]:
    """Minimum norms, from forward and covariance to the estimate of a sample, fixed orientation."""
    problem = Problem(options.montage, options.sources, 1)
    given = problem.operator("fixed")

    def rows(method):
        def ours():
            leadfield = problem.leadfields["fixed"]
            estimator = inverse.minimum_norm(leadfield, problem.noise_cov, snr=SNR, method=method)
            return estimator(problem.data).current

        def theirs(operator=None):
            operator = operator or problem.operator("fixed")
            return apply_inverse(problem.evoked, operator, SNR**-2, method).data

        yield against(method, ours, theirs, options.repeats)
        yield against(f"{method}; its decomposition given", ours, lambda: theirs(given), options.repeats)

    return [row for method in ("MNE", "dSPM", "sLORETA") for row in rows(method)]


def eloreta(options) -> list[dict]:
    """eLORETA to MNE-Python's tolerance, from forward and covariance to the estimate of a sample."""
    problem = Problem(options.montage, options.free_sources, 1)

    def rows(orientation):
        given = problem.operator(orientation)
        pick = "vector" if orientation == "free" else None

        def ours():
            estimator = inverse.eloreta(problem.leadfields[orientation], problem.noise_cov, snr=SNR)
            return estimator(problem.data).current

        def theirs(operator=None):
            operator = operator or problem.operator(orientation)
            limits = {"eps": 1e-6, "max_iter": 100}
            return apply_inverse(
                problem.evoked, operator, SNR**-2, "eLORETA", pick, method_params=limits
            ).data  # fmt: skip

        name = f"eLORETA, {orientation}"
        yield against(name, ours, theirs, options.slow_repeats)
        yield against(f"{name}; its decomposition given", ours, lambda: theirs(given), options.slow_repeats)

    return [row for orientation in ("free", "fixed") for row in rows(orientation)]


def application(options) -> list[dict]:
    """One sample through a kernel at hand, from NumPy to NumPy: after other work, and sample after sample."""
    problem = Problem(options.montage, options.sources, 1)
    estimator = inverse.minimum_norm(problem.leadfields["fixed"], problem.noise_cov, snr=SNR, method="dSPM")
    apply = jax.jit(lambda estimator, sample: estimator(sample).current)
    prepared = prepare_inverse_operator(problem.operator("fixed"), 1, SNR**-2, "dSPM")
    rows = []
    for dtype in (np.float64, np.float32):
        cast = jax.tree.map(lambda array: array.astype(dtype), estimator)  # noqa: B023
        row = against(
            f"dSPM, {np.dtype(dtype).name}",
            lambda: np.asarray(apply(cast, problem.data)),  # noqa: B023
            lambda: apply_inverse(problem.evoked, prepared, SNR**-2, "dSPM", prepared=True).data,
            10 * options.repeats,
        )
        kernel, sample = np.asarray(cast.kernel), problem.data.astype(dtype)
        (stream,) = medians(10 * options.repeats, lambda: np.asarray(apply(cast, problem.data)))  # noqa: B023
        (product,) = medians(10 * options.repeats, lambda: kernel @ sample)  # noqa: B023
        rows.append({**row, "sample after sample, s": stream, "NumPy's product alone, s": product})
    return rows


def sparse(options) -> list[dict]:
    """Mixed norms to one duality gap, solvers alone."""

    def row(problem, orientation, alpha, n_reweightings=1):
        gain, white = problem.white(orientation)
        width = 3 if orientation == "free" else 1
        unit = 100 / norm_l2inf(gain.T @ white, width)  # so that MNE-Python's largest penalty is 100
        gain = unit * gain
        rules = {"tol": GAP * np.sum(white**2), "debias": False, "n_orient": width}
        estimator = inverse.mixed_norm(
            problem.leadfields[orientation], problem.noise_cov, alpha=alpha, n_reweightings=n_reweightings
        )

        def ours():
            return estimator.solve(problem.data).current

        def theirs():
            if n_reweightings > 1:
                found, active, _ = iterative_mixed_norm_solver(
                    white, gain, 100 * alpha, n_reweightings, **rules
                )
            else:
                found, active, _ = mixed_norm_solver(white, gain, 100 * alpha, **rules)
            whole = np.zeros((gain.shape[1], white.shape[1]))
            whole[active] = unit * found
            return whole.reshape(*problem.leadfields[orientation].shape[1:], -1)

        kind = "MxNE" if n_reweightings == 1 else "irMxNE"
        name = f"{kind}, {orientation}, {white.shape[1]} samples, alpha {alpha}"
        return against(name, ours, theirs, options.slow_repeats)

    long, short = (Problem(options.montage, options.sparse_sources, n_times) for n_times in (20, 1))
    rows = [
        row(problem, orientation, alpha)
        for problem in (long, short)
        for orientation in ("fixed", "free")
        for alpha in (0.5, 0.2, 0.1)
    ]
    return [*rows, row(long, "fixed", 0.2, 10), row(long, "free", 0.2, 10)]


def bayes(options) -> list[dict]:
    """Sparse Bayesian learning to one relative change of the variances, solvers alone."""
    problem = Problem(options.montage, options.sparse_sources, 20)

    def row(orientation, update, mode):
        gain, white = problem.white(orientation)
        width = 3 if orientation == "free" else 1
        estimator = inverse.sparse_bayes(
            problem.leadfields[orientation], problem.noise_cov, update=update, tolerance=1e-6
        )

        def ours():
            return estimator.solve(problem.data).current

        def theirs():
            found, active = _gamma_map_opt(
                white, gain, 1.0, tol=1e-6, update_mode=mode, group_size=width, verbose=False
            )
            whole = np.zeros((gain.shape[1], white.shape[1]))
            whole[active] = found
            return whole.reshape(*problem.leadfields[orientation].shape[1:], -1)

        return against(f"{update}, {orientation}", ours, theirs, options.slow_repeats)

    return [
        row(orientation, update, mode)
        for orientation in ("fixed", "free")
        for update, mode in (("MacKay", 1), ("Champagne", 2))
    ]


def scan(options) -> list[dict]:
    """RAP-MUSIC and LCMV, from forward and covariances to amplitudes and filters."""
    short, long = (
        Problem(options.montage, options.sources, 20),
        Problem(options.montage, options.sources, 1000),
    )
    data_cov = long.data @ long.data.T / 1000
    names, projections = long.covariance.ch_names, long.evoked.info["projs"]
    measured = mne.Covariance(data_cov, names, [], projections, nfree=1000)

    def rap_music(orientation):
        def ours():
            leadfield = short.leadfields[orientation]
            return inverse.rap_music(leadfield, short.noise_cov, n_dipoles=4).solve(short.data).explained

        def theirs():
            _, residual = mne.beamformer.rap_music(
                short.evoked, short.forwards[orientation], short.covariance, n_dipoles=4, return_residual=True
            )
            return short.data - residual.data

        return against(f"RAP-MUSIC, {orientation}", ours, theirs, options.repeats)

    def lcmv(orientation):
        def ours():
            filters = inverse.lcmv(
                long.leadfields[orientation], data_cov, long.noise_cov, normalisation="unit-noise-gain"
            )
            return filters(long.data[:, 0]).current.reshape(-1)

        def theirs():
            pick = "vector" if orientation == "free" else None
            filters = mne.beamformer.make_lcmv(
                long.evoked.info, long.forwards[orientation], measured, 0.05, long.covariance,
                weight_norm="unit-noise-gain", pick_ori=pick, depth=None,
            )  # fmt: skip
            first = long.evoked.copy().crop(0, 0)
            return mne.beamformer.apply_lcmv(first, filters).data.reshape(-1)

        return against(f"LCMV, {orientation}", ours, theirs, options.repeats)

    return [method(orientation) for method in (rap_music, lcmv) for orientation in ("fixed", "free")]


def batch(options) -> list[dict]:
    """Many problems under one vmap, and in as many calls of the compiled function."""
    problem = Problem(options.batch_montage, options.batch_sources, 5)
    rng = np.random.default_rng(SEED)
    leadfield, noise_cov = problem.leadfields["fixed"], problem.noise_cov
    leadfields = leadfield * rng.uniform(0.8, 1.25, (BATCH, 1, leadfield.shape[1]))
    noise = rng.normal(size=(BATCH, *problem.data.shape)) * problem.data.std()
    data = jnp.asarray(problem.data + noise - noise.mean(axis=1, keepdims=True))
    linear = inverse.minimum_norm(leadfield, noise_cov)
    beamformer = lambda y: inverse.lcmv(leadfield, y @ y.T / y.shape[1], noise_cov)(y).current  # noqa: E731
    lasso = inverse.lasso(leadfield, noise_cov)
    mixed_norm = inverse.mixed_norm(leadfield, noise_cov)
    sparse_bayes = inverse.sparse_bayes(leadfield, noise_cov, tolerance=1e-3)
    rap_music = inverse.rap_music(leadfield, noise_cov, n_dipoles=2)

    def row(name, function, inputs):
        single, together, parts = jax.jit(function), jax.jit(jax.vmap(function)), list(inputs)
        seconds(lambda: together(inputs))
        seconds(lambda: single(parts[0]))
        mine, calls = medians(
            options.slow_repeats, lambda: together(inputs), lambda: [single(part) for part in parts]
        )
        return {"problem": name, "one vmap, s": mine, f"{BATCH} calls, s": calls, "ratio": calls / mine}

    return [
        row(
            "dSPM of a leadfield",
            lambda x: inverse.minimum_norm_kernel(x, noise_cov, method="dSPM"),
            leadfields,
        ),
        row("eLORETA of a leadfield", lambda x: inverse.solve_eloreta(x, noise_cov).kernel, leadfields),
        row("minimum norm of a sample", lambda y: linear(y).current, data[..., 0]),
        row("minimum norm of a window", lambda y: linear(y).current, data),
        row("LCMV of a window", beamformer, data),
        row("Lasso of a sample", lambda y: lasso.solve(y).current, data[..., 0]),
        row("MxNE of a window", lambda y: mixed_norm.solve(y).current, data),
        row("gamma-MAP of a window", lambda y: sparse_bayes.solve(y).current, data),
        row("RAP-MUSIC of a window", lambda y: rap_music(y).current, data),
    ]


def main() -> None:
    """Runs the cases, prints a table of each and writes them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--montage", default="10-5-149")
    parser.add_argument("--sources", type=int, default=20_000, help="of fixed orientation")
    parser.add_argument("--free-sources", type=int, default=15_684, help="of eLORETA")
    parser.add_argument("--sparse-sources", type=int, default=5_000, help="of MxNE and gamma-MAP")
    parser.add_argument("--batch-montage", default="10-20")
    parser.add_argument("--batch-sources", type=int, default=1_284)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slow-repeats", type=int, default=3, help="of what takes seconds")
    parser.add_argument("--name", default="inverse_speed", help="of the file with the results")
    options = parser.parse_args()
    console, results = Console(width=160), {}
    run = {"kernels": kernels, "eloreta": eloreta, "apply": application, "sparse": sparse, "bayes": bayes,
           "scan": scan, "batch": batch}  # fmt: skip
    with mne.use_log_level("ERROR"):
        for case in options.cases:
            results[case] = run[case](options)
            print_rows(run[case].__doc__, results[case], console)
            path = write_json(options.name, {"options": vars(options), **results})
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
