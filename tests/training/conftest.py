"""Fixtures: a forward model small enough to train on in seconds: L(σ) = Σ σ_t A_t over three tissues."""

from types import SimpleNamespace
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from jaxinv.head import Electrodes, SourceSpace
from jaxinv.networks import UNetConfig
from jaxinv.simulate import HalfActiveMaps, WhiteNoise
from jaxinv.tissues import conductivity_range
from jaxinv.training import TrainConfig, train

TINY = UNetConfig(latent_length=16, width=4, depth=1, correction_stages=2, correction_width=4)
NOISE = WhiteNoise(snr_db=(20.0, 20.0))


@flax.struct.dataclass
class ToyForward:
    """Leadfield (channel, source), linear in the conductivities, in V/(A m).

    Its solve fails where the white matter conducts more than `limit`.
    """

    sources: SourceSpace
    sensors: Electrodes
    conductivity: Float[Array, " tissue"]
    parts: Float[Array, "tissue channel source"]
    limit: Float[Array, ""]
    tissue_names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=("scalp", "grey", "white"))
    conductivities_at_once: ClassVar[int] = 4

    def leadfield(self, conductivity=None, *, sources=None, sensors=None):
        conductivity = self.conductivity if conductivity is None else conductivity
        unreferenced = jnp.tensordot(conductivity, self.parts, axes=1)
        good = self.sensors.reference_operator(self.parts.dtype) @ unreferenced
        return jnp.where(conductivity[2] > self.limit, jnp.nan, good)

    @property
    def conductivity_range(self):
        return conductivity_range(self.tissue_names)

    def project(self, conductivity, current, *, sensors=None):
        return self.leadfield(conductivity) @ current


def spiral(n: int, radius: float, share: float = 1.0) -> np.ndarray:
    """`n` points spread evenly over the upper `share` of a sphere."""
    i = np.arange(n) + 0.5
    z = 1 - 2 * share * i / n
    angle, r = i * np.pi * (3 - np.sqrt(5)), np.sqrt(1 - z**2)
    return radius * np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1)


def toy_forward(n_channels=16, n_sources=96, dtype=jnp.float32, limit=np.inf) -> ToyForward:
    """Radial dipoles' potentials in an infinite medium, with a different falloff for each tissue."""
    electrodes, points = spiral(n_channels, 90e-3, 0.6), spiral(n_sources, 75e-3)
    points = np.random.default_rng(0).permutation(points)
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    offset = electrodes[:, None] - points[None]
    distance = np.linalg.norm(offset, axis=-1)
    radial = np.einsum("csi,si->cs", offset, normals)
    parts = np.stack([radial / distance**power * 50e-3**power for power in (2.5, 3.0, 3.5)])
    return ToyForward(
        sources=SourceSpace(points, normals),
        sensors=Electrodes(electrodes),
        conductivity=jnp.asarray([0.43, 0.33, 0.14], dtype),
        parts=jnp.asarray(parts, dtype),
        limit=jnp.asarray(limit, dtype),
    )


def toy_problem(**kwargs):
    """Forward, activity and noise."""
    forward = toy_forward(**kwargs)
    return forward, HalfActiveMaps.build(forward.sources, correlation_length=40e-3), NOISE


def toy_config(**changes) -> TrainConfig:
    """Forty updates on ten leadfields."""
    settings = {
        "updates": 40,
        "updates_per_leadfield": 4,
        "batch_size": 16,
        "warmup": 4,
        "evaluate_every": 8,
        "checkpoint_every": 12,
        "validation_size": 32,
        "validation_leadfields": 2,
    }
    return TrainConfig(**{**settings, **changes})


def leaves(tree) -> list[np.ndarray]:
    """Leaves as host arrays."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="session")
def toy():
    """The names above, for tests."""
    return SimpleNamespace(
        TINY=TINY,
        forward=toy_forward,
        problem=toy_problem,
        config=toy_config,
        leaves=leaves,
    )


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """An unbroken run of the toy, with its directory."""
    directory = tmp_path_factory.mktemp("unbroken")
    result = train(*toy_problem(), TINY, toy_config(), directory, progress=False)
    return SimpleNamespace(result=result, directory=directory)
