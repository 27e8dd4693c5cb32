"""The best that can be known of a cell's cases: oracles that have the true leadfield and the prior."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxinv.evaluation.benchmark import Result, judged
from jaxinv.evaluation.calibration import choose_threshold
from jaxinv.evaluation.case_metrics import pooled_metrics
from jaxinv.evaluation.judge.cases import Drawn, Posed, temporal_factor
from jaxinv.evaluation.judge.world import World
from jaxinv.evaluation.oracles import binary_map_oracle, dipole_oracle, signed_map_oracle
from jaxinv.inverse import Estimator
from jaxinv.simulate.activity import NOMINAL_MOMENT

PLACES = np.array([[4, 1, 1], [1, 4, 1], [1, 1, 4], [2, 2, 2]]) / 6  # in a triangle, for equal areas
BINARY_CASES = 48  # of an oracle that samples
TOGETHER = 32  # cases at once


@dataclass(frozen=True)
class Oracle:
    """An oracle of a scenario.

    Attributes:
        name: in the table, with whether it is exact.
        make: the estimator of cases on one leadfield, for noise of unit variance.
        max_cases: only the first so many.
    """

    name: str
    make: Callable[[Posed, int, int], Estimator]
    max_cases: int | None = None


def oracle_result(posed: Posed) -> Result | None:
    """What the oracle of a cell reaches on the test cases; None for scenario B, which has none.

    Its threshold is chosen on the validation cases, as every method's.
    """
    oracle = ORACLES.get(posed.cell.scenario)
    if oracle is None:
        return None
    probability = {
        name: _probabilities(posed, getattr(posed, name), oracle) for name in ("validation", "test")
    }
    label = np.asarray(posed.problem.validation.activity)[: oracle.max_cases]
    threshold = choose_threshold(probability["validation"], label, posed.problem.scenario.criterion)
    found = probability["test"]
    cases = jax.tree.map(lambda values: values[: oracle.max_cases], posed.problem.test)
    return Result(
        oracle.name,
        judged(posed.problem, cases, found, found >= threshold, found),
        pooled=pooled_metrics(cases.activity, found),
        threshold=threshold,
        probability=found,
    )


def _probabilities(posed: Posed, drawn: Drawn, oracle: Oracle) -> Float[np.ndarray, "case node"]:
    measured = np.asarray(drawn.batch.measurements)[: oracle.max_cases]
    level = drawn.noise_level[: oracle.max_cases].reshape(-1, *(1,) * (measured.ndim - 1))
    scaled = jnp.asarray(measured / level, jnp.float32)
    group = np.stack([drawn.world, drawn.draw], axis=1)[: oracle.max_cases]
    found = np.empty((len(scaled), posed.worlds[0].n_nodes), np.float32)
    for world, draw in np.unique(group, axis=0):
        cases = np.flatnonzero((group == (world, draw)).all(axis=1))
        estimator = oracle.make(posed, int(world), int(draw))
        found[cases] = _apply(estimator, scaled[cases])
    return found


@jax.jit
def _apply(estimator, measurements):
    found = jax.lax.map(lambda y: estimator(y).probability, measurements, batch_size=TOGETHER)
    return found if found.ndim == 2 else found[..., 0]  # of a window, the same at all times


def _level(posed: Posed, world: int, draw: int) -> float:
    """Of the noise, which all maps on one leadfield share."""
    for drawn in (posed.validation, posed.test):
        cases = np.flatnonzero((drawn.world == world) & (drawn.draw == draw))
        if cases.size:
            return float(drawn.noise_level[cases[0]])
    raise ValueError(f"no case lies in world {world} with leadfield {draw}")


def _signed(posed: Posed, world: int, draw: int) -> Estimator:
    place = posed.worlds[world]
    fields = (place.leadfields[draw] * (place.moment / _level(posed, world, draw))) @ place.field_factor
    return signed_map_oracle(fields, place.node_factor, place.noise_cov)


def _binary(posed: Posed, world: int, draw: int) -> Estimator:
    place = posed.worlds[world]
    leadfield = place.leadfields[draw] * (place.moment / _level(posed, world, draw))
    return binary_map_oracle(leadfield, place.field_factor, place.node_factor, place.noise_cov)


def _dipole(posed: Posed, world: int, draw: int) -> Estimator:
    place, cell = posed.worlds[world], posed.cell
    course = None
    if cell.n_times > 1:
        course = temporal_factor(cell.n_times)
        course = course @ course.T
    fields, carried, weight = place.leadfields[draw] * NOMINAL_MOMENT, place.carried, None
    if cell.knowledge != "crime":
        fields, carried, weight = _between_vertices(place, fields)
    return dipole_oracle(
        fields, carried, place.n_nodes, place.noise_cov, 10 ** (cell.snr_db / 10),
        course_cov=course, weight=weight,
    )  # fmt: skip


def _between_vertices(world: World, fields: Float[np.ndarray, "channel vertex"]):
    """Fields of dipoles at four places of every triangle, the nodes they are carried to, and their areas.

    Interpolated, as both place and normal are between the corners; their amplitude does not matter.
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
    "D1": Oracle("oracle (exact)", _signed),
    "D2": Oracle("oracle (sampled)", _binary, BINARY_CASES),
}
