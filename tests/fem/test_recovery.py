import numpy as np
import pytest

from jaxinv.fem.recovery import recover, width
from jaxinv.mesh import CellLocator, VolumeMesh, second_order, sphere_mesh

RADII = (0.09, 0.075)
POWERS = np.array([(i, j, k) for i in range(4) for j in range(4) for k in range(4) if i + j + k <= 3])


def mesh_of(element, n_nodes=4000):
    if element == "straight tetra10":
        return second_order(sphere_mesh(RADII, 700))
    return sphere_mesh(RADII if element.startswith("tetra") else RADII[:1], n_nodes, element)


def points_in(mesh, count=60, deepest=0.0, shallowest=0.07):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 3))
    x *= rng.uniform(deepest, shallowest, (count, 1)) / np.linalg.norm(x, axis=1, keepdims=True)
    return x, CellLocator(mesh).find(x)[0]


def polynomial(degree, seed=1):
    """Value, gradient and second derivatives of a random polynomial of coordinates in units of 0.1 m."""
    powers = POWERS[POWERS.sum(axis=1) <= degree]
    weights = np.random.default_rng(seed).normal(size=len(powers))

    def derivative(x, order):
        factor, left = np.ones(len(powers)), powers.copy()
        for axis, times in enumerate(order):
            for _ in range(times):
                factor = factor * left[:, axis]
                left[:, axis] = np.maximum(left[:, axis] - 1, 0)
        return (weights * factor * np.prod((10 * x[:, None]) ** left, axis=2)).sum(axis=1) * 10 ** sum(order)

    return derivative


@pytest.mark.parametrize(
    ("element", "degree"), [("tetra", 2), ("hexahedron", 2), ("tetra10", 3), ("straight tetra10", 3)]
)
def test_polynomials_one_degree_above_the_element_are_exact(element, degree):
    mesh = mesh_of(element)
    x, cell = points_in(mesh)
    recovered = recover(mesh, cell, x)
    u = polynomial(degree)
    nodal = u(mesh.points, (0, 0, 0))[recovered.nodes]
    assert recovered.nodes.shape == (60, width(mesh))
    np.testing.assert_allclose((recovered.value * nodal).sum(axis=1), u(x, (0, 0, 0)), atol=1e-9)
    eye = np.eye(3, dtype=int)
    for i in range(3):
        gradient = (recovered.gradient[..., i] * nodal).sum(axis=1)
        np.testing.assert_allclose(gradient, u(x, eye[i]), atol=1e-7)
        for j in range(3):
            second = (recovered.hessian[..., i, j] * nodal).sum(axis=1)
            np.testing.assert_allclose(second, u(x, eye[i] + eye[j]), atol=1e-5)


def test_only_nodes_of_the_points_own_tissue_take_part():
    mesh = mesh_of("tetra")
    x, cell = points_in(mesh, deepest=0.068, shallowest=0.082)
    recovered = recover(mesh, cell, x)
    for nodes, weights, own in zip(recovered.nodes, recovered.value, mesh.tissue[cell]):
        assert np.isin(nodes[weights != 0], mesh.nodes_of(own)).all()


def test_constants_have_no_gradient_even_on_a_single_cell():
    """Four nodes cannot carry a quadratic: what they cannot tell is left out, not invented."""
    mesh = VolumeMesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]], [[0, 1, 2, 3]], [0])
    recovered = recover(mesh, np.array([0]), np.array([[0.2, 0.3, 0.1]]))
    assert np.isfinite(recovered.gradient).all()
    np.testing.assert_allclose(recovered.gradient.sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(recovered.value.sum(axis=1), 1, atol=1e-12)


def test_no_point_of_a_thin_tissue_amplifies_noise_much_more_than_others():
    """Else it alone sets the constant of the reduced model's bound."""
    mesh = mesh_of("tetra", 12_000)
    x, cell = points_in(mesh, 600, deepest=0.0765, shallowest=0.0885)
    amplification = np.linalg.norm(recover(mesh, cell, x).gradient, axis=(1, 2))
    assert amplification.max() < 3 * np.median(amplification)


def test_recovered_gradients_of_linear_elements_are_of_second_order():
    """A harmonic function sampled at the nodes, near the boundary of its tissue too."""
    errors, spacing = [], []
    for n_nodes in (3000, 24_000):
        mesh = mesh_of("tetra", n_nodes)
        x, cell = points_in(mesh, 200)
        recovered = recover(mesh, cell, x)
        p = mesh.points / 0.05
        nodal = (np.exp(p[:, 0]) * np.sin(p[:, 1]))[recovered.nodes]
        y = x / 0.05
        exact = np.exp(y[:, 0]) * np.stack([np.sin(y[:, 1]), np.cos(y[:, 1]), 0 * y[:, 1]]) / 0.05
        found = np.einsum("pk,pkx->xp", nodal, recovered.gradient)
        errors.append(np.sqrt(np.mean((found - exact) ** 2)))
        spacing.append(n_nodes ** (-1 / 3))
    assert np.log(errors[0] / errors[1]) / np.log(spacing[0] / spacing[1]) > 1.7
