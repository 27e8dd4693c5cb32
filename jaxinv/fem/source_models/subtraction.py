"""Full subtraction: the dipole's singular potential is taken out of the whole head."""

import jax.numpy as jnp
import numpy as np

from jaxinv.fem.singular_loads import SOURCES, SourceGroup, SubtractionLoads
from jaxinv.fem.source_models.placement import locate_dipoles
from jaxinv.head.head_model import HeadModel
from jaxinv.head.source_space import SourceSpace

CELLS = 256  # cells or faces that are integrated at a time


def subtraction(head: HeadModel, sources: SourceSpace) -> SubtractionLoads:
    r"""The dipole's potential in an unbounded conductor, and what corrects it in the head.

    $u = u_\infty + u_c$ with $u_\infty$ the potential at the source's conductivity $\sigma_\infty$, and
    $\int \sigma \nabla u_c \cdot \nabla v = -\int (\sigma - \sigma_\infty) \nabla u_\infty \cdot \nabla v -
    \oint \sigma_\infty \partial_n u_\infty\, v$, integrated in closed form. The sensors read $u_\infty$ by
    interpolation between nodes, as they read $u_c$.

    For hundreds of sources: a load touches almost every node, so each leadfield integrates anew over
    all cells outside the source's tissue, at 0.2 to 0.5 µs for each source and cell, and its reverse
    derivative once more; the memory is that of one block. In single precision the integrals over far
    cells keep three digits.

    Unreferenced potentials differ from those of other source models by a constant for each source.

    Raises:
        ValueError: for cells other than tetrahedra of four nodes, conductivities that are tensors, or
            sources outside the grey matter (or brain) of a head that has one, outside the head, or on
            the boundary of their tissue.

    References:
        Drechsler, Wolters, Dierkes, Si & Grasedyck 2009, doi:10.1016/j.neuroimage.2009.02.024.
    """
    mesh = head.mesh
    if mesh.element != "tetra":
        raise ValueError(
            f"the subtraction model takes tetrahedra of four nodes, not {mesh.element!r} cells: use "
            "localized subtraction, or another mesh"
        )
    own = mesh.tissue[locate_dipoles(head, sources)]
    groups, order, start = [], np.empty(len(own), dtype=np.int32), 0
    for tissue in np.unique(own):
        members = np.flatnonzero(own == tissue)
        groups.append(_group(head, np.asarray(sources.positions)[members], tissue))
        order[members] = start + np.arange(len(members))
        start += groups[-1].positions.shape[0] * SOURCES
    faces = mesh.boundary_faces()
    return SubtractionLoads(
        points=jnp.asarray(mesh.points),
        groups=tuple(groups),
        order=jnp.asarray(order),
        faces=_blocks(faces, faces[0], CELLS),
        face_weights=_blocks(np.ones(len(faces)), 0.0, CELLS),
    )


def _group(head, positions, tissue) -> SourceGroup:
    others = np.flatnonzero(head.mesh.tissue != tissue)
    return SourceGroup(
        tissue=jnp.asarray(tissue, dtype=jnp.int32),
        positions=_blocks(positions, positions[0], SOURCES),
        cells=_blocks(head.mesh.cells[others], head.mesh.cells[others[:1]], CELLS),
        labels=_blocks(head.mesh.tissue[others], tissue, CELLS),
    )


def _blocks(rows, filling, size):
    """Rows in blocks of one size, the last of which is filled up."""
    n_blocks = -(-len(rows) // size)
    if n_blocks == 0:
        return jnp.asarray(rows.reshape(0, size, *rows.shape[1:]))
    filled = np.broadcast_to(filling, (n_blocks * size, *rows.shape[1:])).astype(rows.dtype)
    filled[: len(rows)] = rows
    return jnp.asarray(filled.reshape(n_blocks, size, *rows.shape[1:]))
