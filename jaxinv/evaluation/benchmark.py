"""Entrants evaluated on one problem: tuned and calibrated on validation, judged on test, timed apart."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxinv.evaluation.calibration import PlattScaling, activity_score, choose_threshold
from jaxinv.evaluation.case_metrics import LEVEL, case_metrics, case_skills, pooled_metrics
from jaxinv.evaluation.entrants import Entrant, StandardisedEstimator, as_pytree
from jaxinv.evaluation.intervals import Interval, mean_interval
from jaxinv.evaluation.problem import Problem
from jaxinv.inverse import ConvergenceError, Estimator
from jaxinv.metrics import interval_coverage
from jaxinv.simulate import Batch

BLOCK = 32  # cases in memory at once
REPEATS = 20  # of a single reconstruction, for its median time
ENOUGH_SECONDS = 2.0  # after which no more follow

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
            the choice of the regularisation; of the slowest head. None for a reference that sets up nothing.
        apply_seconds: median of one reconstruction, compiled.
        probability: of each source in each test case; for figures.
        pooled: what has a value for all cases together alone.
        made: versions and machine that it was made with, where it was read from a file.
    """

    name: str
    metrics: dict[str, Float[np.ndarray, " case"]]
    setting: str = ""
    threshold: float | None = None
    setup_seconds: float | None = None
    apply_seconds: float | None = None
    probability: Float[np.ndarray, "case source"] | None = field(default=None, repr=False)
    pooled: dict[str, float] = field(default_factory=dict)
    made: dict[str, dict] = field(default_factory=dict)

    def intervals(self) -> dict[str, Interval]:
        """Mean and 95 % bootstrap interval of each metric that is defined for a case."""
        return {
            key: mean_interval(values) for key, values in self.metrics.items() if not np.isnan(values).all()
        }

    @property
    def n_cases(self) -> int:
        """Number of test cases."""
        return len(next(iter(self.metrics.values())))


def evaluate(entrants: Sequence[Entrant], problem: Problem, *, seed: int = 0) -> list[Result]:
    """Evaluate every entrant, and guesses beside them: a constant one, the prior and chance.

    Regularisation (by cross-entropy), calibration and threshold are chosen on the validation cases; every
    figure is from the test cases.

    Args:
        entrants: in the order of the table.
        problem: what they are given.
        seed: of the random decisions of the chance row.

    Returns:
        The results in that order, then the references.
    """
    results = []
    for entrant in entrants:
        results.append(evaluate_entrant(entrant, problem))
        logger.info("evaluated %s on %d test cases", entrant.name, results[-1].n_cases)
    return [*results, *reference_results(problem, seed=seed)]


def evaluate_entrant(entrant: Entrant, problem: Problem) -> Result:
    """Tune, calibrate, time and judge one entrant; see `evaluate`.

    It is set up anew for each head. A value of the grid whose estimates are not finite (an iteration that did
    not converge) is passed over, with a warning.

    Raises:
        ValueError: if no value of the grid is left, or an estimate of a test case is not finite.
    """
    scenario = problem.scenario
    validation, test = (_first(batch, entrant.max_cases) for batch in (problem.validation, problem.test))
    label = np.asarray(validation.activity)
    tuned = [_tune(entrant, value, problem, validation) for value in entrant.grid]
    best = min(tuned, key=lambda candidate: candidate.loss)
    if not np.isfinite(best.loss):
        raise ValueError(
            f"{entrant.name} gave no finite estimate of the validation cases, for {entrant.grid}"
        )
    threshold = choose_threshold(best.probability, label, scenario.criterion)
    try:
        found = _estimate(entrant, best.value, problem, test, intervals=problem.focal is None)
    except ConvergenceError as error:
        raise ValueError(f"{entrant.name} did not converge on a head of the test cases: {error}") from error
    probability = best.calibrated(found.raw)
    bad = ~np.isfinite(probability).all(axis=1)
    if bad.any():
        raise ValueError(f"{entrant.name} gave estimates of {bad.sum()} test cases that are not finite")
    values = judged(problem, test, probability, decided(probability, threshold), found.raw)
    return Result(
        entrant.name,
        values if found.coverage is None else {**values, "coverage": found.coverage},
        pooled=pooled_metrics(test.activity, probability),
        setting=f"{entrant.parameter} = {_shown(best.value)}" if entrant.parameter else "",
        threshold=threshold,
        setup_seconds=found.setup_seconds + entrant.prior_seconds,
        apply_seconds=seconds_per_reconstruction(found.estimator, test.measurements[0]),
        probability=probability,
    )


def judged(
    problem: Problem,
    cases: Batch,
    probability: Float[np.ndarray, "case source"],
    prediction: Bool[np.ndarray, "case source"],
    score: Float[np.ndarray, "case source"],
) -> dict[str, Float[np.ndarray, " case"]]:
    """Metrics of each of the first test cases, on the sources of its head."""
    heads, values = np.asarray(cases.head), {}
    for head in np.unique(heads):
        of_head = np.flatnonzero(heads == head)
        found = case_metrics(
            cases.activity[of_head], probability[of_head], prediction[of_head],
            problem.heads[head].nodes, problem.node_volume, score=score[of_head],
            focal=None if problem.focal is None else problem.focal.take(of_head),
        )  # fmt: skip
        for key, value in found.items():
            values.setdefault(key, np.full(len(heads), np.nan))[of_head] = value
    values["skill"] = case_skills(values["bce"], cases.activity, problem.mean_activity)
    return values


