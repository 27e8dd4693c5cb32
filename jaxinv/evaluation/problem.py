"""What every entrant is given: leadfields, noise, validation cases, and the test cases that none has seen."""

from dataclasses import dataclass
from functools import cached_property

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxinv.evaluation.scenarios import Scenario
from jaxinv.head import SourceSpace
from jaxinv.simulate import Batch


@flax.struct.dataclass
class Given:
    """What a method is told of one head. A pytree.

    Attributes:
        leadfield: that it may use, in V/(A m); float32.
        noise_cov: of measurements that are scaled to a mean square of one; see `Problem.noise_cov`.
        sources: where they are.
        offset: what the mean current would make, in V; see `Problem.mean_measurement`.
        prior_factor: F, where the currents' covariance is proportional to F Fᵀ and known, else None.
    """

    leadfield: Float[Array, "channel source"]
    noise_cov: Float[Array, "channel channel"]
    sources: SourceSpace
    offset: Float[Array, " channel"]
    prior_factor: Float[Array, "source rank"] | None = None


@dataclass(frozen=True, eq=False)
class KnownHead:
    """A head as the methods know it, which need not be as it is.

    Attributes:
        leadfield: in V/(A m); float32.
        sources: where they are thought to be.
        prior_factor: F, where the currents' covariance is proportional to F Fᵀ and known, else None.
        nodes: where they are, for the metrics; None is where they are thought to be.
        mean_current: of every source, in A m, where it is known; None takes that of the validation cases.
    """

    leadfield: Float[Array, "channel source"]
    sources: SourceSpace
    prior_factor: Float[Array, "source rank"] | None = None
    nodes: SourceSpace | None = None
    mean_current: Float[Array, " source"] | None = None

    def __post_init__(self):
        object.__setattr__(self, "leadfield", jnp.asarray(self.leadfield, jnp.float32))
        object.__setattr__(self, "nodes", self.sources if self.nodes is None else self.nodes)


@dataclass(frozen=True, eq=False)
class FocalTruth:
    """Where the true sources of each test case are, for scenarios of a few.

    Attributes:
        positions: of dipoles or of centres of patches, padded, in m.
        present: which of these there are.
    """

    positions: Float[np.ndarray, "case generator 3"]
    present: Bool[np.ndarray, "case generator"]

    def take(self, cases: Int[np.ndarray, " kept"]) -> "FocalTruth":
        """Those of some cases."""
        return FocalTruth(self.positions[cases], self.present[cases])


@dataclass(frozen=True, eq=False)
class Problem:
    """One scenario on one head or several. A batch's `head` says which of `heads` a case is of.

    Attributes:
        scenario: what is asked.
        heads: as the methods know them.
        validation: cases for regularisation, calibration and thresholds.
        test: cases for the table.
        node_volume: the paper's mean volume of a node, in m³; None leaves that column out.
        focal: true sources of the test cases, where they are few.

    Raises:
        ValueError: if leadfields and the two sets of cases do not fit together, or are not finite.
    """

    scenario: Scenario
    heads: tuple[KnownHead, ...]
    validation: Batch
    test: Batch
    node_volume: float | None = None
    focal: FocalTruth | None = None

    def __post_init__(self):
        object.__setattr__(self, "heads", tuple(self.heads))
        for name in ("validation", "test"):
            batch = getattr(self, name)
            found = (batch.measurements.shape[1], batch.activity.shape[1])
            for head in self.heads:
                if found != head.leadfield.shape:
                    raise ValueError(
                        f"{name} has {found[0]} channels and {found[1]} sources, "
                        f"the leadfield {head.leadfield.shape}"
                    )
            bad = ~np.isfinite(batch.measurements).reshape(len(batch.measurements), -1).all(axis=1)
            if bad.any():
                raise ValueError(
                    f"{bad.sum()} measurements of {name} are not finite: a leadfield did not converge; "
                    "loosen the solver's tolerance or mend the head"
                )
            if np.max(batch.head) >= len(self.heads):
                raise ValueError(
                    f"{name} has cases of head {np.max(batch.head)}; there are {len(self.heads)}"
                )

    @property
    def prevalence(self) -> float:
        """Share of active sources in the validation cases."""
        return float(np.mean(np.asarray(self.validation.activity)))

    @property
    def mean_activity(self) -> Float[np.ndarray, " source"]:
        """Share of the validation cases in which each source is active, drawn towards the prevalence.

        As if as many more cases had been seen as have one active source in the mean.
        """
        active = np.asarray(self.validation.activity, np.float64)
        return ((active.sum(axis=0) + 1) / (len(active) + 1 / active.mean())).astype(np.float32)

    def given(self, head: int) -> Given:
        """What the methods are told of a head."""
        known = self.heads[head]
        offset = self.mean_measurement(head)
        return Given(known.leadfield, self.noise_cov, known.sources, offset, known.prior_factor)

    def mean_measurement(self, head: int) -> Float[Array, " channel"]:
        """What the mean current would make, in V, on the head as it is known.

        Linear inverses assume currents of zero mean. Those of half-active maps are not, and their mean is as
        much known beforehand as their covariance; it is subtracted from what the baselines see.
        """
        return jnp.matmul(self.heads[head].leadfield, self.mean_current(head), precision="highest")

    def mean_current(self, head: int) -> Float[Array, " source"]:
        """Of the sources of a head, in A m."""
        known = self.heads[head].mean_current
        return jnp.mean(self.validation.current, axis=0) if known is None else known

    @cached_property
    def noise_cov(self) -> Float[Array, "channel channel"]:
        """Mean noise covariance of the validation cases, each scaled as `StandardisedEstimator` scales it."""
        measured = self.validation.measurements
        offset = jnp.stack([self.mean_measurement(head) for head in range(len(self.heads))])
        offset = offset[self.validation.head]
        power = _power(measured - offset.reshape(*offset.shape, *(1,) * (measured.ndim - 2)))
        return jnp.mean(self.validation.noise_cov / power[:, None, None], axis=0)


def _power(measurements: Float[Array, "batch channel *time"]) -> Float[Array, " batch"]:
    """Mean square over channels and time, safe for volts, whose squares float32 hardly holds."""
    flat = measurements.reshape(len(measurements), -1)
    largest = jnp.max(jnp.abs(flat), axis=-1, keepdims=True)
    return jnp.mean((flat / largest) ** 2, axis=-1) * largest[:, 0] ** 2
