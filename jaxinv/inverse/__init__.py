"""Classical inverses: every method is an `Estimator` bound to a leadfield and a noise covariance."""

from jaxinv.inverse.beamformer import lcmv
from jaxinv.inverse.choose_alpha import RiskCurve, choose_alpha
from jaxinv.inverse.estimator import Estimate, Estimator, LinearEstimator
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
from jaxinv.inverse.sparse import ConvergenceError, LassoEstimator, LassoSolution, lasso
from jaxinv.inverse.sparse_bayes import SparseBayesEstimator, SparseBayesSolution, sparse_bayes
from jaxinv.inverse.whitening import Whitener, whitener

__all__ = [
    "ConvergenceError",
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
    "RiskCurve",
    "SparseBayesEstimator",
    "SparseBayesSolution",
    "Whitener",
    "choose_alpha",
    "lasso",
    "lcmv",
    "minimum_norm",
    "minimum_norm_kernel",
    "mixed_norm",
    "music",
    "rap_music",
    "sparse_bayes",
    "trap_music",
    "whitener",
]
