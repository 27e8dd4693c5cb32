"""The default head: fsaverage, from what mne and nilearn carry. No download."""

import logging
from numbers import Integral

import igl
import numpy as np
from jaxtyping import Float

from jaxinv.head.fsaverage_levels import LEVEL_SETS, NECK_PLANE, deep_tissue
from jaxinv.head.fsaverage_surfaces import (
    ICO_VERTICES,
    bem_surface,
    coarse_faces,
    cortical_surface,
    cortical_thickness,
    mni152_to_mni305,
)
from jaxinv.head.head_model import HeadModel
from jaxinv.head.montages import montage, template_positions
from jaxinv.head.placement import place_in_tissue
from jaxinv.head.sensors import Electrodes, SurfaceField
from jaxinv.head.source_space import SourceSpace
from jaxinv.mesh.tetrahedra import FILM, mesh_level_sets
from jaxinv.mesh.volume_mesh import VolumeMesh
from jaxinv.tissues import nominal_conductivity

LEAST_THICKNESS = 5e-4  # m; vertices with a thinner cortex belong to the medial wall
WORTH_A_WARNING = 1e-3  # m; a source that is moved farther into grey matter is warned of
MAX_DISPLACEMENT = 7e-3  # m; an electrode that the projection moves farther is refused
RESOLUTIONS = (1e-3, 10e-3)

logger = logging.getLogger(__name__)


def fsaverage(resolution: float = 2.5e-3, *, sources: str | int = "ico5") -> tuple[HeadModel, SourceSpace]:
    """fsaverage as a head of conforming tetrahedra, with sources in its cortex.

    Scalp (cut 10 cm below the origin of the MRI frame, with all soft tissue of neck and face), skull,
    cerebrospinal fluid, grey and white matter. Positions are in fsaverage's MRI (surface RAS) frame.

    Args:
        resolution: edge of the cube whose volume is that of one node of the lattice that is cut, in m; the
            cut adds nodes: 4e-3 gives about 106 thousand, 3e-3 225, 2.5e-3 371 and 2e-3 689.
        sources: "ico5", "ico4" or "ico3": vertices midway between the white and the pial surface of
            fsaverage5, 4 or 3, without the medial wall, oriented along the surface normal, with faces,
            area and thickness. Or a number: exactly so many nodes spread through the cortical grey
            matter, each oriented as the nearest vertex.

    Returns:
        The head model, with nominal conductivities, and the sources. Every source lies inside a cell
        of grey matter; how many had to be moved there, and how far, is logged (over 1 mm as a warning), and
        `source_displacement` gives it for each.

    Raises:
        ValueError: for a resolution outside 1 to 10 mm, an unknown source space, or more volumetric
            sources than there are cells of grey matter; and if the mesh fails its own checks.
    """
    _check_arguments(resolution, sources)
    head = fsaverage_head(resolution)
    make = volumetric_sources if isinstance(sources, Integral) else cortical_sources
    return head, make(head, sources)


def fsaverage_head(resolution: float = 2.5e-3) -> HeadModel:
    """The head model alone; see `fsaverage`."""
    scalp_points = bem_surface("head").points
    bounds = np.array([scalp_points.min(axis=0), scalp_points.max(axis=0)])
    bounds[0, 2] = NECK_PLANE
    mesh = mesh_level_sets(list(LEVEL_SETS.values()), bounds, resolution, film=FILM * resolution)
    names = tuple(LEVEL_SETS)
    tissue = mesh.tissue.copy()
    white = np.flatnonzero(tissue == names.index("white"))
    ventricle, nucleus = deep_tissue(mesh.points[mesh.cells[white]].mean(axis=1))
    tissue[white[ventricle]] = names.index("csf")
    tissue[white[nucleus]] = names.index("grey")
    head = HeadModel(VolumeMesh(mesh.points, mesh.cells, tissue), names, nominal_conductivity(names))
    leaks = head.shared_nodes(("csf", "grey", "white"), ("scalp",))
    if leaks.size:
        raise ValueError(f"{leaks.size} nodes join the inside of the skull with the scalp; refine the mesh")
    return head


