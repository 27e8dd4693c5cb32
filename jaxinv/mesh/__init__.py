"""Volume meshes: what they are and how they are made."""

from jaxinv.mesh.volume_mesh import VolumeMesh

__all__ = ["VolumeMesh"]
