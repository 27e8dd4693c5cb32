"""Volume meshes: what they are and how they are made."""

from jaxinv.mesh.locate import CellLocator
from jaxinv.mesh.spheres import sphere_mesh
from jaxinv.mesh.tetrahedra import mesh_level_sets
from jaxinv.mesh.volume_mesh import VolumeMesh

__all__ = ["CellLocator", "VolumeMesh", "mesh_level_sets", "sphere_mesh"]
