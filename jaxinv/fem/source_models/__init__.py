"""Source models: how a point dipole loads the nodes of a mesh. One file each."""

from collections.abc import Callable

from jaxinv.fem.loads import SourceLoads
from jaxinv.fem.source_models.partial_integration import partial_integration
from jaxinv.head.head_model import HeadModel
from jaxinv.head.source_space import SourceSpace

SourceModel = Callable[[HeadModel, SourceSpace], SourceLoads]

SOURCE_MODELS: dict[str, SourceModel] = {"partial-integration": partial_integration}

__all__ = ["SOURCE_MODELS", "SourceModel", "partial_integration"]
