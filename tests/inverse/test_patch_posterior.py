import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from jaxinv.inverse import patch_dictionary, patch_posterior
from jaxinv.inverse.patch_posterior import _COMMON, _RATIO_STD, _RATIOS, _bands


def strip(n):
    """Triangles of a strip of n sources."""
    return np.stack([np.arange(n - 2), np.arange(1, n - 1), np.arange(2, n)], axis=1)


def dense_patches(faces, n_sources, n_orders, share):
    """Rows of powers of I − share × (graph Laplacian), over their largest values."""
    links = np.zeros((n_sources, n_sources))
    for a, b in itertools.permutations(range(3), 2):
        links[faces[:, a], faces[:, b]] = 1
    step = np.eye(n_sources) + share * (links - np.diag(links.sum(axis=1)))
    powers = [np.linalg.matrix_power(step, k) for k in range(n_orders)]
    return np.stack([power / power.max(axis=1, keepdims=True) for power in powers])


def test_the_dictionary_is_that_of_dense_matrices(key):
    faces = strip(9)
    dictionary, dense = patch_dictionary(faces, 10, share=0.15), dense_patches(faces, 10, 4, 0.15)
    gain = jax.random.normal(key, (5, 10))
    np.testing.assert_allclose(dictionary.fields(gain), np.einsum("cs,kas->cka", gain, dense), atol=1e-12)
    amplitude = jax.random.normal(key, (3, 4, 10))
    expected = np.einsum("mka,kas->ms", amplitude, dense)
    np.testing.assert_allclose(dictionary.currents(amplitude), expected, atol=1e-12)


@pytest.mark.parametrize("n_times", [1, 2, 7, 50])
def test_modes_are_orthonormal_and_spectra_have_mean_one(n_times):
    basis, count, spectra = _bands(n_times)
    np.testing.assert_allclose(basis @ basis.T, np.eye(n_times), atol=1e-12)
    np.testing.assert_allclose(spectra @ count / n_times, 1)
    np.testing.assert_allclose(spectra[0], 1)
    assert count.sum() == n_times
    assert (np.diff(spectra[-1]) <= 0).all()


def enumerated(leadfield, faces, data, n_patches):
    """Posterior mean and expected memberships, noise of variance one, over all sets, variances and scales."""
    n_sources = leadfield.shape[1]
    atoms = dense_patches(faces, n_sources, 2, 0.1).reshape(-1, n_sources)
    gain = leadfield / np.sqrt(np.mean(leadfield**2))
    fields = np.asarray((gain @ atoms.T).astype(np.float32), np.float64)
    level = np.sqrt(np.mean(data**2))
    power = np.sum(fields**2, axis=0)
    commons = np.log(len(data) / 2 / np.median(power)) + _COMMON
    ratio_prior = np.exp(-(_RATIOS**2) / 2) / np.sum(np.exp(-(_RATIOS**2) / 2))
    logs, means, members = [], [], []
    for count in range(n_patches + 1):
        for common in commons:
            for chosen in itertools.product(range(len(atoms)), repeat=count):
                for ratios in itertools.product(range(len(_RATIOS)), repeat=count):
                    variance = np.exp(common + _RATIO_STD * _RATIOS[list(ratios)])
                    part = fields[:, list(chosen)] * variance
                    cov = part @ fields[:, list(chosen)].T + np.eye(len(data)) / level**2
                    logs.append(
                        multivariate_normal.logpdf(data / level, cov=cov)
                        + np.sum(np.log(ratio_prior[list(ratios)])) - count * np.log(len(atoms))
                    )  # fmt: skip
                    amplitude = part.T @ np.linalg.solve(cov, data / level)
                    means.append(amplitude @ atoms[list(chosen)])
                    members.append(atoms[list(chosen)].sum(axis=0))
    weights = np.exp(np.array(logs) - logsumexp(logs))
    mean = weights @ np.array(means) * level / np.sqrt(np.mean(leadfield**2))
    return mean, np.minimum(weights @ np.array(members), 1)


