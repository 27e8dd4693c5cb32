"""The table: one row a method, as text cells, for the terminal and for the report."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable

from jaxinv.evaluation.benchmark import Result
from jaxinv.evaluation.case_metrics import LEVEL, METRICS, Metric
from jaxinv.evaluation.intervals import mean_interval
from jaxinv.evaluation.published import PUBLISHED, PublishedRow

MISSING = "–"


@dataclass(frozen=True)
class Row:
    """One line of text cells.

    Attributes:
        name: of the method.
        cells: one a column.
        published: whether it was measured elsewhere.
    """

    name: str
    cells: tuple[str, ...]
    published: bool = False


@dataclass(frozen=True)
class Table:
    """Headings and rows.

    Attributes:
        columns: headings of the cells, units included.
        rows: measured ones first, published ones after.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, results: Sequence[Result], *, published: Sequence[PublishedRow] = PUBLISHED) -> "Table":
        """Means with 95 % bootstrap intervals over cases, and the published rows below them.

        Metrics that no result has are left out.
        """
        shown = [m for m in METRICS if any(m.key in r.metrics or m.key in r.pooled for r in results)]
        headings = [f"{m.title} ({m.unit}) {_ARROW[m.better]}" if m.unit else f"{m.title} {_ARROW[m.better]}"
                    for m in shown]  # fmt: skip
        rows = [_measured(result, shown) for result in results]
        rows += [_published(row, shown) for row in published]
        return cls(("set-up", "one reconstruction", *headings, "cases", "chosen on validation"), tuple(rows))

    def published_to_rich(self) -> RichTable:
        """The published rows, for a terminal; without columns that are empty."""
        rows = [row for row in self.rows if row.published]
        filled = [i for i in range(len(self.columns)) if any(row.cells[i] != MISSING for row in rows)]
        table = RichTable(title="as published, on another head, other data and another machine")
        table.add_column("")
        for i in filled:
            table.add_column(self.columns[i], justify="right")
        for row in rows:
            table.add_row(row.name, *(row.cells[i] for i in filled))
        return table

    def to_rich(self, title: str = "") -> RichTable:
        """For a terminal: the methods across, since the metrics are too many for its width."""
        table = RichTable(title=title, caption="mean, and its 95 % bootstrap interval over test cases")
        table.add_column("")
        measured = [row for row in self.rows if not row.published]
        for row in measured:
            table.add_column(row.name, justify="right")
        for i, heading in enumerate(self.columns):
            table.add_row(
                heading, *(row.cells[i].replace(" [", "\n[").replace("[", r"\[") for row in measured)
            )
        return table


_ARROW = {"higher": "↑", "lower": "↓", "nominal": f"→ {LEVEL:g}"}


def _measured(result: Result, shown: Sequence[Metric]) -> Row:
    cells = [shown_seconds(result.setup_seconds), shown_seconds(result.apply_seconds)]
    for m in shown:
        if m.key in result.metrics:
            found = mean_interval(result.metrics[m.key])
            cells.append(f"{m.shown(found.mean)} [{m.shown(found.low)}, {m.shown(found.high)}]")
        else:
            cells.append(m.shown(result.pooled[m.key]) if m.key in result.pooled else MISSING)
    return Row(result.name, (*cells, str(result.n_cases), result.setting or MISSING))


def _published(row: PublishedRow, shown: Sequence[Metric]) -> Row:
    values = [m.shown(row.metrics[m.key]) if m.key in row.metrics else MISSING for m in shown]
    return Row(row.name, (MISSING, shown_seconds(row.seconds), *values, MISSING, MISSING), published=True)


def shown_seconds(seconds: float | None) -> str:
    """Three digits, in s, ms or µs."""
    if seconds is None:
        return MISSING
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.2g} µs"