def cortical_sources(head: HeadModel, subdivision: str = "ico5") -> SourceSpace:
    """Vertices midway between the white and the pial surface, moved into grey matter where needed."""
    space = mid_surface(subdivision)
    positions, displacement = place_in_tissue(space.positions, head, "grey")
    moved = displacement > 0
    if moved.any():
        logger.info(
            "%d of %d sources moved into grey matter, by %.2f mm (median) and at most %.2f mm",
            moved.sum(), len(moved), 1e3 * np.median(displacement[moved]), 1e3 * displacement.max(),
        )  # fmt: skip
    far = displacement > WORTH_A_WARNING
    if far.any():
        logger.warning(
            "%d of %d sources were moved by more than %g mm into grey matter; "
            "jaxinv.head.source_displacement tells which",
            far.sum(), len(far), 1e3 * WORTH_A_WARNING,
        )  # fmt: skip
    return SourceSpace(
        positions, space.normals, faces=space.faces, vertices=space.vertices, area=space.area,
        thickness=space.thickness,
    )  # fmt: skip


def mid_surface(subdivision: str = "ico5") -> SourceSpace:
    """The cortical source space where anatomy has it, before any source is moved.

    Left hemisphere first; `vertices` are numbers of fsaverage5 vertices, the right's from 10,242 on.

    Raises:
        ValueError: for an unknown subdivision.
    """
    if subdivision not in ICO_VERTICES:
        raise ValueError(f"subdivision must be one of {sorted(ICO_VERTICES)}, not {subdivision!r}")
    count = ICO_VERTICES[subdivision]
    parts = []
    for side, (pial, white, thickness) in enumerate(
        zip(cortical_surface("pial"), cortical_surface("white_matter"), cortical_thickness())
    ):
        faces = coarse_faces(pial.faces, count)
        points = (pial.points[:count] + white.points[:count]) / 2
        normals = _vertex_normals(points, faces)
        offset = side * ICO_VERTICES["ico5"]
        cortex = np.flatnonzero(
            (thickness[:count] > LEAST_THICKNESS)
            & (np.linalg.norm(pial.points[:count] - white.points[:count], axis=1) > LEAST_THICKNESS)
        )
        space = SourceSpace(
            points,
            normals,
            faces=faces,
            vertices=offset + np.arange(count),
            area=_vertex_areas(points, faces),
            thickness=thickness[:count],
        )
        parts.append(space.take(cortex))
    return _joined(*parts)


def source_displacement(sources: SourceSpace, subdivision: str) -> Float[np.ndarray, " source"]:
    """Distance in m from each cortical source to its place on the mid-surface."""
    return np.linalg.norm(np.asarray(sources.positions) - mid_surface(subdivision).positions, axis=1)


def volumetric_sources(head: HeadModel, count: int) -> SourceSpace:
    """Exactly `count` nodes spread evenly through the cortical grey matter; oriented as the cortex is.

    Centroids of grey cells near the cortical surface, one in each box of a grid whose spacing is
    bisected until there are just enough boxes; surplus ones are dropped evenly.
    """
    surface = mid_surface("ico5")
    grey = head.mesh.tissue == head.label("grey")
    centroids = head.mesh.points[head.mesh.cells[grey]].mean(axis=1)
    squared, _, _ = igl.point_mesh_squared_distance(
        centroids, np.asarray(surface.positions), np.asarray(surface.faces, dtype=np.int64)
    )
    centroids = centroids[squared < (2 * np.median(surface.thickness)) ** 2]
    if count > len(centroids):
        raise ValueError(
            f"{count} volumetric sources were asked for, but this mesh has {len(centroids)} cells of "
            "cortical grey matter: use a finer resolution or fewer sources"
        )
    low, high = 0.0, np.ptp(centroids, axis=0).max()
    for _ in range(60):
        middle = (low + high) / 2
        if len(_one_a_box(centroids, middle)) >= count:
            low = middle
        else:
            high = middle
    chosen = _one_a_box(centroids, low) if low > 0 else np.arange(len(centroids))
    chosen = chosen[np.linspace(0, len(chosen) - 1, count).round().astype(int)]
    positions = centroids[chosen]
    _, face, _ = igl.point_mesh_squared_distance(
        positions, np.asarray(surface.positions), np.asarray(surface.faces, dtype=np.int64)
    )
    normals = surface.normals[surface.faces[face]].sum(axis=1)
    return SourceSpace(positions, normals / np.linalg.norm(normals, axis=1, keepdims=True))


