"""Labelled voxels as hexahedra: regular cubes, or cubes shifted to follow the boundaries of the labels."""

import logging

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from jaxinv.mesh.label_surfaces import LabelSurface, neighbour_mean
from jaxinv.mesh.locate import HEXAHEDRON
from jaxinv.mesh.volume_mesh import HEXAHEDRON_CORNERS, VolumeMesh

LOGGER = logging.getLogger(__name__)

AIR = -1
BLOCK = np.array(list(np.ndindex(2, 2, 2)))  # the eight voxels around a node
BLOCK_FACES = [(i, j) for i in range(8) for j in range(i) if np.abs(BLOCK[i] - BLOCK[j]).sum() == 1]
CLOSING_PASSES = 4
THICKNESS = 1.5  # voxels; width of the neighbourhood in which labels are compared
CUBE_EDGES = [(i, j) for i in range(8) for j in range(i) if np.abs(HEXAHEDRON[i] - HEXAHEDRON[j]).sum() == 1]
INNER_SMOOTHINGS = 3
LEAST_VOLUME = 0.1  # of a voxel, at each corner of a cell
RETREAT = 0.9  # factor of a shift that leaves a cell less


def voxel_mesh(
    labels: Int[np.ndarray, "x y z"],
    spacing: float | Float[np.ndarray, " 3"],
    origin: Float[np.ndarray, " 3"] = (0.0, 0.0, 0.0),
    *,
    adapt: float = 0.49,
    background: int = AIR,
) -> VolumeMesh:
    """Hexahedra from labelled voxels, one a voxel.

    With `adapt` above 0 the nodes between labels are shifted so that the interfaces are smooth surfaces,
    not staircases. The staircase of each label's boundary is smoothed along itself, every node within
    `adapt` voxels of where it was; an interface node goes to the boundary of whichever of its labels is
    thickest there, as the two boundaries of a thin layer are too close to be told apart. Where two
    labels meet across a layer of one voxel in an edge or a node alone, and current would leak through
    that node, the voxels of the larger label there are given to the layer first, and the shift brings
    the boundary back to where it was. Shifts are reduced where a cell would lose more than nine tenths
    of its volume at a corner.

    The mesh is one piece: of the parts that hang together by faces the largest is kept, and the number
    of voxels dropped is logged.

    Args:
        labels: 0 or more for tissues, of any number, and `background` for air.
        spacing: edges of a voxel in m, one value or one an axis.
        origin: first corner of the first voxel, in m.
        adapt: shift factor, 0 (regular cubes) to 0.49.
        background: the label of air.

    Returns:
        The mesh. Its tissue labels are those of the voxels, but for the layers closed.

    Raises:
        ValueError: for labels that are not three-dimensional integers, below 0 or all background, a
            spacing that is not positive, or a shift factor out of range.

    References:
        Camacho, Hopper, Lin & Myers 1997, doi:10.1016/S0021-9290(97)00073-0; Wolters, Anwander, Berti &
        Hartmann 2007, doi:10.1109/TBME.2007.890736 (node shift, towards the centroid of the rarer label).
    """
    labels, spacing, origin = _checked(labels, spacing, origin, adapt, background)
    labels, start = _largest_piece(labels)
    closed = _close_thin_layers(labels) if adapt > 0 else labels
    voxels = np.argwhere(closed != AIR)
    shape = np.array(closed.shape) + 1
    corners = np.ravel_multi_index(tuple(np.moveaxis(voxels[:, None] + HEXAHEDRON, -1, 0)), shape)
    used, cells = np.unique(corners, return_inverse=True)
    cells = cells.reshape(-1, 8)
    points = np.stack(np.unravel_index(used, shape), axis=1).astype(np.float64)
    if adapt > 0:
        shift, interface = _shift_to_interfaces(labels, closed, used, adapt)
        shift = _spread_inwards(shift, interface, cells)
        points = _limited(points, shift, cells)
    return VolumeMesh(origin + (points + start) * spacing, cells, closed[tuple(voxels.T)])


def _checked(labels, spacing, origin, adapt, background):
    labels = np.asarray(labels)
    if labels.ndim != 3 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be integers of shape (x, y, z), not {labels.dtype} of shape {labels.shape}"
        )
    spacing, origin = np.asarray(spacing, dtype=np.float64), np.asarray(origin, dtype=np.float64)
    if spacing.shape not in ((), (3,)) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(f"spacing must be one or three positive lengths in m, not {spacing}")
    if origin.shape != (3,) or not np.isfinite(origin).all():
        raise ValueError(f"origin must be three finite coordinates in m, not {origin}")
    if not 0 <= adapt < 0.5:
        raise ValueError(f"adapt must be at least 0 and below 0.5, not {adapt}")
    air = labels == background
    if air.all():
        raise ValueError(f"labels holds nothing but background={background}")
    if labels[~air].min() < 0:
        raise ValueError(
            f"labels must be 0 or more where they are not background={background}; the lowest is "
            f"{labels[~air].min()}"
        )
    return np.where(air, AIR, labels.astype(np.int32)), spacing, origin


def _largest_piece(labels):
    """The largest part that hangs together by faces, cut to its box, and where that box starts."""
    piece, count = ndimage.label(labels != AIR)
    if count > 1:
        sizes = np.bincount(piece.ravel())[1:]
        LOGGER.info(
            "%d of %d voxels dropped: %d pieces touch the largest by less than a face",
            sizes.sum() - sizes.max(), sizes.sum(), count - 1,
        )  # fmt: skip
        labels = np.where(piece == 1 + sizes.argmax(), labels, AIR)
    box = ndimage.find_objects((labels != AIR).astype(np.int8))[0]
    return labels[box], np.array([part.start for part in box])


