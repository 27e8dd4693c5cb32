"""The classical methods that every cell is judged with, and the grids they are tuned on."""

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinv.evaluation.entrants import (
    SNR_GRID,
    Entrant,
    minimum_norm_entrant,
    smooth_minimum_norm,
    standardised,
)
from jaxinv.evaluation.judge.cells import Cell
from jaxinv.evaluation.problem import Given
from jaxinv.inverse import (
    Estimate,
    Estimator,
    eloreta,
    gaussian_process,
    lasso,
    lcmv,
    loreta,
    minimum_norm,
    mixed_norm,
    patch_posterior,
    rap_music,
    sparse_bayes,
)

SLOW_CASES = 200  # of methods that take more than 50 ms
SLOWER_CASES = 100  # of methods that take half a second
SLOWEST_CASES = 40  # of methods that take seconds
ELORETA_SNR = (1.0, 3.0, 10.0)
GAUSSIAN_PROCESS = ((10e-3, 3.0), (20e-3, 3.0), (20e-3, 10.0), (40e-3, 3.0))
ALPHA = (0.1, 0.3, 0.6)
REG = (0.01, 0.05, 0.3)
N_DIPOLES = (1, 2, 3, 4)
DEPTH = 0.8  # MNE-Python's


def classical_entrants(cell: Cell) -> tuple[Entrant, ...]:
    """Those of the package that the cell's measurements suit.

    Sparse methods are left out where half of the cortex is active, but for the Lasso, and what scans a
    window where there is one sample.
    """
    linear = (
        *(minimum_norm_entrant(method) for method in ("MNE", "dSPM", "sLORETA")),
        Entrant("wMNE", standardised(_weighted), SNR_GRID, "snr"),
        Entrant("eLORETA", standardised(_eloreta), ELORETA_SNR, "snr"),
        Entrant("LORETA", standardised(_loreta), SNR_GRID, "snr"),
        Entrant("Gaussian process", standardised(_gaussian_process), GAUSSIAN_PROCESS, "length, snr"),
    )
    if cell.is_map:
        smooth = Entrant("MNE, true smoothness", standardised(smooth_minimum_norm), SNR_GRID, "snr")
        return (
            *linear,
            Entrant("Lasso", standardised(_lasso), ALPHA, "alpha", SLOW_CASES, together=False),
            smooth,
        )
    sparse = (
        Entrant("MxNE", standardised(_mixed_norm), ALPHA, "alpha", SLOW_CASES, together=False),
        Entrant("gamma-MAP", standardised(_sparse_bayes), max_cases=SLOWER_CASES, together=False),
    )
    if cell.n_times == 1:
        return (*linear, *sparse)
    windows = (
        Entrant("LCMV", standardised(_lcmv), REG, "reg", SLOW_CASES, together=False),
        Entrant("RAP-MUSIC", standardised(_rap_music), N_DIPOLES, "n_dipoles", SLOW_CASES, together=False),
        Entrant("patch posterior", standardised(_patch_posterior), max_cases=SLOWEST_CASES, together=False),
    )
    return (*linear, *sparse, *windows)


@flax.struct.dataclass
class WindowBeamformer:
    """LCMV that takes the covariance of the very window that it images. A pytree.

    Attributes:
        leadfield: in V/(A m).
        noise_cov: in V².
        reg: regularisation of the window's covariance.
    """

    leadfield: Float[Array, "channel source"]
    noise_cov: Float[Array, "channel channel"]
    reg: float = flax.struct.field(pytree_node=False)

    def __call__(self, measurements: Float[Array, "channel time"]) -> Estimate:
        """Filters of this window, applied to it."""
        measurements = measurements.astype(self.leadfield.dtype)
        data_cov = measurements @ measurements.T / measurements.shape[1]
        return lcmv(self.leadfield, data_cov, self.noise_cov, reg=self.reg)(measurements)


@flax.struct.dataclass
class WithoutProbability:
    """A method whose probabilities are taken for scores, to be calibrated as all others' are. A pytree."""

    estimator: Estimator

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """The probability as current."""
        return Estimate(self.estimator(measurements).probability)


def _weighted(given: Given, snr: float) -> Estimator:
    return minimum_norm(given.leadfield, given.noise_cov, snr=snr, depth=DEPTH)


def _eloreta(given: Given, snr: float) -> Estimator:
    return eloreta(*_double(given), snr=snr)


def _loreta(given: Given, snr: float) -> Estimator:
    return loreta(*_double(given), given.sources.faces, snr=snr)


def _gaussian_process(given: Given, value: tuple[float, float]) -> Estimator:
    length, snr = value
    sources = given.sources
    return gaussian_process(
        given.leadfield, given.noise_cov, np.asarray(sources.positions), np.asarray(sources.faces),
        length=length, snr=snr,
    )  # fmt: skip


def _lasso(given: Given, alpha: float) -> Estimator:
    return lasso(*_double(given), alpha=alpha, tolerance=1e-3)


def _mixed_norm(given: Given, alpha: float) -> Estimator:
    return mixed_norm(*_double(given), alpha=alpha, tolerance=1e-3, depth=DEPTH)


def _sparse_bayes(given: Given, _) -> Estimator:
    return sparse_bayes(*_double(given), tolerance=1e-3)


def _patch_posterior(given: Given, _) -> Estimator:
    faces = np.asarray(given.sources.faces)
    return WithoutProbability(patch_posterior(given.leadfield, given.noise_cov, faces, learn_noise=False))


def _lcmv(given: Given, reg: float) -> Estimator:
    return WindowBeamformer(*_double(given), reg)


def _rap_music(given: Given, n_dipoles: int) -> Estimator:
    return rap_music(*_double(given), n_dipoles=n_dipoles)


def _double(given: Given) -> tuple[Array, Array]:
    """In double precision, which iterations and inverses of window covariances need."""
    return given.leadfield.astype(jnp.float64), given.noise_cov.astype(jnp.float64)
