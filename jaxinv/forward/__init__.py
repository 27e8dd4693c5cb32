"""Forward models: leadfields as functions of the conductivities."""

from jaxinv.forward.exact import FemForward
from jaxinv.forward.protocol import Forward
from jaxinv.forward.sphere import sphere_field, sphere_leadfield

__all__ = ["FemForward", "Forward", "sphere_field", "sphere_leadfield"]
