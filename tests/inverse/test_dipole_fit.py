from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import mne
import numpy as np
import pytest
from scipy.stats import binom

import jaxinv
from jaxinv.head import Electrodes, HeadModel, SourceSpace, sphere_head
from jaxinv.inverse import ConvergenceError, dipole_fit

RADII, CONDUCTIVITY = np.array([0.09, 0.085, 0.078]), np.array([0.33, 0.01, 0.33])


def directions(n, seed):
    x = np.random.default_rng(seed).normal(size=(n, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@dataclass
class AnalyticSphere:
    """A forward model, and its head, whose leadfield is the analytic series."""

    sources: SourceSpace
    sensors: Electrodes
    edge: float = 0.077

    def transfer_matrix(self, conductivity):
        return None

    def require_head(self):
        return self

    def holds(self, positions, tissues):
        return np.linalg.norm(positions, axis=1) < self.edge

    def dipole_leadfield(self, positions, *, transfer=None, tissues=None):
        n_dipoles = len(positions)
        columns = jaxinv.sphere_leadfield(
            jnp.repeat(positions, 3, axis=0), jnp.tile(jnp.eye(3), (n_dipoles, 1)),
            self.sensors.positions, RADII, CONDUCTIVITY,
        )  # fmt: skip
        return columns.reshape(-1, n_dipoles, 3)


@pytest.fixture(scope="module")
def sphere():
    depth = np.random.default_rng(3).uniform(0.02, 0.07, (150, 1))
    return AnalyticSphere(SourceSpace(depth * directions(150, 0)), Electrodes(RADII[0] * directions(40, 1)))


NOISE = 1e-14 * (np.eye(40) - 1 / 40)
TRUTH = np.array([[0.03, 0.02, 0.045], [-0.02, -0.045, 0.03]])


def courses(orientation):
    """Moments of the two dipoles at five times, in A m."""
    if orientation == "rotating":
        return 2e-8 * np.random.default_rng(4).normal(size=(2, 3, 5))
    return 2e-8 * directions(2, 5)[:, :, None] * np.random.default_rng(4).normal(size=(2, 1, 5))


@pytest.mark.parametrize("orientation", ["rotating", "fixed"])
@pytest.mark.parametrize("n_dipoles", [1, 2])
def test_without_noise_it_finds_dipoles_off_the_grid(sphere, n_dipoles, orientation):
    truth, moments = TRUTH[:n_dipoles], courses(orientation)[:n_dipoles]
    data = jnp.einsum("cdx,dxt->ct", sphere.dipole_leadfield(truth), moments)
    fit = dipole_fit(sphere, NOISE, n_dipoles=n_dipoles, orientation=orientation, tolerance=1e-9).solve(data)
    assert fit.converged
    assert not fit.on_edge
    order = np.argsort(-fit.positions[:, 0])
    np.testing.assert_allclose(fit.positions[order], truth, atol=1e-8)
    np.testing.assert_allclose(fit.moments[order], moments, atol=1e-14)
    assert fit.goodness_of_fit > 1 - 1e-9


def test_more_samples_than_channels_and_one_sample(sphere):
    moments = 2e-8 * np.random.default_rng(4).normal(size=(1, 3, 60))
    data = jnp.einsum("cdx,dxt->ct", sphere.dipole_leadfield(TRUTH[:1]), moments)
    estimator = dipole_fit(sphere, NOISE)
    long = estimator.solve(data)
    np.testing.assert_allclose(long.positions, TRUTH[:1], atol=1e-5)
    assert long.moments.shape == (1, 3, 60)
    assert long.degrees_of_freedom == 39 * 60 - 3 * 60 - 3
    short = estimator.solve(data[:, 0])
    np.testing.assert_allclose(short.positions, TRUTH[:1], atol=1e-5)
    assert short.moments.shape == (1, 3)


def test_it_agrees_with_mne_python(sphere):
    """Position, share explained, residual and confidence volume of one noisy topography."""
    names = [f"EEG{i}" for i in range(40)]
    montage = mne.channels.make_dig_montage(dict(zip(names, sphere.sensors.positions)), coord_frame="head")
    info = mne.create_info(names, 1000.0, "eeg").set_montage(montage)
    data = sphere.dipole_leadfield(TRUTH[:1])[:, 0] @ np.array([1e-8, 2e-8, -1e-8])
    data = data + 1e-7 * np.random.default_rng(6).normal(size=40)
    with mne.use_log_level("ERROR"):
        evoked = mne.EvokedArray(np.asarray(data)[:, None], info).set_eeg_reference(projection=True)
        layers = tuple(RADII[::-1] / RADII[0]), tuple(CONDUCTIVITY[::-1])
        model = mne.make_sphere_model((0, 0, 0), RADII[0], relative_radii=layers[0], sigmas=layers[1])
        noise = mne.Covariance(1e-14 * np.eye(40), names, [], [], nfree=1)
        expected = mne.fit_dipole(evoked, noise, model)[0]
    referenced = data - data.mean()
    fit = dipole_fit(sphere, NOISE).solve(referenced)
    assert np.linalg.norm(fit.positions[0] - expected.pos[0]) < 5e-4
    np.testing.assert_allclose(100 * fit.goodness_of_fit, expected.gof[0], atol=0.2)
    np.testing.assert_allclose(fit.chi_square, expected.khi2[0], rtol=0.02)
    # MNE-Python's volume is of 1.96 standard deviations of each axis for its c = 7.81 of three.
    np.testing.assert_allclose(fit.volume(0.95)[0], expected.conf["vol"][0], rtol=0.05)


def test_the_ellipsoid_holds_the_truth_as_often_as_it_says(sphere):
    clean = np.asarray(sphere.dipole_leadfield(TRUTH[:1])[:, 0] @ np.array([2e-8, 3e-8, -2e-8]))
    estimator, rng, inside, squares = dipole_fit(sphere, NOISE), np.random.default_rng(7), 0, []
    for _ in range(60):
        noise = 1e-7 * rng.normal(size=40)
        fit = estimator.solve(clean + noise - noise.mean())
        lengths, axes = fit.ellipsoid(0.9)
        inside += np.sum((axes[0].T @ (TRUTH[0] - fit.positions[0]) / lengths[0]) ** 2) < 1
        squares.append(fit.chi_square / fit.degrees_of_freedom)
    assert binom.ppf(0.001, 60, 0.9) <= inside <= binom.ppf(0.999, 60, 0.9)
    assert abs(np.mean(squares) - 1) < 0.15


def test_it_stops_at_the_edge_and_says_so(sphere):
    data = sphere.dipole_leadfield(np.array([[0.0, 0.05, 0.055]]))[:, 0] @ jnp.array([1e-8, 2e-8, 0.0])
    inner = np.flatnonzero(np.linalg.norm(sphere.sources.positions, axis=1) < 0.065)
    narrow = replace(sphere, sources=sphere.sources.take(inner), edge=0.065)
    fit = dipole_fit(narrow, NOISE).solve(data)
    assert fit.on_edge
    assert np.linalg.norm(fit.positions[0]) < 0.065


def test_no_convergence_is_never_silent(sphere):
    data = sphere.dipole_leadfield(TRUTH[:1])[:, 0] @ jnp.array([1e-8, 2e-8, 0.0])
    estimator = dipole_fit(sphere, NOISE, max_iterations=1)
    assert not estimator.solve(data).converged
    with pytest.raises(ConvergenceError, match="raise max_iterations"):
        estimator(data)


def test_an_estimate_puts_moments_at_the_nearest_sources(sphere):
    data = sphere.dipole_leadfield(TRUTH[:1])[:, 0] @ jnp.array([[1e-8, 0.0], [0.0, 2e-8], [0.0, 0.0]])
    nearest = np.argmin(np.linalg.norm(sphere.sources.positions - TRUTH[0], axis=1))
    free = np.asarray(dipole_fit(sphere, NOISE)(data).current)
    assert free.shape == (150, 3, 2)
    np.testing.assert_allclose(free[nearest], [[1e-8, 0], [0, 2e-8], [0, 0]], atol=1e-12)
    assert not np.delete(free, nearest, axis=0).any()
    normals = np.tile([-1.0, 0.0, 0.0], (150, 1))
    fixed = replace(sphere, sources=SourceSpace(sphere.sources.positions, normals))
    current = np.asarray(dipole_fit(fixed, NOISE)(data).current)
    np.testing.assert_allclose(np.abs(current[nearest]), [1e-8, 2e-8], rtol=1e-3)
    assert current[nearest, 0] < 0


@pytest.fixture(scope="module")
def two_tissues():
    """A finite-element sphere with grey matter around white matter."""
    radii, conductivity = (0.09, 0.084, 0.078, 0.06), (0.33, 0.02, 0.33, 0.14)
    mesh = sphere_head(radii, conductivity, n_nodes=6000).mesh
    head = HeadModel(mesh, ("scalp", "skull", "grey", "white"), conductivity)
    electrodes = Electrodes(radii[0] * directions(30, 2))
    return jaxinv.FemForward.build(head, SourceSpace(0.07 * directions(80, 5)), electrodes)


def test_an_equivalent_dipole_may_lie_below_the_cortex(two_tissues):
    """Through the finite elements: their leadfield is refused there, their dipoles are not."""
    truth, moment = np.array([[0.02, 0.03, 0.035]]), 2e-8 * directions(1, 8)[0]
    with pytest.raises(ValueError, match="lie outside grey"):
        two_tissues.leadfield(sources=SourceSpace(truth))
    data = two_tissues.dipole_leadfield(truth)[:, 0] @ moment
    noise = 1e-14 * (np.eye(30) - 1 / 30)
    fit = dipole_fit(two_tissues, noise).solve(data)
    assert fit.converged
    np.testing.assert_allclose(fit.positions, truth, atol=5e-4)
    np.testing.assert_allclose(fit.moments[0], moment, atol=0.03 * np.linalg.norm(moment))


def test_a_dipole_leadfield_is_the_leadfield_where_both_are(two_tissues):
    positions = np.asarray(two_tissues.sources.positions[:5])
    transfer = two_tissues.transfer_matrix()
    found = two_tissues.dipole_leadfield(positions, transfer=transfer)
    np.testing.assert_allclose(found, two_tissues.leadfield()[:, :5], rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="lie outside grey and white"):
        two_tissues.dipole_leadfield(np.array([[0.0, 0.0, 0.081]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_dipoles": 0}, "n_dipoles must be from 1 to 12"),
        ({"n_dipoles": 13}, "n_dipoles must be from 1 to 12"),
        ({"orientation": "loose"}, "orientation must be one of"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"max_iterations": 0}, "max_iterations must be positive"),
    ],
)
def test_bad_arguments_are_refused(sphere, options, message):
    with pytest.raises(ValueError, match=message):
        dipole_fit(sphere, NOISE, **options)


def test_more_parameters_than_measurements_are_refused(sphere):
    """One topography of rank 39 has room for six dipoles of six parameters."""
    data = np.random.default_rng(0).normal(size=(40, 2))
    with pytest.raises(ValueError, match="7 dipoles have 42 parameters, and 1 samples of rank 39 are 39"):
        dipole_fit(sphere, NOISE, n_dipoles=7).solve(data[:, 0])
    with pytest.raises(ValueError, match="9 dipoles have 81 parameters, and 2 samples of rank 39 are 78"):
        dipole_fit(sphere, NOISE, n_dipoles=9).solve(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(40), "measurements are zero"),
        (np.full(40, np.nan), "not finite"),
        (np.ones(39), "40 channels"),
    ],
)
def test_bad_measurements_are_refused(sphere, data, message):
    with pytest.raises(ValueError, match=message):
        dipole_fit(sphere, NOISE).solve(data)


def test_it_says_that_it_cannot_be_traced(sphere):
    estimator = dipole_fit(sphere, NOISE)
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda y: estimator(y).current)(np.ones(40))


def test_levels_are_shares(sphere):
    data = sphere.dipole_leadfield(TRUTH[:1])[:, 0] @ jnp.array([1e-8, 2e-8, 0.0])
    with pytest.raises(ValueError, match="level"):
        dipole_fit(sphere, NOISE).solve(data).ellipsoid(95)


def test_directions_settle_where_the_positions_need_no_step(sphere):
    """Two dipoles that lie on sources, of fixed and unlike directions."""
    positions, turned = sphere.sources.positions[[10, 60]], directions(2, 5)
    moments = 2e-8 * np.random.default_rng(1).normal(size=(2, 5))
    data = np.einsum("cdx,dx,dt->ct", sphere.dipole_leadfield(positions), turned, moments)
    fit = dipole_fit(sphere, NOISE, n_dipoles=2, orientation="fixed").solve(data)
    assert fit.converged
    assert 1 - fit.goodness_of_fit < 1e-7
