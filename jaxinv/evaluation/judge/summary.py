"""The verdicts for people: one table a scenario, and one figure of all of it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from jaxinv.evaluation.benchmark import Result
from jaxinv.evaluation.case_metrics import metric
from jaxinv.evaluation.figures import GRID, INK, PALETTE, new_figure
from jaxinv.evaluation.intervals import mean_interval
from jaxinv.evaluation.judge.run import Verdict
from jaxinv.evaluation.scenarios import SCENARIOS
from jaxinv.evaluation.table import MISSING

HEADLINES = {
    "A": ("peak_error", "average_precision", "earth_movers_distance", "skill", "calibration_error"),
    "B": ("average_precision", "assigned_error", "earth_movers_distance", "skill", "calibration_error"),
    "C": ("average_precision", "earth_movers_distance", "localisation_error", "skill", "calibration_error"),
    "D1": ("skill", "accuracy", "average_precision", "localisation_error", "calibration_error", "coverage"),
    "D2": ("skill", "accuracy", "average_precision", "localisation_error", "calibration_error", "coverage"),
}
"""What each scenario is mostly judged by, the first of them in the figure. Few methods have a coverage."""

COLOURS = (*PALETTE, INK)  # of cells

LEADFIELDS = {
    "crime": "leadfield that made the data",
    "own": "leadfield of the same head",
    "template": "leadfield of the default head",
}


def tables(verdicts: Sequence[Verdict]) -> list[Table]:
    """A table for each scenario and headline metric: methods down, cells across; mean and 95 % interval."""
    found = []
    for scenario, headlines in HEADLINES.items():
        of_scenario = [verdict for verdict in verdicts if verdict.cell.scenario == scenario]
        if not of_scenario:
            continue
        for key in headlines:
            m = metric(key)
            unit = f" ({m.unit})" if m.unit else ""
            table = Table(title=f"{scenario}: {SCENARIOS[scenario].name}: {m.title}{unit}, {m.aim}")
            table.add_column("")
            for verdict in of_scenario:
                table.add_column(_short(verdict), justify="right")
            for name in _names(of_scenario):
                cells = [_cell(verdict, name, key) for verdict in of_scenario]
                if any(cell != MISSING for cell in cells):
                    table.add_row(name, *cells)
            if table.row_count:
                found.append(table)
    return found


def findings_on_oracles(verdicts: Sequence[Verdict]) -> list[str]:
    """Where a method is better than its oracle by more than its interval: the oracle is then wrong.

    What the oracle loses because it samples is taken off.
    """
    said = []
    for verdict in verdicts:
        oracle = next((result for result in verdict.results if result.name.startswith("oracle")), None)
        if oracle is None:
            continue
        for result in verdict.results:
            shared = min(result.n_cases, oracle.n_cases)
            difference = result.metrics["bce"][:shared] - oracle.metrics["bce"][:shared]
            excess = oracle.pooled.get("sampling_error", 0.0)
            if result is not oracle and mean_interval(difference).high + excess < 0:
                said.append(
                    f"{verdict.cell.name}: {result.name} beats the oracle by {-difference.mean():.2e} nats"
                )
    return said


def overview(verdicts: Sequence[Verdict]) -> Figure:
    """Every method in every cell: a panel a scenario, a row a method, a colour a cell, oracles as bars."""
    scenarios = [s for s in HEADLINES if any(verdict.cell.scenario == s for verdict in verdicts)]
    rows = max(len(_names([v for v in verdicts if v.cell.scenario == s])) for s in scenarios)
    figure = new_figure(4.3 * len(scenarios), 0.27 * rows + 2.6)
    for axis, scenario in zip(figure.subplots(1, len(scenarios), squeeze=False)[0], scenarios):
        of_scenario = [verdict for verdict in verdicts if verdict.cell.scenario == scenario]
        names = [n for n in _names(of_scenario) if not n.startswith("oracle")]
        m = metric(HEADLINES[scenario][0])
        for i, verdict in enumerate(of_scenario):
            colour, shift = COLOURS[i % len(COLOURS)], 0.6 * ((i + 0.5) / len(of_scenario) - 0.5)
            by_name = {result.name: result for result in verdict.results}
            for row, name in enumerate(names):
                if name in by_name and m.key in by_name[name].metrics:
                    _draw_interval(axis, by_name[name], m, row + shift, colour)
            for name, result in by_name.items():
                if name.startswith("oracle"):
                    best = mean_interval(result.metrics[m.key])
                    axis.axvline(m.scale * best.mean, color=colour, lw=1.2, ls=":")
                    axis.axvspan(m.scale * best.low, m.scale * best.high, color=colour, alpha=0.06, lw=0)
            axis.plot([], [], "o", color=colour, label=_short(verdict, LEADFIELDS[verdict.cell.knowledge]))
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.invert_yaxis()
        axis.set_title(f"{scenario}: {SCENARIOS[scenario].name}", loc="left", fontsize=10, color=INK,
                       fontweight="bold")  # fmt: skip
        unit = f" ({m.unit})" if m.unit else ""
        meaning = "0 knows nothing, 1 all, " if m.key == "skill" else ""
        axis.set_xlabel(
            f"{m.title}{unit}: {meaning}{m.aim}\ndotted: the best that anyone could reach",
            fontsize=8,
            color=INK,
        )
        axis.grid(True, color=GRID, lw=0.6)
        axis.tick_params(labelsize=8, colors=INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="upper left", bbox_to_anchor=(-0.45, -0.14), fontsize=7, frameon=False)
    figure.tight_layout()
    return figure


def _draw_interval(axis, result: Result, m, at: float, colour: str) -> None:
    if np.isnan(result.metrics[m.key]).all():
        return
    found = mean_interval(result.metrics[m.key])
    axis.plot([m.scale * found.low, m.scale * found.high], [at, at], color=colour, lw=2, alpha=0.4)
    axis.plot([m.scale * found.mean], [at], "o", color=colour, ms=3.5)


def _names(verdicts: Sequence[Verdict]) -> list[str]:
    """Of all results, in the order in which they come where most come: methods, then guesses."""
    longest_first = sorted(verdicts, key=lambda verdict: -len(verdict.results))
    return list(dict.fromkeys(result.name for verdict in longest_first for result in verdict.results))


def _short(verdict: Verdict, knowledge: str | None = None) -> str:
    cell = verdict.cell
    parts = [knowledge or cell.knowledge, f"{cell.snr_db:g} dB", cell.sensors]
    parts += [] if cell.noise == "white" else [cell.noise]
    parts += [] if cell.n_times == 1 else [f"{cell.n_times} samples"]
    parts += [f"{1e3 * cell.correlation_length:g} mm"] if cell.is_map else []
    return ", ".join(parts)


def _cell(verdict: Verdict, name: str, key: str) -> str:
    m = metric(key)
    for result in verdict.results:
        if result.name != name:
            continue
        fewer = f"\n{result.n_cases} cases" if result.n_cases < verdict.n_cases else ""
        if key in result.pooled:
            return f"{m.shown(result.pooled[key])}{fewer}"
        if key in result.metrics and not np.isnan(result.metrics[key]).all():
            found = mean_interval(result.metrics[key])
            return f"{m.shown(found.mean)}\n\\[{m.shown(found.low)}, {m.shown(found.high)}]{fewer}"
    return MISSING
