"""Localized subtraction: the dipole's singular potential is taken out of a patch around it."""

import jax.numpy as jnp
import numpy as np

from jaxinv.fem.singular_loads import LocalizedLoads
from jaxinv.fem.singular_potential import singular_potential
from jaxinv.fem.source_models.dipole_patch import Patch, Topology
from jaxinv.fem.source_models.placement import locate_dipoles
from jaxinv.fem.source_models.singular_integrals import cell_integrals, face_integrals, whole_cell_integrals
from jaxinv.head.head_model import HeadModel
from jaxinv.head.source_space import SourceSpace

ELEMENTS = ("tetra", "tetra10", "hexahedron")
WIDTH = 32  # nodes a row of the loads
ROWS = 256  # rows read at a time
SOURCES = 128  # sources placed at a time, and
PAIRS = 8192  # of their cells integrated at a time


def localized_subtraction(head: HeadModel, sources: SourceSpace, *, rings: int = 1) -> LocalizedLoads:
    r"""The dipole's potential in an unbounded conductor near the source, and what corrects it.

    $u = \chi u_\infty + u_c$ with $u_\infty$ the potential at the source's conductivity $\sigma_\infty$ and
    a cut-off $\chi$ that is 1 on a patch of cells around the source and linear down to 0 on the cells
    around it. The right-hand side for $u_c$ is $-\int (\sigma - \sigma_\infty) \nabla u_\infty \cdot \nabla v
    - \oint \sigma_\infty \partial_n u_\infty\, v$ on the patch and $-\int \sigma \nabla (\chi u_\infty) \cdot
    \nabla v$ around it: some hundred nodes a source, whatever the size of the mesh. The patch grows
    within the source's tissue: beyond an interface $u_\infty$ is far from the potential. Sensors in the
    patch read $\chi u_\infty$ by interpolation between nodes.

    Unreferenced potentials differ from those of other source models by a constant for each source.

    Args:
        head: of tetrahedra (4 or 10 nodes) or hexahedra; one conductivity a tissue.
        sources: where the dipoles are.
        rings: of cells around the source's cell, by shared corners, that make the patch.

    Raises:
        ValueError: for other cells, conductivities that are tensors, less than one ring, or sources
            outside the grey matter (or brain) of a head that has one, outside the head, or on the
            boundary of their tissue.

    References:
        Höltershinken, Lange, Erdbrügger, Buschermöhle, Wallois, Buyx, Pursiainen, Vorwerk, Engwer &
        Wolters, The local subtraction approach for EEG and MEG forward modeling, SIAM J. Sci. Comput.,
        doi:10.1137/23M1582874.
    """
    if head.mesh.element not in ELEMENTS:
        raise ValueError(
            f"localized subtraction takes {ELEMENTS} cells, not {head.mesh.element!r}: use another mesh"
        )
    if rings < 1:
        raise ValueError(
            f"rings must be 1 or more, not {rings}: the patch must hold the source's surroundings"
        )
    cell = locate_dipoles(head, sources)
    topology = Topology.of(head.mesh)
    positions = np.asarray(sources.positions, dtype=np.float64)
    rows, near = [], []
    for start in range(0, len(cell), SOURCES):
        part = slice(start, start + SOURCES)
        patch = Patch.around(topology, cell[part], positions[part], rings)
        source, *entries = _in_rows(*_loads(topology, patch))
        rows.append((start + source, *entries))
        near.append(_singular(topology, patch))
    source, label, nodes, weights = (_in_blocks(np.concatenate(parts)) for parts in zip(*rows))
    near_nodes, singular = _padded(near)
    return LocalizedLoads(
        own=jnp.asarray(head.mesh.tissue[cell]),
        source=jnp.asarray(source, dtype=jnp.int32),
        label=jnp.asarray(label, dtype=jnp.int32),
        nodes=jnp.asarray(nodes, dtype=jnp.int32),
        weights=jnp.asarray(weights),
        near=jnp.asarray(near_nodes, dtype=jnp.int32),
        singular=jnp.asarray(singular),
    )


