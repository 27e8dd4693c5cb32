"""Equivalent current dipoles, fitted off the grid through the derivative of the forward model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.spatial import cKDTree
from scipy.stats import chi2

from jaxinv.forward.exact import FemForward
from jaxinv.forward.placement import BRAIN_TISSUES
from jaxinv.head.source_space import SourceSpace
from jaxinv.inverse.estimator import ConvergenceError, Estimate, check_measurements
from jaxinv.inverse.small_eigen import gram, inverse_power, largest, product
from jaxinv.inverse.validation import check_noise_cov, check_positive
from jaxinv.inverse.variable_projection import Dipoles, Leadfield, moment_columns, refine
from jaxinv.inverse.whitening import whitener

Orientation = Literal["rotating", "fixed"]

_matmul = partial(jnp.matmul, precision="highest")

_ROUNDS = 10  # of scans for each dipole in turn, unless none moves before
_UNSEEN = 1e-8  # share of a source's power that the other dipoles must leave of it


@dataclass(frozen=True)
class DipoleFit:
    """Equivalent dipoles, and how sure the measurements are of them.

    Attributes:
        positions: in m.
        moments: in A m, at each time; along one line where orientations are fixed.
        goodness_of_fit: share of the whitened measurements' power that the dipoles explain.
        chi_square: power of the whitened residual: about `degrees_of_freedom` where the dipoles, and noise of
            the given covariance, are all there is.
        degrees_of_freedom: rank of the noise times time points, less the dipoles' parameters.
        position_cov: inverse of the Fisher matrix of the positions (moments being free), a block a dipole, in
            m²: no unbiased estimate has a smaller covariance.
        iterations: steps tried.
        converged: whether the last step was shorter than the tolerance.
        on_edge: whether a dipole stopped at the edge of the brain, with a better fit beyond.
    """

    positions: Float[np.ndarray, "dipole 3"]
    moments: Float[np.ndarray, "dipole 3 *time"]
    goodness_of_fit: float
    chi_square: float
    degrees_of_freedom: int
    position_cov: Float[np.ndarray, "dipole 3 3"]
    iterations: int
    converged: bool
    on_edge: bool

    def ellipsoid(
        self, level: float = 0.95
    ) -> tuple[Float[np.ndarray, "dipole axis"], Float[np.ndarray, "dipole 3 axis"]]:
        """Confidence ellipsoids of the positions: semi-axes in m, longest first, and their directions.

        Raises:
            ValueError: for a level that is not in (0, 1).
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie in (0, 1); found {level}")
        variance, direction = np.linalg.eigh(self.position_cov)
        lengths = np.sqrt(np.maximum(variance, 0) * chi2.ppf(level, 3))
        return lengths[:, ::-1], direction[:, :, ::-1]

    def volume(self, level: float = 0.95) -> Float[np.ndarray, " dipole"]:
        """Volumes of the confidence ellipsoids, in m³."""
        return 4 / 3 * np.pi * self.ellipsoid(level)[0].prod(axis=1)


