"""Estimators held against each other: scenarios, calibration, metrics with intervals, table, report."""

from jaxinv.evaluation.benchmark import Result, evaluate, evaluate_entrant
from jaxinv.evaluation.calibration import PlattScaling, activity_score, choose_threshold
from jaxinv.evaluation.case_metrics import METRICS, Metric, case_metrics
from jaxinv.evaluation.entrants import Entrant, NetworkEstimator, baselines, network_entrant, standardised
from jaxinv.evaluation.findings import findings
from jaxinv.evaluation.intervals import Comparison, Interval, better_than, mean_interval
from jaxinv.evaluation.problem import FocalTruth, Given, KnownHead, Problem
from jaxinv.evaluation.published import PUBLISHED
from jaxinv.evaluation.report import Facts, Picture, Report, write_report
from jaxinv.evaluation.results_file import load_results, save_results
from jaxinv.evaluation.scenarios import SCENARIOS, Scenario
from jaxinv.evaluation.table import Table

__all__ = [
    "METRICS",
    "PUBLISHED",
    "SCENARIOS",
    "Comparison",
    "Entrant",
    "Facts",
    "FocalTruth",
    "Given",
    "Interval",
    "KnownHead",
    "Metric",
    "NetworkEstimator",
    "Picture",
    "PlattScaling",
    "Problem",
    "Report",
    "Result",
    "Scenario",
    "Table",
    "activity_score",
    "baselines",
    "better_than",
    "case_metrics",
    "choose_threshold",
    "evaluate",
    "evaluate_entrant",
    "findings",
    "load_results",
    "mean_interval",
    "network_entrant",
    "save_results",
    "standardised",
    "write_report",
]
