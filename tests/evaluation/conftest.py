from functools import partial
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv.evaluation import SCENARIOS, KnownHead, Problem
from jaxinv.head import Electrodes, SourceSpace
from jaxinv.head.fsaverage import fsaverage_electrodes, mid_surface
from jaxinv.simulate import HalfActiveMaps, WhiteNoise, simulate_batch
from jaxinv.tissues import conductivity_range


@flax.struct.dataclass
class ToyForward:
    """A leadfield that is linear in the conductivities: infinite media seen through two tissues."""

    sources: SourceSpace
    sensors: Electrodes
    by_tissue: jax.Array
    conductivity: jax.Array
    tissue_names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=("scalp", "skull"))
    conductivities_at_once: ClassVar[int] = 4

    @property
    def conductivity_range(self):
        return conductivity_range(self.tissue_names)

    def project(self, conductivity, current, *, sensors=None):
        return self.leadfield(conductivity) @ current

    def leadfield(self, conductivity=None, *, sources=None, sensors=None):
        conductivity = self.conductivity if conductivity is None else conductivity
        return jnp.einsum("t,tcs->cs", conductivity, self.by_tissue)


@pytest.fixture(scope="session")
def sources() -> SourceSpace:
    return mid_surface("ico3")


@pytest.fixture(scope="session")
def forward(sources) -> ToyForward:
    sensors = fsaverage_electrodes("10-20")
    offset = np.asarray(sensors.positions)[:, None] - sources.positions
    distance = np.linalg.norm(offset, axis=2)
    dipole = np.einsum("csx,sx->cs", offset, sources.normals) / (4 * np.pi * 0.33 * distance**3)
    referenced = np.asarray(sensors.reference_operator()) @ np.stack([dipole, 30 * dipole**3 * distance**4])
    return ToyForward(
        sources, sensors, jnp.asarray(referenced, jnp.float32), jnp.asarray([0.43, 0.01], jnp.float32)
    )


@pytest.fixture(scope="session")
def problem(forward) -> Problem:
    """Half-active maps, 20 dB, few cases."""
    activity, noise = HalfActiveMaps.build(forward.sources, 40e-3), WhiteNoise((20.0, 20.0))
    simulate = jax.jit(partial(simulate_batch, size=64, conductivities=4))
    validation_key, test_key = jax.random.split(jax.random.key(0))
    return Problem(
        scenario=SCENARIOS["half-active"],
        heads=(KnownHead(forward.leadfield(), forward.sources, activity.factor),),
        validation=simulate(validation_key, forward, activity, noise),
        test=simulate(test_key, forward, activity, noise),
        node_volume=1e-8,
    )
