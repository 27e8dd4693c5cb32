import numpy as np
import pytest

from jaxinv.forward.spectrum import eigenvalue_bound, relative_error


@pytest.mark.parametrize("size", [40, 800])
def test_the_bound_lies_above_the_largest_eigenvalue_by_what_it_says(size):
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    values = np.linspace(0, 1, size) ** 3
    matrix = (basis * values) @ basis.T
    bound = eigenvalue_bound(lambda columns: matrix @ columns, size, steps=10)
    allowed = 1 if size == 40 else 1 / (1 - relative_error(size, 10))
    assert 1 - 1e-9 <= bound <= allowed + 1e-9


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="steps=1 are too few"):
        relative_error(1000, 1)