def fsaverage_electrodes(
    names: str | tuple[str, ...] = "10-5-149",
    *,
    reference: str | tuple[float, ...] | None = "average",
    field: bool = False,
) -> Electrodes | SurfaceField:
    """Electrodes of a named montage, or by their 10-5 names, on fsaverage's scalp.

    They are taken from mne's Colin27 template into fsaverage's frame and from there along the scalp's
    normal onto the scalp.

    Args:
        names: a key of `jaxinv.head.MONTAGES`, or names of the 10-5 system.
        reference: as of `Electrodes`.
        field: the electric field (Ex, Ey, Ez) under each electrode instead of its potential.

    Raises:
        ValueError: for an unknown montage or name, or an electrode that is moved by more than 7 mm.
    """
    names = montage(names) if isinstance(names, str) else tuple(names)
    positions, displacement = project_electrodes(names)
    far = displacement > MAX_DISPLACEMENT
    if far.any():
        listed = {name: f"{1e3 * d:.1f} mm" for name, d, f in zip(names, displacement, far) if f}
        raise ValueError(
            f"the projection moves electrodes by more than {1e3 * MAX_DISPLACEMENT:g} mm: {listed}; leave "
            "them out, or give your own positions to jaxinv.Electrodes"
        )
    return SurfaceField(positions, names) if field else Electrodes(positions, names, reference)


def project_electrodes(
    names: tuple[str, ...],
) -> tuple[Float[np.ndarray, "electrode 3"], Float[np.ndarray, " electrode"]]:
    """Positions of electrodes on fsaverage's scalp, in m, and how far the projection moved each."""
    surface = bem_surface("head")
    squared, _, closest = igl.point_mesh_squared_distance(
        mni152_to_mni305(template_positions(names)), surface.points, surface.faces
    )
    return closest, np.sqrt(squared)


def _check_arguments(resolution, sources):
    low, high = RESOLUTIONS
    if not low <= resolution <= high:
        raise ValueError(
            f"resolution must lie between {low:g} and {high:g} m, not {resolution:g}; it is given in metres"
        )
    is_count = isinstance(sources, Integral) and not isinstance(sources, bool) and sources > 0
    if not is_count and sources not in ICO_VERTICES:
        raise ValueError(
            f"sources must be one of {sorted(ICO_VERTICES)} or a positive number of volumetric nodes, "
            f"not {sources!r}"
        )


def _vertex_normals(points, faces):
    normals = np.zeros_like(points)
    across = np.cross(points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]])
    for corner in range(3):
        np.add.at(normals, faces[:, corner], across)
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _vertex_areas(points, faces):
    across = np.cross(points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]])
    third = np.linalg.norm(across, axis=1) / 6
    return np.bincount(faces.ravel(), np.repeat(third, 3), minlength=len(points))


def _joined(left: SourceSpace, right: SourceSpace) -> SourceSpace:
    def both(name):
        return np.concatenate([getattr(left, name), getattr(right, name)])

    faces = np.concatenate([left.faces, right.faces + left.n_sources])
    names = ("normals", "vertices", "area", "thickness")
    return SourceSpace(both("positions"), faces=faces, **{name: both(name) for name in names})


def _one_a_box(points, spacing):
    """Index of one point in each occupied box of a grid."""
    boxes = np.floor(points / spacing).astype(np.int64)
    return np.sort(np.unique(boxes, axis=0, return_index=True)[1])
