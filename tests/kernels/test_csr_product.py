import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

from jaxinv.kernels import csr_product as module
from jaxinv.kernels.csr_product import SERIAL, csr_product, csr_product_inner

EPSILON = {"float32": 1e-5, "float64": 1e-13}


def arrays(shape, n_columns, dtype, seed=0):
    """A random matrix, some of whose rows are empty, and dense ones to multiply, add and compare."""
    rng = np.random.default_rng(seed)
    matrix = sparse.random_array(shape, density=0.03, rng=rng, format="csr", dtype=np.float64).astype(dtype)
    columns = rng.standard_normal((shape[1], n_columns)).astype(dtype)
    onto, against = rng.standard_normal((2, shape[0], n_columns)).astype(dtype)
    parts = (matrix.data, matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32))
    return matrix, parts, columns, onto, against


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_columns", [1, 3, 7, 16, 80, 149])
@pytest.mark.parametrize("shape", [(700, 900), (1, 50)])
def test_products_are_scipys(shape, n_columns, dtype):
    matrix, parts, columns, onto, against = arrays(shape, n_columns, dtype)
    tolerance = {"rtol": EPSILON[dtype], "atol": 10 * EPSILON[dtype]}
    expected = matrix @ columns
    np.testing.assert_allclose(jax.jit(csr_product)(*parts, columns), expected, **tolerance)
    tolerance["atol"] *= shape[0]
    for added in (None, onto):
        product, inner = jax.jit(csr_product_inner)(*parts, columns, against, added)
        total = expected if added is None else expected + added
        np.testing.assert_allclose(product, total, **tolerance)
        np.testing.assert_allclose(inner, (total * against).sum(axis=0), **tolerance)


def test_work_shared_by_threads_is_done_once():
    matrix, parts, columns, onto, against = arrays((3000, 3000), 5, "float64")
    assert matrix.nnz * 5 > SERIAL
    product, inner = jax.jit(csr_product_inner)(*parts, columns, against, onto)
    expected = matrix @ columns + onto
    np.testing.assert_allclose(product, expected, atol=1e-12)
    np.testing.assert_allclose(inner, (expected * against).sum(axis=0), atol=1e-9)


def test_what_is_added_to_stays_as_it_was():
    """The kernel adds in place: whoever still needs the operand finds it unchanged."""
    matrix, parts, columns, onto, against = arrays((300, 300), 4, "float64")

    @jax.jit
    def both(onto):
        product, _ = csr_product_inner(*parts, columns, against, onto)
        return product, onto + product

    product, total = both(jnp.asarray(onto))
    np.testing.assert_allclose(product, matrix @ columns + onto, atol=1e-12)
    np.testing.assert_allclose(total, matrix @ columns + 2 * onto, atol=1e-12)


@pytest.mark.parametrize("batched", ["values", "columns", "both"])
def test_a_batch_is_its_members(batched):
    matrix, (values, indices, indptr), columns, onto, against = arrays((60, 60), 4, "float64")
    factors = np.array([1.0, -2.0, 0.5])[:, None]
    many_values = factors * values if batched != "columns" else values
    many_columns = factors[..., None] * columns if batched != "values" else columns
    axes = (0 if batched != "columns" else None, 0 if batched != "values" else None)
    products = jax.vmap(lambda v, x: csr_product(v, indices, indptr, x), axes)(many_values, many_columns)
    fused, inner = jax.vmap(lambda v, x: csr_product_inner(v, indices, indptr, x, against, onto), axes)(
        many_values, many_columns
    )
    for k, factor in enumerate(factors.ravel()):
        expected = factor ** (2 if batched == "both" else 1) * (matrix @ columns)
        np.testing.assert_allclose(products[k], expected, atol=1e-12)
        np.testing.assert_allclose(fused[k], expected + onto, atol=1e-12)
        np.testing.assert_allclose(inner[k], ((expected + onto) * against).sum(axis=0), atol=1e-12)


def test_other_platforms_lower_to_what_the_kernel_computes():
    """What a GPU or TPU compiles, run here."""
    matrix, parts, columns, onto, against = arrays((60, 60), 4, "float64")
    product, inner = jax.jit(module._run_inner)(*parts, columns, onto, against)
    np.testing.assert_allclose(product, matrix @ columns + onto, atol=1e-12)
    np.testing.assert_allclose(inner, (product * against).sum(axis=0), atol=1e-12)
    for platform in ("cuda", "tpu"):
        exported = jax.export.export(jax.jit(csr_product_inner), platforms=[platform])(
            *parts, columns, against, onto
        )
        assert "jaxinv_csr" not in exported.mlir_module()


def test_two_precisions_in_one_product_are_refused():
    matrix = sparse.eye_array(4, format="csr")
    operands = (matrix.data, matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32))
    with pytest.raises(TypeError, match="of one precision, its indices int32; found float64, float32"):
        jax.jit(csr_product)(*operands, np.ones((4, 2), np.float32))
