"""The best that can be known of a cell's cases: oracles that have the true leadfield and the prior."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.sparse import csr_array, vstack

from jaxinv.evaluation.benchmark import Result, decided, judged
from jaxinv.evaluation.calibration import choose_threshold
from jaxinv.evaluation.case_metrics import pooled_metrics
from jaxinv.evaluation.judge.cases import (
    AMPLITUDE,
    COUNTS,
    RADIUS,
    Drawn,
    Posed,
    noise_course_cov,
    patches,
    temporal_cov,
    temporal_factor,
)
from jaxinv.evaluation.judge.cells import Cell
from jaxinv.evaluation.judge.world import World
from jaxinv.evaluation.oracles import (
    BinaryMapOracle,
    DipoleOracle,
    FewSourcesOracle,
    binary_map_oracle,
    dipole_oracle,
    few_sources_oracle,
    signed_map_oracle,
)
from jaxinv.evaluation.oracles.whitened import course_modes
from jaxinv.inverse import Estimator
from jaxinv.simulate.activity import NOMINAL_MOMENT

# In a triangle: the centroids of what is nearest each corner.
PLACES = np.array([[11, 3.5, 3.5], [3.5, 11, 3.5], [3.5, 3.5, 11]]) / 18
INTERPOLATED = 0.05  # relative error of the strength of a field between vertices
AMPLITUDE_DRAWS = 4000  # for the density of amplitudes
LEAST_DENSITY = 1e-6
N_ATOMS = 20_000  # drawn for the dictionary of patches
N_OTHERS = 500  # generators beside the atoms, to see what these leave out
SAMPLED_CASES = 48  # of an oracle that samples
TOGETHER = 32  # cases at once
SAMPLED_TOGETHER = 4
DICTIONARY_BLOCK = 1000  # patches at once


class Bound(Protocol):
    """An oracle of one leadfield, for measurements over the level of their noise."""

    def __call__(
        self, measurements: Float[Array, "channel *time"], level: Float[Array, ""]
    ) -> tuple[Float[Array, " node"], Float[Array, ""]]:
        """Probabilities of the nodes, and by how much their cross-entropy is too large, in nats a node."""


@dataclass(frozen=True)
class Oracle:
    """An oracle of a scenario.

    Attributes:
        name: in the table, with whether it is exact.
        make: what is bound to the cases on one leadfield of one world.
        max_cases: only the first so many.
        together: cases at once.
    """

    name: str
    make: Callable[[Posed, int, int], Bound]
    max_cases: int | None = None
    together: int = TOGETHER


def oracle_result(posed: Posed) -> Result | None:
    """What the oracle of a cell reaches on the test cases; None for scenario B, which has none.

    Its threshold is chosen on the validation cases, as every method's. Its error, in nats a node, is among
    the pooled metrics.
    """
    oracle = ORACLES.get(posed.cell.scenario)
    if oracle is None:
        return None
    validation, _ = _probabilities(posed, posed.validation, oracle)
    label = np.asarray(posed.problem.validation.activity)[: oracle.max_cases]
    threshold = choose_threshold(validation, label, posed.problem.scenario.criterion)
    found, error = _probabilities(posed, posed.test, oracle)
    cases = jax.tree.map(lambda values: values[: oracle.max_cases], posed.problem.test)
    return Result(
        oracle.name,
        judged(posed.problem, cases, found, decided(found, threshold), found),
        pooled={**pooled_metrics(cases.activity, found), "sampling_error": float(error.mean())},
        threshold=threshold,
        probability=found,
    )


def _probabilities(
    posed: Posed, drawn: Drawn, oracle: Oracle
) -> tuple[Float[np.ndarray, "case node"], Float[np.ndarray, " case"]]:
    level = jnp.asarray(drawn.noise_level[: oracle.max_cases], jnp.float32)
    measured = drawn.batch.measurements[: oracle.max_cases]
    scaled = measured / level.reshape(-1, *(1,) * (measured.ndim - 1))
    group = np.stack([drawn.world, drawn.draw], axis=1)[: oracle.max_cases]
    found, error = np.empty((len(scaled), posed.worlds[0].n_nodes), np.float32), np.empty(len(scaled))
    for world, draw in np.unique(group, axis=0):
        cases = np.flatnonzero((group == (world, draw)).all(axis=1))
        bound = oracle.make(posed, int(world), int(draw))
        found[cases], error[cases] = _apply(bound, scaled[cases], level[cases], oracle.together)
    return found, error


@partial(jax.jit, static_argnums=3)
def _apply(bound, measurements, level, together):
    return jax.lax.map(lambda case: bound(*case), (measurements, level), batch_size=together)


@flax.struct.dataclass
class _Exact:
    """An oracle that does not sample, for noise of unit variance. A pytree."""

    estimator: Estimator

    def __call__(self, measurements, level):
        return self.estimator(measurements).probability, 0.0


@flax.struct.dataclass
class _Sampled:
    """Half-active maps, for noise of unit variance. A pytree."""

    oracle: BinaryMapOracle

    def __call__(self, measurements, level):
        found = self.oracle.solve(measurements)
        return found.probability, found.error


@flax.struct.dataclass
class _Few:
    """A few generators of the nominal moment; the noise of each case has its own level. A pytree."""

    oracle: FewSourcesOracle

    def __call__(self, measurements, level):
        found = self.oracle.replace(amplitude=1 / level).solve(measurements)
        return found.probability, found.error


@flax.struct.dataclass
class _Dipole:
    """One dipole, for noise of unit variance. A pytree.

    The level of the noise tells the signal's power, so how strong a dipole at each place would have to be.

    Attributes:
        oracle: of the places.
        log_strength: of each place's field at the nominal moment, root mean square.
        log_signal: of the signal over the level of the noise.
        log_amplitude: where the density of the logarithm of amplitudes is known.
        log_density: that density.
    """

    oracle: DipoleOracle
    log_strength: Float[Array, " atom"]
    log_signal: Float[Array, ""]
    log_amplitude: Float[Array, " bin"]
    log_density: Float[Array, " bin"]

    def __call__(self, measurements, level):
        amplitude = self.log_signal + jnp.log(level) - self.log_strength
        prior = self.oracle.log_prior + jnp.interp(amplitude, self.log_amplitude, self.log_density)
        return self.oracle.replace(log_prior=prior)(measurements).probability, 0.0


def _level(posed: Posed, world: int, draw: int) -> float:
    """Of the noise, which all maps on one leadfield share."""
    for drawn in (posed.validation, posed.test):
        cases = np.flatnonzero((drawn.world == world) & (drawn.draw == draw))
        if cases.size:
            return float(drawn.noise_level[cases[0]])
    raise ValueError(f"no case lies in world {world} with leadfield {draw}")


def _signed(posed: Posed, world: int, draw: int) -> Bound:
    place = posed.worlds[world]
    fields = (place.leadfields[draw] * (place.moment / _level(posed, world, draw))) @ place.field_factor
    return _Exact(signed_map_oracle(fields, place.node_factor, place.noise_cov))


def _binary(posed: Posed, world: int, draw: int) -> Bound:
    place = posed.worlds[world]
    leadfield = place.leadfields[draw] * (place.moment / _level(posed, world, draw))
    return _Sampled(binary_map_oracle(leadfield, place.field_factor, place.node_factor, place.noise_cov))


def _dipole(posed: Posed, world: int, draw: int) -> Bound:
    place, cell = posed.worlds[world], posed.cell
    course, noise_course = None, None
    if cell.n_times > 1:
        course, noise_course = temporal_cov(cell.n_times), noise_course_cov(cell)
    fields, carried, weight = place.leadfields[draw] * NOMINAL_MOMENT, place.carried, None
    noise_cov = place.noise_cov
    if cell.knowledge != "crime":
        fields, carried, weight = _between_vertices(place, fields)
        noise_cov = noise_cov + _left_out(cell, fields, place.dipole_leadfields[draw][:, :N_OTHERS])
    oracle = dipole_oracle(
        fields, carried, place.n_nodes, noise_cov, 10 ** (cell.snr_db / 10),
        course_cov=course, noise_course_cov=noise_course, weight=weight,
    )  # fmt: skip
    strength = np.log(np.sqrt(np.mean(np.asarray(fields, np.float64) ** 2, axis=0)))
    signal = cell.snr_db / 20 * np.log(10)
    arrays = (strength, signal, *_amplitudes(cell))
    return _Dipole(oracle, *(jnp.asarray(array, jnp.float32) for array in arrays))


def _amplitudes(cell: Cell) -> tuple[Float[np.ndarray, " bin"], Float[np.ndarray, " bin"]]:
    """Logarithms of root mean square amplitudes, over the nominal one, and of the density that these have."""
    rng, log_factor = np.random.default_rng(0), np.zeros(1)
    if cell.n_times > 1:  # of the course
        courses = rng.normal(size=(AMPLITUDE_DRAWS, cell.n_times)) @ temporal_factor(cell.n_times).T
        log_factor = np.log(np.mean(courses**2, axis=1)) / 2
    if cell.knowledge != "crime":
        log_factor = log_factor + INTERPOLATED * rng.normal(size=AMPLITUDE_DRAWS)
    low, high = np.log(AMPLITUDE)
    at = np.linspace(low + log_factor.min(), high + log_factor.max(), 200)
    at = np.array([at[0] - 1e-4, *at, at[-1] + 1e-4])
    left = at[:, None] - log_factor
    density = np.mean(np.where((left >= low) & (left <= high), np.exp(left), 0), axis=1)
    return at, np.log(np.maximum(density, LEAST_DENSITY))


def _patches(posed: Posed, world: int, draw: int) -> Bound:
    """Of patches drawn as those of the cases are."""
    place, cell = posed.worlds[world], posed.cell
    inside, nodes = _patch_dictionary(place)
    fields = (inside @ (place.leadfields[draw] * place.moment).T).T
    fields, others = fields[:, :N_ATOMS], fields[:, N_ATOMS:]
    course, noise_course = None, None
    if cell.n_times > 1:
        course = np.mean(np.linspace(*AMPLITUDE, 1001) ** 2) * temporal_cov(cell.n_times)
        noise_course = noise_course_cov(cell)
    noise_cov = place.noise_cov + _left_out(cell, fields, others)
    return _Few(few_sources_oracle(
        fields, nodes[:N_ATOMS], noise_cov, COUNTS[cell.scenario],
        spread=(AMPLITUDE[1] - AMPLITUDE[0]) / np.sqrt(12), course_cov=course, noise_course_cov=noise_course,
    ))  # fmt: skip


def _left_out(cell, fields, others):
    """Covariance of what other generators have that no atom has, over noise of unit variance.

    It counts as noise; else one patch would be taken for several, and a place between atoms for none of them.
    """
    unit = fields / np.linalg.norm(fields, axis=0)
    nearest = unit[:, np.argmax(np.abs(unit.T @ others), axis=0)]
    rest = others - nearest * np.sum(nearest * others, axis=0)
    share = 10 ** (cell.snr_db / 10)
    if cell.n_times > 1:  # it follows the courses, whose power is in a few modes
        _, variance = course_modes(temporal_cov(cell.n_times), noise_course_cov(cell), left_out=0.0)
        share *= np.sum(variance**2) / np.sum(variance)
    return share * rest @ rest.T / np.sum(others**2) * len(fields)


@lru_cache(maxsize=3)
def _patch_dictionary(world: World) -> tuple[csr_array, csr_array]:
    """Vertices of patches, and the nodes that each makes active: atoms, then others."""
    rng = np.random.default_rng(0)
    area = np.asarray(world.surface.area)
    count = N_ATOMS + N_OTHERS
    centres = rng.choice(len(area), count, p=area / area.sum())
    radius = rng.uniform(*RADIUS, count)
    inside = vstack([
        csr_array(patches(world, centres[at : at + DICTIONARY_BLOCK], radius[at : at + DICTIONARY_BLOCK]))
        for at in range(0, count, DICTIONARY_BLOCK)
    ], format="csr")  # fmt: skip
    half = ((world.carry @ inside.T).T >= 0.5).astype(np.float32)
    own = csr_array((np.ones(count), (np.arange(count), world.carried[centres])), half.shape)
    return inside, csr_array((half + own) > 0)


def _between_vertices(world: World, fields: Float[np.ndarray, "channel vertex"]):
    """Fields of dipoles at three places of every triangle, the nodes they are carried to, and their areas.

    Interpolated, as both place and normal are between the corners.
    """
    faces, points = np.asarray(world.surface.faces), np.asarray(world.surface.positions)
    corners = points[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    between = np.concatenate([fields[:, faces] @ share for share in PLACES], axis=1)
    nearest = np.concatenate([faces[:, np.argmax(share)] for share in PLACES])
    weight = np.tile(np.linalg.norm(across, axis=1), len(PLACES))
    return between, world.carried[nearest], weight


ORACLES: dict[str, Oracle] = {
    "A": Oracle("oracle (dense dictionary)", _dipole),
    "C": Oracle("oracle (sampled dictionary)", _patches, SAMPLED_CASES, SAMPLED_TOGETHER),
    "D1": Oracle("oracle (exact)", _signed),
    "D2": Oracle("oracle (sampled)", _binary, SAMPLED_CASES),
}
