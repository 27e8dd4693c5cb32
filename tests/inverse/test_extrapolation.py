import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv.inverse.extrapolation import FALL, Extrapolation

LEAST = jnp.full(3, 1e-9)


def steps_to(target, rule, cost, tolerance=1e-8):
    """Steps until what is reached is close to the target; no cost that counts rises above those before."""
    state, costs = Extrapolation.begin(jnp.ones(3)), []
    for number in range(1, 5000):
        before = cost(state.tried)
        state, counts = state.moved(rule(state.tried), before, LEAST)
        if counts:
            costs.append(float(before))
        if np.abs(state.reached - target).max() < tolerance:
            assert (np.diff(costs) < 1e-12).all()
            return number
    raise AssertionError("never")


@pytest.mark.parametrize("slowest", [0.9, 0.99, 0.999])
def test_a_slow_rule_gets_there_soon(slowest):
    target, rates = jnp.array([2.0, 3.0, 0.5]), jnp.array([slowest, 0.8, 0.5])
    found = steps_to(target, lambda x: target + rates * (x - target), lambda x: jnp.sum((x - target) ** 2))
    assert found < np.log(1e-8) / np.log(slowest) / 4


def test_what_went_too_far_is_taken_back():
    """The cost has a wall that the rule itself keeps away from."""
    target, rates = jnp.array([2.0, 3.0, 0.5]), jnp.array([0.99, 0.99, 0.9])
    wall = lambda x: jnp.where((x > 2.5).any() & (x[0] > 1.9), jnp.inf, jnp.sum((x - target) ** 2))  # noqa: E731
    state = Extrapolation.begin(jnp.ones(3))
    for _ in range(2):
        state, _ = state.moved(target + rates * (state.tried - target), wall(state.tried), LEAST)
    begun = state._replace(tried=jnp.array([2.4, 2.6, 0.5]))
    back, counts = begun.moved(jnp.array([2.2, 2.8, 0.5]), wall(begun.tried), LEAST)
    assert not counts
    np.testing.assert_array_equal(back.reached, state.reached)
    np.testing.assert_array_equal(back.tried, state.reached)
    assert back.reach < state.reach


def test_numbers_stay_positive_and_zeros_stay_zero():
    state = Extrapolation.begin(jnp.array([1.0, 1.0, 1.0]))
    for rates in ([0.5, 0.0, 1.0], [0.45, 0.0, 1.0]):
        state, _ = state.moved(state.tried * jnp.array(rates), jnp.zeros(()), LEAST)
    assert state.tried[1] == 0
    assert state.tried[0] >= FALL * state.reached[0]
    np.testing.assert_allclose(state.tried[2], 1)
