import dataclasses
from functools import partial
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxinv.head.sensors import Electrodes
from jaxinv.head.source_space import SourceSpace
from jaxinv.simulate import (
    Dipoles,
    HalfActiveMaps,
    WhiteNoise,
    sample_conductivity,
    simulate_batch,
    simulate_measurements,
)
from jaxinv.tissues import TISSUES, conductivity_range

CHANNELS, SOURCE_COUNT, TISSUE_NAMES = 8, 40, ("scalp", "skull", "brain")


@flax.struct.dataclass
class ToyForward:
    """A leadfield linear in the conductivities: L(σ) = R Σ σ_t A_t."""

    parts: jax.Array
    conductivity: jax.Array
    sources: SourceSpace
    sensors: Electrodes
    tissue_names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=TISSUE_NAMES)
    conductivities_at_once: ClassVar[int] = 4

    def leadfield(self, conductivity=None, *, sources=None, sensors=None):
        conductivity = self.conductivity if conductivity is None else conductivity
        reference = self.sensors.reference_operator(self.parts.dtype)
        potentials = jnp.tensordot(conductivity, self.parts, axes=1)
        if sensors is not None:  # potentials grow with x
            potentials = potentials * (1 + (sensors.positions - self.sensors.positions)[:, :1])
        return reference @ potentials

    @property
    def conductivity_range(self):
        return conductivity_range(self.tissue_names)

    def project(self, conductivity, current, *, sensors=None):
        return self.leadfield(conductivity, sensors=sensors) @ current


