"""Sensors placed on a mesh: linear functionals of the nodal potential."""

import igl
import numpy as np

from jaxinv.fem.elements import local_coordinates, shape_functions
from jaxinv.fem.loads import SensorLoads
from jaxinv.fem.recovery import recover
from jaxinv.head.head_model import HeadModel
from jaxinv.head.sensors import Contacts, Sensors, SurfaceField

MAX_DISTANCE = 10e-3  # m; a sensor farther than this from the head's surface is a mistake


def place_sensors(
    head: HeadModel,
    sensors: Sensors,
    max_distance: float = MAX_DISTANCE,
) -> SensorLoads:
    """Expresses sensors by the nodes of the mesh.

    Electrodes and the surface field are first projected onto the head's surface; contacts stay where
    they are. An electrode or a contact reads the finite-element potential where it is. The field is
    minus the gradient recovered in the tissue there (`jaxinv.fem.recovery`), without its component along
    the surface's normal, which is zero under an insulated scalp. Derivatives in an electrode's or a
    contact's position come from the recovered gradient too, the field's from recovered second derivatives; an
    electrode moves along the surface.

    Raises:
        ValueError: if a sensor lies farther than `max_distance` (m) from the surface, or a contact
            outside the head.
    """
    if isinstance(sensors, Contacts):
        cell, points = _inside(head, sensors)
        tangential = np.eye(3)
    else:
        cell, points, normal = _on_surface(head, sensors, max_distance)
        tangential = np.eye(3) - normal[:, :, None] * normal[:, None, :]
    recovered = recover(head.mesh, cell, points)
    if not isinstance(sensors, SurfaceField):
        values, _ = shape_functions(head.mesh, cell, local_coordinates(head.mesh, cell, points))
        return _potentials(head.mesh.cells[cell], values, recovered, tangential)
    count, width = recovered.nodes.shape
    # the field stays tangential, but the normal turns along the scalp: nothing is projected but the move
    slope = -np.einsum("ekxy,eyz->exkz", recovered.hessian, tangential)
    return SensorLoads(
        np.repeat(recovered.nodes, 3, axis=0),
        -np.swapaxes(recovered.gradient @ tangential, 1, 2).reshape(3 * count, width),
        slope.reshape(3 * count, width, 3),
    )


def _potentials(own, values, recovered, tangential) -> SensorLoads:
    """Values from the shape functions of the sensors' own cells, slopes from the recovered gradients."""
    width = recovered.nodes.shape[1]
    slope = np.concatenate([np.zeros((*own.shape, 3)), recovered.gradient @ tangential], axis=1)
    weights = np.concatenate([values, np.zeros((len(own), width))], axis=1)
    return SensorLoads(np.concatenate([own, recovered.nodes], axis=1), weights, slope)


def _inside(head, sensors):
    positions = np.asarray(sensors.positions, dtype=np.float64)
    cell, _, distance = head.locator.find(positions)
    outside = np.flatnonzero(distance > 0)
    if outside.size:
        listed = {sensors.names[i]: f"{1e3 * distance[i]:.1f} mm" for i in outside[:5]}
        raise ValueError(
            f"{outside.size} contacts lie outside the head: {listed}; positions are in metres in the "
            "head's own frame: transform them first, or leave them out"
        )
    return cell, positions


def _on_surface(head, sensors, max_distance):
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
    corners = mesh.points[faces[face]]
    share = igl.barycentric_coordinates(closest, *(np.ascontiguousarray(corners[:, k]) for k in range(3)))
    normal = np.einsum("ek,ekx->ex", share, _vertex_normals(mesh.points, faces)[faces[face]])
    return mesh.boundary_cells()[face], closest, normal / np.linalg.norm(normal, axis=1, keepdims=True)


def _vertex_normals(points, faces):
    return igl.per_vertex_normals(points, faces.astype(np.int64))
