"""How good a leadfield or an estimate is: pure functions of arrays."""

from jaxinv.metrics.forward import mag, rdm
from jaxinv.metrics.source import (
    accuracy,
    active_volume_error,
    average_precision,
    binary_cross_entropy,
    brier,
    f1,
    localisation_error,
    precision,
    recall,
)

__all__ = [
    "accuracy",
    "active_volume_error",
    "average_precision",
    "binary_cross_entropy",
    "brier",
    "f1",
    "localisation_error",
    "mag",
    "precision",
    "rdm",
    "recall",
]
