from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import fem
from jaxinv.fem.multigrid import VCycle
from jaxinv.fem.solve import BLOCK, solve_poisson
from jaxinv.head.spheres import sphere_head

SIGMA = np.array([0.33, 0.01, 0.33])


@pytest.fixture(scope="module", params=["tetra", "tetra10", "hexahedron"])
def problem(request):
    head = sphere_head((0.092, 0.086, 0.080), SIGMA, n_nodes=6000, element=request.param)
    stiffness = fem.assemble_stiffness(head.mesh, head.n_tissues, head.conductivity)
    hierarchy = fem.build_hierarchy(stiffness, SIGMA, fem.linear_interpolation(head.mesh))
    return stiffness.astype("float64"), hierarchy


solve = jax.jit(solve_poisson)
cycle_of = jax.jit(lambda stiffness, hierarchy, sigma, x: VCycle.at(hierarchy, stiffness, sigma)(x)[0])


def solved(problem, sigma, loads, tolerance=1e-8, guess=None, max_iterations=200):
    guess = jnp.zeros_like(loads) if guess is None else guess
    return solve(*problem, jnp.asarray(sigma), loads, guess, tolerance, max_iterations)


def loads_of(problem, n_columns, seed=0):
    n_nodes = problem[0].n_nodes
    ends = np.random.default_rng(seed).integers(n_nodes, size=(2, n_columns))
    loads = np.zeros((n_nodes, n_columns))
    loads[ends[0], np.arange(n_columns)] = 1
    loads[ends[1], np.arange(n_columns)] -= 1
    return jnp.asarray(loads)


@pytest.mark.parametrize("skull", [0.001, 0.01, 0.04])
def test_the_cycle_is_symmetric_positive_and_never_larger_than_the_inverse(problem, skull):
    """<x, M y> = <M x, y>, and 0 < <x, K M K x> <= <x, K x>, which a contracting sweep gives."""
    stiffness, hierarchy = problem
    sigma = jnp.asarray(SIGMA, jnp.float32).at[1].set(skull)
    cycle = partial(cycle_of, stiffness.astype(jnp.float32), hierarchy, sigma)
    x, y = np.random.default_rng(1).normal(size=(2, stiffness.n_nodes, 4)).astype(np.float32)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    left, right = (x * cycle(y)).sum(axis=0), (cycle(x) * y).sum(axis=0)
    scale = np.sqrt((x * cycle(x)).sum(axis=0) * (y * cycle(y)).sum(axis=0))
    np.testing.assert_allclose(left, right, atol=1e-4 * float(scale.max()))
    smooth = np.asarray(solved(problem, sigma, loads_of(problem, 6))[0])
    for potential in (x.astype(np.float64), smooth):
        image = stiffness.to_scipy(sigma) @ potential
        energy = (potential * image).sum(axis=0)
        kept = (image * np.asarray(cycle(jnp.asarray(image, jnp.float32)))).sum(axis=0)
        assert (kept > 0).all()
        assert (kept <= energy * (1 + 1e-4)).all()


def test_iterations_hardly_depend_on_the_skull(problem):
    """One hierarchy for the whole range of the skull: at most half as many iterations again."""
    loads = loads_of(problem, 6)
    iterations = []
    for skull in (0.01, 0.001, 0.04):
        _, report = solved(problem, [0.33, skull, 0.33], loads)
        assert bool(report.converged.all())
        iterations.append(int(report.iterations))
    assert max(iterations) <= 1.5 * iterations[0]


def test_single_precision_inside_reaches_double_precision_outside(problem):
    """Relative residuals, computed with SciPy, down to 1e-12."""
    loads = loads_of(problem, 6)
    potential, report = solved(problem, SIGMA, loads, tolerance=1e-12)
    rest = np.asarray(loads) - problem[0].to_scipy(SIGMA) @ np.asarray(potential)
    assert bool(report.converged.all())
    assert (np.linalg.norm(rest, axis=0) / np.linalg.norm(loads, axis=0)).max() <= 2e-12


def test_columns_of_any_number_and_size_are_solved_alike(problem):
    """More columns than a block holds, of sizes 1e-9 to 1e9, a zero column among them."""
    n_columns = BLOCK + 5
    scale = np.logspace(-9, 9, n_columns)
    scale[7] = 0
    loads = loads_of(problem, n_columns) * scale
    potential, report = solved(problem, SIGMA, loads)
    assert bool(report.converged.all())
    assert not np.any(potential[:, 7])
    alone, _ = solved(problem, SIGMA, loads[:, -1:])
    error = np.linalg.norm(potential[:, -1:] - alone) / np.linalg.norm(alone)
    assert error < 1e-6


def test_a_good_guess_of_any_size_saves_iterations_and_changes_no_answer(problem):
    loads = loads_of(problem, 6)
    cold, report = solved(problem, SIGMA, loads)
    warm, sooner = solved(problem, SIGMA, loads, guess=cold * jnp.asarray([1e-6, -7, 3, -1e-6, 1, 7]))
    assert int(sooner.iterations) <= 1 < int(report.iterations)
    np.testing.assert_allclose(warm, cold, atol=1e-6 * float(jnp.abs(cold).max()))


@pytest.mark.parametrize("skull", [0.001, 0.04])
def test_potentials_of_another_skull_are_no_worse_a_guess_than_none(problem, skull):
    """Their error is smooth: large beside its residual, which single precision must not drown."""
    loads, sigma = loads_of(problem, 6), SIGMA * np.array([1, skull / SIGMA[1], 1])
    nominal, _ = solved(problem, SIGMA, loads)
    _, cold = solved(problem, sigma, loads, tolerance=1e-10)
    _, warm = solved(problem, sigma, loads, tolerance=1e-10, guess=nominal)
    assert bool(warm.converged.all())
    assert int(warm.iterations) <= 1.2 * int(cold.iterations)


def test_what_stalls_is_reported_and_not_returned(problem):
    """A tolerance below rounding cannot be reached, however many iterations are allowed."""
    potential, report = solved(problem, SIGMA, loads_of(problem, 6), tolerance=1e-17, max_iterations=1000)
    assert not bool(report.converged.any())
    assert bool(jnp.isnan(potential).all())
    assert int(report.iterations) < 1000
