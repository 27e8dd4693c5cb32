"""Bayes oracles: the best possible answer of each scenario, to be held beside every method's."""

from jaxinv.evaluation.oracles.binary import BinaryMapOracle, binary_map_oracle
from jaxinv.evaluation.oracles.dictionary import DipoleOracle, dipole_oracle
from jaxinv.evaluation.oracles.few import FewSourcesOracle, FewSourcesSamples, few_sources_oracle
from jaxinv.evaluation.oracles.map_chains import MapSamples
from jaxinv.evaluation.oracles.maps import GaussianMapOracle, binary_map_baseline, signed_map_oracle
from jaxinv.evaluation.oracles.marginal import MarginalMapOracle, MarginalSolution, marginal_map_oracle

__all__ = [
    "BinaryMapOracle",
    "DipoleOracle",
    "FewSourcesOracle",
    "FewSourcesSamples",
    "GaussianMapOracle",
    "MapSamples",
    "MarginalMapOracle",
    "MarginalSolution",
    "binary_map_baseline",
    "binary_map_oracle",
    "dipole_oracle",
    "few_sources_oracle",
    "marginal_map_oracle",
    "signed_map_oracle",
]
