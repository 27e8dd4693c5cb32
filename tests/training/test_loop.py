import dataclasses
import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv.networks import UNetConfig
from jaxinv.simulate import simulate_batch
from jaxinv.training import TrainConfig, TrainingInterrupted, load_trained, loop, train
from jaxinv.training.run import RunKeys
from jaxinv.training.simulation import simulate_set
from jaxinv.training.step import binary_cross_entropy


def test_a_run_counts_and_logs_what_it_did(unbroken):
    result, directory = unbroken.result, unbroken.directory
    assert (result.updates, result.leadfields_solved, result.stopped_early) == (40, 10, False)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert rows == result.history
    assert [row["step"] for row in rows] == list(range(4, 41, 4))
    evaluated = {row["step"]: row["validation_loss"] for row in rows if row["validation_loss"] is not None}
    assert list(evaluated) == [8, 16, 24, 32, 40]
    assert result.best_validation_loss == min(evaluated.values()) < np.log(2)
    assert evaluated[result.best_update] == result.best_validation_loss


def test_the_best_network_loads_from_the_directory_alone(unbroken, toy):
    """It scores its own validation loss on the validation set."""
    network = load_trained(unbroken.directory)
    config = toy.config()
    data = simulate_set(
        RunKeys.from_seed(config.seed).validation,
        *toy.problem(),
        size=config.validation_size,
        leadfields=config.validation_leadfields,
    )
    loss = binary_cross_entropy(
        network.logits(data.measurements.reshape(32, 16)), data.labels.reshape(32, 96)
    )
    np.testing.assert_allclose(loss, unbroken.result.best_validation_loss, rtol=1e-5)
    probability = network.probability(data.measurements[0])
    assert probability.dtype == jnp.float32
    assert ((probability >= 0) & (probability <= 1)).all()


def test_an_interrupted_run_resumes_to_the_unbroken_one(unbroken, toy, tmp_path):
    def interrupt(row):
        if row["step"] == 12:
            os.kill(os.getpid(), signal.SIGINT)

    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    arguments = (*toy.problem(), toy.TINY, toy.config(), tmp_path)
    with pytest.raises(TrainingInterrupted, match=r"SIGINT after update 1[26] of 40.*resume=True"):
        train(*arguments, progress=False, callbacks=[interrupt])
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    resumed = train(*arguments, resume=True, progress=False)
    for found, expected in zip(
        toy.leaves(resumed.last_state), toy.leaves(unbroken.result.last_state), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    timeless = [
        [{k: v for k, v in row.items() if k not in ("rate", "seconds")} for row in result.history]
        for result in (resumed, unbroken.result)
    ]
    assert timeless[0] == timeless[1]


def test_a_signal_after_a_step_without_a_checkpoint_saves_one(toy, tmp_path):
    def interrupt(row):
        os.kill(os.getpid(), signal.SIGTERM)

    arguments = (*toy.problem(), toy.TINY, toy.config(), tmp_path)
    with pytest.raises(TrainingInterrupted, match="SIGTERM after update 4 of 40"):
        train(*arguments, progress=False, callbacks=[interrupt])
    with pytest.raises(TrainingInterrupted, match="SIGTERM after update 8 of 40"):
        train(*arguments, resume=True, progress=False, callbacks=[interrupt])


def test_a_run_whose_metrics_are_lost_says_so(unbroken, toy, tmp_path):
    shutil.copytree(unbroken.directory, tmp_path / "copy")
    (tmp_path / "copy" / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match="is missing or empty"):
        train(*toy.problem(), toy.TINY, toy.config(), tmp_path / "copy", resume=True, progress=False)


def test_sensors_at_other_places_do_not_resume(unbroken, toy):
    forward, *rest = toy.problem()
    positions = np.asarray(forward.sensors.positions) * [1, 1, 1.001]
    forward = dataclasses.replace(forward, sensors=forward.sensors.at(positions))
    with pytest.raises(ValueError, match="places"):
        train(forward, *rest, toy.TINY, toy.config(), unbroken.directory, resume=True, progress=False)


def test_a_finished_run_resumes_to_itself(unbroken, toy):
    result = train(*toy.problem(), toy.TINY, toy.config(), unbroken.directory, resume=True, progress=False)
    assert result.history == unbroken.result.history
    assert result.best_update == unbroken.result.best_update


def test_a_directory_with_a_run_is_not_overwritten(unbroken, toy):
    with pytest.raises(ValueError, match="already holds a run, at update 40; pass resume=True"):
        train(*toy.problem(), toy.TINY, toy.config(), unbroken.directory, progress=False)


def test_another_configuration_does_not_resume(unbroken, toy):
    with pytest.raises(ValueError, match=r"training\.seed was 0 and is now 1"):
        train(*toy.problem(), toy.TINY, toy.config(seed=1), unbroken.directory, resume=True, progress=False)


def test_patience_stops_a_run_that_does_not_improve(toy, tmp_path, monkeypatch):
    """An evaluation that always says 0.5 never beats the first."""
    monkeypatch.setattr(loop, "make_validation_loss", lambda graphdef: lambda state, data: 0.5)
    config = toy.config(patience=2)
    with pytest.warns(UserWarning, match="training begins"):
        result = train(*toy.problem(), toy.TINY, config, tmp_path, resume=True, progress=False)
    assert result.stopped_early
    assert (result.updates, result.best_update) == (24, 8)


def test_an_unconverged_leadfield_stops_the_run_with_the_parameters_sound(toy, tmp_path):
    """White matter above the median of what is drawn fails; so a step or a set will."""
    problem = toy.problem(limit=0.16)
    with pytest.raises(FloatingPointError, match="not converge"):
        train(*problem, toy.TINY, toy.config(), tmp_path, progress=False)


def test_free_orientation_is_refused(toy, tmp_path):
    forward, activity, noise = toy.problem()
    sources = type(forward.sources)(forward.sources.positions)
    with pytest.raises(ValueError, match="free orientation"):
        train(forward.replace(sources=sources), activity, noise, toy.TINY, toy.config(), tmp_path)


def test_five_hundred_updates_reach_the_linear_probit(toy, tmp_path):
    """Better than one half everywhere, and within 0.01 nats of the best linear map through a logistic."""
    problem = toy.problem(n_channels=24, n_sources=160)
    network = UNetConfig(latent_length=16, width=4, depth=1, correction_stages=2, correction_width=4)
    config = TrainConfig(updates=500, evaluate_every=250, checkpoint_every=500)
    result = train(*problem, network, config, tmp_path, progress=False)

    def normalised_case(seed, size):
        batch = jax.jit(lambda k: simulate_batch(k, *problem, size, conductivities=8))(jax.random.key(seed))
        x = np.asarray(batch.measurements, float)
        return x / np.sqrt(np.mean(x**2, axis=1, keepdims=True)), np.asarray(batch.activity, float), batch

    x, labels, _ = normalised_case(1, 16_000)
    ridge = x.T @ x + 1e-6 * len(x) * np.eye(24)
    kernel = np.linalg.solve(ridge, x.T @ (labels - 0.5))
    x, labels, batch = normalised_case(2, 2_048)
    linear = min(float(binary_cross_entropy(g * x @ kernel, labels)) for g in np.linspace(1, 20, 39))
    found = float(binary_cross_entropy(result.network.logits(batch.measurements), batch.activity))
    constant = np.log(2)
    assert linear < 0.8 * constant
    assert found < linear + 0.01
