import mne
import numpy as np
import pytest


@pytest.fixture(scope="module")
def mne_problem():
    """A sphere with 19 electrodes, 30 dipoles, coloured average-referenced noise and three topographies."""
    with mne.use_log_level("ERROR"):
        rng = np.random.default_rng(0)
        names = mne.channels.make_standard_montage("standard_1020").ch_names[::5]
        info = mne.create_info(names, 100.0, "eeg")
        info.set_montage("standard_1020")
        sphere = mne.make_sphere_model("auto", "auto", info)
        normals = rng.normal(size=(30, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        positions = sphere["r0"] + normals * rng.uniform(0.02, 0.07, (30, 1))
        sources = mne.setup_volume_source_space(pos={"rr": positions, "nn": normals}, sphere=sphere)
        free = mne.make_forward_solution(info, None, sources, sphere, eeg=True, meg=False)
        reference = np.eye(19) - 1 / 19
        free["sol"]["data"] = reference @ free["sol"]["data"]
        fixed = mne.convert_forward_solution(free, force_fixed=True, use_cps=False)
        fixed["sol"]["data"] = reference @ fixed["sol"]["data"]  # it went back to potentials without one
        evoked = mne.EvokedArray(1e-6 * rng.normal(size=(19, 3)), info).set_eeg_reference(projection=True)
        root = reference @ rng.normal(size=(19, 40)) * 1e-7
        noise = mne.Covariance(root @ root.T, names, [], evoked.info["projs"], nfree=1)
    return {"fixed": fixed, "free": free}, evoked, noise, reference


@pytest.fixture(scope="module")
def solve_with_mne(mne_problem):
    """MNE-Python's estimate, (source, time) or in x, y, z (source, 3, time)."""
    forwards, evoked, noise, _ = mne_problem

    def solve(orientation, snr, method, depth=None, loose=1.0, options=None):
        fixed = orientation == "fixed"
        forward = forwards[orientation].copy()
        forward["_orig_sol"] = forward["sol"]["data"].copy()  # turning into local frames begins from it
        with mne.use_log_level("ERROR"):
            operator = mne.minimum_norm.make_inverse_operator(
                evoked.info,
                forward,
                noise,
                loose=0.0 if fixed else loose,
                fixed=fixed,
                depth=None if depth is None else {"exp": depth, "allow_fixed_depth": True},
            )
            return mne.minimum_norm.apply_inverse(
                evoked, operator, snr**-2, method, None if fixed else "vector", method_params=options
            ).data

    return solve
