"""The result in sentences: what beats what, and by how much, wins and losses alike."""

from collections.abc import Sequence

from jaxinv.evaluation.benchmark import Result
from jaxinv.evaluation.case_metrics import Metric, metric
from jaxinv.evaluation.intervals import better_than, mean_interval

JUDGED = ("bce", "average_precision", "accuracy", "f1")


def findings(results: Sequence[Result], subject: str, *, judged: Sequence[str] = JUDGED) -> list[str]:
    """A sentence for each other method: where the subject beats it, loses to it or ties with it.

    A difference counts when the 95 % interval of its paired bootstrap over test cases leaves 0 out.

    Args:
        results: of one evaluation.
        subject: name of the result that is compared with each other one.
        judged: keys of the metrics.

    Raises:
        ValueError: if no result has the name `subject`.
    """
    by_name = {result.name: result for result in results}
    if subject not in by_name:
        raise ValueError(f"no result is called {subject!r}; there are {sorted(by_name)}")
    ours = by_name.pop(subject)
    return [_sentence(ours, other, [metric(key) for key in judged]) for other in by_name.values()]


def _sentence(ours: Result, other: Result, judged: list[Metric]) -> str:
    said = {"beats": [], "loses to": [], "ties with": []}
    for m in judged:
        first, second = ours.metrics[m.key], other.metrics[m.key]
        comparison = better_than(first, second, m)
        shared = min(len(first), len(second))
        means = [mean_interval(values[:shared]).mean for values in (first, second)]
        low, high = m.shown(comparison.difference.low), m.shown(comparison.difference.high)
        said[comparison.verdict].append(
            f"{m.title} ({m.shown(means[0])} against {m.shown(means[1])}, difference {low} to {high})"
        )
    clauses = [f"{verdict} {other.name} in {_listed(names)}" for verdict, names in said.items() if names]
    return f"{ours.name} {'; it '.join(clauses)}."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
