from typing import NamedTuple

import numpy as np
import pytest

N_DRAWS = 1_000_000


class Toy(NamedTuple):
    """Four channels of average reference, twelve sources on a line, six nodes; draws of the prior."""

    leadfield: np.ndarray
    factor: np.ndarray
    node_factor: np.ndarray
    noise_cov: np.ndarray
    field: np.ndarray
    node_label: np.ndarray

    def measured(self, signal, rng):
        """With noise of the covariance."""
        return signal + np.linalg.cholesky(self.noise_cov + 1e-12 * np.eye(4)) @ rng.normal(size=4)

    def log_likelihood(self, signals, measurement):
        """Of the measurement, for many signals, up to a constant."""
        residual = measurement[:, None] - signals
        return -np.einsum("cn,cd,dn->n", residual, np.linalg.pinv(self.noise_cov, 1e-8), residual) / 2


@pytest.fixture(scope="session")
def toy() -> Toy:
    rng = np.random.default_rng(0)
    place = np.linspace(0, 4, 12)
    distance = place[:, None] - place
    factor = np.linalg.cholesky(np.exp(-(distance**2) / 2) + 1e-6 * np.eye(12))
    reference = np.eye(4) - 1 / 4
    sensor = np.linspace(0, 4, 4)[:, None]
    leadfield = reference @ (np.exp(-((sensor - place) ** 2)) * rng.uniform(0.7, 1.3, 12))
    node_factor = factor.reshape(6, 2, 12).mean(axis=1)
    white = rng.normal(size=(12, N_DRAWS))
    return Toy(leadfield, factor, node_factor, 0.1 * reference, factor @ white, node_factor @ white > 0)
