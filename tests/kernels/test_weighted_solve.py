import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxinv.kernels import weighted_solve as module
from jaxinv.kernels.weighted_solve import weighted_solve

EPSILON = {"float32": 1e-4, "float64": 1e-12}


def systems(n_systems, n_terms, n, n_samples, dtype="float64", seed=0):
    """Positive definite terms, positive weights of some samples, right-hand sides."""
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((n_systems, n_terms, n, n + 2))
    matrices = factors @ np.swapaxes(factors, 2, 3) / n
    weights = rng.uniform(0.1, 2, (n_samples, n_terms))
    right = rng.standard_normal((n_systems, n))
    return matrices.astype(dtype), weights.astype(dtype), right.astype(dtype)


def solved(matrices, weights, right):
    sums = np.einsum("kt,stij->ksij", weights, matrices, dtype=np.float64)
    return np.linalg.solve(sums, np.broadcast_to(right, sums.shape[:-1])[..., None])[..., 0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_systems", [1, 8, 16, 37])
@pytest.mark.parametrize(("n_terms", "n", "n_samples"), [(1, 1, 1), (3, 6, 1), (5, 11, 3), (2, 40, 2)])
def test_solutions_are_lapacks(n_systems, n_terms, n, n_samples, dtype):
    matrices, weights, right = systems(n_systems, n_terms, n, n_samples, dtype)
    found = jax.jit(jax.vmap(weighted_solve, (None, 0, None)))(matrices, weights, right)
    expected = solved(matrices, weights, right)
    np.testing.assert_allclose(found, expected, rtol=0, atol=EPSILON[dtype] * np.abs(expected).max())


def test_a_batch_of_anything_is_its_members():
    matrices, weights, right = systems(5, 3, 6, 4)
    shifts = np.arange(1.0, 5)
    many = (shifts[:, None, None, None, None] * matrices, weights, shifts[:, None, None] * right)
    for axes in [(0, None, None), (None, None, 0), (0, 0, None), (None, 0, 0), (0, 0, 0)]:
        operands = [
            array if axis == 0 else own for axis, array, own in zip(axes, many, (matrices, weights[0], right))
        ]
        found = jax.vmap(weighted_solve, axes)(*operands)
        for k in range(4):
            each = [array[k] if axis == 0 else array for axis, array in zip(axes, operands)]
            np.testing.assert_allclose(found[k], weighted_solve(*each), rtol=1e-9)


@pytest.mark.parametrize("n_systems", [3, 19])
def test_many_right_hand_sides_share_their_factors(n_systems):
    """One call of the kernel for all of them, alone and beside a batch of weights."""
    matrices, weights, right = systems(n_systems, 3, 6, 2)
    shifts = np.arange(1.0, 5)
    columns = shifts[:, None, None] * right
    solve = jax.vmap(weighted_solve, (None, None, 0))
    program = str(jax.make_jaxpr(solve)(matrices, weights[0], columns))
    assert f"[1,{n_systems},4,6] = weighted_solve" in program
    expected = shifts[:, None, None, None] * solved(matrices, weights, right)
    np.testing.assert_allclose(solve(matrices, weights[0], columns), expected[:, 0], rtol=1e-9)
    found = jax.vmap(solve, (None, 0, None), out_axes=1)(matrices, weights, columns)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_derivatives_in_everything():
    matrices, weights, right = systems(3, 2, 4, 1)

    def solve(matrices, weights, right):
        return weighted_solve((matrices + jnp.swapaxes(matrices, 2, 3)) / 2, weights, right)

    check_grads(solve, (matrices, weights[0], right), order=2, rtol=1e-4)


def test_a_sum_that_is_not_positive_definite_has_no_solution():
    matrices, weights, right = systems(20, 2, 4, 1)
    matrices[7] = -matrices[7]
    found = np.asarray(weighted_solve(matrices, weights[0], right))
    assert np.isnan(found[7]).all()
    assert np.isfinite(np.delete(found, 7, axis=0)).all()


def test_other_platforms_lower_to_what_the_kernel_computes():
    """What a GPU or TPU compiles, and what a CPU does without LLVM, run here."""
    matrices, weights, right = systems(6, 3, 5, 2)
    columns = np.broadcast_to(right[:, None], (2, 6, 1, 5))
    for function in (module._solve, module._solve_one_by_one):
        found = jax.jit(function)(matrices, weights, columns)[:, :, 0]
        np.testing.assert_allclose(found, solved(matrices, weights, right), rtol=1e-9)
    for platform in ("cuda", "tpu"):
        exported = jax.export.export(jax.jit(weighted_solve), platforms=[platform])(
            jnp.asarray(matrices, jnp.float32),
            jnp.asarray(weights[0], jnp.float32),
            jnp.asarray(right, jnp.float32),
        )
        assert "jaxinv_weighted_solve" not in exported.mlir_module()


def test_two_precisions_in_one_system_are_refused():
    matrices, weights, right = systems(2, 2, 3, 1)
    with pytest.raises(TypeError, match="of one precision; found float64, float64 and float32"):
        weighted_solve(matrices, weights[0], right.astype(np.float32))
