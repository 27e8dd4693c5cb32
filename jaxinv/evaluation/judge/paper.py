"""The paper's two tables, with methods of ours on half-active maps beside what it reports."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from jaxinv.evaluation.benchmark import Result
from jaxinv.evaluation.case_metrics import Metric, metric
from jaxinv.evaluation.intervals import mean_interval
from jaxinv.evaluation.judge.run import Verdict
from jaxinv.evaluation.published import PUBLISHED, PUBLISHED_CASES
from jaxinv.evaluation.table import MISSING, shown_seconds

DECISIONS = ("accuracy", "precision", "recall", "f1", "bce")
PLACES = ("localisation_error", "cortex_volume_error")
QUARTILES = (0.25, 0.5, 0.75)


def paper_tables(verdicts: Sequence[Verdict]) -> list[Table]:
    """For each cell of half-active maps, what the paper's two tables have, and the gap to the oracle.

    Its own figures stand below: of another head and of maps whose smoothness is not stated.
    """
    found = []
    for verdict in verdicts:
        if verdict.cell.scenario == "D2":
            found += [_decisions(verdict), _places(verdict)]
    return found


def _decisions(verdict: Verdict) -> Table:
    metrics = [metric(key) for key in DECISIONS]
    table = Table(title=f"{verdict.cell.title}: decisions")
    for heading in ("", "set-up", "one reconstruction", *(m.title for m in metrics), "accuracy below oracle"):
        table.add_column(heading, justify="right" if heading else "left")
    oracle = next((result for result in verdict.results if result.name.startswith("oracle")), None)
    for result in verdict.results:
        cells = [m.shown(np.mean(result.metrics[m.key])) for m in metrics]
        table.add_row(
            _named(result, verdict),
            shown_seconds(result.setup_seconds),
            shown_seconds(result.apply_seconds),
            *cells,
            MISSING if oracle is None else _gap(result, oracle),
        )
    table.add_section()
    for row in PUBLISHED:
        cells = [m.shown(row.metrics[m.key]) if m.key in row.metrics else MISSING for m in metrics]
        table.add_row(f"published: {row.name}", MISSING, shown_seconds(row.seconds), *cells, MISSING)
    return table


def _named(result: Result, verdict: Verdict) -> str:
    """With the number of its cases where others have more."""
    return result.name if result.n_cases == verdict.n_cases else f"{result.name} ({result.n_cases} cases)"


def _gap(result: Result, oracle: Result) -> str:
    """Of accuracy, over the cases that both have."""
    shared = min(result.n_cases, oracle.n_cases)
    found = mean_interval(oracle.metrics["accuracy"][:shared] - result.metrics["accuracy"][:shared])
    return f"{found.mean:.3f} \\[{found.low:.3f}, {found.high:.3f}]"


def _places(verdict: Verdict) -> Table:
    metrics = [metric(key) for key in PLACES]
    table = Table(title=f"{verdict.cell.title}: places, quartiles over cases")
    table.add_column("")
    for m in metrics:
        table.add_column(f"{m.title} ({m.unit})", justify="right")
    for result in verdict.results:
        table.add_row(_named(result, verdict), *(_quartiles(m, result.metrics[m.key]) for m in metrics))
    table.add_section()
    for number, values in enumerate(PUBLISHED_CASES, 1):
        table.add_row(f"published: case {number}", *(m.shown(value) for m, value in zip(metrics, values)))
    return table


def _quartiles(m: Metric, values: np.ndarray) -> str:
    return ", ".join(m.shown(value) for value in np.nanquantile(values, QUARTILES))
