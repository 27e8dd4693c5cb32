import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import ConvexHull

from jaxinv.head.source_space import SourceSpace
from jaxinv.simulate import Activity, Dipoles, HalfActiveMaps, Patches


def sphere_sources(n=300, radius=0.07):
    """Points of a spiral on a sphere, and the triangles of their hull."""
    i = np.arange(n) + 0.5
    z, angle = 1 - 2 * i / n, np.pi * (1 + 5**0.5) * i
    normals = np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], 1)
    return SourceSpace(radius * normals, normals, faces=ConvexHull(normals).simplices)


SOURCES = sphere_sources()
MODELS = {
    "binary": lambda sources: HalfActiveMaps.build(sources, 30e-3),
    "signed": lambda sources: HalfActiveMaps.build(sources, 30e-3, "signed"),
    "dipoles": Dipoles.build,
    "patches": Patches.build,
}


def draw(model, key, n):
    return draw_keys(model, jax.random.split(key, n))


@jax.jit
def draw_keys(model, keys):
    return jax.vmap(model.sample)(keys)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_every_model_draws_float32_labels_and_currents(build, key):
    activity = draw(build(SOURCES), key, 8)
    assert isinstance(activity, Activity)
    assert activity.label.dtype == activity.current.dtype == jnp.float32
    assert activity.label.shape == activity.current.shape == (8, 300)
    assert set(np.unique(activity.label)) == {0.0, 1.0}
    assert np.isfinite(activity.current).all()
    assert len(np.unique(activity.current, axis=0)) == 8


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_same_key_same_draw_alone_and_in_a_batch(build, key):
    model = build(SOURCES)
    single = jax.jit(lambda m, k: m.sample(k))(model, key)
    batched = jax.tree.map(lambda x: x[1], draw_keys(model, jnp.stack([jax.random.key(9), key])))
    np.testing.assert_allclose(single.current, batched.current, rtol=1e-4, atol=1e-13)
    np.testing.assert_array_equal(single.label, batched.label)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_no_float64_anywhere(build, key):
    model = build(SOURCES)
    assert "f64" not in str(jax.make_jaxpr(model.sample)(key))


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_free_orientation_is_refused(build):
    with pytest.raises(ValueError, match="normals"):
        build(SourceSpace(SOURCES.positions, faces=SOURCES.faces))


def test_field_has_the_stated_covariance(key):
    """Sample covariance of 20,000 draws, standard error 0.01."""
    model = HalfActiveMaps.build(SOURCES, 30e-3, "signed", amplitude=2.0)
    field = draw(model, key, 10_000).current / 2
    squared = ((SOURCES.positions[:, None] - SOURCES.positions[None]) ** 2).sum(-1)
    expected = np.exp(-squared / (2 * 0.03**2))
    np.testing.assert_allclose(field.T @ field / 10_000, expected, atol=0.05)
    np.testing.assert_allclose(field.mean(0), 0, atol=0.05)


def test_labels_agree_as_the_arcsine_law_says(key):
    """P(both signs equal) = ½ + asin(ρ) / π for jointly Gaussian values of correlation ρ."""
    label = draw(MODELS["binary"](SOURCES), key, 10_000).label
    squared = ((SOURCES.positions - SOURCES.positions[0]) ** 2).sum(-1)
    expected = 0.5 + np.arcsin(np.exp(-squared / (2 * 0.03**2))) / np.pi
    np.testing.assert_allclose((label == label[:, :1]).mean(0), expected, atol=0.02)
    np.testing.assert_allclose(label.mean(), 0.5, atol=0.01)


def test_binary_and_signed_maps_of_one_key_share_their_labels(key):
    binary, signed = (draw(MODELS[kind](SOURCES), key, 4) for kind in ("binary", "signed"))
    np.testing.assert_array_equal(binary.label, signed.label)
    np.testing.assert_array_equal(binary.current, np.float32(10e-9) * binary.label)
    np.testing.assert_array_equal(signed.current > 0, signed.label > 0)


def test_dipoles_are_as_many_as_asked_each_number_equally_likely_and_everywhere(key):
    activity = draw(Dipoles.build(SOURCES, (2, 5)), key, 8_000)
    counts = np.asarray(activity.label.sum(1), int)
    np.testing.assert_allclose(np.bincount(counts, minlength=6)[2:] / 8_000, 0.25, atol=0.03)
    assert counts.min() == 2
    assert counts.max() == 5
    np.testing.assert_allclose(activity.label.mean(0), 3.5 / 300, atol=0.006)


def test_dipole_moments_have_random_signs_and_the_stated_size(key):
    activity = draw(Dipoles.build(SOURCES, (1, 3), amplitude=4e-9), key, 4_000)
    np.testing.assert_array_equal(activity.current != 0, activity.label > 0)
    moment = np.asarray(activity.current)[np.asarray(activity.label) > 0] / 4e-9
    assert 0.5 <= np.abs(moment).min() < 0.51
    assert 1.49 < np.abs(moment).max() <= 1.5 + 1e-6
    assert abs((moment > 0).mean() - 0.5) < 0.03


def test_one_patch_is_a_disc_on_the_surface(key):
    """A cap of geodesic radius r holds a share (1 − cos(r / R)) / 2 of the sphere."""
    model = Patches.build(SOURCES, (1, 1), (40e-3, 40e-3))
    activity = draw(model, key, 200)
    share = (1 - np.cos(0.04 / 0.07)) / 2
    assert 0.75 * share < activity.label.mean() < share  # paths along edges are longer than the geodesic
    for label, current in zip(np.asarray(activity.label) > 0, np.asarray(activity.current)):
        assert len(np.unique(current[label])) == 1
        inside = SOURCES.positions[label]
        assert np.linalg.norm(inside[:, None] - inside[None], axis=-1).max() <= 2 * 0.04


def test_patches_add_their_currents_and_join_their_labels(key):
    activity = draw(Patches.build(SOURCES, (3, 3), (20e-3, 60e-3)), key, 100)
    np.testing.assert_array_equal(activity.label > 0, activity.current != 0)
    several = [len(np.unique(current[current != 0])) for current in np.asarray(activity.current)]
    assert max(several) > 3  # overlaps have currents of their own


def test_single_node_patch_where_the_surface_ends(key):
    lonely = SourceSpace(SOURCES.positions, SOURCES.normals, faces=SOURCES.faces[:1])
    activity = draw(Patches.build(lonely), key, 100)
    assert activity.label.sum(1).min() == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HalfActiveMaps.build(SOURCES, kind="ternary"), "ternary"),
        (lambda: HalfActiveMaps.build(SOURCES, -1.0), "length"),
        (lambda: HalfActiveMaps.build(SOURCES, amplitude=0.0), "amplitude"),
        (lambda: Dipoles.build(SOURCES, (0, 2)), "n must be"),
        (lambda: Dipoles.build(SOURCES, (3, 2)), "n must be"),
        (lambda: Dipoles.build(SOURCES, (1, 301)), "300 sources"),
        (lambda: Patches.build(SOURCES, radius=(0.0, 1e-2)), "radius"),
        (lambda: Patches.build(SourceSpace(SOURCES.positions, SOURCES.normals)), "faces"),
    ],
)
def test_impossible_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_the_mean_current_is_that_of_many_draws(build, key):
    model = build(SOURCES)
    current = np.asarray(draw(model, key, 4000).current)
    error = (current.mean(axis=0) - np.asarray(model.mean_current)) / (current.std(axis=0) / 4000**0.5)
    assert model.mean_current.shape == (300,)
    assert np.abs(error).max() < 5
