"""Entrants evaluated on one problem: tuned and calibrated on validation, judged on test, timed apart."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinv.evaluation.calibration import PlattScaling, activity_score, choose_threshold
from jaxinv.evaluation.case_metrics import case_metrics
from jaxinv.evaluation.entrants import Entrant
from jaxinv.evaluation.problem import Problem
from jaxinv.evaluation.scenarios import Scenario
from jaxinv.inverse import Estimator

BLOCK = 32  # cases in memory at once
REPEATS = 20  # of a single reconstruction, for its median time

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Result:
    """What came of one entrant.

    Attributes:
        name: of the entrant.
        metrics: values of each metric for each test case, in SI units.
        setting: what was chosen on validation, such as "snr = 3"; or a remark.
        threshold: decisions are probabilities at or above it.
        setup_seconds: to the estimator, from the leadfield or (a network) from nothing; compiled, without
            the choice of the regularisation. None for a reference that sets up nothing.
        apply_seconds: median of one reconstruction, compiled.
        probability: of each source in each test case; for figures.
    """

    name: str
    metrics: dict[str, Float[np.ndarray, " case"]]
    setting: str = ""
    threshold: float | None = None
    setup_seconds: float | None = None
    apply_seconds: float | None = None
    probability: Float[np.ndarray, "case source"] | None = field(default=None, repr=False)

    @property
    def n_cases(self) -> int:
        """Number of test cases."""
        return len(next(iter(self.metrics.values())))


def evaluate(entrants: Sequence[Entrant], problem: Problem, *, seed: int = 0) -> list[Result]:
    """Evaluate every entrant, and a constant guess and chance beside them.

    Regularisation (by cross-entropy), calibration and threshold are chosen on the validation cases; every
    figure is from the test cases.

    Args:
        entrants: in the order of the table.
        problem: what they are given.
        seed: of the random decisions of the chance row.

    Returns:
        The results in that order, then the two references.
    """
    results = []
    for entrant in entrants:
        results.append(evaluate_entrant(entrant, problem))
        logger.info("evaluated %s on %d test cases", entrant.name, results[-1].n_cases)
    return [*results, *reference_results(problem, seed=seed)]


def evaluate_entrant(entrant: Entrant, problem: Problem) -> Result:
    """Tune, calibrate, time and judge one entrant; see `evaluate`.

    A value of the grid whose estimates are not finite (an iteration that did not converge) is passed over,
    with a warning.

    Raises:
        ValueError: if no value of the grid is left, or an estimate of a test case is not finite.
    """
    scenario, cases = problem.scenario, slice(entrant.max_cases)
    label = np.asarray(problem.validation.activity)[cases]
    tuned = [
        _tune(entrant, value, problem.validation.measurements[cases], label, scenario)
        for value in entrant.grid
    ]
    best = min(tuned, key=lambda candidate: candidate.loss)
    if not np.isfinite(best.loss):
        raise ValueError(
            f"{entrant.name} gave no finite estimate of the validation cases, for {entrant.grid}"
        )
    threshold = choose_threshold(best.probability, label, scenario.criterion)
    started = time.perf_counter()
    estimator = jax.block_until_ready(entrant.setup(best.value))
    setup_seconds = time.perf_counter() - started + entrant.prior_seconds
    measurements = problem.test.measurements[cases]
    probability = best.calibrated(_raw(estimator, measurements, scenario))
    bad = ~np.isfinite(probability).all(axis=1)
    if bad.any():
        raise ValueError(f"{entrant.name} gave estimates of {bad.sum()} test cases that are not finite")
    return Result(
        entrant.name,
        case_metrics(
            problem.test.activity[cases], probability, probability >= threshold, problem.sources,
            problem.node_volume,
        ),
        setting=f"{entrant.parameter} = {best.value:g}" if entrant.parameter else "",
        threshold=threshold,
        setup_seconds=setup_seconds,
        apply_seconds=seconds_per_reconstruction(estimator, measurements[0]),
        probability=probability,
    )  # fmt: skip


def reference_results(problem: Problem, *, seed: int = 0) -> list[Result]:
    """What knows nothing of the measurements: a constant guess, and chance.

    Both give the prevalence of the validation cases as probability of every source. The constant guess
    decides that every source is active, chance draws decisions and a ranking with that prevalence.
    """
    label = problem.test.activity
    constant = np.full(label.shape, problem.prevalence, dtype=np.float32)
    rng = np.random.default_rng(seed)
    ranking = rng.random(label.shape, dtype=np.float32)
    args = (problem.sources, problem.node_volume)
    guess = case_metrics(label, constant, np.ones(label.shape, bool), *args)
    chance = case_metrics(label, constant, ranking < problem.prevalence, *args, score=-ranking)
    return [
        Result("constant guess", guess, "all active", probability=constant),
        Result("chance", chance, "random at the prevalence", probability=constant),
    ]


def seconds_per_reconstruction(estimator: Estimator, measurements: Float[Array, " channel"]) -> float:
    """Median wall time of one reconstruction, compiled, until its result is there."""
    jax.block_until_ready(_apply(estimator, measurements))
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        jax.block_until_ready(_apply(estimator, measurements))
        times.append(time.perf_counter() - started)
    return float(np.median(times))


@dataclass(frozen=True)
class _Candidate:
    """One value of the grid, with its calibration, probabilities and loss on validation."""

    value: float | None
    calibration: PlattScaling | None
    probability: np.ndarray
    loss: float

    def calibrated(self, raw: np.ndarray) -> np.ndarray:
        """Probabilities of what `_raw` gives."""
        return raw if self.calibration is None else np.asarray(self.calibration(raw))


def _tune(entrant: Entrant, value, measurements, label, scenario: Scenario) -> _Candidate:
    estimator = entrant.setup(value)
    raw = _raw(estimator, measurements, scenario)
    if not np.isfinite(raw).all():
        logger.warning(
            "%s with %s = %s gave estimates that are not finite", entrant.name, entrant.parameter, value
        )
        return _Candidate(value, None, raw, np.inf)
    is_probability = jax.eval_shape(estimator, measurements[0]).probability is not None
    calibration = None if is_probability else PlattScaling.fit(raw, label)
    probability = raw if calibration is None else np.asarray(calibration(raw))
    clipped = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    loss = -np.mean(np.where(label != 0, np.log(clipped), np.log1p(-clipped)))
    return _Candidate(value, calibration, probability, float(loss))


def _raw(estimator, measurements, scenario) -> np.ndarray:
    """Probability of each source in each case where the estimator gives one, else a score."""
    return np.asarray(_scores(estimator, jnp.asarray(measurements), scenario.score))


@jax.jit
def _apply(estimator, measurements):
    return estimator(measurements)


def _score_of(estimate, kind):
    return activity_score(estimate.current, kind) if estimate.probability is None else estimate.probability


def _scores_of_all(estimator, measurements, kind):
    return jax.lax.map(lambda y: _score_of(estimator(y), kind), measurements, batch_size=BLOCK)


_scores = jax.jit(_scores_of_all, static_argnames="kind")
