"""What the paper that started this reports, on another head, other data and another machine."""

from dataclasses import dataclass

CITATION = (
    "Ojaroudi, Nooshyar & Ojaroudi, High-Resolution Brain Source Localization for BCI Applications Using a "
    "Deep Learning-Based Direct Inversion Approach on EEG Data"
)


@dataclass(frozen=True)
class PublishedRow:
    """One method as published. What is None was not reported.

    Attributes:
        name: of the method.
        seconds: a reconstruction, set-up included.
        metrics: by the keys of `METRICS`, as means.
    """

    name: str
    seconds: float
    metrics: dict[str, float]


PUBLISHED: tuple[PublishedRow, ...] = (
    PublishedRow("FieldTrip MNE", 55, {"accuracy": 0.70}),
    PublishedRow("FieldTrip LORETA / sLORETA / eLORETA", 159, {"accuracy": 0.72}),
    PublishedRow("sparse (Lasso, group Lasso)", 90, {"accuracy": 0.58}),
    PublishedRow(
        "enhanced U-Net, 50,000 samples",
        6,
        {"accuracy": 0.6166, "precision": 0.6207, "recall": 0.6020, "f1": 0.6112, "bce": 0.6372},
    ),
)
"""Its maps' smoothness is not stated, so how good these figures are cannot be known: not to be compared with
a row measured here."""

PUBLISHED_CASES = ((22e-3, 3e-6), (12.5e-3, 1.2e-6), (6e-3, 0.5e-6))
"""Localisation error in m and volume error in m³ of the three cases that it shows."""
