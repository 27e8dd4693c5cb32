"""Does a method find a single source without noise? On the head of `make run`, beside MNE-Python.

python benchmarks/localisation.py
python benchmarks/localisation.py --montage 10-5-149 --subdivision ico5

For every source in turn, is the largest value of the estimate there? By theory always, for sLORETA and for
eLORETA that has converged.
"""

import argparse

import jax
import jax.numpy as jnp
import mne
import numpy as np
from mne.minimum_norm import apply_inverse, make_inverse_operator
from rich.console import Console
from sphere_protocol import SEED, print_rows, write_json

import jaxinv
from jaxinv import inverse
from jaxinv.head.fsaverage import cortical_sources, fsaverage_electrodes, fsaverage_head

jax.config.update("jax_enable_x64", True)

SNR = 3.0


def share_found(kernel: np.ndarray, leadfield: np.ndarray) -> float:
    """Of sources at which the largest value lies; with three orientations, for the worst of the three."""
    if kernel.ndim == 2:
        estimates = np.abs(kernel @ leadfield)
        return float(np.mean(np.argmax(estimates, axis=0) == np.arange(len(kernel))))
    found = np.ones(len(kernel), bool)
    for axis in range(3):
        for start in range(0, len(kernel), 512):
            block = slice(start, start + 512)
            power = sum((kernel[:, k] @ leadfield[:, block, axis]) ** 2 for k in range(3))
            found[block] &= np.argmax(power, axis=0) == np.arange(len(kernel))[block]
    return float(found.mean())


def mne_kernel(
    names: tuple[str, ...], leadfield: np.ndarray, noise_cov: np.ndarray, method: str
) -> np.ndarray:
    """MNE-Python's kernel of fixed orientation for any leadfield: its estimate of every unit topography.

    The forward solution is that of a sphere with as many sources, whose leadfield is then replaced; where
    the sources lie does not enter the kernel.
    """
    n_sources = leadfield.shape[1]
    info = mne.create_info(list(names), 100.0, "eeg")
    info.set_montage("standard_1005")
    sphere = mne.make_sphere_model("auto", "auto", info)
    normals = np.random.default_rng(SEED).normal(size=(n_sources, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    places = {"rr": sphere["r0"] + 0.05 * normals, "nn": normals}
    sources = mne.setup_volume_source_space(pos=places, sphere=sphere)
    forward = mne.make_forward_solution(info, None, sources, sphere, eeg=True, meg=False)
    forward = mne.convert_forward_solution(forward, force_fixed=True, use_cps=False)
    forward["sol"]["data"] = forward["_orig_sol"] = leadfield.copy()
    evoked = mne.EvokedArray(np.eye(len(names)), info).set_eeg_reference(projection=True)
    covariance = mne.Covariance(noise_cov, list(names), [], evoked.info["projs"], nfree=1)
    operator = make_inverse_operator(evoked.info, forward, covariance, loose=0.0, fixed=True, depth=None)
    limits = {"eps": 1e-6, "max_iter": 100} if method == "eLORETA" else None
    return apply_inverse(evoked, operator, SNR**-2, method, method_params=limits).data


def main() -> None:
    """Builds the head, makes every kernel and prints the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=float, default=4e-3, help="of the head, in m")
    parser.add_argument("--montage", default="10-10-64")
    parser.add_argument("--subdivision", default="ico4", help="of the cortical sources")
    parser.add_argument("--name", default="localisation", help="of the file with the results")
    options = parser.parse_args()
    head = fsaverage_head(options.resolution)
    sources, sensors = cortical_sources(head, options.subdivision), fsaverage_electrodes(options.montage)
    forward = jaxinv.FemForward.build(head, sources, sensors)
    free = np.asarray(forward.leadfield(sources=jaxinv.SourceSpace(sources.positions)))
    fixed = np.einsum("csx,sx->cs", free, sources.normals)
    noise_cov = np.eye(len(fixed)) - 1 / len(fixed)
    noise_cov *= np.mean(fixed**2)
    rows = []
    with mne.use_log_level("ERROR"):
        for method in ("MNE", "dSPM", "sLORETA", "eLORETA"):
            row = {"method": method}
            for name, leadfield in (("fixed", fixed), ("free", free)):
                if method == "eLORETA":
                    limits = {"tolerance": 1e-10, "max_iterations": 500}
                    estimator = inverse.eloreta(jnp.asarray(leadfield), noise_cov, snr=SNR, **limits)
                else:
                    estimator = inverse.minimum_norm(leadfield, noise_cov, snr=SNR, method=method)
                row[f"found, {name}"] = share_found(np.asarray(estimator.kernel), leadfield)
            theirs = mne_kernel(sensors.names, fixed, noise_cov, method)
            row["MNE-Python, fixed"] = share_found(theirs, fixed)
            rows.append(row)
        for method in ("dSPM", "sLORETA"):
            estimator = inverse.minimum_norm(free, noise_cov, snr=SNR, method=method, blockwise=True)
            found = share_found(np.asarray(estimator.kernel), free)
            rows.append({"method": f"{method}, blockwise", "found, fixed": "–", "found, free": found,
                         "MNE-Python, fixed": "–"})  # fmt: skip
    console = Console(width=120)
    print_rows(f"Share of {sources.n_sources} sources found", rows, console)
    result = {"sources": sources.n_sources, "channels": len(fixed), "nodes": head.mesh.n_nodes, "rows": rows}
    console.print(f"written to {write_json(options.name, result)}")


if __name__ == "__main__":
    main()