@pytest.mark.parametrize("n_patches", [1, 2])
def test_it_is_the_posterior_mean_of_all_sets(n_patches):
    """One sample, known noise, six patches: every set, variance and common scale is enumerated."""
    rng = np.random.default_rng(0)
    leadfield, faces = rng.normal(size=(4, 3)), strip(3)
    data = 2 * leadfield[:, 0] + rng.normal(size=4)
    mean, member = enumerated(leadfield, faces, data, n_patches)
    estimator = patch_posterior(
        leadfield, np.eye(4), faces, n_orders=2, n_patches=n_patches, learn_noise=False,
        n_sweeps=3000, n_burn_in=200, n_chains=4,
    )  # fmt: skip
    found = estimator(data)
    np.testing.assert_allclose(found.current, mean, atol=0.03 * np.abs(mean).max())
    np.testing.assert_allclose(found.probability, member, atol=0.03)


@pytest.fixture(scope="module")
def window():
    """A leadfield of smooth topographies on a ring, and a window of two noisy patches of slow courses."""
    rng = np.random.default_rng(1)
    n_sources, n_channels = 60, 24
    angle = 2 * np.pi * (np.arange(n_sources) / n_sources - np.arange(n_channels)[:, None] / n_channels)
    leadfield = np.exp(4 * (np.cos(angle) - 1)) * rng.uniform(0.8, 1.2, n_sources)
    leadfield -= leadfield.mean(axis=0)
    faces = strip(n_sources)
    truth = np.zeros((n_sources, 32))
    time = np.arange(32) / 32
    truth[9:12] = 1e-8 * np.sin(2 * np.pi * time)
    truth[40] = 2e-8 * np.cos(4 * np.pi * time)
    clean = leadfield @ truth
    reference = np.eye(n_channels) - 1 / n_channels
    noise = clean.std() * reference @ rng.normal(size=clean.shape)
    return leadfield, clean.var() * reference, faces, clean + noise, truth


def test_it_finds_patches_in_noise_of_an_unknown_level(window):
    leadfield, cov, faces, data, truth = window
    found = patch_posterior(leadfield, 100 * cov, faces)(data)
    assert found.current.shape == truth.shape
    strength = np.mean(np.abs(found.current), axis=1)
    assert set(np.argsort(-strength)[:2]) & {9, 10, 11}
    assert np.linalg.norm(found.current - truth) < 0.8 * np.linalg.norm(truth)
    assert np.corrcoef(np.asarray(found.current[40]), truth[40])[0, 1] > 0.9
    assert ((found.probability >= 0) & (found.probability <= 1)).all()
    assert found.probability[40] > 0.3 > found.probability[25]


def test_units_and_seeds(window):
    """Current scales with the measurements and against the leadfield; the same seed gives the same."""
    leadfield, cov, faces, data, _ = window
    once = patch_posterior(leadfield, cov, faces, n_sweeps=8, n_burn_in=3)(data).current
    again = patch_posterior(1e6 * leadfield, 1e-12 * cov, faces, n_sweeps=8, n_burn_in=3)(1e-6 * data).current
    np.testing.assert_allclose(again, 1e-12 * once, atol=1e-15 * np.abs(once).max())
    other = patch_posterior(leadfield, cov, faces, n_sweeps=8, n_burn_in=3, seed=1)(data).current
    assert not np.array_equal(other, once)


def test_zeros_one_sample_and_batches(window):
    leadfield, cov, faces, data, _ = window
    estimator = patch_posterior(leadfield, cov, faces,
                                n_sweeps=8, n_burn_in=3)  # fmt: skip
    assert not np.asarray(estimator(np.zeros_like(data)).current).any()
    assert estimator(data[:, 3]).current.shape == (60,)
    batch = jnp.stack([data, data[:, ::-1]])
    together = jax.jit(jax.vmap(lambda y: estimator(y)))(batch)
    np.testing.assert_allclose(together.current[1], estimator(batch[1]).current, atol=1e-4 * 2e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_patches": 0}, "n_patches must be 1 or more"),
        ({"n_chains": 0}, "n_chains must be 1 or more"),
        ({"n_sweeps": 10, "n_burn_in": 10}, "n_burn_in must be from 0 to"),
        ({"n_orders": 0}, "n_orders must be an integer"),
        ({"share": 0.3}, "share must be above 0 and below"),
        ({"faces": np.ones((3, 2), int)}, "faces must hold triangles"),
        ({"faces": np.array([[0, 1, 60]])}, "faces must index the 60"),
        ({"leadfield": np.ones((24, 60, 3))}, "fixed orientation"),
    ],
)
def test_bad_arguments_are_refused(window, options, message):
    leadfield, cov, faces, *_ = window
    arguments = {"leadfield": leadfield, "noise_cov": cov, "faces": faces} | options
    with pytest.raises(ValueError, match=message):
        patch_posterior(**arguments)
