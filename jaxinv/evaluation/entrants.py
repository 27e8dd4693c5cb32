"""Who takes part: baselines with their grids of regularisation, and a trained network."""

from collections.abc import Callable
from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.evaluation.problem import Given
from jaxinv.inverse import Estimate, Estimator, LinearEstimator, lasso, minimum_norm, minimum_norm_kernel
from jaxinv.training import TrainedNetwork

SNR_GRID = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
ALPHA_GRID = (0.02, 0.1, 0.5)
LASSO_GAP = 1e-3  # relative duality gap: far below what moves a decision

Setting = float | tuple[float, ...] | None


@dataclass(frozen=True)
class Entrant:
    """A method, and how to set it up.

    Attributes:
        name: in the table.
        setup: the estimator, a pytree or a function, from what it is given and one value of `grid`. An
            estimate without a probability is calibrated.
        grid: values of the one parameter, or of a few together, chosen on validation by cross-entropy.
        parameter: what is chosen; "" where there is nothing.
        max_cases: only the first so many validation and test cases, for slow methods; None takes all.
        prior_seconds: time spent before `setup`, such as training; counted with the set-up.
        together: whether cases are estimated many at once, or one after the other, which suits methods that
            iterate or factor a matrix for each case.
    """

    name: str
    setup: Callable[[Given, Setting], Estimator]
    grid: tuple[Setting, ...] = (None,)
    parameter: str = ""
    max_cases: int | None = None
    prior_seconds: float = 0.0
    together: bool = True


@flax.struct.dataclass
class StandardisedEstimator:
    """A baseline whose input is given what it assumes: zero mean, and unit root mean square. A pytree.

    Attributes:
        estimator: a classical inverse.
        offset: subtracted from the measurements; see `Problem.mean_measurement`.
    """

    estimator: Estimator
    offset: Float[Array, " channel"]

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Estimate of the current less its mean, for the measurements as they are."""
        offset = self.offset.reshape(-1, *(1,) * (jnp.ndim(measurements) - 1))
        y = measurements.astype(jnp.float32) - offset
        largest = jnp.max(jnp.abs(y))
        y = y / largest
        size = jnp.sqrt(jnp.mean(y**2))
        found = self.estimator(y / size)
        scale = size * largest
        std = None if found.std is None else found.std * scale
        return found.replace(current=found.current * scale, std=std)


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


def standardised(
    make: Callable[[Given, Setting], Estimator],
) -> Callable[[Given, Setting], StandardisedEstimator]:
    """For `Entrant.setup`: an inverse for measurements of zero mean and unit root mean square."""
    return lambda given, value: StandardisedEstimator(as_pytree(make(given, value)), given.offset)


def as_pytree(estimator: Estimator) -> Estimator:
    """The estimator, or a pytree that calls it if it is a plain function, which cannot be passed to `jit`."""
    return jax.tree_util.Partial(estimator) if jax.tree_util.all_leaves([estimator]) else estimator


def baselines(*, lasso_cases: int = 100, smooth: bool = True) -> tuple[Entrant, ...]:
    """MNE, sLORETA and Lasso on the leadfield that is given, and what a linear inverse can do at its best.

    MNE and sLORETA take the sources for independent. Where the covariance of the currents is known, a minimum
    norm with it is added: the best linear estimate of such currents on the nominal head, which knows what the
    network learns of the maps' smoothness.

    Args:
        lasso_cases: how many cases the Lasso, which iterates, is evaluated on.
        smooth: whether the covariance of the currents is known.
    """

    found = (
        minimum_norm_entrant("MNE"),
        minimum_norm_entrant("sLORETA"),
        Entrant("Lasso", standardised(_lasso), ALPHA_GRID, "alpha", lasso_cases, together=False),
    )
    if not smooth:
        return found
    return (*found, Entrant("MNE, true smoothness", standardised(smooth_minimum_norm), SNR_GRID, "snr"))


def minimum_norm_entrant(method: str) -> Entrant:
    """A minimum norm of fixed orientation on the leadfield that is given."""

    def make(given, snr):
        return minimum_norm(given.leadfield, given.noise_cov, snr=snr, method=method)

    return Entrant(method, standardised(make), SNR_GRID, "snr")


def _lasso(given: Given, alpha: float) -> Estimator:
    return lasso(given.leadfield, given.noise_cov, alpha=alpha, tolerance=LASSO_GAP)


def smooth_minimum_norm(given: Given, snr: float) -> LinearEstimator:
    """The minimum norm that is told the covariance of the currents.

    Raises:
        ValueError: if it is not known.
    """
    if given.prior_factor is None:
        raise ValueError("the covariance of the currents is not known: problem.heads have no prior_factor")
    gain = jnp.matmul(given.leadfield, given.prior_factor, precision="highest")
    inner = minimum_norm_kernel(gain, given.noise_cov, snr=snr)
    return LinearEstimator(jnp.matmul(given.prior_factor, inner, precision="highest"))


def network_entrant(
    trained: TrainedNetwork, *, name: str = "U-Net", training_seconds: float = 0.0
) -> Entrant:
    """A trained network; its training counts as set-up."""
    return Entrant(name, lambda given, _: NetworkEstimator(trained), prior_seconds=training_seconds)
