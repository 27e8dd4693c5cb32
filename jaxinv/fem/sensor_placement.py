"""Sensors placed on a mesh: linear functionals of the nodal potential."""

import igl
import jax.numpy as jnp
import numpy as np

from jaxinv.fem.elements import shape_functions
from jaxinv.fem.loads import SensorLoads
from jaxinv.head.head_model import HeadModel
from jaxinv.head.sensors import Electrodes, SurfaceField

MAX_DISTANCE = 10e-3  # m; a sensor farther than this from the head's surface is a mistake


def place_sensors(
    head: HeadModel, sensors: Electrodes | SurfaceField, dtype=jnp.float64, max_distance: float = MAX_DISTANCE
) -> SensorLoads:
    """Projects sensors onto the head's surface and expresses them by its nodes.

    An electrode reads the potential at the nearest point of the surface, linear between the corners of
    the triangle there. The field is minus the potential's gradient, averaged by volume over the cells
    around that triangle's corners that lie in the outermost tissue there.

    Raises:
        ValueError: if a sensor lies farther than `max_distance` (m) from the surface.
    """
    mesh = head.mesh
    faces = mesh.boundary_faces()
    squared, face, closest = igl.point_mesh_squared_distance(
        np.asarray(sensors.positions, dtype=np.float64), mesh.points, faces.astype(np.int64)
    )
    far = np.flatnonzero(squared > max_distance**2)
    if far.size:
        listed = {sensors.names[i]: f"{1e3 * np.sqrt(squared[i]):.1f} mm" for i in far[:5]}
        raise ValueError(
            f"{far.size} electrodes lie more than {1e3 * max_distance:g} mm from the head's surface: "
            f"{listed}; positions are in metres in the head's own frame: transform or project them first"
        )
    corners = faces[face]
    if isinstance(sensors, SurfaceField):
        nodes, weights = _field(head, corners)
    else:
        nodes, weights = corners, _barycentric(closest, mesh.points[corners])
    return SensorLoads(jnp.asarray(nodes, dtype=jnp.int32), jnp.asarray(weights, dtype=dtype))


def _barycentric(points, triangles):
    one, two = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    offset = points - triangles[:, 0]
    gram = np.stack([np.stack([(a * b).sum(axis=1) for a in (one, two)], -1) for b in (one, two)], -2)
    right = np.stack([(offset * a).sum(axis=1) for a in (one, two)], axis=-1)
    rest = np.linalg.solve(gram, right[..., None])[..., 0]
    return np.concatenate([1 - rest.sum(axis=1, keepdims=True), rest], axis=1)


def _field(head, corners):
    """Nodes and weights of −∇φ: three channels for each triangle of surface corners."""
    mesh = head.mesh
    touching = np.flatnonzero(np.isin(mesh.cells, corners).any(axis=1))
    centre = np.full((len(touching), 3), 0.25 if mesh.element.startswith("tetra") else 0.5)
    _, gradients = shape_functions(mesh, touching, centre)
    rows = []
    for triangle in corners:
        around = np.flatnonzero(np.isin(mesh.cells[touching], triangle).any(axis=1))
        labels = mesh.tissue[touching[around]]
        outermost = np.isin(mesh.cells[touching[around]], triangle).sum(axis=1).argmax()
        around = around[labels == labels[outermost]]
        share = mesh.volumes[touching[around]]
        weighted = -(share / share.sum())[:, None, None] * gradients[around]
        nodes, place = np.unique(mesh.cells[touching[around]], return_inverse=True)
        sums = np.stack(
            [np.bincount(place.ravel(), weighted[..., k].ravel(), minlength=len(nodes)) for k in range(3)]
        )
        rows.append((nodes, sums))
    width = max(len(nodes) for nodes, _ in rows)
    all_nodes = np.zeros((3 * len(rows), width), dtype=np.int64)
    weights = np.zeros((3 * len(rows), width))
    for i, (nodes, sums) in enumerate(rows):
        all_nodes[3 * i : 3 * i + 3, : len(nodes)] = nodes
        weights[3 * i : 3 * i + 3, : len(nodes)] = sums
    return all_nodes, weights
