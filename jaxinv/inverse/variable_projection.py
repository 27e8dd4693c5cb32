"""Gauss–Newton on the positions of dipoles, whose moments are always those that fit best."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Leadfield = Callable[[Float[Array, "dipole 3"]], Float[Array, "channel dipole 3"]]

_matmul = partial(jnp.matmul, precision="highest")

_SETTLED = 1e-4  # change of a direction that counts as none
_RTOL = 1e-9  # of singular values: a direction of the dipoles that is seen less is not seen
_LONGEST = 10e-3  # m, of a step: the derivative says little of what is farther
_DAMPING = 1e-3  # at first, as a share of the diagonal; ten times more after a step that failed


class Dipoles(NamedTuple):
    """What is not linear in the measurements; directions (unit vectors) only where moments may not turn."""

    positions: Float[np.ndarray, "dipole 3"]
    directions: Float[np.ndarray, "dipole 3"] | None

    def moved(self, step: Float[np.ndarray, "dipole parameter"]) -> "Dipoles":
        """A step farther; no dipole moves more than a centimetre."""
        longest = np.linalg.norm(step[:, :3], axis=1).max()
        step = step * min(1, _LONGEST / max(longest, 1e-300))
        directions = self.directions
        if directions is not None:
            directions = directions + step[:, 3:]
            directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        return Dipoles(self.positions + step[:, :3], directions)


class Linearised(NamedTuple):
    """The best fit of dipoles at their place, and how it changes with their parameters.

    Attributes:
        cost: half the squared norm of the residual.
        gradient: of the cost.
        fisher: matrix of the parameters, moments being free.
        solver: from measurements to the best moments.
    """

    cost: float
    gradient: Float[np.ndarray, " parameter"]
    fisher: Float[np.ndarray, "parameter parameter"]
    solver: Float[np.ndarray, "moment channel"]

    def step(self, damping: float) -> Float[np.ndarray, " parameter"]:
        """Of Levenberg and Marquardt; of Gauss and Newton without damping."""
        scale = np.sqrt(np.diag(self.fisher))
        scale = 1 / np.where(scale > 0, scale, 1)
        matrix = scale[:, None] * self.fisher * scale + damping * np.eye(len(scale))
        return -scale * np.linalg.lstsq(matrix, scale * self.gradient, rcond=_RTOL)[0]


def refine(
    leadfield: Leadfield,
    inside: Callable[[Float[np.ndarray, "dipole 3"]], Bool[np.ndarray, " dipole"]],
    target: Float[Array, "channel time"],
    start: Dipoles,
    *,
    tolerance: float,
    max_iterations: int,
) -> tuple[Dipoles, Linearised, int, bool]:
    """Moves dipoles to where they explain a target best, and never to where they must not be.

    Args:
        leadfield: whitened, of dipoles along x, y and z; differentiable in the positions.
        inside: which positions are allowed.
        target: whitened measurements.
        start: of the iteration, inside.
        tolerance: length of the last step, in m.
        max_iterations: steps tried at most.

    Returns:
        The dipoles, the problem at their place, the steps tried, and whether the last was short enough.

    References:
        Golub & Pereyra 2003, doi:10.1088/0266-5611/19/2/201 (variable projection); Kaufman 1975,
        doi:10.1007/BF01932995.
    """
    here, problem, damping = start, linearise(leadfield, target, start), _DAMPING
    for iteration in range(1, max_iterations + 1):
        there = here.moved(problem.step(damping).reshape(len(here.positions), -1))
        settled = here.directions is None or np.abs(there.directions - here.directions).max() <= _SETTLED
        if settled and np.linalg.norm(there.positions - here.positions, axis=1).max() <= tolerance:
            return here, problem, iteration, True
        if inside(there.positions).all():
            next_problem = linearise(leadfield, target, there)
            if next_problem.cost < problem.cost:
                here, problem, damping = there, next_problem, damping / 10
                continue
        damping = 10 * damping
    return here, problem, max_iterations, False


def linearise(leadfield: Leadfield, target: Float[Array, "channel time"], dipoles: Dipoles) -> Linearised:
    """The problem at some dipoles."""
    gain, pushed = jax.linearize(leadfield, jnp.asarray(dipoles.positions))
    axes = jnp.broadcast_to(jnp.eye(3, dtype=gain.dtype)[:, None], (3, *dipoles.positions.shape))
    slope = jnp.moveaxis(jax.vmap(pushed)(axes), 0, -1)
    found = _project(gain, slope, dipoles.directions, target)
    return Linearised(float(found[0]), *(np.asarray(array) for array in found[1:]))


@jax.jit
def _project(gain, slope, directions, target):
    columns = moment_columns(gain, directions)
    left, size, right = jnp.linalg.svd(columns, full_matrices=False)
    kept = size > _RTOL * size[0]
    solver = _matmul(right.T * jnp.where(kept, 1 / jnp.where(kept, size, 1), 0), left.T)
    left = left * kept
    moments = _matmul(solver, target)
    residual = target - _matmul(left, _matmul(left.T, target))
    n_dipoles = gain.shape[1]
    if directions is None:
        moments = moments.reshape(n_dipoles, 3, -1)
        change = jnp.einsum("cnox,not->nxct", slope, moments, precision="highest")
    else:
        moved = jnp.einsum("cnox,no,nt->nxct", slope, directions, moments, precision="highest")
        turned = jnp.einsum("cno,nt->noct", gain, moments, precision="highest")
        change = jnp.concatenate([moved, turned], axis=1)
    change = change.reshape(-1, *target.shape)
    change = change - _matmul(left, _matmul(left.T, change))
    change = change.reshape(len(change), -1)
    return jnp.sum(residual**2) / 2, -_matmul(change, residual.ravel()), _matmul(change, change.T), solver


def moment_columns(
    gain: Float[Array, "channel dipole 3"], directions: Float[Array, "dipole 3"] | None
) -> Float[Array, "channel moment"]:
    """What each free moment contributes to the channels."""
    if directions is None:
        return gain.reshape(len(gain), -1)
    return jnp.einsum("cno,no->cn", gain, directions, precision="highest")