def _loads(topology: Topology, patch: Patch):
    """Source, tissue, node and load of every contribution to the right-hand sides."""
    mesh = topology.mesh
    others = mesh.tissue[patch.cell] != patch.own[patch.row]
    parts = []
    for pair in _in_parts(np.flatnonzero(patch.inside & others)):
        loads = -whole_cell_integrals(mesh.element, patch.offsets(mesh, pair))
        parts.append((patch.row[pair], mesh.tissue[patch.cell[pair]], patch.cell[pair], loads))
    cutoff = np.zeros((len(patch.positions), mesh.n_nodes), dtype=bool)
    cutoff[patch.nodes.nonzero()] = True
    for pair in _in_parts(np.flatnonzero(~patch.inside)):
        row, cell = patch.row[pair], patch.cell[pair]
        at_corners = cutoff[row[:, None], mesh.corner_cells[cell]].astype(np.float64)
        loads = -cell_integrals(mesh.element, patch.offsets(mesh, pair), at_corners)
        parts.append((row, patch.own[row], cell, loads))
        other = others[pair]
        parts.append((row[other], mesh.tissue[cell[other]], cell[other], loads[other]))
    for face, pairs in enumerate(patch.boundary(topology)):
        for pair in _in_parts(pairs):
            row, cell = patch.row[pair], patch.cell[pair]
            loads = -face_integrals(mesh.element, patch.offsets(mesh, pair), face)
            parts.append((row, patch.own[row], cell, loads))
    return _summed(mesh, *(np.concatenate(columns) for columns in zip(*parts)))


def _in_parts(pairs):
    return np.split(pairs, range(PAIRS, len(pairs), PAIRS)) if len(pairs) else []


def _summed(mesh, row, label, cell, loads):
    """Sums the loads of cells by source, tissue and node, sorted so; those that are zero are left out."""
    n_labels = int(mesh.tissue.max()) + 1
    key = ((row * n_labels + label) * mesh.n_nodes)[:, None] + mesh.cells[cell]
    key, place = np.unique(key, return_inverse=True)
    sums = np.stack([np.bincount(place.ravel(), loads[..., x].ravel()) for x in range(3)], axis=1)
    kept = np.abs(sums).sum(axis=1) > 0
    group, node = np.divmod(key[kept], mesh.n_nodes)
    return *np.divmod(group, n_labels), node, sums[kept]


def _singular(topology: Topology, patch: Patch):
    """Source, node and cut-off singular potential wherever it is not zero; 0 at the dipole itself."""
    cutoff = (patch.nodes @ topology.spread).tocsr()
    cutoff.sort_indices()
    row = np.repeat(np.arange(len(patch.positions)), np.diff(cutoff.indptr))
    offset = topology.mesh.points[cutoff.indices] - patch.positions[row]
    with np.errstate(invalid="ignore"):
        value = np.nan_to_num(singular_potential(offset))
    return np.diff(cutoff.indptr), cutoff.indices, cutoff.data[:, None] * value


def _in_rows(row, label, nodes, loads):
    """Entries sorted by source and tissue, in rows of one width; each group's sum is made zero."""
    starts = np.flatnonzero((np.diff(row, prepend=-1) != 0) | (np.diff(label, prepend=-1) != 0))
    counts = np.diff(starts, append=len(row))
    loads = loads - np.repeat(np.add.reduceat(loads, starts, axis=0) / counts[:, None], counts, axis=0)
    rows_of = -(-counts // WIDTH)
    first = np.cumsum(rows_of) - rows_of
    rank = np.arange(len(row)) - np.repeat(starts, counts)
    at = np.repeat(first, counts) + rank // WIDTH, rank % WIDTH
    all_nodes = np.zeros((rows_of.sum(), WIDTH), dtype=np.int64)
    weights = np.zeros((*all_nodes.shape, 3))
    all_nodes[at], weights[at] = nodes, loads
    return np.repeat(row[starts], rows_of), np.repeat(label[starts], rows_of), all_nodes, weights


def _in_blocks(rows):
    """Rows in blocks, the last of which is filled up with zeros."""
    filling = -len(rows) % ROWS
    filled = np.concatenate([rows, np.zeros((filling, *rows.shape[1:]), rows.dtype)])
    return filled.reshape(-1, ROWS, *rows.shape[1:])


def _padded(lists):
    """Nodes and values of each source, padded to one width with a node that is none."""
    counts, nodes, values = (np.concatenate(parts) for parts in zip(*lists))
    row = np.repeat(np.arange(len(counts)), counts)
    column = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    all_nodes = np.full((len(counts), counts.max()), np.iinfo(np.int32).max)
    singular = np.zeros((*all_nodes.shape, 3))
    all_nodes[row, column], singular[row, column] = nodes, values
    return all_nodes, singular
