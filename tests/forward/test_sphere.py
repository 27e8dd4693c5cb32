import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxinv.forward.sphere import sphere_field, sphere_leadfield

RADII, CONDUCTIVITY = np.array([0.092, 0.086, 0.080, 0.078]), np.array([0.33, 0.01, 1.79, 0.33])


def directions(n, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def homogeneous(positions, moments, electrodes, radius, conductivity):
    """Closed form on the surface (Brody, Terry & Ideker 1973), average reference."""
    r = radius * electrodes / np.linalg.norm(electrodes, axis=1, keepdims=True)
    d = r[:, None] - positions[None]
    length = np.linalg.norm(d, axis=2, keepdims=True)
    inner = np.einsum("ck,csk->cs", r, d)[..., None]
    kernel = 2 * d / length**3 + (d / length + r[:, None] / radius) / (radius * length + inner)
    potential = np.einsum("csk,sk->cs", kernel, moments) / (4 * np.pi * conductivity)
    return potential - potential.mean(axis=0)


def homogeneous_field(positions, moments, points, radius, conductivity):
    """Minus the surface gradient of the closed form, by complex steps along two tangents."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    first = np.cross(unit, [0.3, -0.8, 0.52])
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    field = 0.0
    for tangent in (first, np.cross(unit, first)):
        r = radius * unit + 1e-30j * tangent
        d = r[:, None] - positions[None]
        length = np.sqrt((d * d).sum(axis=2))[..., None]
        inner = np.einsum("ck,csk->cs", r, d)[..., None]
        kernel = 2 * d / length**3 + (d / length + r[:, None] / radius) / (radius * length + inner)
        slope = np.einsum("csk,sk->cs", kernel, moments).imag / 1e-30 / (4 * np.pi * conductivity)
        field = field - slope[:, None] * tangent[..., None]
    return field


# one layer, which uses the closed form itself, and the series: the same sphere in two layers
HOMOGENEOUS = [([0.09], [0.3]), ([0.09, 0.09 * 0.9999], [0.3, 0.3])]


@pytest.mark.parametrize(("radii", "conductivity"), HOMOGENEOUS)
@pytest.mark.parametrize("eccentricity", [0.0, 0.3, 0.9, 0.99, 0.995, 0.999])
def test_a_homogeneous_sphere_has_a_closed_form(eccentricity, radii, conductivity):
    positions, moments, electrodes = 0.09 * eccentricity * directions(6), directions(6, 1), directions(30, 2)
    electrodes[0] = positions[0] if eccentricity else electrodes[0]
    ours = sphere_leadfield(positions, moments, electrodes, radii, conductivity)
    theirs = homogeneous(positions, moments, electrodes, 0.09, 0.3)
    np.testing.assert_allclose((ours - theirs) / np.abs(theirs).max(axis=0), 0, atol=1e-8)


@pytest.mark.parametrize(("radii", "conductivity"), HOMOGENEOUS)
@pytest.mark.parametrize("eccentricity", [0.0, 0.5, 0.99, 0.999])
def test_the_field_of_a_homogeneous_sphere_has_a_closed_form(eccentricity, radii, conductivity):
    positions, moments, points = 0.09 * eccentricity * directions(4), directions(4, 1), directions(12, 2)
    ours = sphere_field(positions, moments, points, radii, conductivity)
    theirs = homogeneous_field(positions, moments, points, 0.09, 0.3)
    assert ours.shape == (12, 3, 4)
    np.testing.assert_allclose((ours - theirs) / np.abs(theirs).max(axis=(0, 1)), 0, atol=1e-8)


def test_the_field_is_the_slope_of_the_potential_along_the_surface():
    """Differences between electrodes along great circles; along the radius the field is 0."""
    positions, moments, points = 0.075 * directions(5), directions(5, 1), directions(10, 2)
    field = sphere_field(positions, moments, points, RADII, CONDUCTIVITY)
    size = np.abs(field).max()
    np.testing.assert_allclose(np.einsum("pk,pks->ps", points, field), 0, atol=1e-12 * size)
    tangent = np.cross(points, directions(10, 3))
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    angle = 1e-4
    pair = np.concatenate([np.cos(angle) * points + sign * np.sin(angle) * tangent for sign in (1, -1)])
    ahead, behind = np.split(sphere_leadfield(positions, moments, pair, RADII, CONDUCTIVITY), 2)
    slope = (ahead - behind) / (2 * angle * RADII[0])
    np.testing.assert_allclose(-np.einsum("pk,pks->ps", tangent, field), slope, atol=1e-6 * size)


def test_the_field_has_derivatives():
    """In units in which everything is about one: well-scaled finite differences."""

    def f(positions, moments, points, conductivity):
        return sphere_field(positions, moments, points, np.array([1.0, 0.9]), conductivity)

    arguments = (0.4 * directions(2), directions(2, 1), directions(3, 2), [0.3, 1.0])
    check_grads(f, tuple(map(jnp.asarray, arguments)), order=1, atol=1e-6, rtol=1e-6)


def test_traced_positions_are_good_to_high_eccentricity():
    """Under jit the length of the series cannot depend on the positions; at 0.999 it still is exact."""
    radii, conductivity = HOMOGENEOUS[1]
    positions, moments, electrodes = 0.09 * 0.999 * directions(4), directions(4, 1), directions(10, 2)
    traced = jax.jit(lambda p: sphere_leadfield(p, moments, electrodes, radii, conductivity))(positions)
    theirs = homogeneous(positions, moments, electrodes, 0.09, 0.3)
    np.testing.assert_allclose((traced - theirs) / np.abs(theirs).max(axis=0), 0, atol=1e-8)


def test_many_thin_layers_are_one_anisotropic_layer():
    """Layers of σ₁ and σ₂ in turn conduct as one of their mean across them, their harmonic mean along."""
    positions, moments, electrodes = 0.07 * directions(5), directions(5, 1), directions(20, 2)
    one, two, n = 0.02, 0.004, 400
    shell = np.linspace(0.086, 0.08, 2 * n + 1)[:-1]
    laminate = sphere_leadfield(
        positions,
        moments,
        electrodes,
        np.concatenate([[0.092], shell, [0.08]]),
        [0.33, *[one, two] * n, 0.33],
    )
    mean = [[0.33, 0.33], [2 * one * two / (one + two), (one + two) / 2], [0.33, 0.33]]
    mixed = sphere_leadfield(positions, moments, electrodes, [0.092, 0.086, 0.08], mean)
    isotropic = sphere_leadfield(positions, moments, electrodes, [0.092, 0.086, 0.08], np.mean(mean, axis=1))
    np.testing.assert_allclose(mixed, laminate, rtol=0, atol=3e-3 * np.abs(laminate).max())
    assert np.abs(isotropic - laminate).max() > 3e-2 * np.abs(laminate).max()


def test_layers_of_equal_conductivity_are_one_layer():
    positions, moments, electrodes = 0.07 * directions(5), directions(5, 1), directions(20, 2)
    layered = sphere_leadfield(positions, moments, electrodes, RADII, np.full(4, 0.3))
    single = sphere_leadfield(positions, moments, electrodes, RADII[:1], [0.3])
    np.testing.assert_allclose(layered, single, rtol=0, atol=1e-10 * np.abs(single).max())


def test_high_eccentricity_in_thin_layers_stays_finite():
    positions = 0.9999 * RADII[-1] * directions(4)
    field = sphere_leadfield(positions, directions(4, 1), directions(20, 2), RADII, CONDUCTIVITY)
    assert np.isfinite(field).all()
    wide = sphere_leadfield(positions / 100, directions(4, 1), directions(20, 2), [1.0, 0.01], [0.3, 0.3])
    one = sphere_leadfield(positions / 100, directions(4, 1), directions(20, 2), [1.0], [0.3])
    np.testing.assert_allclose(wide, one, atol=1e-10 * np.abs(one).max())


def test_a_rotation_of_everything_changes_nothing():
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    arrays = 0.07 * directions(5), directions(5, 1), directions(20, 2)
    before = sphere_leadfield(*arrays, RADII, CONDUCTIVITY)
    after = sphere_leadfield(*(a @ rotation for a in arrays), RADII, CONDUCTIVITY)
    np.testing.assert_allclose(before, after, atol=1e-10 * np.abs(before).max())


def test_scaling_lengths_and_conductivities():
    """V falls with the square of length and with conductivity; the reference is the average."""
    arrays = 0.07 * directions(5), directions(5, 1), directions(20, 2)
    before = sphere_leadfield(*arrays, RADII, CONDUCTIVITY)
    after = sphere_leadfield(2 * arrays[0], *arrays[1:], 2 * RADII, 3 * CONDUCTIVITY)
    np.testing.assert_allclose(after, before / 12, atol=1e-10 * np.abs(before).max())
    np.testing.assert_allclose(before.mean(axis=0), 0, atol=1e-12 * np.abs(before).max())


def test_derivatives_in_every_argument():
    """In units of decimetres and one: well-scaled finite differences."""

    def f(positions, moments, electrodes, radii, conductivity):
        return sphere_leadfield(positions, moments, electrodes, radii, conductivity)

    arguments = (
        0.4 * directions(2),
        directions(2, 1),
        directions(5, 2),
        jnp.array([1.0, 0.9]),
        jnp.array([0.3, 1.0]),
    )
    check_grads(f, tuple(map(jnp.asarray, arguments)), order=1, atol=1e-6, rtol=1e-6)


def test_jit_and_vmap_agree_with_a_loop():
    arrays = 0.07 * directions(5), directions(5, 1), directions(20, 2)
    sigmas = jnp.asarray(CONDUCTIVITY) * jnp.array([[1.0], [0.5]])
    batched = jax.jit(jax.vmap(lambda s: sphere_leadfield(*arrays, RADII, s)))(sigmas)
    for row, sigma in zip(batched, sigmas):
        one = sphere_leadfield(*arrays, RADII, sigma)
        np.testing.assert_allclose(row, one, atol=1e-10 * np.abs(one).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.array([[0, 0, 0.079]])}, "outside the innermost layer"),
        ({"radii": RADII[::-1]}, "decrease"),
        ({"conductivity": np.array([0.33, 0.0, 1.79, 0.33])}, "positive"),
        ({"conductivity": np.array([0.33])}, "one value a layer"),
        ({"conductivity": np.array([[0.33, 0.33]] * 3 + [[0.33, 0.3]])}, "isotropic"),
        ({"moments": np.ones((2, 3))}, "moments must have"),
        ({"electrodes": np.ones(3)}, "electrodes must have shape"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {
        "positions": np.array([[0, 0, 0.05]]),
        "moments": np.array([[0, 0, 1.0]]),
        "electrodes": directions(8),
        "radii": RADII,
        "conductivity": CONDUCTIVITY,
    }
    with pytest.raises(ValueError, match=message):
        sphere_leadfield(**{**arguments, **change})


def test_what_a_jitted_function_closes_over_may_be_jax_arrays():
    positions, moments, electrodes = (jnp.asarray(0.05 * directions(3, k)) for k in range(3))
    radii, conductivity = jnp.asarray(RADII), jnp.asarray(CONDUCTIVITY)
    electrodes = electrodes / 0.05 * RADII[0]
    for sigma in (conductivity, jnp.stack([conductivity, conductivity], axis=1)):
        found = jax.jit(lambda s: sphere_leadfield(positions, moments, electrodes, radii, s))(sigma)
        expected = sphere_leadfield(positions, moments, electrodes, radii, sigma)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        closed = jax.jit(lambda e: sphere_leadfield(positions, moments, e, radii, sigma))(electrodes)  # noqa: B023
        np.testing.assert_allclose(closed, expected, rtol=1e-9)
