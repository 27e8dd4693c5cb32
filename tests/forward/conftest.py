import numpy as np
import pytest

from jaxinv.forward.exact import FemForward
from jaxinv.head import Electrodes, SourceSpace
from jaxinv.head.spheres import sphere_head

RADII, CONDUCTIVITY = (0.092, 0.086, 0.080, 0.078), (0.33, 0.01, 1.79, 0.33)


def directions(n, seed):
    x = np.random.default_rng(seed).normal(size=(n, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="session")
def sources():
    depth = np.linspace(0.01, 0.07, 12)[:, None]
    return SourceSpace(depth * directions(12, 0), directions(12, 1))


@pytest.fixture(scope="session")
def electrodes():
    return Electrodes(RADII[0] * directions(10, 2))


@pytest.fixture(scope="session")
def head():
    return sphere_head(RADII, CONDUCTIVITY, n_nodes=3000)


@pytest.fixture(scope="session")
def forward(head, sources, electrodes):
    return FemForward.build(head, sources, electrodes, tolerance=1e-12)
