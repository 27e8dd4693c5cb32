import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.linalg import spsolve

from jaxinv.fem.assembly import assemble_stiffness
from jaxinv.fem.elements import reference_rule, reference_shapes
from jaxinv.mesh import VolumeMesh, second_order
from jaxinv.mesh.spheres import sphere_mesh


def box(n, element):
    """Unit cube in n³ cubes, bent a little, or six tetrahedra each."""
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, n + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    index = np.arange((n + 1) ** 3).reshape((n + 1,) * 3)
    low, high = slice(None, -1), slice(1, None)
    a = [index[i, j, k].ravel() for i, j, k in (
        (low, low, low), (high, low, low), (high, high, low), (low, high, low),
        (low, low, high), (high, low, high), (high, high, high), (low, high, high),
    )]  # fmt: skip
    cells = np.stack(a, axis=1)
    if element == "tetra":
        split = [(0, 1, 2, 6), (0, 2, 3, 6), (0, 3, 7, 6), (0, 7, 4, 6), (0, 4, 5, 6), (0, 5, 1, 6)]
        cells = np.concatenate([cells[:, list(four)] for four in split])
    bent = grid + 0.03 * np.sin(np.pi * grid) * np.sin(np.pi * grid[:, [1, 2, 0]])
    return VolumeMesh(bent, cells, np.zeros(len(cells), dtype=int))


def dirichlet_error(n, element):
    """L2 error for u = sin(2x) cosh(y) + xyz with its own boundary values and source."""
    mesh = box(n, element)
    x, y, z = mesh.points.T
    exact = np.sin(2 * x) * np.cosh(y) + x * y * z
    stiffness = assemble_stiffness(mesh, 1).to_scipy(np.ones(1))
    corners = mesh.points[mesh.cells]
    centre = corners.mean(axis=1)
    source = 3 * np.sin(2 * centre[:, 0]) * np.cosh(centre[:, 1])
    share = np.repeat((source * mesh.volumes / mesh.cells.shape[1])[:, None], mesh.cells.shape[1], axis=1)
    load = np.bincount(mesh.cells.ravel(), share.ravel(), mesh.n_nodes)
    inner = np.setdiff1d(np.arange(mesh.n_nodes), mesh.boundary_faces())
    solution = exact.copy()
    solution[inner] = 0
    right = (load - stiffness @ solution)[inner]
    solution[inner] = spsolve(stiffness[inner][:, inner].tocsc(), right)
    lumped = np.repeat((mesh.volumes / mesh.cells.shape[1])[:, None], mesh.cells.shape[1], axis=1)
    mass = np.bincount(mesh.cells.ravel(), lumped.ravel(), mesh.n_nodes)
    return np.sqrt(mass @ (solution - exact) ** 2)


@pytest.mark.parametrize("element", ["tetra", "hexahedron"])
def test_manufactured_solution_converges_with_second_order(element):
    sizes = np.array([9, 12, 16, 20])
    errors = [dirichlet_error(n, element) for n in sizes]
    order = -np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert order >= 1.9


def quadratic_error(n):
    """L2 error on tetrahedra of second order, load and norm by quadrature, boundary values prescribed."""
    mesh = second_order(box(n, "tetra"))

    def exact(p):
        return np.sin(2 * p[..., 0]) * np.cosh(p[..., 1]) + np.prod(p, axis=-1)

    points, weights = reference_rule("tetrahedron", 5)
    shapes, _ = reference_shapes("tetra10", points)
    at = np.einsum("qn,cnx->cqx", shapes, mesh.points[mesh.cells])
    weights = 6 * mesh.volumes[:, None] * weights
    source = 3 * np.sin(2 * at[..., 0]) * np.cosh(at[..., 1])
    load = np.bincount(mesh.cells.ravel(), ((weights * source) @ shapes).ravel(), mesh.n_nodes)
    stiffness = assemble_stiffness(mesh, 1).to_scipy(np.ones(1))
    inner = np.flatnonzero(((mesh.points > 1e-9) & (mesh.points < 1 - 1e-9)).all(axis=1))
    solution = exact(mesh.points)
    solution[inner] = 0
    right = (load - stiffness @ solution)[inner]
    solution[inner] = spsolve(stiffness[inner][:, inner].tocsc(), right)
    return np.sqrt((weights * (solution[mesh.cells] @ shapes.T - exact(at)) ** 2).sum())


