"""How good a leadfield or an estimate is: pure functions of arrays.

What transports mass needs POT, which is loaded when it is first asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "calibration": ["expected_calibration_error", "interval_coverage", "skill"],
        "focal": ["area_under_curve", "assigned_localisation_error", "peak_error", "spatial_dispersion"],
        "forward": ["mag", "rdm"],
        "source": [
            "accuracy", "active_volume_error", "average_precision", "binary_cross_entropy", "brier", "f1",
            "localisation_error", "precision", "recall",
        ],
        "transport": ["earth_movers_distance"],
    },
)  # fmt: skip
