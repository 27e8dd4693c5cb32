import dataclasses
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv.evaluation import (
    SCENARIOS,
    Entrant,
    KnownHead,
    baselines,
    better_than,
    evaluate,
    evaluate_entrant,
    findings,
    standardised,
)
from jaxinv.evaluation.benchmark import decided
from jaxinv.evaluation.calibration import choose_threshold
from jaxinv.evaluation.case_metrics import metric
from jaxinv.inverse import (
    ConvergenceError,
    Estimate,
    gaussian_process,
    minimum_norm,
    minimum_norm_kernel,
)
from jaxinv.simulate import Dipoles, Patches, WhiteNoise, simulate_batch


@flax.struct.dataclass
class Oracle:
    """Knows the truth of the case whose measurement it is given, and says it with some probability."""

    measurements: jax.Array
    truth: jax.Array
    sure: float

    def __call__(self, measurements):
        case = jnp.argmin(jnp.sum((self.measurements - measurements) ** 2, axis=1))
        p = self.sure * self.truth[case] + (1 - self.sure) * (1 - self.truth[case])
        return Estimate(current=p, probability=p)


def oracle(problem, sure):
    cases = [getattr(problem, name) for name in ("validation", "test")]
    known = jnp.concatenate([batch.measurements for batch in cases])
    return Oracle(known, jnp.concatenate([batch.activity for batch in cases]), sure)


@pytest.fixture(scope="module")
def results(problem):
    network = Entrant("oracle", lambda given, _: oracle(problem, 0.9), prior_seconds=100.0)
    return {result.name: result for result in evaluate([network, *baselines(lasso_cases=32)], problem)}


def test_who_knows_the_truth_decides_without_error(results, problem):
    found = results["oracle"]
    for key in ("accuracy", "precision", "recall", "f1", "average_precision"):
        np.testing.assert_allclose(found.metrics[key], 1, atol=1e-6)
    np.testing.assert_allclose(found.metrics["bce"], -np.log(0.9), rtol=1e-4)
    for key in ("localisation_error", "node_volume_error", "cortex_volume_error"):
        np.testing.assert_allclose(found.metrics[key], 0, atol=1e-7)
    assert found.setup_seconds >= 100


def test_an_estimate_with_a_probability_is_not_calibrated(results):
    assert set(np.round(np.unique(results["oracle"].probability), 5)) == {np.float32(0.1), np.float32(0.9)}


def test_a_method_may_be_a_plain_function(results, problem):
    """The same as the estimator that it calls."""

    def setup(given, snr):
        kernel = minimum_norm_kernel(given.leadfield, given.noise_cov, snr=snr)
        return lambda measurements: Estimate(kernel @ measurements)

    snr = float(results["MNE"].setting.removeprefix("snr = "))
    found = evaluate_entrant(Entrant("mine", standardised(setup), (snr,), "snr"), problem)
    np.testing.assert_allclose(found.probability, results["MNE"].probability, atol=1e-5)


def test_intervals_of_the_true_prior_hold_as_many_currents_as_they_say(problem):
    """A white Gaussian process where currents are white; half the deviation holds fewer, by as much."""
    rng = np.random.default_rng(0)
    leadfield = np.asarray(problem.heads[0].leadfield)
    current = 1e-9 * rng.standard_normal((64, leadfield.shape[1]))
    signal = current @ leadfield.T
    noise_std = 0.3 * np.sqrt(np.mean(signal**2))
    reference = np.eye(len(leadfield)) - 1 / len(leadfield)
    measured = signal + noise_std * rng.standard_normal(signal.shape) @ reference
    batch = problem.test.replace(
        measurements=jnp.asarray(measured, jnp.float32),
        current=jnp.asarray(current, jnp.float32),
        activity=jnp.asarray(current > 0, jnp.float32),
        noise_cov=jnp.broadcast_to(
            jnp.asarray(noise_std**2 * reference, jnp.float32), (64, *reference.shape)
        ),
    )
    head = dataclasses.replace(problem.heads[0], mean_current=jnp.zeros(leadfield.shape[1]))
    white = dataclasses.replace(problem, heads=(head,), validation=batch, test=batch)

    def entrant(share):
        def setup(given, snr):
            estimator = gaussian_process(
                given.leadfield,
                given.noise_cov,
                given.sources.positions,
                given.sources.faces,
                length=0.0,
                snr=snr,
            )
            return estimator.replace(std=share * estimator.std)

        return Entrant("white", standardised(setup), (1 / 0.3,), "snr")

    for share, expected in ((1.0, 0.9), (0.5, 0.589)):
        coverage = evaluate_entrant(entrant(share), white).metrics["coverage"]
        assert coverage.shape == (64,)
        assert np.mean(coverage) == pytest.approx(expected, abs=0.02)


