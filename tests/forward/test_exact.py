from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.linalg import spsolve

from jaxinv.fem import SOURCE_MODELS
from jaxinv.forward.exact import FemForward
from jaxinv.forward.protocol import Forward
from jaxinv.forward.sphere import sphere_leadfield
from jaxinv.head import Electrodes, SourceSpace, SurfaceField
from jaxinv.head.spheres import sphere_head
from jaxinv.metrics.forward import mag, rdm

from .conftest import CONDUCTIVITY, RADII, directions


def close(ours, theirs, relative):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=relative * np.abs(theirs).max())


@pytest.fixture(scope="module")
def errors():
    """RDM and MAG - 1 against the series, by number of nodes."""
    depth = np.repeat([0.02, 0.05, 0.07], 20)[:, None]
    sources = SourceSpace(depth * directions(60, 3), directions(60, 4))
    electrodes = Electrodes(RADII[0] * directions(40, 5))
    exact = sphere_leadfield(sources.positions, sources.normals, electrodes.positions, RADII, CONDUCTIVITY)
    found = {}
    for n_nodes in (6000, 20_000):
        head = sphere_head(RADII, CONDUCTIVITY, n_nodes=n_nodes)
        leadfield = FemForward.build(head, sources, electrodes).leadfield()
        found[n_nodes] = np.asarray(rdm(leadfield, exact)), np.asarray(mag(leadfield, exact)) - 1
    return found


def test_agrees_with_the_analytic_sphere(errors):
    """Measured at 20,000 nodes: RDM 0.035 (median), 0.076 (largest); MAG within 0.044 of 1."""
    topography, magnitude = errors[20_000]
    assert np.median(topography) < 0.045
    assert topography.max() < 0.10
    assert np.abs(magnitude).max() < 0.06


def test_refinement_brings_the_leadfield_closer(errors):
    """Measured: the median RDM falls from 0.061 to 0.035, about in proportion to the edge length."""
    assert np.median(errors[20_000][0]) < 0.7 * np.median(errors[6000][0])


def test_follows_the_protocol(forward):
    assert isinstance(forward, Forward)


def test_transfer_matrix_solves_the_stiffness_system(forward):
    """A direct solve with one node held at zero gives the same potentials, up to their mean."""
    stiffness = forward.stiffness_matrix()
    load = np.asarray(forward.weights.columns(stiffness.shape[0]))
    load = load - load.mean(axis=0)
    direct = np.zeros_like(load)
    direct[1:] = spsolve(stiffness[1:][:, 1:].tocsc(), load[1:])
    close(forward.transfer_matrix().T, direct - direct.mean(axis=0), 1e-9)


def test_reciprocity(forward, electrodes):
    """A solve from the dipole's load, read at the electrodes, equals the adjoint leadfield."""
    stiffness = forward.stiffness_matrix()
    loads = np.zeros((stiffness.shape[0], 12))
    moment = np.einsum("skx,sx->sk", forward.loads.weights, forward.sources.normals)
    np.add.at(loads, (np.asarray(forward.loads.nodes), np.arange(12)[:, None]), moment)
    potential = np.zeros_like(loads)
    potential[1:] = spsolve(stiffness[1:][:, 1:].tocsc(), loads[1:])
    read = np.asarray(forward.weights.columns(stiffness.shape[0])).T @ potential
    close(forward.leadfield(), electrodes.reference_operator() @ read, 1e-9)


def test_free_orientation_is_linear_in_the_moment(head, forward, sources, electrodes):
    free = forward.leadfield(sources=SourceSpace(sources.positions))
    assert free.shape == (10, 12, 3)
    close(jnp.einsum("csx,sx->cs", free, sources.normals), forward.leadfield(), 1e-10)


def test_scaling_every_conductivity_divides_the_leadfield(forward):
    close(forward.leadfield(2 * forward.conductivity), forward.leadfield() / 2, 1e-9)


def test_the_average_reference_removes_the_mean_and_only_that(head, forward, sources, electrodes):
    referenced = forward.leadfield()
    np.testing.assert_allclose(referenced.mean(axis=0), 0, atol=1e-12 * float(jnp.abs(referenced).max()))
    bare = forward.leadfield(sensors=Electrodes(electrodes.positions, reference=None))
    close(bare - bare.mean(axis=0), referenced, 1e-9)


def test_equal_conductivities_are_one_tissue(sources, electrodes):
    """The same mesh with one label; a recovered gradient stops at a label, partial integration does not."""
    layered = sphere_head(RADII[:3], (0.3,) * 3, n_nodes=2000)
    mesh = layered.mesh
    single = type(layered)(
        type(mesh)(mesh.points, mesh.cells, np.zeros(mesh.n_cells, dtype=int)), ("brain",), (0.3,)
    )
    one, other = (
        FemForward.build(h, sources, electrodes, source_model="partial-integration", tolerance=1e-12)
        for h in (layered, single)
    )
    close(one.leadfield(), other.leadfield(), 1e-9)
    close(one.transfer_matrix(), other.transfer_matrix(), 1e-9)


