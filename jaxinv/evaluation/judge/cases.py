"""The cases of a cell: seeded truth, measurements, and the truth as the methods' nodes have it."""

import hashlib
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import circulant
from scipy.sparse.csgraph import dijkstra

from jaxinv.evaluation.judge.cells import Cell
from jaxinv.evaluation.judge.world import World
from jaxinv.evaluation.problem import FocalTruth, Problem
from jaxinv.evaluation.scenarios import SCENARIOS
from jaxinv.simulate import Batch
from jaxinv.simulate.activity import NOMINAL_MOMENT

MOST_GENERATORS = 4
COUNTS = {"A": (1, 1), "B": (2, 4), "C": (1, 4)}  # generators, fewest and most
RADIUS = (10e-3, 30e-3)  # m, of patches
AMPLITUDE = (0.5, 1.5)  # of generators, over the nominal moment
HIGHEST_CORRELATION = 0.9  # of the courses of scenario B
SMOOTHNESS = 5.0  # samples over which a course is correlated
PRIOR_DRAWS = 256  # of maps, for their mean power


@dataclass(frozen=True, eq=False)
class Drawn:
    """Cases of one role, and what only the judge knows of them.

    Attributes:
        batch: what the methods see, and the labels.
        focal: places of the generators; None for maps.
        world: index of each case's world.
        draw: which of its leadfields.
        noise_level: root mean square of each case's noise, in V.
        signal_power: of each case, noiseless, in V², mean over channels and samples.
    """

    batch: Batch
    focal: FocalTruth | None
    world: Int[np.ndarray, " case"]
    draw: Int[np.ndarray, " case"]
    noise_level: Float[np.ndarray, " case"]
    signal_power: Float[np.ndarray, " case"]


@dataclass(frozen=True, eq=False)
class Posed:
    """A cell with its cases.

    Attributes:
        cell: of the grid.
        worlds: heads of the validation cases, then those of the test cases.
        problem: what is given to the methods.
        validation: with what only the judge knows.
        test: likewise.
    """

    cell: Cell
    worlds: tuple[World, ...]
    problem: Problem
    validation: Drawn
    test: Drawn


def pose(
    cell: Cell,
    validation: tuple[World, ...],
    test: tuple[World, ...],
    n_validation: int,
    n_test: int,
    seed: int,
) -> Posed:
    """Draw the cases of a cell. The same seed gives the same cases; fewer cases are the first of more.

    Cells that differ in noise, sensors, or own and template leadfields share the truth.
    """
    worlds = (*validation, *test)
    drawn = {
        "validation": draw_cases(cell, validation, 0, n_validation, "validation", seed),
        "test": draw_cases(cell, test, len(validation), n_test, "test", seed),
    }
    problem = Problem(
        SCENARIOS[cell.scenario], tuple(world.known for world in worlds), drawn["validation"].batch,
        drawn["test"].batch, focal=drawn["test"].focal,
    )  # fmt: skip
    return Posed(cell, worlds, problem, drawn["validation"], drawn["test"])


def draw_cases(
    cell: Cell, worlds: tuple[World, ...], first_world: int, count: int, role: str, seed: int
) -> Drawn:
    """Cases that go round the worlds, and within a world round its leadfields."""
    of = np.arange(count) % len(worlds)
    draw = np.arange(count) // len(worlds) % np.array([len(world.leadfields) for world in worlds])[of]
    n_channels, n_nodes = worlds[0].known.leadfield.shape
    shape = (n_channels,) if cell.n_times == 1 else (n_channels, cell.n_times)
    measured = np.empty((count, *shape), np.float32)
    label, current = np.zeros((2, count, n_nodes), np.float32)
    place = np.zeros((count, MOST_GENERATORS, 3))
    present = np.zeros((count, MOST_GENERATORS), bool)
    level, power = np.empty((2, count))
    for world_index, world in enumerate(worlds):
        for leadfield in range(len(world.leadfields)):
            cases = np.flatnonzero((of == world_index) & (draw == leadfield))
            if not cases.size:
                continue
            truth = _Maps(cell, world, leadfield, seed) if cell.is_map else _Focal(cell, world, leadfield)
            for case in cases:
                found = truth.draw(_generator(seed, role, "truth", cell.scenario, case))
                label[case], current[case] = found.label, found.current
                n = len(found.places)
                place[case, :n], present[case, :n] = found.places, True
                power[case] = found.power
                level[case] = np.sqrt(found.power / 10 ** (cell.snr_db / 10))
                noise = _noise(cell, world, _generator(seed, role, "noise", cell.name, case))
                measured[case] = (found.signal + level[case] * noise).reshape(shape)
    noise_cov = np.stack([world.noise_cov for world in worlds]).astype(np.float32)
    batch = Batch(
        measurements=jnp.asarray(measured),
        activity=jnp.asarray(label),
        current=jnp.asarray(current),
        conductivity=jnp.zeros((count, 0), jnp.float32),
        noise_cov=jnp.asarray(level**2, jnp.float32)[:, None, None] * jnp.asarray(noise_cov)[of],
        channel_mask=jnp.ones((count, n_channels), bool),
        head=jnp.asarray(first_world + of, jnp.int32),
    )
    focal = None if cell.is_map else FocalTruth(place, present)
    return Drawn(batch, focal, first_world + of, draw, level, power)


@dataclass(frozen=True, eq=False)
class _Truth:
    """One case without noise: what methods should find, and the signal."""

    label: Float[np.ndarray, " node"]
    current: Float[np.ndarray, " node"] | float
    places: Float[np.ndarray, "generator 3"]
    signal: Float[np.ndarray, "channel time"]
    power: float


