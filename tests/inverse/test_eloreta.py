from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxinv.inverse import ConvergenceError, eloreta, minimum_norm, solve_eloreta

TIGHT = {"tolerance": 1e-12, "max_iterations": 200}


@pytest.mark.parametrize("snr", [3.0, 1.0])
@pytest.mark.parametrize(
    ("orientation", "loose", "force_equal"),
    [
        ("fixed", 1.0, None),
        ("free", 1.0, None),
        ("free", 1.0, True),
        ("free", 0.2, None),
        ("free", 0.2, False),
        ("free", 0.2, True),
    ],
)
def test_it_agrees_with_mne_python(mne_problem, solve_with_mne, orientation, loose, force_equal, snr):
    forwards, evoked, noise, reference = mne_problem
    leadfield = forwards[orientation]["sol"]["data"]
    normals = None
    if orientation == "free":
        leadfield = leadfield.reshape(19, 30, 3)
        normals = forwards["fixed"]["source_nn"]
    options = {"snr": snr, "force_equal": force_equal, "normals": normals}
    estimator = eloreta(
        leadfield, noise.data, loose=loose if normals is not None else None, **options, **TIGHT
    )
    found = estimator(reference @ evoked.data).current
    # MNE-Python forces no equal weights when told None; leaving the option out is its default.
    given = {} if force_equal is None else {"force_equal": force_equal}
    mne_options = {"eps": 1e-12, "max_iter": 200, **given}
    expected = solve_with_mne(orientation, snr, "eLORETA", loose=loose, options=mne_options)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max(), rtol=1e-6)


def test_with_its_defaults_it_is_as_close_to_mne_pythons_as_both_tolerances_are(mne_problem, solve_with_mne):
    forwards, evoked, noise, reference = mne_problem
    leadfield = forwards["free"]["sol"]["data"].reshape(19, 30, 3)
    found = minimum_norm(leadfield, noise.data, method="eLORETA")(reference @ evoked.data).current
    expected = solve_with_mne("free", 3.0, "eLORETA")
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.fixture
def leadfields(key):
    """Fixed and free, average reference, sources of very different strength, one that no channel sees."""
    reference = jnp.eye(16) - 1 / 16
    strength = jnp.logspace(-1, 1, 15).at[4].set(0)
    free = jnp.tensordot(reference, jax.random.normal(key, (16, 15, 3)), 1) * strength[:, None]
    return {"fixed": free[..., 0], "free": free}, reference


@pytest.mark.parametrize("snr", [0.5, 3.0, 20.0])
def test_every_single_fixed_source_is_localised_without_error(leadfields, snr):
    leadfield, cov = leadfields[0]["fixed"], leadfields[1]
    current = eloreta(leadfield, cov, snr=snr)(leadfield).current
    seen = np.delete(np.arange(15), 4)
    np.testing.assert_array_equal(np.abs(current).argmax(0)[seen], seen)
    assert not current[4].any()


@pytest.mark.parametrize("snr", [0.5, 3.0, 20.0])
def test_every_single_free_source_is_localised_without_error(leadfields, snr):
    leadfield, cov = leadfields[0]["free"], leadfields[1]
    current = eloreta(leadfield, cov, snr=snr)(leadfield.reshape(16, -1)).current.reshape(15, 3, 15, 3)
    seen = np.delete(np.arange(15), 4)
    found = jnp.sum(current**2, axis=1).argmax(axis=0)[seen]
    np.testing.assert_array_equal(found, np.repeat(seen[:, None], 3, 1))
    assert not current[4].any()


def test_one_source_of_one_channel_pair_has_a_closed_form():
    """One source and white noise: the prior is scaled to the rank, whatever the weight."""
    leadfield = jnp.array([[1.0], [-1.0]])
    kernel = eloreta(leadfield, jnp.eye(2) - 0.5, snr=2.0).kernel
    np.testing.assert_allclose(kernel, leadfield.T / 2 / (1 + 2.0**-2), rtol=1e-12)


