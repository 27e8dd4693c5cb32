"""The examples of the documentation, run."""

import re
from pathlib import Path

import mne
import numpy as np

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def problem(n_sources=30):
    """A sphere with a bad channel, coloured noise and an average of five, for MNE-Python."""
    rng = np.random.default_rng(0)
    names = mne.channels.make_standard_montage("standard_1020").ch_names[::4]
    info = mne.create_info(names, 100.0, "eeg").set_montage("standard_1020")
    sphere = mne.make_sphere_model("auto", "auto", info)
    normals = rng.normal(size=(n_sources, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    positions = sphere["r0"] + normals * rng.uniform(0.02, 0.07, (n_sources, 1))
    sources = mne.setup_volume_source_space(pos={"rr": positions, "nn": normals}, sphere=sphere)
    free = mne.make_forward_solution(info, None, sources, sphere, eeg=True, meg=False)
    fixed = mne.convert_forward_solution(free, force_fixed=True, use_cps=False)
    evoked = mne.EvokedArray(1e-6 * rng.normal(size=(len(names), 3)), info, nave=5)
    evoked = evoked.set_eeg_reference(projection=True)
    evoked.info["bads"] = [names[4]]
    root = rng.normal(size=(len(names), 40)) * 1e-7
    return fixed, evoked, mne.Covariance(root @ root.T, names, [], [], nfree=1)


def test_an_estimate_from_objects_of_mne_python_is_its_own():
    with mne.use_log_level("ERROR"):
        fixed, evoked, cov = problem()
        operator = mne.minimum_norm.make_inverse_operator(
            evoked.info, fixed, cov, loose=0.0, fixed=True, depth=None
        )
        expected = mne.minimum_norm.apply_inverse(evoked, operator, 1 / 9, "dSPM").data
        hemispheres = [{"vertno": np.arange(10)}, {"vertno": np.arange(20)}]
        names = {"fwd": fixed, "evoked": evoked, "cov": cov}
        fixed["src"] = hemispheres
        exec(blocks("mne.md")[0], names)
    found = names["stc"]
    np.testing.assert_allclose(found.data, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())
    assert [len(v) for v in found.vertices] == [10, 20]
    assert found.sfreq == evoked.info["sfreq"]
