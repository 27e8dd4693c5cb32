import jax
import numpy as np
import pytest

from jaxinv.inverse.small_eigen import eigen, inverse_power, largest, product


def symmetric(kind):
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(200, 3, 3)))[0]
    spectrum = {
        "random": rng.normal(size=(200, 3)),
        "graded": np.array([1.0, 1e-6, 1e-12]) * rng.uniform(1, 2, (200, 3)),
        "equal": np.array([2.0, 2.0, 1.0]) * np.ones((200, 1)),
        "zero": np.zeros((200, 3)),
    }[kind]
    return (vectors * spectrum[:, None]) @ np.swapaxes(vectors, 1, 2)


@pytest.mark.parametrize("kind", ["random", "graded", "equal", "zero"])
@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 4e-15), (np.float32, 2e-6)])
def test_it_agrees_with_lapack_to_rounding(kind, dtype, atol):
    matrix = symmetric(kind).astype(dtype)
    values, vectors = (np.asarray(x) for x in jax.jit(eigen)(np.moveaxis(matrix, 0, -1)))
    np.testing.assert_allclose(np.sort(values.T, axis=1), np.linalg.eigvalsh(matrix), atol=atol)
    vectors = np.moveaxis(vectors, -1, 0)
    np.testing.assert_allclose(
        vectors @ np.swapaxes(vectors, 1, 2), np.eye(3) * np.ones((200, 1, 1)), atol=atol
    )
    again = (vectors * values.T[:, None]) @ np.swapaxes(vectors, 1, 2)
    np.testing.assert_allclose(again, matrix, atol=atol)


def test_largest_is_the_largest():
    matrix = symmetric("random")
    value, vector = largest(np.moveaxis(matrix, 0, -1))
    np.testing.assert_allclose(value, np.linalg.eigvalsh(matrix)[:, -1], atol=1e-14)
    np.testing.assert_allclose(product(np.moveaxis(matrix, 0, -1), vector), value * vector, atol=1e-14)


def test_inverse_leaves_out_what_is_below_the_tolerance():
    matrix = symmetric("graded")
    found = np.moveaxis(inverse_power(np.moveaxis(matrix, 0, -1), 1, 1e-9), -1, 0)
    expected = np.linalg.pinv(matrix, rcond=1e-9, hermitian=True)
    np.testing.assert_allclose(found, expected, atol=1e-7 * np.abs(expected).max())
    assert not inverse_power(np.zeros((3, 3, 2)), 0.5, 1e-9).any()