class _Maps:
    """Half-active maps on one leadfield. Their noise has one level, from the power that the prior expects."""

    def __init__(self, cell: Cell, world: World, leadfield: int, seed: int):
        self.cell, self.world = cell, world
        self.seen = world.leadfields[leadfield] * world.moment.astype(np.float32)
        rng = _generator(seed, "power of the prior")
        white = rng.normal(size=(world.field_factor.shape[1], PRIOR_DRAWS)).astype(np.float32)
        self.power = float(np.mean((self.seen @ self._activity(world.field_factor @ white)) ** 2))

    def _activity(self, field):
        return field if self.cell.scenario == "D1" else (field > 0).astype(np.float32)

    def draw(self, rng: np.random.Generator) -> _Truth:
        world = self.world
        field = world.field_factor @ rng.normal(size=world.field_factor.shape[1]).astype(np.float32)
        activity = self._activity(field)
        return _Truth(
            (world.carry @ field > 0).astype(np.float32),
            np.bincount(world.carried, world.moment * activity, world.n_nodes),
            np.zeros((0, 3)),
            (self.seen @ activity)[:, None],
            self.power,
        )


class _Focal:
    """Dipoles or patches on one leadfield; each case has noise of its own level."""

    def __init__(self, cell: Cell, world: World, leadfield: int):
        self.cell, self.world = cell, world
        self.of_dipoles = world.dipole_leadfields[leadfield] * np.float32(NOMINAL_MOMENT)
        self.of_vertices = world.leadfields[leadfield] * world.moment.astype(np.float32)

    def draw(self, rng: np.random.Generator) -> _Truth:
        cell, world = self.cell, self.world
        low, high = COUNTS[cell.scenario]
        n = int(rng.integers(low, high + 1))
        courses = _courses(rng, n, cell)
        label = np.zeros(world.n_nodes, np.float32)
        if cell.scenario == "C":
            area = np.asarray(world.surface.area)
            centres = rng.choice(len(area), n, replace=False, p=area / area.sum())
            inside = patches(world, centres, rng.uniform(*RADIUS, n))
            fields = self.of_vertices @ inside.T
            label[world.carry @ inside.any(axis=0) >= 0.5] = 1
            label[world.carried[centres]] = 1
            places = np.asarray(world.surface.positions)[centres]
        else:
            chosen = rng.choice(world.dipoles.n_sources, n, replace=False)
            fields = self.of_dipoles[:, chosen]
            label[world.dipole_carried[chosen]] = 1
            places = np.asarray(world.dipoles.positions)[chosen]
        signal = fields @ courses
        return _Truth(label, 0.0, places, signal, float(np.mean(signal**2)))


def patches(
    world: World, centres: Int[np.ndarray, " patch"], radius: Float[np.ndarray, " patch"]
) -> Float[np.ndarray, "patch vertex"]:
    """1 where a vertex lies within the radius of a centre, along the edges of the surface."""
    distance = dijkstra(world.graph, directed=False, indices=centres, limit=float(np.max(radius)))
    return (distance <= np.reshape(radius, (-1, 1))).astype(np.float32)


def _courses(rng, n, cell) -> Float[np.ndarray, "generator time"]:
    """Amplitudes from a half to one and a half with a sign each, times smooth courses of unit power."""
    amplitude = rng.uniform(*AMPLITUDE, (n, 1)) * rng.choice([-1.0, 1.0], (n, 1))
    if cell.n_times == 1:
        return amplitude
    shared = rng.uniform(0, HIGHEST_CORRELATION) if cell.scenario == "B" else 0.0
    white = rng.normal(size=(n + 1, cell.n_times)) @ temporal_factor(cell.n_times).T
    return amplitude * (np.sqrt(shared) * white[:1] + np.sqrt(1 - shared) * white[1:])


def temporal_cov(n_times: int) -> Float[np.ndarray, "time time"]:
    """Of a course over samples: squared-exponential, of unit variance."""
    time = np.arange(n_times)
    return np.exp(-((time[:, None] - time) ** 2) / (2 * SMOOTHNESS**2))


def temporal_factor(n_times: int) -> Float[np.ndarray, "time time"]:
    """Of `temporal_cov`."""
    values, vectors = np.linalg.eigh(temporal_cov(n_times))
    return vectors * np.sqrt(np.maximum(values, 0))


def _noise(cell: Cell, world: World, rng: np.random.Generator) -> Float[np.ndarray, "channel time"]:
    """Of unit variance in the mean."""
    white = rng.normal(size=(world.noise_factor.shape[1], cell.n_times))
    if cell.noise == "1/f":
        white = np.fft.irfft(np.fft.rfft(white) * np.sqrt(_pink_spectrum(cell.n_times)), cell.n_times)
    return world.noise_factor @ white


def noise_course_cov(cell: Cell) -> Float[np.ndarray, "time time"]:
    """Covariance of the noise over the samples of a window; its variance is one."""
    if cell.noise != "1/f":
        return np.eye(cell.n_times)
    return circulant(np.fft.irfft(_pink_spectrum(cell.n_times), cell.n_times))


def _pink_spectrum(n_times: int) -> Float[np.ndarray, " frequency"]:
    """1/f, and of unit power over the frequencies of both signs."""
    power = 1 / np.maximum(np.arange(n_times // 2 + 1), 1)
    return power / np.mean(np.concatenate([power, power[1 : (n_times + 1) // 2]]))


def _generator(seed: int, *names: object) -> np.random.Generator:
    """Random numbers of their own for every combination of names."""
    digest = hashlib.sha256(repr((seed, *map(str, names))).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))