@pytest.mark.parametrize("snr", [2.0, 300.0])
def test_many_sources_are_the_same_in_blocks(key, snr):
    """More sources than a block holds: each weight is the root that defines it.

    Also with noise of 1e-5 of the signal's power and a direction that columns hardly have.
    """
    squeezed = jnp.eye(10).at[9, 9].set(1e-3)
    leadfield = jnp.tensordot(squeezed, jax.random.normal(key, (10, 1100, 3)), 1)
    solution = solve_eloreta(leadfield, jnp.eye(10), snr=snr, **TIGHT)
    assert solution.converged
    flat = np.asarray(leadfield).reshape(10, -1)
    weights = np.tile(np.eye(3), (1100, 1, 1))
    for _ in range(80):
        spread = np.einsum("csi,sij->csj", leadfield, weights).reshape(10, -1)
        size = np.trace(spread @ flat.T) / 10
        inverse = np.linalg.inv(spread @ flat.T / size + np.eye(10) / snr**2)
        kernel = (spread / size).T @ inverse
        seen = np.einsum("csi,cd,dsj->sij", leadfield, inverse, leadfield, optimize=True)
        values, vectors = np.linalg.eigh(seen)
        weights = np.einsum("sik,sk,sjk->sij", vectors, values**-0.5, vectors)
    np.testing.assert_allclose(solution.kernel.reshape(-1, 10), kernel, atol=1e-9 * np.abs(kernel).max())


def test_weights_that_did_not_converge_are_not_handed_out(leadfields):
    leadfield, cov = leadfields[0]["free"], leadfields[1]
    with pytest.raises(ConvergenceError, match="after 2 iterations"):
        eloreta(leadfield, cov, max_iterations=2)
    reached = solve_eloreta(leadfield, cov, max_iterations=2)
    assert not reached.converged
    assert reached.iterations == 2
    assert jnp.isfinite(reached.kernel).all()
    assert jnp.isnan(jax.jit(partial(eloreta, max_iterations=2))(leadfield, cov).kernel).all()


@pytest.mark.parametrize("orientation", ["fixed", "free"])
def test_it_vmaps_over_leadfields_and_covariances(leadfields, orientation):
    leadfield, cov = leadfields[0][orientation], leadfields[1]
    batch = jnp.stack([leadfield, leadfield[:, ::-1] * 2])
    covs = jnp.stack([cov, cov * jnp.linspace(1, 2, 16) * jnp.linspace(1, 2, 16)[:, None]])
    batched = jax.vmap(lambda gain, noise: eloreta(gain, noise).kernel)(batch, covs)
    for one, noise, kernel in zip(batch, covs, batched):
        expected = eloreta(one, noise).kernel
        np.testing.assert_allclose(kernel, expected, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("options", [{}, {"force_equal": True}, {"loose": 0.4}])
@pytest.mark.parametrize("free", [False, True])
def test_it_is_differentiable_through_its_fixed_point(options, free):
    if options and not free:
        pytest.skip("an option of free orientation")
    leadfield = jax.random.normal(jax.random.key(3), (5, 7, 3) if free else (5, 7))
    direction = jax.random.normal(jax.random.key(4), (5, 5))
    options = {**options, "normals": jnp.eye(3)[jnp.arange(7) % 3]} if "loose" in options else options

    def kernel(leadfield, shift, snr):
        cov = jnp.eye(5) + shift * (direction + direction.T)
        return eloreta(leadfield, cov, snr=snr, **options, **TIGHT).kernel

    # backwards goes through the forward rule; forwards on its own is compiled once more
    modes = ["fwd", "rev"] if not options else ["rev"]
    check_grads(jax.jit(kernel), (leadfield, 0.0, 2.0), order=1, modes=modes, rtol=1e-4)


def test_gradients_are_finite_with_a_blind_source_and_lost_ranks(leadfields):
    leadfield, cov = leadfields[0]["free"], leadfields[1]
    total = lambda scale: jnp.sum(eloreta(leadfield * scale[:, None], cov).kernel ** 2)  # noqa: E731
    assert jnp.isfinite(jax.jit(jax.grad(total))(jnp.full(15, 2.0))).all()


@pytest.mark.parametrize("orientation", ["fixed", "free"])
def test_float32_converges_and_stays_float32(leadfields, orientation):
    leadfield, cov = leadfields[0][orientation] * 1e3, leadfields[1] * 1e-14
    exact = eloreta(leadfield, cov).kernel
    single = eloreta(leadfield.astype(jnp.float32), cov.astype(jnp.float32), tolerance=1e-5).kernel
    assert single.dtype == jnp.float32
    assert np.linalg.norm(single - exact) < 1e-4 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"snr": -1.0}, "snr"),
        ({"loose": 0.2}, "free orientation"),
    ],
)
def test_what_cannot_be_solved_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        eloreta(np.ones((3, 4)), np.eye(3), **options)
