import jax
import jax.numpy as jnp
import mne
import numpy as np
import pytest

from jaxinv.inverse import music, rap_music, trap_music

RECURSIVE = {"rap": rap_music, "trap": trap_music}


def data_of_two(leadfield, noise, reference, rng, level):
    """Two dipoles with independent time courses, and noise of a share of `level`."""
    course = rng.normal(size=(2, 20))
    moment = rng.normal(size=(2, 3, 1)) * course[:, None] if leadfield.ndim == 3 else course
    clean = np.tensordot(leadfield[:, [4, 21]], moment, moment.ndim - 1)
    white = np.linalg.cholesky(noise + 1e-9 * np.trace(noise) * np.eye(len(noise))) @ rng.normal(
        size=clean.shape
    )
    return clean + level * np.linalg.norm(clean) / np.linalg.norm(white) * reference @ white


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize(("kind", "level"), [("rap", 0.1), ("rap", 1e-6), ("trap", 1e-6)])
def test_it_agrees_with_mne_python(mne_problem, kind, level, free):
    """TRAP without noise only: MNE-Python truncates one dipole later, and a basis not made orthonormal."""
    forwards, evoked, noise, reference = mne_problem
    forward = forwards["free" if free else "fixed"]
    leadfield = (reference @ forward["sol"]["data"]).reshape((19, 30, 3) if free else (19, 30))
    data = data_of_two(leadfield, noise.data, reference, np.random.default_rng(7), level)
    evoked = mne.EvokedArray(data, evoked.info).set_eeg_reference(projection=True)
    oracle = {"rap": mne.beamformer.rap_music, "trap": mne.beamformer.trap_music}[kind]
    with mne.use_log_level("ERROR"):
        dipoles, residual = oracle(evoked, forward, noise, n_dipoles=2, return_residual=True)
    found = RECURSIVE[kind](leadfield, noise.data, n_dipoles=2).solve(data)
    positions = forward["source_rr"]
    np.testing.assert_allclose([d.pos[0] for d in dipoles], positions[found.index], atol=1e-9)
    np.testing.assert_allclose(
        found.explained, reference @ (data - residual.data), atol=1e-6 * np.abs(data).max()
    )
    for i, dipole in enumerate(dipoles):
        moment = dipole.amplitude[:, None] * dipole.ori
        if free:
            ours = found.amplitude[i][:, None] * found.orientation[i]
            np.testing.assert_allclose(ours, moment, atol=1e-6 * np.abs(moment).max())
        else:
            ours = np.abs(found.amplitude[i])
            np.testing.assert_allclose(ours, np.abs(dipole.amplitude), atol=1e-6 * ours.max())


def make_problem(free):
    rng = np.random.default_rng(0)
    reference = np.eye(12) - 1 / 12
    leadfield = np.tensordot(reference, rng.normal(size=(12, 30, 3) if free else (12, 30)), 1)
    root = reference @ rng.normal(size=(12, 12))
    return leadfield, root @ root.T, rng


@pytest.mark.parametrize("free", [False, True])
def test_a_single_noiseless_dipole_is_found_at_its_own_place(free):
    leadfield, cov, _ = make_problem(free)
    axis = np.array([0.6, 0.0, 0.8]) if free else 1.0
    scan = music(leadfield, cov, n_dipoles=1)
    for source in (0, 7, 29):
        data = leadfield[:, source] @ axis if free else leadfield[:, source]
        current = np.asarray(scan(3 * data).current)
        size = np.linalg.norm(current.reshape(30, -1), axis=1)
        assert size.argmax() == source
        np.testing.assert_allclose(size[source], 1, rtol=1e-9)
        assert np.delete(size, source).max() < 1
        if free:
            np.testing.assert_allclose(np.abs(current[source]), axis, atol=1e-7)
        for recursive in (rap_music, trap_music):
            current = np.asarray(recursive(leadfield, cov, n_dipoles=1)(3 * data).current)
            np.testing.assert_allclose(current[source], 3 * axis, atol=1e-7)
            assert not np.delete(current, source, axis=0).any()


