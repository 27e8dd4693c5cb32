"""Source models: how a point dipole loads the nodes of a mesh. One file each."""

from collections.abc import Callable

from jaxinv.fem.loads import Loads
from jaxinv.fem.source_models.gradient_recovery import gradient_recovery
from jaxinv.fem.source_models.localized_subtraction import localized_subtraction
from jaxinv.fem.source_models.partial_integration import partial_integration
from jaxinv.fem.source_models.subtraction import subtraction
from jaxinv.fem.source_models.venant import venant
from jaxinv.head.head_model import HeadModel
from jaxinv.head.source_space import SourceSpace

SourceModel = Callable[[HeadModel, SourceSpace], Loads]

SOURCE_MODELS: dict[str, SourceModel] = {
    "recovery": gradient_recovery,
    "partial-integration": partial_integration,
    "venant": venant,
    "localized-subtraction": localized_subtraction,
    "subtraction": subtraction,
}

__all__ = [
    "SOURCE_MODELS", "SourceModel", "gradient_recovery", "localized_subtraction", "partial_integration",
    "subtraction", "venant",
]  # fmt: skip
