"""Who takes part: baselines with their grids of regularisation, and a trained network."""

from collections.abc import Callable
from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.evaluation.problem import Problem
from jaxinv.inverse import Estimate, Estimator, LinearEstimator, lasso, minimum_norm, minimum_norm_kernel
from jaxinv.training import TrainedNetwork

SNR_GRID = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
ALPHA_GRID = (0.02, 0.1, 0.5)
LASSO_GAP = 1e-3  # relative duality gap: far below what moves a decision


@dataclass(frozen=True)
class Entrant:
    """A method, and how to set it up.

    Attributes:
        name: in the table.
        setup: the estimator for one value of `grid`. An estimate without a probability is calibrated.
        grid: values of the one parameter that is chosen on validation, by cross-entropy.
        parameter: what that parameter is called; "" where there is none.
        max_cases: only the first so many validation and test cases, for slow methods; None takes all.
        prior_seconds: time spent before `setup`, such as training; counted with the set-up.
    """

    name: str
    setup: Callable[[float | None], Estimator]
    grid: tuple[float | None, ...] = (None,)
    parameter: str = ""
    max_cases: int | None = None
    prior_seconds: float = 0.0


@flax.struct.dataclass
class StandardisedEstimator:
    """A baseline whose input is given what it assumes: zero mean, and unit root mean square. A pytree.

    Attributes:
        estimator: a classical inverse.
        offset: subtracted from the measurements; see `Problem.mean_measurement`.
    """

    estimator: Estimator
    offset: Float[Array, " channel"]

    def __call__(self, measurements: Float[Array, " channel"]) -> Estimate:
        """Estimate up to the amplitude of the measurement, which the score does not see either."""
        y = measurements.astype(jnp.float32) - self.offset
        y = y / jnp.max(jnp.abs(y))
        return self.estimator(y / jnp.sqrt(jnp.mean(y**2)))


@flax.struct.dataclass
class NetworkEstimator:
    """A trained network under the `Estimator` protocol. A pytree.

    It judges which sources are active, not how strongly: the current of its estimate is the logit of each
    probability and has no unit.
    """

    trained: TrainedNetwork

    def __call__(self, measurements: Float[Array, " channel"]) -> Estimate:
        """Probability of each source being active; measurements in V, referenced as in training."""
        logits = self.trained.logits(measurements[None])[0]
        return Estimate(current=logits, probability=jax.nn.sigmoid(logits))


def baselines(problem: Problem, *, lasso_cases: int = 100) -> tuple[Entrant, ...]:
    """MNE, sLORETA and Lasso on the nominal leadfield, and what a linear inverse can do at its best.

    MNE and sLORETA take the sources for independent. Where the covariance of the currents is known, a minimum
    norm with it is added: the best linear estimate of such currents on the nominal head, which knows what the
    network learns of the maps' smoothness.

    Args:
        problem: whose leadfield, noise and mean they are given.
        lasso_cases: how many cases the Lasso, which iterates, is evaluated on.
    """
    leadfield, offset, noise_cov = problem.leadfield, problem.mean_measurement, problem.noise_cov

    def minimum_norm_entrant(method: str) -> Entrant:
        def setup(snr):
            return StandardisedEstimator(minimum_norm(leadfield, noise_cov, snr=snr, method=method), offset)

        return Entrant(method, setup, SNR_GRID, "snr")

    def lasso_setup(alpha):
        return StandardisedEstimator(lasso(leadfield, noise_cov, alpha=alpha, tolerance=LASSO_GAP), offset)

    def smooth_setup(snr):
        factor = problem.prior_factor
        inner = minimum_norm_kernel(jnp.matmul(leadfield, factor, precision="highest"), noise_cov, snr=snr)
        kernel = jnp.matmul(factor, inner, precision="highest")
        return StandardisedEstimator(LinearEstimator(kernel), offset)

    found = (
        minimum_norm_entrant("MNE"),
        minimum_norm_entrant("sLORETA"),
        Entrant("Lasso", lasso_setup, ALPHA_GRID, "alpha", max_cases=lasso_cases),
    )
    if problem.prior_factor is None:
        return found
    return (*found, Entrant("MNE, true smoothness", smooth_setup, SNR_GRID, "snr"))


def network_entrant(
    trained: TrainedNetwork, *, name: str = "U-Net", training_seconds: float = 0.0
) -> Entrant:
    """A trained network; its training counts as set-up."""
    return Entrant(name, lambda _: NetworkEstimator(trained), prior_seconds=training_seconds)
