"""Smooth random warps of a head: anatomies that differ from the template and from each other."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxinv.head.head_model import HeadModel
from jaxinv.head.sensors import Sensors
from jaxinv.head.source_space import SourceSpace
from jaxinv.mesh.volume_mesh import VolumeMesh

WAVES = 256
CLIP = 2.0  # standard deviations; an axis is scaled by no more
LEAST_DETERMINANT = 0.3  # of the Jacobian: a warp that squeezes space farther is refused
RADIUS, SPACING = 0.15, 10e-3  # m; the ball around the centre and the grid in it that are checked
TOLERANCE = 1e-9  # m; of the inverse
NEWTON_STEPS = 30
CHUNK = 8192  # points at a time


@dataclass(frozen=True, eq=False)
class Warp:
    r"""A smooth map of space onto itself: axes scaled about a centre, then a displacement by plane waves.

    $y = c + S(x - c)$ and $w(x) = y + \sum_m a_m \cos(k_m \cdot y) + b_m \sin(k_m \cdot y)$.
    Lives on the host, in NumPy. `random_warp` makes one that does not fold.

    Attributes:
        scales: diagonal of $S$, > 0.
        centre: $c$, in m.
        waves: wave vectors $k_m$, in rad/m; none leaves the scaling alone.
        cosine: $a_m$, in m.
        sine: $b_m$, in m.

    Raises:
        ValueError: for a wrong shape, values that are not finite, or a scale that is not positive.
    """

    scales: Float[np.ndarray, "3"]
    centre: Float[np.ndarray, "3"] = (0.0, 0.0, 0.0)
    waves: Float[np.ndarray, "wave 3"] = ()
    cosine: Float[np.ndarray, "wave 3"] = ()
    sine: Float[np.ndarray, "wave 3"] = ()

    def __post_init__(self):
        for name in ("scales", "centre", "waves", "cosine", "sine"):
            value = np.array(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, value.reshape(0, 3) if value.size == 0 else value)
        shapes = {"scales": (3,), "centre": (3,), "waves": (len(self.waves), 3)}
        for name, shape in {**shapes, "cosine": shapes["waves"], "sine": shapes["waves"]}.items():
            value = getattr(self, name)
            if value.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, not {value.shape}")
            if not np.isfinite(value).all():
                raise ValueError(f"{name} has values that are not finite")
        if not (self.scales > 0).all():
            raise ValueError(f"scales must be positive, not {self.scales}: a mirrored head is no head")

    def __call__(self, points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 3"]:
        """Where points go, in m.

        Raises:
            ValueError: if points is not (point, 3) or not finite.
        """

        def moved(scaled, cos, sin):
            return scaled + cos @ self.cosine + sin @ self.sine

        return self._by_chunk(moved, points, (3,))

    def jacobian(self, points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 3 3"]:
        r"""Derivative of the warp at points, $J_{ij} = \partial w_i / \partial x_j$.

        Raises:
            ValueError: if points is not (point, 3) or not finite.
        """
        by_sine, by_cosine = (
            np.einsum("mi,mj->mij", amplitude, self.waves).reshape(-1, 9)
            for amplitude in (self.cosine, self.sine)
        )

        def derivative(_, cos, sin):
            gradient = (cos @ by_cosine - sin @ by_sine).reshape(-1, 3, 3)
            return (np.eye(3) + gradient) * self.scales

        return self._by_chunk(derivative, points, (3, 3))

    def inverse(self, points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 3"]:
        """Where points came from, in m, to 1e-9 m, by Newton's method.

        Raises:
            ValueError: if points is not (point, 3) or not finite.
            RuntimeError: if a point is not reached; the warp may fold there.
        """
        points = _check_points(points)
        found = self.centre + (points - self.centre) / self.scales
        todo = np.arange(len(points))
        for _ in range(NEWTON_STEPS):
            if todo.size == 0:
                return found
            error = points[todo] - self(found[todo])
            try:
                step = np.linalg.solve(self.jacobian(found[todo]), error[..., None])[..., 0]
            except np.linalg.LinAlgError:
                break
            found[todo] += step
            todo = todo[~(np.linalg.norm(step, axis=1) < TOLERANCE)]
        if todo.size == 0:
            return found
        raise RuntimeError(
            f"the inverse of the warp was not found for {todo.size} of {len(points)} points, the first is "
            f"{points[todo[0]]}: it lies far outside the head, or the warp folds; lower its displacement"
        )

    def _by_chunk(self, function: Callable, points, shape: tuple[int, ...]):
        """A function of the scaled points and the cosines and sines of the waves there."""
        points = _check_points(points)
        values = np.empty((len(points), *shape))
        for start in range(0, len(points), CHUNK):
            part = slice(start, start + CHUNK)
            scaled = self.centre + self.scales * (points[part] - self.centre)
            phase = scaled @ self.waves.T
            values[part] = function(scaled, np.cos(phase), np.sin(phase))
        return values


def random_warp(
    seed: int,
    *,
    scale: float = 0.06,
    displacement: float = 4e-3,
    length: float = 45e-3,
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Warp:
    r"""A random anatomy: the three axes scaled each by its own factor, and a smooth random displacement.

    The components of the displacement are independent stationary random fields of covariance
    $\sigma^2 \exp(-\lVert x - x' \rVert^2 / 2 \ell^2)$, drawn as 256 plane waves of equal amplitude with
    Gaussian wave vectors and uniform phases, so nearly Gaussian. Part of it moves and turns the head as a
    whole, which changes no leadfield but in its place.

    The skull does not come out as different as skulls are. On the default head (at 6 mm, seeds 0 to 7) the
    thickness over the calvaria, 6.5 mm in the median, changes from place to place by 6 to 13 % (standard
    deviation; 5th to 95th percentile 0.78 to 1.21) and on average by -10 to +2 %. What shall see thin and
    thick skulls has to make them otherwise.

    Args:
        seed: of the draw, 0 or more.
        scale: standard deviation of the axes' factors around 1, clipped at twice that; in [0, 0.5).
        displacement: $\sigma$, root mean square of each component, in m, ≥ 0.
        length: $\ell$, correlation length, in m, > 0.
        centre: that the scaling leaves in place, in m.

    Returns:
        The warp. In the ball of 0.15 m around the centre it is one to one, as far as a grid of 10 mm tells:
        there the determinant of its Jacobian is at least 0.3, and the symmetric part of the Jacobian of
        its displacement step is positive definite. None of the seeds 0 to 249 is refused at the defaults.

    Raises:
        ValueError: if a parameter is out of its range, or the warp folds space or nearly does.

    References:
        Rahimi & Recht 2007, "Random features for large-scale kernel machines" (the waves).
    """
    if not 0 <= scale < 1 / CLIP:
        raise ValueError(
            f"scale must lie in [0, {1 / CLIP:g}), not {scale}: it is a share of the head's size"
        )
    if not 0 <= displacement < np.inf:
        raise ValueError(f"displacement must be 0 or more, in m; found {displacement}")
    if not 0 < length < np.inf:
        raise ValueError(f"length must be positive, in m; found {length}")
    rng = np.random.default_rng(seed)
    factors = np.clip(rng.normal(size=3), -CLIP, CLIP)
    waves = rng.normal(size=(WAVES, 3)) / length
    phase = rng.uniform(0, 2 * np.pi, (WAVES, 3))
    amplitude = displacement * np.sqrt(2 / WAVES)
    warp = Warp(1 + scale * factors, centre, waves, amplitude * np.cos(phase), -amplitude * np.sin(phase))
    determinant, stretch = _tightest(warp)
    if determinant < LEAST_DETERMINANT or stretch <= 0:
        raise ValueError(
            f"the warp of seed {seed} folds the head or nearly does: its Jacobian's determinant falls to "
            f"{determinant:.2f} (no less than {LEAST_DETERMINANT:g} is taken) and its least stretch to "
            f"{stretch:.2f} (no less than 0); lower displacement ({displacement:g} m) or scale ({scale:g}), "
            f"or raise length ({length:g} m)"
        )
    return warp


def warp_head(head: HeadModel, warp: Warp) -> HeadModel:
    """The same tissues and conductivities on a warped mesh.

    On the default head (at 6 mm, seeds 0 to 7 of `random_warp`) no cell's quality, its volume over the
    cube of its root mean square edge, falls below 0.43 of its own, nor the worst cell's below 0.77 of
    what it was. Cells are warped by their nodes, so 4 to 9 of 4,857 sources that `warp_sources` moves are
    left outside the grey matter, by at most 0.5 mm: `place_in_tissue` puts them back.

    Args:
        head: with one conductivity a tissue.
        warp: where its nodes go.

    Raises:
        ValueError: if the head has conductivity tensors, which would have to be turned, or if the warp
            turns a cell inside out.
    """
    if head.conductivity_kind != "scalar":
        raise ValueError(
            f"warp_head does not turn tensors, and this head's conductivity is of the kind "
            f"{head.conductivity_kind!r}: give it one value a tissue"
        )
    try:
        mesh = VolumeMesh(warp(head.mesh.points), head.mesh.cells, head.mesh.tissue)
    except ValueError as error:
        raise ValueError(
            "the warp turns cells of the mesh inside out: lower its displacement or raise its length "
            f"({error})"
        ) from error
    return dataclasses.replace(head, mesh=mesh)


def warp_sources(sources: SourceSpace, warp: Warp) -> SourceSpace:
    r"""Sources moved with the head, and with them the surface they lie on.

    With $J$ the Jacobian at a source and $n$ its normal: the new normal is along $J^{-T} n$, which stays
    orthogonal to the surface. Areas grow by $\lVert \det J\, J^{-T} n \rVert$, the stretch of a patch
    across $n$. The cortex is a slab across $n$ and its thickness the distance between the slab's faces:
    these become planes across $J^{-T} n$ whose distance grows by $1 / \lVert J^{-T} n \rVert$. (A fibre
    along $n$ grows by $\lVert J n \rVert$, which is more where the warp shears it: it then crosses the
    slab at a slant.) Area times thickness so grows by $\det J$, as volume does.

    A source close to the boundary of its tissue may leave it, since a mesh is warped by its nodes alone:
    see `warp_head`.

    Args:
        sources: positions in m, inside the head.
        warp: that of the head.

    Returns:
        The sources, with the same faces and vertices; NumPy, float64.

    Raises:
        ValueError: if the sources have areas or thicknesses without normals, or lie where the warp folds.
    """
    positions = np.asarray(sources.positions, dtype=np.float64)
    moved = dataclasses.replace(sources, positions=warp(positions))
    if sources.normals is None:
        if sources.area is not None or sources.thickness is not None:
            raise ValueError(
                "area and thickness change by the surface's normals, which these sources lack: "
                "give the normals, or leave area and thickness out"
            )
        return moved
    jacobian = warp.jacobian(positions)
    determinant = np.linalg.det(jacobian)
    if not (determinant > 0).all():
        raise ValueError(
            f"{np.sum(~(determinant > 0))} sources lie where the warp folds space: lower its displacement"
        )
    across = np.linalg.solve(np.swapaxes(jacobian, 1, 2), np.asarray(sources.normals)[..., None])[..., 0]
    length = np.linalg.norm(across, axis=1)
    return dataclasses.replace(
        moved,
        normals=across / length[:, None],
        area=None if sources.area is None else np.asarray(sources.area) * determinant * length,
        thickness=None if sources.thickness is None else np.asarray(sources.thickness) / length,
    )


def warp_sensors(sensors: Sensors, warp: Warp) -> Sensors:
    """The same channels, moved with the head. A surface field keeps its three axes."""
    return sensors.at(warp(sensors.positions))


def _check_points(points) -> Float[np.ndarray, "point 3"]:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise ValueError(f"points must be finite and of shape (point, 3), not {points.shape}")
    return points


def _tightest(warp: Warp) -> tuple[float, float]:
    """Least determinant of the Jacobian, and least eigenvalue of the displacement step's symmetric part.

    Where the latter is positive throughout a convex region, no two points of it go to the same place.
    """
    ticks = np.arange(-RADIUS, RADIUS + SPACING / 2, SPACING)
    offset = np.stack(np.meshgrid(ticks, ticks, ticks), axis=-1).reshape(-1, 3)
    jacobian = warp.jacobian(warp.centre + offset[np.linalg.norm(offset, axis=1) <= RADIUS])
    displaced = jacobian / warp.scales
    symmetric = (displaced + np.swapaxes(displaced, 1, 2)) / 2
    return float(np.linalg.det(jacobian).min()), float(np.linalg.eigvalsh(symmetric).min())
