"""Against MNE-Python's own inverse on the same objects."""

import mne
import numpy as np
import pytest

from jaxinv.inverse import eloreta, loreta, minimum_norm
from jaxinv.io import from_mne

SNR = 3.0
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def solved_by_mne(evoked, forward, cov, fixed, method, depth=None):
    with mne.use_log_level("ERROR"):
        operator = mne.minimum_norm.make_inverse_operator(
            evoked.info, forward, cov, loose=0.0 if fixed else 1.0, fixed=fixed, depth=depth
        )
        return mne.minimum_norm.apply_inverse(evoked, operator, SNR**-2, method, None if fixed else "vector")


@pytest.mark.parametrize("projections", [False, True])
@pytest.mark.parametrize("kind", ["surface", "discrete"])
@pytest.mark.parametrize("fixed", [True, False])
def test_estimates_are_those_of_mne_python(fixed, kind, projections, mne_recording):
    evoked, forward, cov = mne_recording(kind=kind, projections=projections)
    found = from_mne(evoked, forward, cov, fixed=fixed)
    estimator = minimum_norm(found.leadfield, found.noise_cov, snr=SNR, method="dSPM")
    estimate = found.source_estimate(estimator(found.measurements).current)
    if not projections:
        evoked.set_eeg_reference(projection=True)
    expected = solved_by_mne(evoked, forward, cov, fixed, "dSPM")
    assert type(estimate) is type(expected)
    largest = np.abs(expected.data).max()
    np.testing.assert_allclose(estimate.data, expected.data, rtol=1e-6, atol=1e-6 * largest)
    np.testing.assert_allclose(estimate.times, expected.times)
    for own, other in zip(estimate.vertices, expected.vertices):
        np.testing.assert_array_equal(own, other)


def test_projections_that_are_applied_already_change_nothing(mne_recording):
    evoked, forward, cov = mne_recording()
    before, after = from_mne(evoked, forward, cov), from_mne(evoked.copy().apply_proj(), forward, cov)
    for name in ("measurements", "leadfield", "noise_cov"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=1e-9, atol=1e-20)


def test_depth_weights_of_mne_python_are_source_variances(mne_recording):
    evoked, forward, cov = mne_recording(kind="discrete")
    found = from_mne(evoked, forward, cov, fixed=False)
    names = mne.pick_channels_forward(forward, list(found.channels), ordered=True)
    weights = mne.forward.compute_depth_prior(names, evoked.info, exp=0.8)[::3]
    estimator = minimum_norm(found.leadfield, found.noise_cov, snr=SNR, source_variance=weights)
    expected = solved_by_mne(evoked, forward, cov, False, "MNE", depth=0.8).data
    np.testing.assert_allclose(
        estimator(found.measurements).current, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max()
    )


def test_surfaces_come_with_their_triangles(mne_recording):
    """Those whose corners are all sources; the smoothness of LORETA is then within a hemisphere."""
    evoked, forward, cov = mne_recording(n_side=4)
    found = from_mne(evoked, forward, cov)
    assert found.sources.faces.shape == (36, 3)
    assert found.sources.faces[:18].max() < 16 <= found.sources.faces[18:].min()
    np.testing.assert_allclose(np.linalg.norm(found.normals, axis=1), 1)
    found.source_estimate(
        loreta(found.leadfield, found.noise_cov, found.sources.faces)(found.measurements).current
    )
    free = from_mne(evoked, forward, cov, fixed=False)
    np.testing.assert_allclose(free.normals, found.normals, atol=1e-6)
    np.testing.assert_allclose(
        np.einsum("csx,sx->cs", free.leadfield, free.normals), found.leadfield, rtol=1e-4, atol=1e-3
    )
    loose = eloreta(free.leadfield, free.noise_cov, loose=0.2, normals=free.normals)
    assert free.source_estimate(loose(free.measurements[:, :1]).current).data.shape == (32, 3, 1)


@pytest.mark.parametrize("patches", [False, True])
def test_loose_estimates_are_those_of_mne_python(patches, mne_recording):
    """Its normals are means over patches, where it knows these."""
    evoked, forward, cov = mne_recording(patches=patches)
    found = from_mne(evoked, forward, cov, fixed=False)
    np.testing.assert_allclose(found.normals, from_mne(evoked, forward, cov).normals, atol=1e-6)
    options = {"loose": 0.2, "normals": found.normals, "snr": SNR}
    estimate = minimum_norm(found.leadfield, found.noise_cov, **options)(found.measurements).current
    with mne.use_log_level("ERROR"):
        operator = mne.minimum_norm.make_inverse_operator(evoked.info, forward, cov, loose=0.2, depth=None)
        expected = mne.minimum_norm.apply_inverse(evoked, operator, SNR**-2, "MNE", "vector").data
    np.testing.assert_allclose(estimate, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_grid_without_an_mri_has_no_normals(mne_recording):
    """MNE-Python calls it discrete."""
    evoked, forward, cov = mne_recording(kind="discrete")
    for space in forward["src"]:
        space["nn"][:] = (0, 0, 1)
    with pytest.raises(ValueError, match="a volume has no normals"):
        from_mne(evoked, forward, cov)
    assert from_mne(evoked, forward, cov, fixed=False).normals is None


def test_channels_that_are_bad_in_the_covariance_are_left_out(mne_recording):
    evoked, forward, cov = mne_recording()
    bad = from_mne(evoked, forward, cov).channels[2]
    cov["bads"] = [bad]
    found = from_mne(evoked, forward, cov).channels
    evoked.info["bads"] = [*evoked.info["bads"], bad]
    assert found == from_mne(evoked, forward, mne.pick_channels_cov(cov, exclude="bads")).channels


def test_three_samples_are_not_three_components(mne_recording):
    found = from_mne(*mne_recording(), fixed=False)
    current = minimum_norm(found.leadfield, found.noise_cov)(found.measurements).current
    assert found.source_estimate(np.linalg.norm(current, axis=1)).data.shape == (72, 3)
    assert found.source_estimate(current).data.shape == (72, 3, 3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda e, f, c: (e.copy().pick("eog"), f, c), "has no good EEG channel"),
        (lambda e, f, c: (e, f, mne.pick_channels_cov(c, c.ch_names[1:])), "noise_cov does not have 1 of"),
        (lambda e, f, c: (e, mne.pick_channels_forward(f, f.ch_names[2:]), c), "forward does not have 2 of"),
    ],
)
def test_what_does_not_fit_is_named(spoil, message, mne_recording):
    with pytest.raises(ValueError, match=message):
        from_mne(*spoil(*mne_recording()))


def test_objects_of_another_kind_are_named(mne_recording):
    evoked, forward, cov = mne_recording()
    with pytest.raises(TypeError, match=r"forward must be an mne.Forward, not Covariance"):
        from_mne(evoked, cov, forward)


def test_another_number_of_sources_is_refused(mne_recording):
    found = from_mne(*mne_recording())
    with pytest.raises(ValueError, match=r"current must have shape \(72,\)"):
        found.source_estimate(np.zeros(71))
