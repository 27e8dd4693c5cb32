"""The judge: scenarios without the inverse crime, methods tuned alike, and oracles beside them."""

from jaxinv.evaluation.judge.cells import CORE_GRID, Cell
from jaxinv.evaluation.judge.classical import classical_entrants
from jaxinv.evaluation.judge.paper import paper_tables
from jaxinv.evaluation.judge.run import Verdict, judge
from jaxinv.evaluation.judge.summary import findings_on_oracles, overview, tables
from jaxinv.evaluation.judge.true_head import Protocol

__all__ = [
    "CORE_GRID",
    "Cell",
    "Protocol",
    "Verdict",
    "classical_entrants",
    "findings_on_oracles",
    "judge",
    "overview",
    "paper_tables",
    "tables",
]
