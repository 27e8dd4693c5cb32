"""Classical inverses: every method is an `Estimator` bound to a leadfield and a noise covariance."""

from jaxinv.inverse.beamformer import lcmv
from jaxinv.inverse.choose_alpha import RiskCurve, choose_alpha
from jaxinv.inverse.eloreta import EloretaSolution, eloreta, solve_eloreta
from jaxinv.inverse.estimator import ConvergenceError, Estimate, Estimator, LinearEstimator
from jaxinv.inverse.loreta import loreta
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
from jaxinv.inverse.whitening import Whitener, whitener

__all__ = [
    "ConvergenceError",
    "EloretaSolution",
    "Estimate",
    "Estimator",
    "LassoEstimator",
    "LassoSolution",
    "LinearEstimator",
    "MixedNormEstimator",
    "MixedNormSolution",
    "MusicEstimator",
    "MusicSolution",
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
    "eloreta",
    "lasso",
    "lcmv",
    "loreta",
    "minimum_norm",
    "minimum_norm_kernel",
    "mixed_norm",
    "music",
    "point_spread",
    "rap_music",
    "resolution_errors",
    "resolution_matrix",
    "solve_eloreta",
    "sparse_bayes",
    "trap_music",
    "whitener",
]