def test_a_value_with_which_a_method_does_not_converge_is_passed_over(results, problem):
    def setup(given, snr):
        if snr < 1:
            raise ConvergenceError("too few iterations")
        return minimum_norm(given.leadfield, given.noise_cov, snr=snr)

    snr = float(results["MNE"].setting.removeprefix("snr = "))
    found = evaluate_entrant(Entrant("mine", standardised(setup), (0.5, snr), "snr"), problem)
    assert found.setting == f"snr = {snr:g}"
    with pytest.raises(ValueError, match="mine gave no finite estimate"):
        evaluate_entrant(Entrant("mine", standardised(setup), (0.5,), "snr"), problem)


def test_no_source_is_decided_for_where_that_is_best_in_single_precision_too():
    probability = np.full((1, 3), 0.3, np.float32)
    threshold = choose_threshold(probability, np.zeros((1, 3)), "accuracy")
    assert not decided(probability, threshold).any()


@pytest.mark.parametrize("name", ["MNE", "sLORETA"])
def test_a_linear_inverse_knows_more_than_a_guess(results, name):
    for key in ("bce", "average_precision", "accuracy"):
        for reference in ("constant guess", "chance"):
            comparison = better_than(results[name].metrics[key], results[reference].metrics[key], metric(key))
            assert comparison.verdict == "beats", (key, reference)


def test_a_linear_inverse_that_is_told_the_smoothness_beats_one_that_is_not(results):
    told = results["MNE, true smoothness"].metrics
    for name in ("MNE", "sLORETA"):
        assert better_than(told["bce"], results[name].metrics["bce"], metric("bce")).verdict == "beats"


def test_the_baselines_of_other_activity_are_told_nothing_of_it():
    names = [entrant.name for entrant in baselines(smooth=False)]
    assert names == ["MNE", "sLORETA", "Lasso"]


@pytest.mark.parametrize("name", ["dipoles", "patches"])
def test_focal_sources_are_ranked_by_magnitude(problem, forward, key, name):
    activity = {"dipoles": Dipoles, "patches": Patches}[name].build(forward.sources)
    simulate = jax.jit(partial(simulate_batch, size=64, conductivities=2))
    validation, test = (
        simulate(k, forward, activity, WhiteNoise((20.0, 20.0))) for k in jax.random.split(key)
    )
    focal = dataclasses.replace(problem, scenario=SCENARIOS[name], validation=validation, test=test)
    results = {r.name: r.metrics for r in evaluate(baselines(smooth=False)[:2], focal)}
    for method in ("MNE", "sLORETA"):
        for metric_key in ("bce", "average_precision"):
            better = better_than(
                results[method][metric_key], results["chance"][metric_key], metric(metric_key)
            )
            assert better.verdict == "beats", (method, metric_key)


