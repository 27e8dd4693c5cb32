from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.linalg import splu

from jaxinv import fem
from jaxinv.fem.loads import SensorLoads
from jaxinv.fem.singular_potential import triangle_flux_integrals
from jaxinv.fem.source_models.localized_subtraction import localized_subtraction
from jaxinv.fem.source_models.partial_integration import partial_integration
from jaxinv.fem.source_models.singular_integrals import cell_integrals, face_integrals, whole_cell_integrals
from jaxinv.fem.source_models.subtraction import subtraction
from jaxinv.forward.sphere import sphere_leadfield
from jaxinv.head import Electrodes, HeadModel, SourceSpace
from jaxinv.head.spheres import sphere_head
from jaxinv.mesh import VolumeMesh
from jaxinv.mesh.second_order import second_order
from jaxinv.metrics import rdm

RADII, SIGMA = (0.092, 0.086, 0.080, 0.078), (0.43, 0.01, 1.79, 0.33)
MODELS = {"subtraction": subtraction, "localized": localized_subtraction}


def directions(n, seed):
    x = np.random.default_rng(seed).normal(size=(n, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


ELECTRODES = RADII[0] * directions(40, 0)


def transfer(head, sensors, conductivity=SIGMA):
    """Zero-mean potentials of unit currents at the sensors, by a direct solver."""
    matrix = fem.assemble_stiffness(head.mesh, len(head.tissue_names)).to_scipy(np.array(conductivity))
    loads = np.asarray(sensors.columns(head.mesh.n_nodes))
    loads = loads - loads.mean(axis=0)
    potential = np.zeros_like(loads)
    potential[1:] = splu(matrix[1:, 1:].tocsc()).solve(loads[1:])
    return jnp.asarray(potential - potential.mean(axis=0))


def field(loads, potential, sensors, conductivity=SIGMA):
    conductivity = jnp.asarray(conductivity)
    return loads.field(potential, conductivity) + loads.direct(sensors, conductivity)


def referenced(leadfield):
    flat = np.asarray(leadfield).reshape(len(leadfield), -1)
    return flat - flat.mean(axis=0)


def analytic(positions):
    """Average-referenced leadfield of dipoles along x, y and z."""
    moments = np.tile(np.eye(3), (len(positions), 1))
    return np.asarray(sphere_leadfield(np.repeat(positions, 3, axis=0), moments, ELECTRODES, RADII, SIGMA))


@pytest.fixture(scope="module")
def head():
    return sphere_head(RADII, SIGMA, n_nodes=6000)


@pytest.fixture(scope="module")
def sensors(head):
    return fem.place_sensors(head, Electrodes(ELECTRODES))


@pytest.fixture(scope="module")
def potential(head, sensors):
    return transfer(head, sensors)


ECCENTRICITIES = (0.5, 0.9, 0.95, 0.98)
POSITIONS = np.repeat(ECCENTRICITIES, 16)[:, None] * RADII[-1] * directions(64, 2)


@pytest.fixture(scope="module")
def placed(head):
    """Loads of sources at all depths."""
    return {name: model(head, SourceSpace(POSITIONS)) for name, model in MODELS.items()}


# greatest median and 95th percentile of the RDM at each eccentricity, about 1.3 times what was measured
BOUNDS = {
    "subtraction": [(0.0035, 0.005), (0.02, 0.055), (0.03, 0.15), (0.065, 0.16)],
    "localized": [(0.0045, 0.0065), (0.0135, 0.026), (0.018, 0.042), (0.04, 0.09)],
}


@pytest.mark.parametrize("name", MODELS)
def test_leadfields_match_the_analytic_sphere(name, head, sensors, potential, placed):
    """RDM stays within its bound at all depths, and well below that of partial integration."""
    exact = analytic(POSITIONS)

    def errors(loads):
        found = referenced(field(loads, potential, sensors))
        return np.asarray(rdm(found, exact)).reshape(len(ECCENTRICITIES), -1)

    own, other = errors(placed[name]), errors(partial_integration(head, SourceSpace(POSITIONS)))
    for eccentricity, (median, high), row, plain in zip(ECCENTRICITIES, BOUNDS[name], own, other):
        assert np.median(row) < median, eccentricity
        assert np.percentile(row, 95) < high, eccentricity
        assert np.median(row) < np.median(plain) * (0.2 if eccentricity <= 0.5 else 0.9)


@pytest.mark.parametrize("name", MODELS)
def test_loads_sum_to_zero(name, placed, head):
    """A constant potential is not seen, whatever the conductivities."""
    constant = jnp.ones((head.mesh.n_nodes, len(ELECTRODES)))
    for conductivity in (SIGMA, (1.0, 0.2, 0.3, 0.7)):
        found = placed[name].field(constant, jnp.asarray(conductivity))
        np.testing.assert_allclose(found, 0, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_twice_the_conductivity_halves_the_leadfield(name, placed, potential, sensors):
    one = field(placed[name], potential, sensors)
    two = field(placed[name], potential / 2, sensors, 2 * np.array(SIGMA))
    np.testing.assert_allclose(two, one / 2, rtol=1e-12, atol=1e-12)


def test_a_patch_that_fills_a_homogeneous_head_is_full_subtraction():
    """Quadrature and closed form agree, at the sensors and in the loads."""
    head = sphere_head([0.08], [0.33], n_nodes=600)
    sources = SourceSpace(np.array([[0.0, 0.01, 0.02], [0.03, -0.04, 0.05]]))
    sensors = SensorLoads(jnp.arange(head.mesh.n_nodes)[:, None], jnp.ones((head.mesh.n_nodes, 1)))
    potential = jnp.asarray(np.random.default_rng(3).normal(size=(head.mesh.n_nodes, 3)))
    full, local = subtraction(head, sources), localized_subtraction(head, sources, rings=40)
    np.testing.assert_allclose(local.direct(sensors, jnp.ones(1)), full.direct(sensors, jnp.ones(1)))
    found, expected = (loads.field(potential, jnp.ones(1)) for loads in (local, full))
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_both_models_approach_each_other_under_refinement(head, sensors, potential):
    """In the middle of a homogeneous region they differ by the discretisation alone."""
    coarse = sphere_head(RADII, SIGMA, n_nodes=1500)
    coarse_sensors = fem.place_sensors(coarse, Electrodes(ELECTRODES))
    sources = SourceSpace(0.02 * directions(len(POSITIONS), 4))
    differences = []
    for at in ((coarse, coarse_sensors, transfer(coarse, coarse_sensors)), (head, sensors, potential)):
        one, two = (referenced(field(model(at[0], sources), at[2], at[1])) for model in MODELS.values())
        differences.append(np.linalg.norm(one - two) / np.linalg.norm(one))
    assert differences[0] < 0.04
    assert differences[1] < 0.7 * differences[0]


@pytest.mark.parametrize("name", MODELS)
def test_differentiable_in_the_conductivity(name):
    """Under jit the gradient agrees with central differences, and vmap with a single call."""
    head = sphere_head(RADII, SIGMA, n_nodes=600)
    loads = MODELS[name](head, SourceSpace(np.array([[0.0, 0.0, 0.074], [0.02, 0.0, 0.0]])))
    sensors = SensorLoads(jnp.arange(3)[:, None], jnp.ones((3, 1)))
    potential = jnp.asarray(np.random.default_rng(8).normal(size=(head.mesh.n_nodes, 3)))

    @jax.jit
    def read(conductivity):
        return field(loads, potential, sensors, conductivity)

    sigma, tangent = jnp.asarray(SIGMA), jnp.asarray([0.2, 0.01, -0.5, 0.1])
    ahead, behind, here = jax.vmap(read)(sigma + 1e-5 * jnp.stack([tangent, -tangent, 0 * tangent]))
    difference = (ahead - behind) / 2e-5
    primal, pull = jax.vjp(read, sigma)
    np.testing.assert_allclose(here, primal, rtol=1e-9, atol=1e-9)
    cotangent = jnp.asarray(np.random.default_rng(9).normal(size=primal.shape))
    np.testing.assert_allclose(pull(cotangent)[0] @ tangent, (cotangent * difference).sum(), rtol=1e-6)


@pytest.mark.parametrize("rings", [1, 2])
def test_contacts_inside_the_patch_read_the_singular_potential(rings, head):
    """At nodes around the sources both models give one potential, up to a constant and the discretisation."""
    near = np.argsort(np.linalg.norm(head.mesh.points, axis=1))[: len(ELECTRODES)]
    sensors = SensorLoads(jnp.asarray(near)[:, None], jnp.ones((len(near), 1)))
    potential = transfer(head, sensors)
    sources = SourceSpace(0.01 * directions(len(POSITIONS), 10))
    local = localized_subtraction(head, sources, rings=rings)
    one = referenced(field(local, potential, sensors))
    two = referenced(field(subtraction(head, sources), potential, sensors))
    without = referenced(local.field(potential, jnp.asarray(SIGMA)))
    print(
        np.linalg.norm(one - two) / np.linalg.norm(two), np.linalg.norm(without - two) / np.linalg.norm(two)
    )
    assert np.linalg.norm(one - two) < 0.05 * np.linalg.norm(two)
    assert np.linalg.norm(without - two) > 0.5 * np.linalg.norm(two)


SKEW = np.array([[1.0, 0.3, -0.2], [0.1, 0.8, 0.2], [0.0, -0.3, 1.2]])


def one_cell(element):
    """A skewed cell (a bent one where it can be) and its offsets from a point close by, (3, 1, node)."""
    if element == "hexahedron":
        points = np.array([[x, y, z] for z in (0, 1) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]) @ SKEW
        mesh = VolumeMesh(points, np.arange(8)[None], [0])
    else:
        points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) @ SKEW
        mesh = VolumeMesh(points, np.arange(4)[None], [0])
        if element == "tetra10":
            mesh = second_order(mesh, lambda ends, middle: middle + 0.03 * directions(6, 5))
    offset = mesh.points[mesh.cells] - np.array([0.3, 0.2, -0.25])
    return np.moveaxis(offset, 2, 0)


@pytest.mark.parametrize("element", ["tetra", "tetra10", "hexahedron"])
def test_integrals_over_a_cell_agree_with_those_over_its_faces(element):
    """∫ ∇u·∇N by quadrature, in closed form (tetrahedra), and over faces, as u is harmonic."""
    nodes = one_cell(element)
    corners = np.ones((1, 8 if element == "hexahedron" else 4))
    quadrature = cell_integrals(element, nodes, corners)
    scale = np.abs(quadrature).max()
    np.testing.assert_allclose(whole_cell_integrals(element, nodes), quadrature, atol=1e-3 * scale)
    n_faces = 6 if element == "hexahedron" else 4
    over_faces = sum(face_integrals(element, nodes, face) for face in range(n_faces))
    np.testing.assert_allclose(over_faces, quadrature, atol=1e-3 * scale)


def test_a_cut_off_is_integrated_with_its_gradient():
    """∫ ∇(χu)·∇N is linear in χ, and for χ = N_c the sum over c is that for χ = 1."""
    nodes = one_cell("tetra10")
    parts = sum(cell_integrals("tetra10", nodes, corner[None]) for corner in np.eye(4))
    np.testing.assert_allclose(
        parts, cell_integrals("tetra10", nodes, np.ones((1, 4))), rtol=1e-9, atol=1e-12
    )


def test_flux_through_a_triangle_in_closed_form():
    """Agrees with quadrature on a triangle close to the dipole."""
    nodes = one_cell("tetra")
    face = [0, 2, 1]
    exact = jax.jit(triangle_flux_integrals)(
        jnp.asarray(np.moveaxis(nodes, 0, 2)[:, face]), jnp.zeros((1, 3))
    )
    expected = face_integrals("tetra", nodes, 0)[:, face]
    np.testing.assert_allclose(exact[..., 0], expected, atol=1e-3 * np.abs(expected).max())


def test_second_order_cells_are_more_accurate():
    """Localized subtraction on curved tetrahedra of second order, against the analytic sphere."""
    base = sphere_head(RADII, SIGMA, n_nodes=1000)
    radius = np.linalg.norm(base.mesh.points, axis=1)

    def bent(ends, middle):
        on_sphere = radius[ends].min(axis=1) > RADII[-1] - 1e-9
        length = np.where(on_sphere, radius[ends].mean(axis=1), np.linalg.norm(middle, axis=1))
        return middle * (length / np.linalg.norm(middle, axis=1).clip(1e-12))[:, None]

    head = HeadModel(second_order(base.mesh, bent), base.tissue_names, SIGMA)
    sensors = fem.place_sensors(head, Electrodes(ELECTRODES))
    positions = 0.5 * RADII[-1] * directions(16, 6)
    loads = localized_subtraction(head, SourceSpace(positions))
    found = referenced(field(loads, transfer(head, sensors), sensors))
    assert np.max(rdm(found, analytic(positions))) < 0.01


def test_hexahedra_are_taken():
    """The size of the patch makes little difference on cubes, up to a patch that fills the head."""
    head = sphere_head([0.08], [0.33], n_nodes=1500, element="hexahedron")
    sensors = fem.place_sensors(head, Electrodes(0.08 / RADII[0] * ELECTRODES))
    potential = transfer(head, sensors, [0.33])
    sources = SourceSpace(0.02 * directions(6, 7))
    small, whole = (
        referenced(field(localized_subtraction(head, sources, rings=rings), potential, sensors, [0.33]))
        for rings in (1, 20)
    )
    assert np.max(rdm(small, whole)) < 0.03


@pytest.mark.parametrize("model", MODELS.values())
@pytest.mark.parametrize(
    ("position", "message"),
    [([0, 0, 0.079], "outside brain"), ("node", "brain"), ([0, 0, 1.0], "outside brain")],
)
def test_misplaced_sources_are_refused(model, position, message, head):
    if position == "node":
        position = head.mesh.points[head.shared_nodes(("brain",), ("csf",))[0]]
    with pytest.raises(ValueError, match=message):
        model(head, SourceSpace(np.array([position])))


def test_what_a_model_does_not_take_is_refused(head):
    sources = SourceSpace(np.array([[0.0, 0.0, 0.01]]))
    tensors = SimpleNamespace(
        mesh=head.mesh, tissue_names=head.tissue_names, conductivity=np.ones((4, 3, 3)), label=head.label
    )
    for model in MODELS.values():
        with pytest.raises(ValueError, match="use another source model for tensors"):
            model(tensors, sources)
    with pytest.raises(ValueError, match="rings must be 1 or more, not 0"):
        localized_subtraction(head, sources, rings=0)
    curved = HeadModel(second_order(head.mesh), head.tissue_names, SIGMA)
    with pytest.raises(ValueError, match="not 'tetra10' cells"):
        subtraction(curved, sources)
