"""The examples of the documentation, run."""

import re
from pathlib import Path

import mne
import numpy as np

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_an_estimate_from_objects_of_mne_python_is_its_own(mne_recording):
    evoked, forward, cov = mne_recording()
    with mne.use_log_level("ERROR"):
        operator = mne.minimum_norm.make_inverse_operator(
            evoked.info, forward, cov, loose=0.0, fixed=True, depth=None
        )
        expected = mne.minimum_norm.apply_inverse(evoked, operator, 1 / 9, "sLORETA").data
    names = {"fwd": forward, "evoked": evoked, "cov": cov}
    exec(blocks("mne.md")[0], names)
    found = names["stc"]
    np.testing.assert_allclose(found.data, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())
    assert [len(v) for v in found.vertices] == [36, 36]
    assert found.sfreq == evoked.info["sfreq"]


def test_an_estimate_on_our_head_becomes_an_object_of_mne_python():
    """On a coarser head than the page's, whose channels and noise are those of a recording."""
    source = blocks("mne.md")[1].replace("resolution=4e-3", "resolution=8e-3")
    rng = np.random.default_rng(0)
    names = ["Fz", "Cz", "Pz", "C3", "C4", "Oz", "F7", "F8"]
    info = mne.create_info([*names, "EOG"], 100.0, ["eeg"] * 8 + ["eog"])
    evoked = mne.EvokedArray(1e-6 * rng.normal(size=(9, 2)), info, nave=4)
    evoked.info["bads"] = ["Pz"]
    given = {"evoked": evoked, "cov": mne.Covariance(1e-13 * np.eye(8), names, [], [], nfree=1)}
    exec(source, given)
    assert given["stc"].data.shape == (len(given["vertices"]), 2)
    assert np.isfinite(given["stc"].data).all()
    assert (given["stc"].data != 0).all()
