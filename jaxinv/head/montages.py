"""Named sets of electrodes, and where mne's Colin27 template has them."""

from functools import cache

import mne
import numpy as np
from jaxtyping import Float

# In mne's "mri" frame, which for this template is MNI152, not fsaverage; renamed in mne 1.13.
TEMPLATE = "colin27_1005" if "colin27_1005" in mne.channels.get_builtin_montages() else "standard_1005"

_TEN_TWENTY = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2"

_TEN_TEN_64 = """
    Fp1 Fpz Fp2 AF7 AF3 AFz AF4 AF8
    F7 F5 F3 F1 Fz F2 F4 F6 F8
    FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8
    T7 C5 C3 C1 Cz C2 C4 C6 T8
    TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8
    P9 P7 P5 P3 P1 Pz P2 P4 P6 P8 P10
    PO7 PO3 POz PO4 PO8 O1 Oz O2 Iz
"""

_TEN_TEN_32 = """
    Fp1 Fp2 AF3 AF4 F7 F3 Fz F4 F8 FC5 FC1 FC2 FC6 T7 C3 Cz C4 T8
    CP5 CP1 CP2 CP6 P7 P3 Pz P4 P8 PO3 PO4 O1 Oz O2
"""

# The 10-10 system without FT9/10, T9/10, TP9/10 (where the template sits farthest from fsaverage's
# scalp) and Iz, and the half positions of the 10-5 system between its rows.
_TEN_FIVE_149 = """
    Fp1 Fpz Fp2
    AF9 AF7 AF5 AF3 AF1 AFz AF2 AF4 AF6 AF8 AF10
    F9 F7 F5 F3 F1 Fz F2 F4 F6 F8 F10
    FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8
    T7 C5 C3 C1 Cz C2 C4 C6 T8
    TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8
    P9 P7 P5 P3 P1 Pz P2 P4 P6 P8 P10
    PO9 PO7 PO5 PO3 PO1 POz PO2 PO4 PO6 PO8 PO10
    O1 Oz O2 I1 I2
    AFp7h AFp5h AFp3h AFp1h AFp2h AFp4h AFp6h AFp8h
    AFF9h AFF7h AFF5h AFF3h AFF1h AFF2h AFF4h AFF6h AFF8h AFF10h
    FFT7h FFC5h FFC3h FFC1h FFC2h FFC4h FFC6h FFT8h
    FTT7h FCC5h FCC3h FCC1h FCC2h FCC4h FCC6h FTT8h
    TTP7h CCP5h CCP3h CCP1h CCP2h CCP4h CCP6h TTP8h
    TPP7h CPP5h CPP3h CPP1h CPP2h CPP4h CPP6h TPP8h
    PPO7h PPO5h PPO3h PPO1h PPO2h PPO4h PPO6h PPO8h
    POO9h POO7h POO5h POO3h POO1h POO2h POO4h POO6h POO8h POO10h
    OI1h OI2h
"""

# Those of the 149 but for the lowest at the front and back, where caps have none.
_NOT_OF_128 = """
    Fpz AFp7h AFp5h AFp3h AFp1h AFp2h AFp4h AFp6h AFp8h
    POO9h POO7h POO5h POO3h POO1h POO2h POO4h POO6h POO8h POO10h OI1h OI2h
"""

MONTAGES: dict[str, tuple[str, ...]] = {
    "10-20": tuple(_TEN_TWENTY.split()),
    "10-10-32": tuple(_TEN_TEN_32.split()),
    "10-10-64": tuple(_TEN_TEN_64.split()),
    "10-5-128": tuple(name for name in _TEN_FIVE_149.split() if name not in _NOT_OF_128.split()),
    "10-5-149": tuple(_TEN_FIVE_149.split()),
}


def montage(name: str) -> tuple[str, ...]:
    """Names of a montage's electrodes.

    Raises:
        ValueError: for a montage that `MONTAGES` does not name.
    """
    if name not in MONTAGES:
        raise ValueError(f"unknown montage {name!r}; known are {sorted(MONTAGES)}")
    return MONTAGES[name]


@cache
def _template() -> dict[str, Float[np.ndarray, "3"]]:
    return mne.channels.make_standard_montage(TEMPLATE).get_positions()["ch_pos"]


def template_positions(names: tuple[str, ...]) -> Float[np.ndarray, "electrode 3"]:
    """Positions of electrodes on the Colin27 template, in m, in MNI152's frame.

    Raises:
        ValueError: for a name that the 10-5 system does not have.
    """
    positions = _template()
    unknown = [name for name in names if name not in positions]
    if unknown:
        raise ValueError(f"electrodes {unknown} are not in mne's template {TEMPLATE!r}")
    return np.array([positions[name] for name in names])
