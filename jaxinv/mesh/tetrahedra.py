"""Conforming tetrahedra between nested level sets, at any resolution, in seconds.

A body-centred cubic lattice fills the box. For each level set, from the outermost inwards, lattice
nodes close to its zero surface are moved onto it and the remaining crossed edges are split at the
crossing, as in isosurface stuffing. Every interface is then a surface of mesh faces, with positions
exact to second order, whatever the resolution.

Layers cannot touch: inside a level set each further one is kept at least a film's width deeper at
every node, so that no node lies on two interfaces, and therefore no cell of one layer shares a node
with the layer after the next.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse.csgraph import connected_components, reverse_cuthill_mckee

from jaxinv.mesh.volume_mesh import VolumeMesh

LevelSet = Callable[[Float[np.ndarray, "point 3"]], Float[np.ndarray, " point"]]

EDGES = np.array([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])
FILM = 0.2  # of the spacing: least width of a head's layers
SNAP = 0.3  # a crossing nearer to a node than this fraction of the edge moves the node
LEAST_VOLUME = 0.05  # a node does not move where a cell would keep less than this share of its volume


def mesh_level_sets(
    level_sets: Sequence[LevelSet],
    bounds: Float[np.ndarray, "2 3"],
    spacing: float,
    *,
    film: float,
) -> VolumeMesh:
    """Tetrahedra that fill the outermost of nested level sets and conform to all of them.

    Args:
        level_sets: signed distances in m, negative inside, the outermost first.
        bounds: lowest and highest corner of a box that holds the outermost one, in m.
        spacing: edge of the cube whose volume is that of one lattice node, in m; the tetrahedra's
            edges are about 1.1 to 1.3 times as long.
        film: least width of every layer but the innermost, in m, kept where the level sets come
            closer than that or cross.

    Returns:
        The mesh; the label of a cell is the number of the innermost level set that holds it. It is
        one connected piece: parts that touch it by less than a face are dropped.

    Raises:
        ValueError: if a level set encloses no node at this spacing.

    References:
        Labelle & Shewchuk 2007, doi:10.1145/1276377.1276448.
    """
    points, cells = bcc_lattice(bounds, spacing)
    finished, labels = [], []
    fixed = np.zeros(len(points), dtype=bool)
    outer = np.full(len(points), -np.inf)
    for number, level_set in enumerate(level_sets):
        values = _evaluate(level_set, points, np.unique(cells), outer, film)
        if not (values < 0).any():
            raise ValueError(
                f"level set {number} encloses no node of a lattice of {spacing * 1e3:g} mm: refine it"
            )
        points, values = _snap(points, cells, values, fixed, level_set)
        points, cells, values = _split(points, cells, values, level_set)
        fixed = np.concatenate([fixed, np.zeros(len(points) - len(fixed), dtype=bool)])
        fixed |= values == 0
        inside = (values[cells] < 0).any(axis=1)
        if number:
            finished.append(cells[~inside])
            labels.append(np.full(np.sum(~inside), number - 1))
        cells, outer = cells[inside], values
    cells = np.concatenate([*finished, cells])
    labels = np.concatenate([*labels, np.full(len(cells) - sum(map(len, labels)), len(level_sets) - 1)])
    return _compact(points, *_largest_piece(cells, labels))


def bcc_lattice(
    bounds: Float[np.ndarray, "2 3"], spacing: float
) -> tuple[Float[np.ndarray, "node 3"], Int[np.ndarray, "cell 4"]]:
    """Congruent, well-shaped tetrahedra on a body-centred cubic lattice that covers a box.

    Args:
        bounds: lowest and highest corner, in m.
        spacing: edge of the cube whose volume is that of one node, in m.

    Returns:
        Nodes, in m, and cells of positive volume.
    """
    edge = spacing * 2 ** (1 / 3)
    low = np.asarray(bounds[0], dtype=np.float64) - edge
    count = np.ceil((np.asarray(bounds[1]) - low) / edge).astype(int) + 2
    corner_id = np.arange(np.prod(count)).reshape(count)
    centre_id = corner_id.size + np.arange(np.prod(count - 1)).reshape(count - 1)
    corners = np.stack(np.indices(count), axis=-1).reshape(-1, 3)
    centres = np.stack(np.indices(count - 1), axis=-1).reshape(-1, 3) + 0.5
    points = low + edge * np.concatenate([corners, centres])
    cells = []
    for axis in range(3):
        here = [slice(None)] * 3
        there = [slice(None)] * 3
        here[axis], there[axis] = slice(None, -1), slice(1, None)
        one, other = centre_id[tuple(here)].ravel(), centre_id[tuple(there)].ravel()
        ring = []
        for u, v in ((0, 0), (1, 0), (1, 1), (0, 1)):
            at = [slice(1, -1)] * 3
            for k, offset in zip([k for k in range(3) if k != axis], (u, v)):
                at[k] = slice(offset, count[k] - 1 + offset)
            ring.append(corner_id[tuple(at)].ravel())
        cells += [np.stack([one, other, ring[k], ring[(k + 1) % 4]], axis=1) for k in range(4)]
    cells = np.concatenate(cells)
    return points, oriented(points, cells)


def _evaluate(level_set, points, nodes, outer, film):
    """Values at `nodes` (0 elsewhere), at least `film` above those of the level set around it."""
    values = np.zeros(len(points))
    values[nodes] = level_set(points[nodes])
    values[nodes] = np.maximum(values[nodes], outer[nodes] + film)
    # a node exactly on the surface counts as snapped to it; a hair's breadth off it would not split
    values[np.abs(values) < 1e-9] = 0.0
    return values


def _crossed_edges(cells, values):
    """Edges (n, 2), first node lower, whose ends have opposite signs; each once."""
    edges = cells[(values[cells] < 0).any(axis=1) & (values[cells] > 0).any(axis=1)][:, EDGES].reshape(-1, 2)
    edges = np.sort(edges[values[edges[:, 0]] * values[edges[:, 1]] < 0], axis=1)
    keys = np.unique(edges[:, 0].astype(np.int64) * len(values) + edges[:, 1])
    return np.stack([keys // len(values), keys % len(values)], axis=1)


def _snap(points, cells, values, fixed, level_set):
    """Moves nodes that lie close to the surface onto it, the closest of each neighbourhood first."""
    start, points, values = points, points.copy(), values.copy()
    movable = ~fixed
    near = cells[(values[cells] <= 0).any(axis=1) & (values[cells] >= 0).any(axis=1)]
    beside = np.zeros(len(points), dtype=bool)
    beside[near] = True
    touched = cells[beside[cells].any(axis=1)]
    least = LEAST_VOLUME * _volumes(points, touched)
    original = values.copy()
    moved = np.zeros(len(points), dtype=bool)
    for _ in range(12):
        edges = _crossed_edges(near, values)
        ends = np.concatenate([edges, edges[:, ::-1]])
        fraction = np.abs(values[ends[:, 0]]) / (np.abs(values[ends[:, 0]]) + np.abs(values[ends[:, 1]]))
        close = (fraction < SNAP) & movable[ends[:, 0]]
        if not close.any():
            break
        ends, fraction = ends[close], fraction[close]
        best = np.full(len(points), np.inf)
        np.minimum.at(best, ends[:, 0], fraction)
        rival = np.full(len(points), np.inf)
        np.minimum.at(rival, edges[:, 0], best[edges[:, 1]])
        np.minimum.at(rival, edges[:, 1], best[edges[:, 0]])
        chosen = (fraction == best[ends[:, 0]]) & (best[ends[:, 0]] <= rival[ends[:, 0]])
        node, first = np.unique(ends[chosen, 0], return_index=True)
        target, along = ends[chosen, 1][first], fraction[chosen][first]
        points[node] += along[:, None] * (points[target] - points[node])
        values[node] = 0.0
        moved[node] = True
    points[moved] = _refined(start[moved], points[moved], original[moved], level_set)
    while (squeezed := _volumes(points, touched) < least).any():
        back = np.unique(touched[squeezed])
        back = back[moved[back]]
        points[back], values[back], moved[back] = start[back], original[back], False
    return points, values


def _refined(start, end, value, level_set):
    """One secant step along each node's path: the crossing was found on a straight line of values."""
    left = level_set(end)
    usable = np.abs(left) < np.abs(value) / 2
    share = np.where(usable, value / np.where(usable, value - left, 1), 1)
    return start + share[:, None] * (end - start)


