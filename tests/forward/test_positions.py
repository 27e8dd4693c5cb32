"""Derivatives of leadfields in the positions of sources and sensors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv.forward.exact import FemForward
from jaxinv.forward.sphere import sphere_field, sphere_leadfield
from jaxinv.head import Contacts, Electrodes, SourceSpace, SurfaceField
from jaxinv.head.spheres import sphere_head

from .conftest import CONDUCTIVITY, RADII, directions

SOURCES = SourceSpace(0.055 * directions(8, 0), directions(8, 1))
ELECTRODES = Electrodes(RADII[0] * directions(20, 2))


@pytest.fixture(scope="module")
def forward():
    head = sphere_head(RADII, CONDUCTIVITY, n_nodes=12_000, element="tetra10")
    return FemForward.build(head, SOURCES, ELECTRODES, tolerance=1e-10)


def relative(found, exact):
    return np.linalg.norm(np.ravel(found) - np.ravel(exact)) / np.linalg.norm(exact)


def test_derivative_in_the_sources_positions(forward):
    """Against the series. Measured: a relative error of 0.006."""
    direction = directions(8, 3)
    _, found = jax.jvp(
        lambda x: forward.leadfield(sources=SourceSpace(x, SOURCES.normals)),
        (SOURCES.positions,),
        (direction,),
    )
    _, exact = jax.jvp(
        lambda x: sphere_leadfield(x, SOURCES.normals, ELECTRODES.positions, RADII, CONDUCTIVITY),
        (SOURCES.positions,), (direction,),
    )  # fmt: skip
    assert relative(found, exact) < 0.02


def test_derivative_in_the_moments_is_exact(forward):
    tangent = directions(8, 4)
    _, found = jax.jvp(
        lambda q: forward.leadfield(sources=SourceSpace(SOURCES.positions, q)), (SOURCES.normals,), (tangent,)
    )
    free = forward.leadfield(sources=SourceSpace(SOURCES.positions))
    np.testing.assert_allclose(found, jnp.einsum("csx,sx->cs", free, tangent), rtol=1e-12)


def test_derivative_in_the_electrodes_positions(forward):
    """Electrodes that slide along the scalp, against the series. Measured: a relative error of 0.006."""
    turned = np.cross(ELECTRODES.positions, [0.3, -0.5, 0.8])
    _, found = jax.jvp(
        lambda x: forward.leadfield(sensors=ELECTRODES.at(x)), (ELECTRODES.positions,), (turned,)
    )
    _, exact = jax.jvp(
        lambda x: sphere_leadfield(SOURCES.positions, SOURCES.normals, x, RADII, CONDUCTIVITY),
        (ELECTRODES.positions,), (turned,),
    )  # fmt: skip
    assert relative(found, exact) < 0.02


def test_reverse_mode_jit_and_vmap(forward):
    """A gradient equals the directional derivatives that make it up; a batch equals its members."""
    weights = np.random.default_rng(0).normal(size=(20, 8))

    def functional(x):
        return (weights * forward.leadfield(sources=SourceSpace(x, SOURCES.normals))).sum()

    gradient = jax.jit(jax.grad(functional))(SOURCES.positions)
    directional = jax.jvp(functional, (SOURCES.positions,), (directions(8, 5),))[1]
    np.testing.assert_allclose((gradient * directions(8, 5)).sum(), directional, rtol=1e-9)
    batch = jnp.stack([SOURCES.positions, 0.9 * SOURCES.positions])
    np.testing.assert_allclose(jax.vmap(functional)(batch), [functional(x) for x in batch], rtol=1e-9)


def test_a_source_moves_smoothly_inside_its_cell(forward):
    """The leadfield of a source moved by a tenth of a millimetre, against the derivative."""
    step = 1e-4 * directions(8, 6)
    here, there = (forward.leadfield(sources=SourceSpace(SOURCES.positions + s * step)) for s in (-1, 1))
    _, slope = jax.jvp(lambda x: forward.leadfield(sources=SourceSpace(x)), (SOURCES.positions,), (step,))
    assert relative((there - here) / 2, slope) < 0.03


def test_positions_have_no_derivative_by_partial_integration(forward):
    plain = forward.replace(source_model="partial-integration")
    with pytest.raises(ValueError, match=r"no derivative .* \['recovery'\]"):
        jax.jacfwd(lambda x: plain.leadfield(sources=SourceSpace(x)))(SOURCES.positions)


def test_contacts_read_the_potential_between_the_nodes(forward):
    """sEEG: the potential of a deep dipole at contacts, by reciprocity equal to the roles exchanged.

    The derivative in a contact's position, against differences over several cells of this coarse mesh.
    """
    points = 0.02 * directions(10, 7)
    contacts = Contacts(points, reference=None)
    build = FemForward.build(forward.head, SOURCES, contacts, tolerance=1e-10)
    nodal = np.asarray(build.transfer_matrix())
    located = np.asarray(build.weights.columns(forward.head.mesh.n_nodes)).T
    symmetric = located @ nodal.T
    np.testing.assert_allclose(symmetric, symmetric.T, rtol=1e-6)
    assert build.leadfield().shape == (10, 8)
    tangent = directions(10, 8)
    _, slope = jax.jvp(lambda x: build.leadfield(sensors=contacts.at(x)), (points,), (tangent,))
    ahead, behind = (build.leadfield(sensors=contacts.at(points + s * 5e-3 * tangent)) for s in (1, -1))
    error = np.linalg.norm((ahead - behind) / 1e-2 - slope, axis=1) / np.linalg.norm(slope, axis=1)
    assert np.median(error) < 0.2


def test_contacts_outside_the_head_are_refused(forward):
    with pytest.raises(ValueError, match=r"1 contacts lie outside the head: {'B2'"):
        FemForward.build(forward.head, SOURCES, Contacts([[0, 0, 0.05], [0, 0, 0.1]], ("B1", "B2")))


def test_surface_field_is_minus_the_gradient_along_the_scalp(forward):
    """Against the series: tangential part by differences, normal part zero. Measured: 0.010, 0.017."""
    points = RADII[0] * directions(20, 9)
    field = FemForward.build(forward.head, SOURCES, SurfaceField(points)).leadfield().reshape(20, 3, 8)
    normal = points / RADII[0]
    first = np.cross(normal, [0.6, 0.0, 0.8])
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    across = np.stack([first, np.cross(normal, first)])
    step = 1e-4
    pairs = np.concatenate([points + step * across, points - step * across], axis=1).reshape(-1, 3)
    potential = sphere_leadfield(SOURCES.positions, SOURCES.normals, pairs, RADII, CONDUCTIVITY)
    ahead, behind = np.moveaxis(np.reshape(potential, (2, 2, 20, 8)), 1, 0)
    exact = -(ahead - behind) / (2 * step)
    assert relative(np.einsum("tex,exs->tes", across, field), exact) < 0.02
    assert np.linalg.norm(np.einsum("ex,exs->es", normal, field)) < 0.03 * np.linalg.norm(exact)


def test_derivative_of_a_surface_field_in_its_position(forward):
    """Against the series; along the scalp the field turns with it. Measured: 0.11 and 0.23."""
    points = RADII[0] * directions(20, 9)
    sensors = FemForward.build(forward.head, SOURCES, SurfaceField(points)).sensors
    tangent = np.cross(points / RADII[0], [0.3, -0.5, 0.8])
    _, found = jax.jvp(lambda x: forward.leadfield(sensors=sensors.at(x)), (points,), (tangent,))
    _, exact = jax.jvp(
        lambda x: sphere_field(SOURCES.positions, SOURCES.normals, x, RADII, CONDUCTIVITY),
        (points,),
        (tangent,),
    )
    assert relative(found, exact) < 0.15
    normal = points / RADII[0]
    found, exact = (np.einsum("ex,exs->es", normal, np.reshape(a, (20, 3, 8))) for a in (found, exact))
    assert relative(found, exact) < 0.3


def test_no_source_or_sensor_is_named(forward):
    nowhere = np.zeros((0, 3))
    with pytest.raises(ValueError, match="sources is empty"):
        forward.leadfield(sources=SourceSpace(nowhere, nowhere))
    with pytest.raises(ValueError, match="sensors is empty"):
        forward.leadfield(sensors=Electrodes(nowhere))