def toy(seed=0, n_channels=CHANNELS, n_sources=SOURCE_COUNT, dtype=np.float32):
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(n_sources, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return ToyForward(
        parts=jnp.asarray(100 * rng.normal(size=(3, n_channels, n_sources)), dtype),
        conductivity=jnp.asarray([TISSUES[name].nominal for name in TISSUE_NAMES], dtype),
        sources=SourceSpace((0.07 * normals).astype(np.float32), normals.astype(np.float32)),
        sensors=Electrodes(rng.normal(size=(n_channels, 3)).astype(np.float32)),
    )


FORWARD = toy()
ACTIVITY = HalfActiveMaps.build(FORWARD.sources, 30e-3)
NOISE = WhiteNoise((0.0, 20.0))
simulate = jax.jit(simulate_batch, static_argnames=("size", "conductivities"))


def test_shapes_and_dtypes_are_those_of_the_contract(key):
    batch = simulate(key, FORWARD, ACTIVITY, NOISE, 6, conductivities=3)
    shapes = {name: (value.shape, str(value.dtype)) for name, value in vars(batch).items()}
    assert shapes == {
        "measurements": ((6, 8), "float32"),
        "activity": ((6, 40), "float32"),
        "current": ((6, 40), "float32"),
        "conductivity": ((6, 3), "float32"),
        "noise_cov": ((6, 8, 8), "float32"),
        "channel_mask": ((6, 8), "bool"),
        "head": ((6,), "int32"),
    }
    assert batch.channel_mask.all()


def test_measurements_are_leadfield_times_current_plus_noise_of_the_stated_covariance(key):
    """What is left after subtracting L(σ) j is white in the range of the average reference."""
    batch = simulate(key, FORWARD, ACTIVITY, WhiteNoise((10.0, 10.0)), 400, conductivities=4)
    leadfield = jax.vmap(FORWARD.leadfield)(batch.conductivity)
    signal = np.einsum("bcs,bs->bc", leadfield, batch.current)
    noise = batch.measurements - signal
    expected = np.mean(signal**2, axis=1) / 10
    np.testing.assert_allclose(np.trace(batch.noise_cov, axis1=1, axis2=2) / CHANNELS, expected, rtol=1e-4)
    np.testing.assert_allclose(np.mean(np.mean(noise**2, axis=1) / expected), 1, atol=0.1)
    np.testing.assert_allclose(batch.measurements.sum(1) / np.abs(batch.measurements).max(), 0, atol=1e-5)


def test_each_conductivity_is_drawn_in_range_and_has_its_own_leadfield(key):
    batch = simulate(key, FORWARD, ACTIVITY, NOISE, 6, conductivities=3)
    drawn = np.unique(batch.conductivity, axis=0)
    assert len(drawn) == 3
    low, high = conductivity_range(TISSUE_NAMES)
    assert (drawn >= low.astype(np.float32)).all()
    assert (drawn <= high.astype(np.float32)).all()
    np.testing.assert_array_equal(batch.conductivity[::2], batch.conductivity[1::2])
    assert len(np.unique(batch.activity, axis=0)) == 6


def test_conductivity_is_log_uniform(key):
    drawn = jax.jit(jax.vmap(partial(sample_conductivity, forward=FORWARD)))(jax.random.split(key, 5000))
    low, high = conductivity_range(TISSUE_NAMES)
    share = np.sort(np.log(drawn / low) / np.log(high / low), axis=0)
    uniform = np.linspace(0, 1, 5000)[:, None].repeat(3, 1)
    np.testing.assert_allclose(share, uniform, atol=0.04)
    assert drawn.dtype == jnp.float32


def test_every_case_may_have_a_leadfield_of_its_own(key):
    """As many conductivities as cases: measured with L(σ) of each, though none is formed."""
    batch = simulate(key, FORWARD, ACTIVITY, WhiteNoise((120.0, 120.0)), 6, conductivities=6)
    assert len(np.unique(batch.conductivity[:, 1])) == 6
    leadfield = jax.vmap(FORWARD.leadfield)(batch.conductivity)
    signal = np.einsum("bcs,bs->bc", leadfield, batch.current)
    np.testing.assert_allclose(batch.measurements, signal, atol=1e-5 * np.abs(signal).max())


@pytest.mark.parametrize("conductivities", [2, 8])
def test_electrodes_miss_their_places_by_as_much_as_is_said(key, conductivities):
    forward = toy()
    forward = forward.replace(sensors=Electrodes(forward.sensors.positions, reference=None))
    quiet = WhiteNoise((200.0, 200.0))
    in_place, moved = (
        simulate_batch(key, forward, ACTIVITY, quiet, 8, conductivities=conductivities, displacement=d)
        for d in (0.0, 0.01)
    )
    np.testing.assert_array_equal(in_place.current, moved.current)
    miss = np.asarray(moved.measurements / in_place.measurements - 1)
    assert np.abs(miss).max() < 0.01 + 1e-4
    assert 0.003 < miss.std() < 0.006  # uniform in a ball: radius / √5 along an axis
    own = miss.reshape(conductivities, -1, CHANNELS)
    np.testing.assert_allclose(own, np.broadcast_to(own[:, :1], own.shape), atol=1e-3)
    assert np.abs(own[0, 0] - own[1, 0]).max() > 1e-3


def test_same_key_same_batch_and_jit_changes_nothing(key):
    arguments = (FORWARD, ACTIVITY, NOISE, 4)
    first, again = simulate(key, *arguments), simulate(key, *arguments)
    plain = simulate_batch(key, *arguments)
    other = simulate(jax.random.key(1), *arguments)
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value, getattr(again, name))
        scale = np.abs(value).max() or 1
        np.testing.assert_allclose(value / scale, getattr(plain, name) / scale, atol=1e-5)
    assert not np.array_equal(first.measurements, other.measurements)


def test_several_heads_come_one_after_the_other(key):
    forwards = (toy(0), toy(1))
    batch = simulate(key, forwards, ACTIVITY, WhiteNoise((100.0, 100.0)), 8, conductivities=2)
    np.testing.assert_array_equal(batch.head, [0, 0, 0, 0, 1, 1, 1, 1])
    for row in range(8):
        leadfield = forwards[int(batch.head[row])].leadfield(batch.conductivity[row])
        signal = leadfield @ batch.current[row]
        np.testing.assert_allclose(batch.measurements[row], signal, atol=1e-4 * np.abs(signal).max())


def test_it_vmaps_over_keys(key):
    keys = jax.random.split(key, 3)
    batched = jax.vmap(lambda k: simulate(k, FORWARD, ACTIVITY, NOISE, 4))(keys)
    single = simulate(keys[1], FORWARD, ACTIVITY, NOISE, 4)
    scale = np.abs(single.measurements).max()
    np.testing.assert_allclose(batched.measurements[1] / scale, single.measurements / scale, atol=1e-5)