def _blocks(labels: Int[np.ndarray, "x y z"]) -> Int[np.ndarray, "x_1 y_1 z_1 8"]:
    """Labels of the eight voxels around each node; air beyond the grid."""
    padded = np.pad(labels, 1, constant_values=AIR)
    nx, ny, nz = np.array(padded.shape) - 1
    return np.stack([padded[i : i + nx, j : j + ny, k : k + nz] for i, j, k in BLOCK], axis=-1)


def _close_thin_layers(labels: Int[np.ndarray, "x y z"]) -> Int[np.ndarray, "x y z"]:
    """Gives to a thin layer the voxels that meet another label through it, in a node or an edge."""
    names, sizes = np.unique(labels, return_counts=True)
    size = dict(zip(names, sizes)) | {AIR: 0}  # air never gives way
    for _ in range(CLOSING_PASSES):
        around = _blocks(labels)
        mixed = np.argwhere(around.min(axis=-1) != around.max(axis=-1))
        around = around[tuple(mixed.T)]
        closed = np.pad(labels, 1, constant_values=AIR)
        for a, b in ((a, b) for a in np.append(names, AIR) for b in names if a < b):
            rows = np.flatnonzero((around == a).any(axis=1) & (around == b).any(axis=1))
            block = around[rows]
            meet = np.zeros(len(rows), dtype=bool)
            for i, j in BLOCK_FACES:
                pair = block[:, [i, j]]
                meet |= (pair == (a, b)).all(axis=1) | (pair == (b, a)).all(axis=1)
            layer = np.where((block == a) | (block == b), AIR, block).max(axis=1)
            pinched = ~meet & (layer != AIR)
            yields = a if size[a] > size[b] else b
            voxels = mixed[rows[pinched], None] + BLOCK
            given = block[pinched] == yields
            closed[tuple(voxels[given].T)] = np.repeat(layer[pinched], given.sum(axis=1))
        closed = closed[1:-1, 1:-1, 1:-1]
        if (closed == labels).all():
            break
        labels = closed
    return labels


def _shift_to_interfaces(
    labels, closed, used, reach
) -> tuple[Float[np.ndarray, "node 3"], Bool[np.ndarray, " node"]]:
    """Shift of each used node in voxels, and which of them lie between labels."""
    shape = np.array(closed.shape) + 1
    shift, thickest = np.zeros((len(used), 3)), np.zeros(len(used))
    for label in np.unique(np.append(closed, AIR)):
        before, after = (v != AIR if label == AIR else v == label for v in (labels, closed))
        surface = LabelSurface.staircase(after).smoothed(reach)
        surface = surface.drawn_onto(LabelSurface.staircase(before).smoothed(reach))
        node = np.searchsorted(used, np.ravel_multi_index(tuple(surface.grid.T), shape))
        thickness = _thickness_nearby(labels == label, outside=label == AIR)[tuple(surface.grid.T)]
        thicker = thickness > thickest[node]
        shift[node[thicker]] = (surface.points - surface.grid)[thicker]
        thickest[node] = np.maximum(thickness, thickest[node])
    return shift, thickest > 0


def _thickness_nearby(inside: Bool[np.ndarray, "x y z"], outside: bool) -> Float[np.ndarray, "x_1 y_1 z_1"]:
    """Largest share that a label has of a neighbourhood within three voxels of each node."""
    margin = 8
    padded = np.pad(inside, margin, constant_values=outside).astype(np.float32)
    share = ndimage.gaussian_filter(padded, THICKNESS, truncate=3)
    # a window of six voxels around node i is voxels i - 3 to i + 2
    nearby = ndimage.maximum_filter(share, 6)
    return nearby[tuple(slice(margin, margin + n + 1) for n in inside.shape)]


def _spread_inwards(shift, interface, cells) -> Float[np.ndarray, "node 3"]:
    """Lets the nodes next to the interfaces follow their neighbours."""
    edges = np.concatenate([cells[:, [a, b]] for a, b in CUBE_EDGES])
    mean = neighbour_mean(edges, len(shift))
    for _ in range(INNER_SMOOTHINGS):
        shift = np.where(interface[:, None], shift, mean @ shift)
    return shift


def _limited(points, shift, cells) -> Float[np.ndarray, "node 3"]:
    """Shifted nodes, the shifts reduced where a cell would keep too little volume at a corner."""
    spans = np.concatenate([np.arange(8)[:, None], HEXAHEDRON_CORNERS], axis=1)
    shift, suspects = shift.copy(), cells[(shift[cells] != 0).any(axis=(1, 2))]
    while len(suspects):
        corners = (points + shift)[suspects]
        edges = corners[:, spans[:, 1:]] - corners[:, :, None]
        volume = np.einsum("ckx,ckx->ck", edges[:, :, 0], np.cross(edges[:, :, 1], edges[:, :, 2]))
        cell, corner = np.nonzero(volume < LEAST_VOLUME)
        reduced = np.zeros(len(points), dtype=bool)
        reduced[suspects[cell[:, None], spans[corner]]] = True
        shift[reduced] *= RETREAT
        suspects = cells[reduced[cells].any(axis=1)]
    return points + shift
