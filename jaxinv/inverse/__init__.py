"""Classical inverses: every method is an `Estimator` bound to a leadfield and a noise covariance."""

from jaxinv.inverse.beamformer import lcmv
from jaxinv.inverse.choose_alpha import RiskCurve, choose_alpha
from jaxinv.inverse.dipole_fit import DipoleFit, DipoleFitEstimator, dipole_fit
from jaxinv.inverse.eloreta import EloretaSolution, eloreta, solve_eloreta
from jaxinv.inverse.estimator import ConvergenceError, Estimate, Estimator, LinearEstimator, in_blocks
from jaxinv.inverse.gaussian_process import GaussianProcessEstimator, gaussian_process
from jaxinv.inverse.loreta import loreta
from jaxinv.inverse.matern import MaternCorrelation
from jaxinv.inverse.minimum_norm import minimum_norm, minimum_norm_kernel
from jaxinv.inverse.mixed_norm import MixedNormEstimator, MixedNormSolution, mixed_norm
from jaxinv.inverse.music import (
    MusicEstimator,
    MusicSolution,
    RapMusicEstimator,
    music,
    rap_music,
    trap_music,
)
from jaxinv.inverse.patch_dictionary import PatchDictionary, patch_dictionary
from jaxinv.inverse.patch_posterior import PatchPosteriorEstimator, patch_posterior
from jaxinv.inverse.regularisation import SnrChoice, choose_snr
from jaxinv.inverse.resolution import (
    ResolutionErrors,
    cross_talk,
    point_spread,
    resolution_errors,
    resolution_matrix,
)
from jaxinv.inverse.sparse import LassoEstimator, LassoSolution, lasso
from jaxinv.inverse.sparse_bayes import SparseBayesEstimator, SparseBayesSolution, sparse_bayes
from jaxinv.inverse.whitening import Whitener, exclude_channels, whitener

__all__ = [
    "ConvergenceError",
    "DipoleFit",
    "DipoleFitEstimator",
    "EloretaSolution",
    "Estimate",
    "Estimator",
    "GaussianProcessEstimator",
    "LassoEstimator",
    "LassoSolution",
    "LinearEstimator",
    "MaternCorrelation",
    "MixedNormEstimator",
    "MixedNormSolution",
    "MusicEstimator",
    "MusicSolution",
    "PatchDictionary",
    "PatchPosteriorEstimator",
    "RapMusicEstimator",
    "ResolutionErrors",
    "RiskCurve",
    "SnrChoice",
    "SparseBayesEstimator",
    "SparseBayesSolution",
    "Whitener",
    "choose_alpha",
    "choose_snr",
    "cross_talk",
    "dipole_fit",
    "eloreta",
    "exclude_channels",
    "gaussian_process",
    "in_blocks",
    "lasso",
    "lcmv",
    "loreta",
    "minimum_norm",
    "minimum_norm_kernel",
    "mixed_norm",
    "music",
    "patch_dictionary",
    "patch_posterior",
    "point_spread",
    "rap_music",
    "resolution_errors",
    "resolution_matrix",
    "solve_eloreta",
    "sparse_bayes",
    "trap_music",
    "whitener",
]