def test_a_constant_guess_has_the_entropy_and_the_precision_of_the_prevalence(results, problem):
    active = np.asarray(problem.test.activity).mean(axis=1)
    p = problem.prevalence
    guess = results["constant guess"].metrics
    np.testing.assert_allclose(guess["bce"], -(active * np.log(p) + (1 - active) * np.log(1 - p)), rtol=1e-4)
    np.testing.assert_allclose(guess["average_precision"], active, rtol=1e-5)
    np.testing.assert_allclose(guess["precision"], active, rtol=1e-5)
    np.testing.assert_allclose(guess["recall"], 1)
    chance = results["chance"].metrics
    assert np.mean(chance["average_precision"]) == pytest.approx(active.mean(), abs=0.02)
    assert np.mean(chance["accuracy"]) == pytest.approx(0.5, abs=0.01)


def test_a_slow_method_is_given_the_first_cases_alone(results):
    assert results["Lasso"].n_cases == 32
    assert results["MNE"].n_cases == 64


def test_the_same_seed_gives_the_same_figures(results, problem):
    again = {r.name: r for r in evaluate(baselines(lasso_cases=32)[:1], problem)}
    for name in ("MNE", "chance"):
        for key, values in again[name].metrics.items():
            np.testing.assert_array_equal(values, results[name].metrics[key])


def test_baselines_do_not_see_the_amplitude(problem):
    """Thousandfold currents and measurements give the same decisions."""

    def louder(batch):
        return batch.replace(
            measurements=1e3 * batch.measurements,
            current=1e3 * batch.current,
            noise_cov=1e6 * batch.noise_cov,
        )

    loud = dataclasses.replace(problem, validation=louder(problem.validation), test=louder(problem.test))
    ours, theirs = (evaluate_entrant(baselines()[0], p) for p in (problem, loud))
    np.testing.assert_allclose(ours.probability, theirs.probability, atol=2e-3)


def test_the_regularisation_is_the_best_of_the_grid_on_validation(problem):
    entrant = baselines()[0]
    best = evaluate_entrant(entrant, problem)
    swapped = dataclasses.replace(problem, test=problem.validation)
    losses = {
        snr: evaluate_entrant(dataclasses.replace(entrant, grid=(snr,)), swapped).metrics["bce"].mean()
        for snr in entrant.grid
    }
    assert best.setting == f"snr = {min(losses, key=losses.get):g}"


def test_estimates_that_are_not_finite_are_refused(problem):
    @flax.struct.dataclass
    class Broken:
        def __call__(self, measurements):
            return Estimate(jnp.full(problem.heads[0].leadfield.shape[1], jnp.nan))

    with pytest.raises(ValueError, match="broken gave no finite estimate"):
        evaluate_entrant(Entrant("broken", lambda given, _: Broken()), problem)
    mne = baselines()[0]
    partly = dataclasses.replace(
        mne, setup=lambda given, snr: Broken() if snr < 50 else mne.setup(given, snr)
    )
    assert evaluate_entrant(partly, problem).setting == "snr = 100"


def test_cases_that_do_not_fit_the_leadfield_are_refused(problem):
    with pytest.raises(ValueError, match="validation has 19 channels"):
        dataclasses.replace(
            problem, heads=(KnownHead(problem.heads[0].leadfield[:, 1:], problem.heads[0].sources),)
        )


def test_measurements_of_a_solve_that_failed_are_refused(problem):
    measurements = problem.test.measurements.at[3].set(jnp.nan)
    with pytest.raises(ValueError, match="1 measurements of test are not finite"):
        dataclasses.replace(problem, test=problem.test.replace(measurements=measurements))


def test_the_findings_say_where_the_subject_loses(results):
    said = findings(list(results.values()), "MNE")
    assert len(said) == len(results) - 1
    (against_oracle,) = (sentence for sentence in said if "oracle" in sentence)
    assert against_oracle.startswith("MNE loses to oracle in BCE")
    (against_guess,) = (sentence for sentence in said if "constant guess" in sentence)
    assert against_guess.startswith("MNE beats constant guess in BCE")
    with pytest.raises(ValueError, match="no result is called 'U-Net'"):
        findings(list(results.values()), "U-Net")
