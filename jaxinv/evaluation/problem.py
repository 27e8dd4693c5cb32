"""What every entrant is given: leadfield, noise, validation cases, and the test cases that none has seen."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinv.evaluation.scenarios import Scenario
from jaxinv.head import SourceSpace
from jaxinv.simulate import Batch


@dataclass(frozen=True, eq=False)
class Problem:
    """One scenario on one head.

    Attributes:
        scenario: what is asked.
        leadfield: at the nominal conductivities, which is what the baselines know, in V/(A m); float32.
        sources: where they are.
        validation: cases for regularisation, calibration and thresholds.
        test: cases for the table, on leadfields of other conductivities.
        node_volume: the paper's mean volume of a node, in m³; None leaves that column out.
        prior_factor: F, where the currents' covariance is proportional to F Fᵀ and known, else None.

    Raises:
        ValueError: if the leadfield and the two sets of cases do not fit together, or are not finite.
    """

    scenario: Scenario
    leadfield: Float[Array, "channel source"]
    sources: SourceSpace
    validation: Batch
    test: Batch
    node_volume: float | None = None
    prior_factor: Float[Array, "source rank"] | None = None

    def __post_init__(self):
        object.__setattr__(self, "leadfield", jnp.asarray(self.leadfield, jnp.float32))
        for name in ("validation", "test"):
            batch = getattr(self, name)
            found = (batch.measurements.shape[1], batch.activity.shape[1])
            if found != self.leadfield.shape:
                raise ValueError(
                    f"{name} has {found[0]} channels and {found[1]} sources, "
                    f"the leadfield {self.leadfield.shape}"
                )
            bad = ~np.isfinite(batch.measurements).all(axis=1)
            if bad.any():
                raise ValueError(
                    f"{bad.sum()} measurements of {name} are not finite: a leadfield did not converge; "
                    "loosen the solver's tolerance or mend the head"
                )

    @property
    def prevalence(self) -> float:
        """Share of active sources in the validation cases."""
        return float(np.mean(np.asarray(self.validation.activity)))

    @property
    def mean_measurement(self) -> Float[Array, " channel"]:
        """What the mean current of the validation cases would make, in V, on the nominal head.

        Linear inverses assume currents of zero mean. Those of half-active maps are not, and their mean is as
        much known beforehand as their covariance; it is subtracted from what the baselines see.
        """
        return jnp.matmul(self.leadfield, jnp.mean(self.validation.current, axis=0), precision="highest")

    @property
    def noise_cov(self) -> Float[Array, "channel channel"]:
        """Mean noise covariance of the validation cases, each scaled as `StandardisedEstimator` scales it."""
        power = _power(self.validation.measurements - self.mean_measurement)
        return jnp.mean(self.validation.noise_cov / power[:, None, None], axis=0)


def _power(measurements: Float[Array, "batch channel"]) -> Float[Array, " batch"]:
    """Mean square over channels, safe for volts, whose squares float32 hardly holds."""
    largest = jnp.max(jnp.abs(measurements), axis=-1, keepdims=True)
    return jnp.mean((measurements / largest) ** 2, axis=-1) * largest[:, 0] ** 2