@jax.jit
def weighted_sum(weights, sigma, forward):
    return jnp.sum(weights * forward.leadfield(sigma))


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_gradient_in_every_conductivity_equals_central_differences(forward, scale):
    """At a point away from nominal; a small functional must not change the solver's accuracy."""
    weights = scale * np.random.default_rng(0).normal(size=(10, 12))
    functional = partial(weighted_sum, weights)
    sigma = forward.conductivity * jnp.array([0.9, 1.3, 1.1, 0.95])
    gradient = np.asarray(jax.grad(functional)(sigma, forward))
    step = 2e-4
    for k in range(4):
        d = np.eye(4)[k] * step * sigma[k]
        ahead, behind = functional(sigma + d, forward), functional(sigma - d, forward)
        further, back = functional(sigma + 2 * d, forward), functional(sigma - 2 * d, forward)
        difference = (8 * (ahead - behind) - (further - back)) / (12 * step * sigma[k])
        np.testing.assert_allclose(gradient[k], difference, rtol=1e-6)


def test_forward_and_reverse_derivatives_agree(forward):
    sigma = forward.conductivity * 1.1
    direction = jnp.array([0.1, 0.002, -0.3, 0.05])
    cotangent = np.random.default_rng(1).normal(size=(10, 12))
    _, tangent = jax.jvp(forward.leadfield, (sigma,), (direction,))
    _, pull = jax.vjp(forward.leadfield, sigma)
    np.testing.assert_allclose(
        jnp.sum(cotangent * tangent), pull(jnp.asarray(cotangent))[0] @ direction, rtol=1e-9
    )


def test_vmap_equals_a_loop_with_gradients(forward):
    sigmas = forward.conductivity * jnp.array([[1.0], [0.8], [1.2]])

    def functional(sigma, forward):
        return jnp.sum(forward.leadfield(sigma) ** 2)

    value_and_grad = jax.value_and_grad(functional)
    values, gradients = jax.jit(jax.vmap(value_and_grad, in_axes=(0, None)))(sigmas, forward)
    for sigma, value, gradient in zip(sigmas, values, gradients):
        one = value_and_grad(sigma, forward)
        np.testing.assert_allclose(value, one[0], rtol=1e-8)
        close(gradient, one[1], 1e-8)


def test_surface_field_of_a_shallow_dipole_points_as_the_analytic_one():
    """-∇φ inside the scalp is tangential, because air does not conduct."""
    head = sphere_head((0.09,), (0.3,), n_nodes=8000)
    sensors = SurfaceField(0.09 * directions(6, 6))
    field = FemForward.build(head, SourceSpace(0.03 * directions(4, 7)), sensors).leadfield()
    assert field.shape == (18, 4, 3)
    vectors = np.asarray(field).reshape(6, 3, 12)
    radial = np.einsum("exs,ex->es", vectors, directions(6, 6))
    assert np.median(np.abs(radial) / np.linalg.norm(vectors, axis=1)) < 0.15


def test_report_tells_what_was_reached(forward):
    report = forward.solve_report()
    assert bool(np.all(report.converged))
    assert float(np.max(report.residual)) <= 1e-12


def test_reported_residual_is_the_true_one(forward):
    """Recomputed from the potentials, not carried along by the recurrence."""
    sigma = forward.conductivity * 1.3
    load = np.asarray(forward.weights.columns(forward.stiffness.n_nodes))
    load = load - load.mean(axis=0)
    rest = load - forward.stiffness_matrix(sigma) @ np.asarray(forward.transfer_matrix(sigma)).T
    true = np.linalg.norm(rest, axis=0) / np.linalg.norm(load, axis=0)
    assert true.max() < 10 * forward.tolerance


def test_what_does_not_converge_raises_or_is_nan(forward, monkeypatch):
    monkeypatch.setattr("jaxinv.forward.exact.MAX_ITERATIONS", 2)
    sigma = forward.conductivity * jnp.array([1.0, 0.3, 1.0, 1.0])
    with pytest.raises(RuntimeError, match=r"2 iterations the relative residual"):
        forward.leadfield(sigma)
    assert np.isnan(jax.jit(lambda f, s: f.leadfield(s))(forward, sigma)).any()
    with pytest.raises(RuntimeError, match=r"2 iterations the relative residual"):
        jax.grad(lambda s: forward.leadfield(s).sum())(sigma)


def test_single_precision_is_as_good_as_its_tolerance(head, forward, sources, electrodes):
    single = FemForward.build(head, sources, electrodes, tolerance=1e-5, dtype="float32")
    assert single.leadfield().dtype == jnp.float32
    assert np.max(rdm(single.leadfield(), forward.leadfield())) < 1e-3


@pytest.mark.parametrize("model", sorted(SOURCE_MODELS))
def test_any_source_model_comes_back_from_its_file(head, sources, electrodes, model, tmp_path):
    forward = FemForward.build(head, sources, electrodes, source_model=model)
    forward.save(tmp_path / "forward.npz")
    np.testing.assert_array_equal(FemForward.load(tmp_path / "forward.npz").leadfield(), forward.leadfield())