def decided(
    probability: Float[np.ndarray, "case source"], threshold: float
) -> Bool[np.ndarray, "case source"]:
    """Sources at or above a threshold, which may lie above all probabilities by less than float32 knows."""
    return np.asarray(probability, np.float64) >= threshold


def reference_results(problem: Problem, *, seed: int = 0) -> list[Result]:
    """What knows nothing of the measurements: a constant guess, the prior, and chance.

    The constant guess gives the prevalence of the validation cases as probability of every source and decides
    that every source is active. The prior gives each source's own share of the validation cases; chance draws
    decisions and a ranking at the prevalence.
    """
    test, label = problem.test, problem.test.activity
    constant = np.full(label.shape, problem.prevalence, dtype=np.float32)
    prior = np.broadcast_to(problem.mean_activity, label.shape)
    rng = np.random.default_rng(seed)
    ranking = rng.random(label.shape, dtype=np.float32)
    guess = judged(problem, test, constant, np.ones(label.shape, bool), constant)
    known = judged(problem, test, prior, prior >= 0.5, prior)
    chance = judged(problem, test, constant, ranking < problem.prevalence, 1 - ranking)
    return [
        Result(name, found, setting, probability=probability, pooled=pooled_metrics(label, probability))
        for name, found, setting, probability in (
            ("constant guess", guess, "all active", constant),
            ("prior", known, "share of validation", prior),
            ("chance", chance, "random at the prevalence", constant),
        )
    ]


def seconds_per_reconstruction(estimator: Estimator, measurements: Float[Array, "channel *time"]) -> float:
    """Median wall time of one reconstruction, compiled, until its result is there."""
    jax.block_until_ready(_apply(estimator, measurements))
    times = []
    while len(times) < REPEATS and sum(times) < ENOUGH_SECONDS:
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


def _tune(entrant: Entrant, value: float | None, problem: Problem, validation: Batch) -> _Candidate:
    label = np.asarray(validation.activity)
    try:
        found = _estimate(entrant, value, problem, validation)
    except ConvergenceError as error:
        logger.warning("%s with %s = %s: %s", entrant.name, entrant.parameter, value, error)
        return _Candidate(value, None, np.empty(0), np.inf)
    if not np.isfinite(found.raw).all():
        logger.warning(
            "%s with %s = %s gave estimates that are not finite", entrant.name, entrant.parameter, value
        )
        return _Candidate(value, None, found.raw, np.inf)
    calibration = None if found.is_probability else PlattScaling.fit(found.raw, label)
    probability = found.raw if calibration is None else np.asarray(calibration(found.raw))
    clipped = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    loss = -np.mean(np.where(label != 0, np.log(clipped), np.log1p(-clipped)))
    return _Candidate(value, calibration, probability, float(loss))


@dataclass(frozen=True)
class _Estimates:
    """What an entrant makes of cases: probabilities or scores, and the seconds of its slowest set-up."""

    raw: np.ndarray
    is_probability: bool
    setup_seconds: float
    estimator: Estimator
    coverage: Float[np.ndarray, " case"] | None


def _estimate(
    entrant: Entrant, value: float | None, problem: Problem, cases: Batch, *, intervals: bool = False
) -> _Estimates:
    """Estimates of all cases; and if asked what share of the true currents lies in the method's intervals."""
    heads, raw, seconds, coverage = np.asarray(cases.head), None, [], None
    for head in np.unique(heads):
        given = problem.given(int(head))
        started = time.perf_counter()
        estimator = as_pytree(jax.block_until_ready(entrant.setup(given, value)))
        seconds.append(time.perf_counter() - started)
        of_head = np.flatnonzero(heads == head)
        measurements, together = cases.measurements[of_head], BLOCK if entrant.together else 1
        found = np.asarray(_scores(estimator, measurements, problem.scenario.score, together))
        raw = np.empty((len(heads), found.shape[1]), found.dtype) if raw is None else raw
        raw[of_head] = found
        shapes = jax.eval_shape(estimator, measurements[0])
        if intervals and shapes.std is not None:
            truth = np.asarray(cases.current)[of_head]
            if isinstance(estimator, StandardisedEstimator):
                truth = truth - np.asarray(problem.mean_current(int(head)))
            coverage = np.full(len(heads), np.nan) if coverage is None else coverage
            coverage[of_head] = _coverage(estimator, measurements, truth, together)
    return _Estimates(raw, shapes.probability is not None, max(seconds), estimator, coverage)


def _coverage(estimator, measurements, truth, together) -> list[float]:
    """Share of the true currents of each case inside the estimator's intervals."""
    posterior = (np.asarray(array) for array in _posterior(estimator, measurements, together))
    return [interval_coverage(*case, level=LEVEL) for case in zip(*posterior, truth, strict=True)]


def _shown(value) -> str:
    """A value of a grid, or several together."""
    return ", ".join(f"{part:g}" for part in (value if isinstance(value, tuple) else (value,)))


def _first(batch: Batch, count: int | None) -> Batch:
    return jax.tree.map(lambda values: values[:count], batch)


@jax.jit
def _apply(estimator, measurements):
    return estimator(measurements)


def _score_of(estimate, kind):
    return activity_score(estimate.current, kind) if estimate.probability is None else estimate.probability


@partial(jax.jit, static_argnums=2)
def _posterior(estimator, measurements, together):
    def moments(y):
        found = estimator(y)
        return found.current, found.std

    return jax.lax.map(moments, measurements, batch_size=together if together > 1 else None)


@partial(jax.jit, static_argnums=(2, 3))
def _scores(estimator, measurements, kind, together):
    score = lambda y: _score_of(estimator(y), kind)  # noqa: E731
    return jax.lax.map(score, measurements, batch_size=together if together > 1 else None)