def _split(points, cells, values, level_set):
    """Splits every crossed edge at its crossing; the longest edge of a cell first."""
    edges = _crossed_edges(cells, values)
    if len(edges) == 0:
        return points, cells, values
    crossing = _crossing(points, values, edges, level_set)
    length = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    rank = np.empty(len(edges), dtype=np.int64)
    rank[np.lexsort((np.arange(len(edges)), -length))] = np.arange(len(edges))
    keys = edges[:, 0] * len(values) + edges[:, 1]  # sorted, as _crossed_edges leaves them
    n_before = len(values)
    points = np.concatenate([points, crossing])
    values = np.concatenate([values, np.zeros(len(crossing))])
    whole, queue = [], cells
    while len(queue):
        pairs = np.sort(queue[:, EDGES], axis=2)
        crossed = values[pairs[..., 0]] * values[pairs[..., 1]] < 0
        done = ~crossed.any(axis=1)
        whole.append(queue[done])
        queue, pairs, crossed = queue[~done], pairs[~done], crossed[~done]
        index = np.searchsorted(keys, pairs[..., 0] * n_before + pairs[..., 1])
        order = np.where(crossed, rank[np.minimum(index, len(keys) - 1)], len(keys))
        pick = order.argmin(axis=1)
        row = np.arange(len(queue))
        middle = n_before + index[row, pick]
        halves = []
        for end in range(2):
            half = queue.copy()
            half[row, EDGES[pick, end]] = middle
            halves.append(half)
        queue = np.concatenate(halves)
    return points, np.concatenate(whole), values


