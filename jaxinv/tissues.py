"""Electrical conductivity of the head's tissues: nominal values, literature ranges, and who measured them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_VORWERK_2014 = "Vorwerk et al. 2014, NeuroImage, doi:10.1016/j.neuroimage.2014.06.040"
_VORWERK_2019 = "Vorwerk et al. 2019, Frontiers in Neuroscience, doi:10.3389/fnins.2019.00531"
_MCCANN_2019 = "McCann, Pisano & Beltrachini 2019, Brain Topography, doi:10.1007/s10548-019-00710-2"
_BAUMANN_1997 = "Baumann et al. 1997, IEEE Trans. Biomed. Eng., doi:10.1109/10.554770"


@dataclass(frozen=True)
class Tissue:
    """Isotropic low-frequency conductivity of one tissue.

    Attributes:
        nominal: what a head model uses when nothing better is known, in S/m.
        low: lower end of the range in which simulated heads are drawn, in S/m.
        high: upper end of that range, in S/m.
        citation: where the three numbers come from.

    Raises:
        ValueError: unless 0 < low <= nominal <= high.
    """

    nominal: float
    low: float
    high: float
    citation: str

    def __post_init__(self):
        if not 0 < self.low <= self.nominal <= self.high < np.inf:
            raise ValueError(
                "a tissue needs 0 < low <= nominal <= high, in S/m; "
                f"found low={self.low}, nominal={self.nominal}, high={self.high}"
            )


_GREY = Tissue(
    0.33,
    0.22,
    0.67,
    f"nominal: {_VORWERK_2014}; range: {_VORWERK_2019} (holds the mean 0.47 of {_MCCANN_2019})",
)

TISSUES: dict[str, Tissue] = {
    "scalp": Tissue(
        0.43,
        0.28,
        0.87,
        f"nominal: {_VORWERK_2014}; range: {_VORWERK_2019} (holds the mean 0.41 of {_MCCANN_2019})",
    ),
    "skull": Tissue(
        0.01,
        0.001,
        0.04,
        f"nominal, for a skull of one layer: {_VORWERK_2014}; the range is a convention of this package, "
        f"somewhat wider than 0.0016 to 0.033 of {_VORWERK_2019} (holds the mean 0.02 of {_MCCANN_2019})",
    ),
    "csf": Tissue(1.79, 1.769, 1.81, f"nominal, at 37 °C: {_BAUMANN_1997}; range: {_VORWERK_2019}"),
    "grey": _GREY,
    "white": Tissue(
        0.14,
        0.09,
        0.29,
        f"nominal: {_VORWERK_2014}; range: {_VORWERK_2019} (holds the mean 0.22 of {_MCCANN_2019})",
    ),
    "brain": _GREY,
}
"""Tissues by name; 'brain', for heads that do not tell grey from white matter, is grey matter."""


def nominal_conductivity(tissue_names: Sequence[str]) -> Float[np.ndarray, " tissue"]:
    """Nominal conductivity of each tissue, in S/m, float64.

    Raises:
        ValueError: for a name that is not in `TISSUES`.
    """
    return np.array([_find(name).nominal for name in tissue_names])


def conductivity_range(
    tissue_names: Sequence[str],
) -> tuple[Float[np.ndarray, " tissue"], Float[np.ndarray, " tissue"]]:
    """Lower and upper conductivity of each tissue in the literature, in S/m, float64.

    Raises:
        ValueError: for a name that is not in `TISSUES`.
    """
    found = [_find(name) for name in tissue_names]
    return np.array([tissue.low for tissue in found]), np.array([tissue.high for tissue in found])


def _find(name: str) -> Tissue:
    if name not in TISSUES:
        raise ValueError(f"unknown tissue {name!r}: known are {', '.join(TISSUES)}")
    return TISSUES[name]
