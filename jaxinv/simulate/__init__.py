"""Synthetic data, made where it is used: activity, noise and measurements."""

from jaxinv.simulate.activity import Activity, ActivityModel, Dipoles, HalfActiveMaps, Patches
from jaxinv.simulate.batch import (
    Batch,
    sample_conductivity,
    sample_sensors,
    simulate_batch,
    simulate_measurements,
)
from jaxinv.simulate.noise import WhiteNoise

__all__ = [
    "Activity",
    "ActivityModel",
    "Batch",
    "Dipoles",
    "HalfActiveMaps",
    "Patches",
    "WhiteNoise",
    "sample_conductivity",
    "sample_sensors",
    "simulate_batch",
    "simulate_measurements",
]
