"""Results on the disk: every metric of every case, so that any interval can be computed again."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxinv.evaluation.benchmark import Result
from jaxinv.whole_file import whole_file

PACKAGES = ("jaxinv", "jax", "jaxlib", "numpy", "scipy", "mne", "POT")


def provenance() -> dict[str, dict]:
    """What results made now are made with."""
    return {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "device": jax.devices()[0].device_kind,
        },
    }


def save_results(path: str | Path, results: Sequence[Result]) -> None:
    """Write results as JSON, whole or not at all, with their provenance; probabilities are left out."""
    rows = [
        {
            "name": result.name,
            "setting": result.setting,
            "threshold": result.threshold,
            "setup_seconds": result.setup_seconds,
            "apply_seconds": result.apply_seconds,
            "pooled": {key: float(value) for key, value in result.pooled.items()},
            "metrics": {key: _numbers(values) for key, values in result.metrics.items()},
        }
        for result in results
    ]
    with whole_file(path) as partial:
        content = {**provenance(), "results": rows}
        partial.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


def load_results(path: str | Path) -> list[Result]:
    """Read what `save_results` wrote; the results have no probabilities.

    Raises:
        ValueError: if the file is not there or not such a file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        made = {key: content[key] for key in ("versions", "machine")}
        return [
            Result(**{**row, "made": made, "metrics": {key: np.array(values, dtype=np.float64)
                                                       for key, values in row["metrics"].items()}})
            for row in content["results"]
        ]  # fmt: skip
    except (OSError, json.JSONDecodeError, TypeError, KeyError) as error:
        raise ValueError(f"path={str(path)!r} holds no results of an evaluation: {error}") from error


def _numbers(values):
    """NaN, a metric that a case does not define, as null."""
    return [None if np.isnan(value) else float(value) for value in values]
