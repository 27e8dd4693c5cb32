"""What is asked of an estimator, and how its answer is read."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Scenario:
    """A kind of activity, and how estimates of it become probabilities and decisions.

    Attributes:
        name: for tables.
        score: what of a current orders the sources; see `activity_score`.
        criterion: what the threshold of each method maximises on validation; see `choose_threshold`.
    """

    name: str
    score: Literal["signed", "magnitude"]
    criterion: Literal["accuracy", "f1"]


SCENARIOS: dict[str, Scenario] = {
    "half-active": Scenario("half-active maps", "signed", "accuracy"),
    "dipoles": Scenario("focal dipoles", "magnitude", "f1"),
    "patches": Scenario("cortical patches", "magnitude", "f1"),
    "A": Scenario("one dipole off the grid", "magnitude", "f1"),
    "B": Scenario("2 to 4 correlated dipoles", "magnitude", "f1"),
    "C": Scenario("1 to 4 patches of 10 to 30 mm radius", "magnitude", "f1"),
    "D1": Scenario("signed Gaussian maps", "signed", "accuracy"),
    "D2": Scenario("half-active maps", "signed", "accuracy"),
}
"""By the name of the activity: the first three of a run, the others of the judge. Where half of the sources
are active, a current below the mean is evidence of inactivity, and both kinds of error weigh the same; where
few are, any current is evidence of activity."""
