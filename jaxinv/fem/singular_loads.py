"""Loads of dipoles whose singular potential is subtracted: they depend on the conductivities."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinv.fem.loads import SensorLoads
from jaxinv.fem.singular_potential import singular_potential, tetrahedron_integrals, triangle_flux_integrals

SOURCES = 64  # whose singular potential is read at a time


@flax.struct.dataclass
class LocalizedLoads:
    """Loads that are affine in the conductivities relative to that at the source. A pytree.

    A row holds part of what one tissue adds to the load of one source. The source's own tissue stands
    for a homogeneous conductor and counts in full; another counts by its contrast σ/σ_source − 1.

    Attributes:
        own: label of each source's tissue.
        source: of each row; rows come in blocks.
        label: tissue of each row.
        nodes: that a row loads.
        weights: its loads, in 1/m; they sum to zero for each source and tissue.
        near: nodes that carry the singular potential of a source, in ascending order.
        singular: that potential, cut off, at 1 S/m.
    """

    own: Int[Array, " source"]
    source: Int[Array, "block row"]
    label: Int[Array, "block row"]
    nodes: Int[Array, "block row entry"]
    weights: Float[Array, "block row entry 3"]
    near: Int[Array, "source near"]
    singular: Float[Array, "source near 3"]

    @jax.jit
    def field(
        self, potential: Float[Array, "node channel"], conductivity: Float[Array, " tissue"]
    ) -> Float[Array, "channel source 3"]:
        """What the channels read of the correction potential, in V/(A m); differentiable in both."""

        @jax.checkpoint
        def add_rows(total, block):
            source, label, nodes, weights = block
            own = self.own[source]
            counts = jnp.where(label == own, 1, conductivity[label] / conductivity[own] - 1)
            read = jnp.einsum(
                "bkx,bkc->bxc", counts[:, None, None] * weights, potential[nodes], precision="highest"
            )
            return total.at[source].add(read), None

        total = jnp.zeros((len(self.own), 3, potential.shape[1]), potential.dtype)
        rows = (self.source, self.label, self.nodes, self.weights)
        return jax.lax.scan(add_rows, total, rows)[0].transpose(2, 0, 1)

    @jax.jit
    def direct(
        self, sensors: SensorLoads, conductivity: Float[Array, " tissue"]
    ) -> Float[Array, "channel source 3"]:
        """The cut-off singular potential at sensors in a patch, interpolated as the correction is."""

        def of_source(source):
            near, singular = source
            place = jnp.searchsorted(near, sensors.nodes)
            found = jnp.take(near, place, mode="clip") == sensors.nodes
            at = jnp.where(found[..., None], jnp.take(singular, place, axis=0, mode="clip"), 0)
            return jnp.einsum("ck,ckx->cx", sensors.weights, at, precision="highest")

        read = jax.lax.map(of_source, (self.near, self.singular), batch_size=SOURCES)
        return (read / conductivity[self.own][:, None, None]).transpose(1, 0, 2)

    def fixed(self) -> "LocalizedLoads":
        """The same: these loads have no derivative in the position."""
        return self


@flax.struct.dataclass
class SourceGroup:
    """Sources of one tissue, with the cells that conduct otherwise, in whole blocks. A pytree.

    A cell that fills the last block bears the sources' own label, and so does not count.
    """

    tissue: Int[Array, ""]
    positions: Float[Array, "block source 3"]
    cells: Int[Array, "block cell 4"]
    labels: Int[Array, "block cell"]


@flax.struct.dataclass
class SubtractionLoads:
    """Loads of the subtraction model, integrated where they are needed and never stored. A pytree.

    Attributes:
        points: nodes of the mesh, in m.
        groups: the sources by tissue, with the cells of all others.
        order: where each source stands among the groups' sources.
        faces: triangles of the head's surface, in blocks.
        face_weights: 1, or 0 for padding.
    """

    points: Float[Array, "node 3"]
    groups: tuple[SourceGroup, ...]
    order: Int[Array, " source"]
    faces: Int[Array, "block face 3"]
    face_weights: Float[Array, "block face"]

    @jax.jit
    def field(
        self, potential: Float[Array, "node channel"], conductivity: Float[Array, " tissue"]
    ) -> Float[Array, "channel source 3"]:
        """What the channels read of the correction potential, in V/(A m); differentiable in both."""
        fields = [self._group_field(group, potential, conductivity) for group in self.groups]
        return self._in_order(fields)

    @jax.jit
    def direct(
        self, sensors: SensorLoads, conductivity: Float[Array, " tissue"]
    ) -> Float[Array, "channel source 3"]:
        """The singular potential at the sensors, interpolated as the correction is."""
        at = self.points[sensors.nodes][:, :, None]

        def of_sources(positions):
            return jnp.einsum(
                "ck,cksx->csx", sensors.weights, singular_potential(at - positions), precision="highest"
            )

        return self._in_order(
            [jax.lax.map(of_sources, group.positions) / conductivity[group.tissue] for group in self.groups]
        )

    def fixed(self) -> "SubtractionLoads":
        """The same: these loads have no derivative in the position."""
        return self

    def _in_order(self, fields: list[Float[Array, "block channel source 3"]]):
        flat = jnp.concatenate(fields).transpose(1, 0, 2, 3)
        return flat.reshape(len(flat), -1, 3)[:, self.order]

    def _group_field(self, group, potential, conductivity):
        contrast = conductivity / conductivity[group.tissue] - 1

        def of_sources(positions):
            @jax.checkpoint
            def add_cells(total, block):
                cells, labels = block
                corners = self.points[cells]
                current = contrast[labels][:, None, None] * _gradient(corners, potential[cells])
                integrals = tetrahedron_integrals(corners, positions)
                return total - jnp.einsum("bijs,bic->cjs", integrals, current, precision="highest"), None

            @jax.checkpoint
            def add_faces(total, block):
                faces, weights = block
                values = weights[:, None, None] * potential[faces]
                integrals = triangle_flux_integrals(self.points[faces], positions)
                return total - jnp.einsum("bkjs,bkc->cjs", integrals, values, precision="highest"), None

            total = jnp.zeros((potential.shape[1], 3, len(positions)), potential.dtype)
            total, _ = jax.lax.scan(add_cells, total, (group.cells, group.labels))
            total, _ = jax.lax.scan(add_faces, total, (self.faces, self.face_weights))
            return total.swapaxes(1, 2)

        return jax.lax.map(of_sources, group.positions)


def _gradient(
    corners: Float[Array, "cell 4 3"], potential: Float[Array, "cell 4 channel"]
) -> Float[Array, "cell 3 channel"]:
    """Gradient of the linear potential in each cell."""
    one, two, three = (corners[:, k] - corners[:, 0] for k in (1, 2, 3))
    slopes = jnp.stack([jnp.cross(two, three), jnp.cross(three, one), jnp.cross(one, two)], axis=1)
    slopes = slopes / (one * slopes[:, 0]).sum(axis=1)[:, None, None]
    return jnp.einsum("bkx,bkc->bxc", slopes, potential[:, 1:] - potential[:, :1], precision="highest")