def test_second_order_elements_converge_with_third_order():
    """Measured: an order of 2.99."""
    sizes = np.array([4, 6, 8, 10])
    order = -np.polyfit(np.log(sizes), np.log([quadratic_error(n) for n in sizes]), 1)[0]
    assert order >= 2.8


@pytest.mark.parametrize("element", ["tetra", "hexahedron"])
def test_each_tissue_is_symmetric_positive_and_kills_constants(element):
    mesh = sphere_mesh((0.09, 0.06), 1500, element)
    stiffness = assemble_stiffness(mesh, 2)
    for tissue in np.eye(2):
        matrix = stiffness.to_scipy(tissue)
        size = abs(matrix).max()
        assert abs(matrix - matrix.T).max() < 1e-14 * size
        assert abs(matrix @ np.ones(mesh.n_nodes)).max() < 1e-13 * size
        x = np.random.default_rng(0).normal(size=mesh.n_nodes)
        assert x @ matrix @ x > 0


def test_two_tissues_of_equal_conductivity_are_one():
    mesh = sphere_mesh((0.09, 0.06), 1500)
    single = VolumeMesh(mesh.points, mesh.cells, np.zeros(mesh.n_cells, dtype=int))
    both, one = (
        assemble_stiffness(mesh, 2).to_scipy([0.3, 0.3]),
        assemble_stiffness(single, 1).to_scipy([0.3]),
    )
    assert abs(both - one).max() < 1e-14 * abs(one).max()


def test_energy_of_a_linear_field_is_its_volume():
    """x' K x = σ |∇u|² V for a linear u, tissue by tissue."""
    mesh = sphere_mesh((0.09, 0.06), 1500)
    field = mesh.points @ [1.0, 2.0, -1.0]
    stiffness = assemble_stiffness(mesh, 2)
    for label, tissue in enumerate(np.eye(2)):
        energy = field @ stiffness.to_scipy(tissue) @ field
        np.testing.assert_allclose(energy, 6 * mesh.volumes[mesh.tissue == label].sum(), rtol=1e-10)


def test_agrees_with_the_residual_that_jax_fem_assembles():
    from jax_fem.generate_mesh import Mesh
    from jax_fem.problem import Problem

    import jaxinv.fem.elements  # noqa: F401  (imports jax-fem without gmsh)

    class Poisson(Problem):
        def get_tensor_map(self):
            return lambda gradient, sigma: sigma * gradient

    mesh = sphere_mesh((0.09, 0.06), 800)
    problem = Poisson(Mesh(mesh.points, mesh.cells, "TET4"), vec=1, dim=3, ele_type="TET4")
    sigma = np.array([0.3, 1.2])
    per_cell = jnp.asarray(sigma[mesh.tissue])[:, None]
    u = np.random.default_rng(0).normal(size=(mesh.n_nodes, 1))
    theirs = problem.compute_residual_vars([jnp.asarray(u)], [per_cell], [])[0]
    ours = assemble_stiffness(mesh, 2).to_scipy(sigma) @ u
    np.testing.assert_allclose(ours, theirs, atol=1e-12 * np.abs(ours).max())


def test_product_and_its_derivatives_agree_with_the_dense_matrix(key):
    mesh = sphere_mesh((0.09, 0.06), 800)
    stiffness = assemble_stiffness(mesh, 2)
    dense = np.stack([stiffness.to_scipy(tissue).toarray() for tissue in np.eye(2)])
    x, y = np.random.default_rng(0).normal(size=(2, mesh.n_nodes, 3))
    sigma = jnp.array([0.3, 1.2])

    def product(sigma, x):
        return stiffness.product(stiffness.at(sigma), x)

    out, pull = jax.vjp(product, sigma, jnp.asarray(x))
    np.testing.assert_allclose(out, np.tensordot(sigma, dense, 1) @ x, atol=1e-12)
    d_sigma, d_x = pull(jnp.asarray(y))
    np.testing.assert_allclose(d_sigma, np.einsum("tij,jc,ic->t", dense, x, y), rtol=1e-10)
    np.testing.assert_allclose(d_x, np.tensordot(sigma, dense, 1) @ y, atol=1e-12)
    _, tangent = jax.jvp(product, (sigma, jnp.asarray(x)), (jnp.array([1.0, -2.0]), jnp.asarray(y)))
    expected = (dense[0] - 2 * dense[1]) @ x + np.tensordot(sigma, dense, 1) @ y
    np.testing.assert_allclose(tangent, expected, atol=1e-12)