def test_gradient_of_a_loss_flows_to_the_conductivity_and_is_right(key):
    """float32 data: central differences to 1 %; the loss is the logarithm of the measured power."""
    reference = FORWARD.sensors.reference_operator(jnp.float32)

    @jax.jit
    def loss(conductivity):
        leadfield = FORWARD.leadfield(conductivity)
        batch = simulate_measurements(key, leadfield, conductivity, ACTIVITY, NOISE, 4, reference)
        return jnp.log(jnp.mean((1e6 * batch.measurements) ** 2))

    check_grads(loss, (FORWARD.conductivity,), order=1, modes=["fwd", "rev"], eps=1e-3, rtol=1e-2, atol=1e-2)
    assert np.abs(jax.grad(loss)(FORWARD.conductivity)).min() > 0


def test_no_float64_with_a_float32_leadfield(key):
    jaxpr = jax.make_jaxpr(simulate, static_argnums=(4,))(key, FORWARD, ACTIVITY, NOISE, 2)
    assert "f64" not in str(jaxpr)


def test_rounding_a_float64_leadfield_costs_a_millionth(key):
    """Measurements from a float64 leadfield against the float32 leadfield's product done in float64."""
    double = toy(dtype=np.float64)
    batch = simulate(key, double, Dipoles.build(double.sources), WhiteNoise((200.0, 200.0)), 8)
    assert batch.measurements.dtype == jnp.float32
    exact = (
        np.asarray(batch.current, np.float64)
        @ np.asarray(double.leadfield(batch.conductivity[0].astype(float))).T
    )
    assert np.linalg.norm(batch.measurements - exact) < 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 5}, "multiple"),
        ({"size": 0}, "multiple"),
        ({"conductivities": 0}, "multiple"),
        ({"forwards": ()}, "empty"),
        ({"forwards": (FORWARD, toy(n_channels=9))}, r"forwards\[1\]"),
        ({"forwards": (FORWARD, FORWARD.replace(tissue_names=("scalp", "skull", "grey")))}, r"forwards\[1\]"),
        ({"forwards": FORWARD.replace(tissue_names=("scalp", "skull", "jelly"))}, "jelly"),
        ({"activity": HalfActiveMaps.build(toy(n_sources=30).sources)}, "30.*40"),
        ({"activity": HalfActiveMaps.build(toy(n_sources=30).sources), "conductivities": 4}, "30.*40"),
        ({"forwards": FORWARD.replace(sources=SourceSpace(FORWARD.sources.positions))}, "normals"),
        ({"forwards": toy(n_channels=1)}, "one electrode measures nothing"),
        ({"displacement": -1e-3}, "displacement"),
        ({"displacement": float("nan")}, "displacement"),
    ],
)
def test_what_does_not_fit_is_refused(key, change, message):
    arguments = {
        "forwards": FORWARD,
        "activity": ACTIVITY,
        "noise": NOISE,
        "size": 4,
        "conductivities": 2,
    } | change
    with pytest.raises(ValueError, match=message):
        simulate_batch(key, **arguments)


def test_measurements_need_a_fixed_leadfield_and_a_fitting_reference(key):
    free, fixed = jnp.ones((CHANNELS, SOURCE_COUNT, 3)), jnp.ones((CHANNELS, SOURCE_COUNT))
    with pytest.raises(ValueError, match="fixed orientation"):
        simulate_measurements(key, free, jnp.ones(3), ACTIVITY, NOISE, 2, jnp.eye(CHANNELS))
    with pytest.raises(ValueError, match="reference"):
        simulate_measurements(key, fixed, jnp.ones(3), ACTIVITY, NOISE, 2, jnp.eye(CHANNELS + 1))


def test_batch_is_a_frozen_pytree(key):
    batch = simulate(key, FORWARD, ACTIVITY, NOISE, 4)
    assert len(jax.tree.leaves(batch)) == 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.head = 0