@pytest.mark.parametrize("kind", RECURSIVE)
@pytest.mark.parametrize("free", [False, True])
def test_two_noiseless_dipoles_are_found_and_explain_everything(kind, free):
    leadfield, cov, rng = make_problem(free)
    data = data_of_two(leadfield, cov, np.eye(12), rng, 0.0)
    found = RECURSIVE[kind](leadfield, cov, n_dipoles=2).solve(data)
    np.testing.assert_array_equal(np.sort(found.index), [4, 21])
    np.testing.assert_allclose(found.correlation, 1, atol=1e-6)
    np.testing.assert_allclose(found.explained, data, atol=1e-6 * np.abs(data).max())


def test_a_dipole_too_many_takes_nothing_from_the_others():
    """Two dipoles in data of rank two, three asked for: nothing is left for the third."""
    leadfield, cov, rng = make_problem(False)
    data = data_of_two(leadfield, cov, np.eye(12), rng, 0.0)
    found = trap_music(leadfield, cov, n_dipoles=3).solve(data)
    np.testing.assert_array_equal(np.sort(found.index[:2]), [4, 21])
    np.testing.assert_allclose(found.explained, data, atol=1e-6 * np.abs(data).max())


@pytest.mark.parametrize("seed", range(3))
def test_truncation_keeps_superfluous_dipoles_from_looking_like_sources(seed):
    """Noise that the projections leave in RAP-MUSIC's subspace correlates better than in TRAP-MUSIC's."""
    rng = np.random.default_rng(seed)
    channel, place = np.linspace(0, 1, 20)[:, None], np.linspace(0, 1, 80)
    leadfield = np.exp(-(((channel - place) / 0.15) ** 2) / 2) * np.cos(3 * place)
    cov = np.eye(20) - 1 / 20
    leadfield, time = cov @ leadfield, np.arange(60)
    clean = leadfield[:, [20, 60]] @ np.stack([np.sin(time / 4), np.cos(time / 3)])
    data = clean + 0.1 * np.sqrt(np.mean(clean**2)) * cov @ rng.normal(size=clean.shape)
    rap, trap = (method(leadfield, cov, n_dipoles=5).solve(data) for method in (rap_music, trap_music))
    np.testing.assert_array_equal(np.sort(trap.index[:2]), [20, 60])
    assert (trap.correlation[:2] > 0.99).all()
    assert (trap.correlation[3:] < rap.correlation[3:]).all()


@pytest.mark.parametrize("kind", RECURSIVE)
@pytest.mark.parametrize("free", [False, True])
def test_zeros_batches_and_float32(kind, free):
    leadfield, cov, rng = make_problem(free)
    leadfield[:, 9] = 0
    estimator = RECURSIVE[kind](leadfield, cov, n_dipoles=2)
    data = np.stack([data_of_two(leadfield, cov, np.eye(12), rng, 0.02) for _ in range(2)])
    batch = jax.jit(jax.vmap(lambda e, y: e(y).current, (None, 0)))(estimator, data)
    for one, current in zip(data, batch):
        np.testing.assert_allclose(current, estimator(one).current, atol=1e-8)
    assert not estimator(np.zeros((12, 4))).current.any()
    scan = music(leadfield, cov, n_dipoles=2)
    assert not scan(np.zeros((12, 4))).current.any()
    assert not scan(data[0]).current[9].any()
    single = RECURSIVE[kind](np.float32(leadfield), np.float32(cov), n_dipoles=2)(data[0]).current
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, batch[0], atol=1e-3 * np.abs(batch[0]).max())


def test_what_cannot_be_done_is_refused():
    leadfield, cov, _ = make_problem(False)
    for make in (music, rap_music, trap_music):
        with pytest.raises(ValueError, match="n_dipoles"):
            make(leadfield, cov, n_dipoles=0)
        with pytest.raises(TypeError, match="integer"):
            make(leadfield, cov, n_dipoles=2.5)
        with pytest.raises(ValueError, match="2 dipoles need"):
            make(leadfield, cov, n_dipoles=2)(np.ones(12))
        with pytest.raises(ValueError, match="not finite"):
            make(leadfield, cov, n_dipoles=1)(np.full(12, np.nan))
