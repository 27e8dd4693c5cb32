"""Volume meshes: what they are and how they are made."""

from jaxinv.mesh.locate import CellLocator
from jaxinv.mesh.second_order import second_order
from jaxinv.mesh.spheres import sphere_mesh
from jaxinv.mesh.tetrahedra import mesh_level_sets
from jaxinv.mesh.volume_mesh import VolumeMesh
from jaxinv.mesh.voxels import voxel_mesh

__all__ = ["CellLocator", "VolumeMesh", "mesh_level_sets", "second_order", "sphere_mesh", "voxel_mesh"]
