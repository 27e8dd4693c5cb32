import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv.networks import DirectInversionUNet
from jaxinv.training.parallel import batch_mesh, replicated
from jaxinv.training.simulation import simulate_set, whitening
from jaxinv.training.step import TrainState, make_train_step, make_validation_loss


def float64_results(jaxpr):
    """Equations anywhere in a jaxpr that make a float64."""
    for equation in jaxpr.eqns:
        if any(getattr(v.aval, "dtype", None) == jnp.float64 for v in equation.outvars):
            yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from float64_results(inner)


@pytest.fixture
def key(key):
    """Where a training run has its keys, so that one compiled step serves both."""
    return replicated(key, batch_mesh(16))


@pytest.fixture(scope="module")
def made(toy):
    """Problem, static half of the network, first state, and the jitted step."""
    config = toy.config()
    mesh = batch_mesh(config.batch_size)
    network = DirectInversionUNet(16, 96, toy.TINY, rngs=nnx.Rngs(0))
    graphdef, state = TrainState.create(network, config)
    problem, state = replicated((toy.problem(), state), mesh)
    return problem, graphdef, state, make_train_step(graphdef, config, mesh)


def test_the_step_makes_no_float64(made, key):
    """x64 is on here, the forward operator float32: what is float64 would be ours."""
    problem, _, state, step = made
    assert jax.config.jax_enable_x64
    jaxpr = jax.make_jaxpr(step)(key, state, *problem)
    assert [str(equation.primitive) for equation in float64_results(jaxpr.jaxpr)] == []
    assert jnp.float64 not in {leaf.dtype for leaf in jax.tree.leaves(state)}


def test_a_step_counts_and_is_a_function_of_key_and_state(made, key, toy):
    problem, _, state, step = made
    once, report = step(key, state, *problem)
    again, _ = step(key, state, *problem)
    assert (int(once.update), int(once.leadfields), int(once.skipped), int(once.unsolved)) == (4, 1, 0, 0)
    assert jnp.isfinite(report.loss)
    for first, second in zip(toy.leaves(once), toy.leaves(again)):
        np.testing.assert_array_equal(first, second)
    twice, _ = step(key, once, *problem)
    assert int(twice.leadfields) == 2
    assert step._cache_size() == 1


def test_a_leadfield_that_is_not_finite_changes_no_parameter(made, key, toy):
    _, _, state, step = made
    after, _ = step(key, state, *replicated(toy.problem(limit=0.0), batch_mesh(16)))
    assert (int(after.unsolved), int(after.leadfields), int(after.skipped)) == (1, 0, 4)
    for name in ("params", "opt_state"):
        for old, new in zip(toy.leaves(getattr(state, name)), toy.leaves(getattr(after, name))):
            np.testing.assert_array_equal(old, new)


def test_an_untrained_network_has_a_validation_loss_of_log_two(made, key):
    problem, graphdef, state, _ = made
    data = simulate_set(key, *problem, size=32, leadfields=2)
    assert data.measurements.shape == (2, 16, 16)
    assert data.labels.shape == (2, 16, 96)
    np.testing.assert_allclose(make_validation_loss(graphdef)(state, data), np.log(2), rtol=1e-5)


def test_whitened_inputs_have_unit_covariance(made, key):
    """Except in the direction of the reference, where there is nothing."""
    problem, graphdef, state, _ = made
    network = state.network(graphdef)
    data = simulate_set(key, *problem, size=512, leadfields=2)
    network.input_scaling[...] = whitening(network, data)
    inputs = np.asarray(network.scaled_input(data.measurements.reshape(-1, 16)), float)
    np.testing.assert_array_equal(state.network(graphdef).input_scaling[...], np.eye(16))
    variance = np.linalg.eigvalsh(inputs.T @ inputs / len(inputs))
    np.testing.assert_allclose(variance, [0.0] + [1.0] * 15, atol=1e-3)


def test_eight_devices_give_the_parameters_of_one(made, tmp_path, toy):
    """Eight updates on a batch of 16, over eight virtual devices in another process and on one in this.

    Adam has moved every parameter by about 2e-2 by then, whatever the size of its gradient; where that is
    near zero, rounding shows in the third digit of the movement.
    """
    problem, _, state, step = made
    for _ in range(2):
        state, _ = step(replicated(jax.random.key(1), batch_mesh(16)), state, *problem)
    path = tmp_path / "parameters.npz"
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    worker = Path(__file__).with_name("devices_worker.py")
    subprocess.run([sys.executable, str(worker), str(path)], check=True, env=environment, timeout=600)
    found = np.load(path)
    for name, expected in zip(found.files, toy.leaves(state.params), strict=True):
        np.testing.assert_allclose(found[name], expected, atol=2e-4, err_msg=name)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [None] * 8)
    with pytest.raises(ValueError, match=r"batch_size=20 does not divide over 8 devices; 24 does"):
        batch_mesh(20)