@dataclass(frozen=True, eq=False)
class DipoleFitEstimator:
    """Dipoles bound to a forward model and a covariance; make it with `dipole_fit`.

    Dipoles are placed on the host: it works outside of `jit`, `vmap` and `grad` only.

    Attributes:
        sources: where a fit begins, and what an `Estimate` is given on.
        scan: whitened leadfield of the sources, along x, y and z.
        leadfield: whitened, of dipoles at any position.
        inside: which positions a dipole may take.
        whitener: of the noise, in 1/V.
        rank: of the noise.
        n_dipoles: fitted together.
        orientation: whether moments may turn with time.
        tolerance: length of the last step, in m.
        max_iterations: steps tried at most.
    """

    sources: SourceSpace
    scan: Float[Array, "3 channel source"]
    leadfield: Leadfield
    inside: Callable[[Float[np.ndarray, "dipole 3"]], Bool[np.ndarray, " dipole"]]
    whitener: Float[Array, "channel channel"]
    rank: int
    n_dipoles: int
    orientation: Orientation
    tolerance: float
    max_iterations: int

    def solve(self, measurements: Float[Array, "channel *time"]) -> DipoleFit:
        """Dipoles of one topography or a time series; never raises for what the iteration reached.

        Raises:
            ValueError: if the first axis is not the leadfield's channels, or measurements are zero, not
                finite, traced or fewer than the dipoles' parameters.
        """
        if isinstance(measurements, jax.core.Tracer):
            raise ValueError("a dipole fit places dipoles on the host: call it outside of jit, vmap and grad")
        check_measurements(measurements, len(self.whitener))
        measurements = jnp.asarray(measurements, self.scan.dtype)
        white = _matmul(self.whitener, measurements.reshape(len(measurements), -1))
        if not white.any():
            raise ValueError("measurements are zero: there is no dipole in them")
        n_dipoles, n_times = self.n_dipoles, white.shape[1]
        rotating = self.orientation == "rotating"
        n_parameters = n_dipoles * (3 + 3 * n_times if rotating else 5 + n_times)
        if n_parameters > self.rank * n_times:
            raise ValueError(
                f"{n_dipoles} dipoles have {n_parameters} parameters, and {n_times} samples of rank "
                f"{self.rank} are {self.rank * n_times} numbers: fit fewer dipoles, or more samples"
            )
        # No more columns than channels; a rotation of time changes neither costs nor positions.
        target = white if white.shape[1] <= len(white) else jnp.linalg.qr(white.T)[1].T
        end, problem, iterations, converged = refine(
            self.leadfield, self.inside, target, self._start(target),
            tolerance=self.tolerance, max_iterations=self.max_iterations,
        )  # fmt: skip
        free = problem.step(0.0).reshape(n_dipoles, -1)
        covariance = _inverse(problem.fisher).reshape(*free.shape, *free.shape)
        moments = (problem.solver @ np.asarray(white)).reshape(n_dipoles, -1, n_times)
        if end.directions is not None:
            moments = end.directions[:, :, None] * moments
        return DipoleFit(
            positions=end.positions,
            moments=moments.reshape(n_dipoles, 3, *measurements.shape[1:]),
            goodness_of_fit=1 - 2 * problem.cost / float(jnp.sum(target**2)),
            chi_square=2 * problem.cost,
            degrees_of_freedom=self.rank * n_times - n_parameters,
            position_cov=np.stack([covariance[k, :3, k, :3] for k in range(n_dipoles)]),
            iterations=iterations,
            converged=converged,
            on_edge=bool(
                np.linalg.norm(free[:, :3], axis=1).max() > self.tolerance
                and not self.inside(end.moved(free).positions).all()
            ),
        )

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Moments at the sources nearest to the dipoles, zero elsewhere.

        With normals, a source's current is the moment's length, with the sign of its component along the
        normal; without, the moment.

        Raises:
            ConvergenceError: if it did not converge; use `solve` to have it nevertheless.
            ValueError: as `solve`.
        """
        found = self.solve(measurements)
        if not found.converged:
            raise ConvergenceError(
                f"dipole_fit: the last of {found.iterations} steps was longer than the tolerance of "
                f"{self.tolerance:g} m; raise max_iterations or tolerance, or use solve()"
            )
        nearest = cKDTree(np.asarray(self.sources.positions)).query(found.positions)[1]
        moments = found.moments
        if self.sources.is_fixed:
            along = np.einsum("nx,nx...->n...", np.asarray(self.sources.normals)[nearest], moments)
            moments = np.copysign(np.linalg.norm(moments, axis=1), along)
        current = np.zeros((self.sources.n_sources, *moments.shape[1:]))
        np.add.at(current, nearest, moments)
        return Estimate(jnp.asarray(current, self.scan.dtype))

    def _start(self, target) -> Dipoles:
        """Alternating projections: each dipole in turn is put where it explains most of what others leave."""
        fixed = self.orientation == "fixed"
        width = 1 if fixed else 3
        columns = jnp.zeros((self.n_dipoles, len(target), width), target.dtype)
        index, directions = np.full(self.n_dipoles, -1), np.zeros((self.n_dipoles, 3))
        for _ in range(_ROUNDS):
            before = index.copy()
            for k in range(self.n_dipoles):
                others = jnp.moveaxis(columns.at[k].set(0), 0, 1).reshape(len(target), -1)
                best, direction = _best_source(self.scan, others, target, fixed)
                index[k], directions[k] = int(best), np.asarray(direction)
                gain = self.scan[:, :, index[k]].T[:, None]
                columns = columns.at[k].set(moment_columns(gain, directions[k][None] if fixed else None))
            if (index == before).all():
                break
        return Dipoles(np.asarray(self.sources.positions)[index], directions if fixed else None)


def dipole_fit(
    forward: FemForward,
    noise_cov: Float[Array, "channel channel"],
    *,
    n_dipoles: int = 1,
    orientation: Orientation = "rotating",
    conductivity: Float[Array, " tissue"] | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 100,
    tissues: tuple[str, ...] = BRAIN_TISSUES,
) -> DipoleFitEstimator:
    r"""Estimator of equivalent current dipoles anywhere in the brain.

    $\min_{p, q} \lVert W (y - \sum_k L(p_k) q_k) \rVert^2$ over positions $p_k$ and moments $q_k$ (of all
    time points together), where $W$ whitens the noise: by alternating projections over the forward model's
    sources, and from there by Gauss's and Newton's method (as damped by Levenberg and Marquardt) on the
    positions, off the grid. Moments are linear and solved for. The leadfield's derivative in the positions
    is that of the finite elements, from transfer potentials that are solved for once, here. It finds a local
    minimum.

    Args:
        forward: with the source model "recovery", and its head; what it was built with is where fits begin.
        noise_cov: in V², of the forward model's sensors; may lack ranks.
        n_dipoles: fitted together.
        orientation: "rotating", a moment that may turn with time, or "fixed".
        conductivity: of each tissue, in S/m; nominal when None.
        tolerance: length of the last step, in m.
        max_iterations: steps tried at most.
        tissues: in which a dipole may lie. The dipole that stands for a patch of cortex lies below it.

    Raises:
        ValueError: for a forward model without head or of another source model, more unknowns than channels,
            or an argument out of its range.
        RuntimeError: if the transfer potentials do not converge.

    References:
        Scherg & von Cramon 1985, doi:10.1016/0168-5597(85)90033-4; Mosher, Lewis & Leahy 1992,
        doi:10.1109/10.141192 (orientations); Adler et al. 2024, doi:10.1016/j.bspc.2023.105796 (start).
    """
    if orientation not in get_args(Orientation):
        raise ValueError(f"orientation must be one of {get_args(Orientation)}, not {orientation!r}")
    check_positive("tolerance", tolerance)
    check_positive("max_iterations", max_iterations)
    noise_cov = jnp.asarray(noise_cov)
    check_noise_cov(noise_cov, forward.sensors.n_channels)
    noise = whitener(noise_cov)
    most = (int(noise.rank) - 1) // 3
    if not 1 <= n_dipoles <= most:
        raise ValueError(
            f"n_dipoles must be from 1 to {most}, as noise has rank {noise.rank}; found {n_dipoles}"
        )
    head = forward.require_head()
    transfer = forward.transfer_matrix(conductivity)

    def leadfield(positions):
        gain = forward.dipole_leadfield(positions, transfer=transfer, tissues=tissues)
        return jnp.tensordot(noise.matrix, gain, axes=1, precision="highest")

    return DipoleFitEstimator(
        sources=forward.sources,
        scan=jnp.moveaxis(leadfield(forward.sources.positions), 2, 0),
        leadfield=leadfield,
        inside=partial(head.holds, tissues=tissues),
        whitener=noise.matrix,
        rank=int(noise.rank),
        n_dipoles=int(n_dipoles),
        orientation=orientation,
        tolerance=tolerance,
        max_iterations=int(max_iterations),
    )


@partial(jax.jit, static_argnums=3)
def _best_source(scan, others, target, fixed):
    """The source that explains most of the target beside some other columns, and its direction."""
    basis, size, _ = jnp.linalg.svd(others, full_matrices=False)
    basis = basis * (size > _UNSEEN * jnp.max(size, initial=0))
    left = target - _matmul(basis, _matmul(basis.T, target))
    # Of the target's part in each source what the others leave of the source sees.
    rest = scan - _matmul(basis, _matmul(basis.T, scan))
    power = gram(rest, rest)
    seen = jnp.trace(power) > _UNSEEN * jnp.sum(scan**2, axis=(0, 1))
    root = inverse_power(jnp.where(seen, power, 0), 0.5, _UNSEEN)
    course = jnp.einsum("ics,ct->its", rest, left, precision="highest")
    explained = product(product(root, gram(course, course)), root)
    value, vector = largest(explained)
    best = jnp.argmax(value if fixed else jnp.trace(explained))
    direction = product(root, vector)[:, best]
    return best, direction / jnp.linalg.norm(direction)


def _inverse(fisher):
    """Pseudo-inverse: a direction's length is no parameter, and positions are in metres.

    Infinite variance for what measurements say nothing of.
    """
    told = np.diag(fisher) > 0
    scale = np.where(told, 1 / np.sqrt(np.where(told, np.diag(fisher), 1)), 0)
    scaled = scale[:, None] * fisher * scale
    inverse = scale[:, None] * np.linalg.pinv(scaled, hermitian=True, rcond=1e-9) * scale
    return inverse + np.diag(np.where(told, 0, np.inf))