def _crossing(points, values, edges, level_set):
    """Where the level set is zero along each edge: linear, then two steps of regula falsi."""
    low, high = points[edges[:, 0]], points[edges[:, 1]]
    f_low, f_high = values[edges[:, 0]], values[edges[:, 1]]
    s_low, s_high = np.zeros(len(edges)), np.ones(len(edges))
    for _ in range(2):
        s = s_low + (s_high - s_low) * f_low / (f_low - f_high)
        f = level_set(low + s[:, None] * (high - low))
        same = f * f_low > 0
        s_low, f_low = np.where(same, s, s_low), np.where(same, f, f_low)
        s_high, f_high = np.where(same, s_high, s), np.where(same, f_high, f)
    s = s_low + (s_high - s_low) * f_low / np.where(f_low == f_high, 1, f_low - f_high)
    return low + np.clip(s, SNAP / 2, 1 - SNAP / 2)[:, None] * (high - low)


def _volumes(points, cells):
    """Negative for a cell that was turned inside out."""
    corners = points[cells]
    return np.linalg.det(corners[:, 1:] - corners[:, :1]) / 6


def oriented(points, cells):
    """The cells, with corners exchanged in those that were turned inside out."""
    return np.where(_volumes(points, cells)[:, None] < 0, cells[:, [1, 0, 2, 3]], cells)


def _largest_piece(cells, labels):
    """The cells of the largest set connected through shared faces."""
    faces = np.sort(cells[:, [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]].reshape(-1, 3), axis=1)
    n = np.int64(cells.max()) + 1
    order = np.argsort((faces[:, 0] * n + faces[:, 1]) * n + faces[:, 2], kind="stable")
    same = (faces[order[1:]] == faces[order[:-1]]).all(axis=1)
    one, other = order[1:][same] // 4, order[:-1][same] // 4
    graph = sparse.coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(len(cells),) * 2)
    _, piece = connected_components(graph, directed=False)
    keep = piece == np.bincount(piece).argmax()
    return cells[keep], labels[keep]


def _compact(points, cells, labels):
    """The mesh without unused nodes, with neighbours numbered close together for the solver's memory."""
    used, cells = np.unique(cells, return_inverse=True)
    cells = cells.reshape(-1, 4)
    pairs = cells[:, EDGES].reshape(-1, 2)
    graph = sparse.coo_array((np.ones(len(pairs), dtype=np.int8), pairs.T), shape=(len(used),) * 2).tocsr()
    order = reverse_cuthill_mckee(sparse.csr_matrix(graph + graph.T), symmetric_mode=True)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    points, cells = points[used][order], rank[cells]
    by_place = np.argsort(cells.min(axis=1), kind="stable")
    return VolumeMesh(points, cells[by_place], labels[by_place])
