"""The forms of a head's conductivity: one value a tissue, one tensor a tissue or one tensor a cell."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

ConductivityKind = Literal["scalar", "tensor", "cell tensor"]
Conductivity = Float[np.ndarray, " tissue"] | Float[np.ndarray, "tissue 3 3"] | Float[np.ndarray, "cell 3 3"]

ASYMMETRY = 1e-6  # of a tensor's largest entry: what single precision leaves


def conductivity_kind(conductivity: Conductivity, n_tissues: int) -> ConductivityKind:
    """The form of a conductivity, by its shape; as many tensors as tissues are one tensor a tissue."""
    if conductivity.ndim == 1:
        return "scalar"
    return "tensor" if len(conductivity) == n_tissues else "cell tensor"


def anisotropic(
    direction: Float[np.ndarray, "cell 3"],
    along: float | Float[np.ndarray, " cell"],
    across: float | Float[np.ndarray, " cell"],
) -> Float[np.ndarray, "cell 3 3"]:
    r"""Conductivity tensors that are the same in all directions across an axis.

    $\sigma = \sigma_\perp I + (\sigma_\parallel - \sigma_\perp)\, d d^T$: a skull by its normal and its
    radial and tangential conductivity, or white matter by the direction of its fibres.

    Args:
        direction: axis of each cell; its length and sign do not matter.
        along: conductivity along the axis, in S/m.
        across: conductivity across it, in S/m.

    Raises:
        ValueError: if direction has another shape, or a vector of no length or not finite.
    """
    direction = np.asarray(direction, dtype=np.float64)
    if direction.ndim != 2 or direction.shape[1] != 3:
        raise ValueError(f"direction must have shape (cell, 3), not {direction.shape}")
    length = np.linalg.norm(direction, axis=1)
    bad = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
    if bad.size:
        raise ValueError(
            f"direction has {bad.size} vectors without a direction, the first is {direction[bad[0]]} of "
            f"cell {bad[0]}: give those cells an isotropic tensor"
        )
    unit = direction / length[:, None]
    along, across = (np.asarray(value, dtype=np.float64).reshape(-1, 1, 1) for value in (along, across))
    return across * np.eye(3) + (along - across) * unit[:, :, None] * unit[:, None, :]


def is_positive(conductivity: Conductivity) -> Bool[np.ndarray, " tissue_or_cell"]:
    """Whether each value is finite and positive, or each tensor finite and its symmetric part definite."""
    conductivity = np.asarray(conductivity)
    with np.errstate(invalid="ignore", over="ignore"):
        if conductivity.ndim == 1:
            return np.isfinite(conductivity) & (conductivity > 0)
        tensor = (conductivity + np.swapaxes(conductivity, 1, 2)) / 2
        minor = tensor[:, 0, 0] * tensor[:, 1, 1] - tensor[:, 0, 1] ** 2
        positive = (tensor[:, 0, 0] > 0) & (minor > 0) & (np.linalg.det(tensor) > 0)
    return positive & np.isfinite(conductivity).all(axis=(1, 2))


def check_conductivity(conductivity: Conductivity, tissue_names: Sequence[str], n_cells: int) -> None:
    """Refuses what is no conductivity of a head.

    Raises:
        ValueError: for another shape, a value that is not positive and finite, or a tensor that is not
            finite, symmetric (to 1e-6 of its largest entry) and positive definite.
    """
    n_tissues = len(tissue_names)
    if conductivity.shape not in {(n_tissues,), (n_tissues, 3, 3), (n_cells, 3, 3)}:
        raise ValueError(
            f"conductivity must give one value for each of {tuple(tissue_names)}, or one tensor for each "
            f"tissue, shape {(n_tissues, 3, 3)}, or for each cell, shape {(n_cells, 3, 3)}; "
            f"not an array of shape {conductivity.shape}"
        )
    if conductivity.ndim == 3:
        _check_tensors(conductivity, tissue_names)
        return
    bad = ~is_positive(conductivity)
    if bad.any():
        named = {name: float(v) for name, v, b in zip(tissue_names, conductivity, bad) if b}
        raise ValueError(f"conductivities must be positive and finite, in S/m; found {named}")


def _check_tensors(tensors: Float[np.ndarray, "tissue_or_cell 3 3"], tissue_names: Sequence[str]) -> None:
    finite = np.isfinite(tensors).all(axis=(1, 2))
    tensors = np.where(finite[:, None, None], tensors, 0)
    skew = np.abs(tensors - np.swapaxes(tensors, 1, 2)).max(axis=(1, 2))
    symmetric = skew <= ASYMMETRY * np.abs(tensors).max(axis=(1, 2))
    for valid, what, remedy in (
        (finite, "finite", "replace them"),
        (symmetric, "symmetric", "average them with their transposes"),
        (is_positive(tensors), "positive definite, in S/m", "raise their eigenvalues above 0"),
    ):
        bad = np.flatnonzero(~valid)
        if bad.size == 0:
            continue
        if conductivity_kind(tensors, len(tissue_names)) == "tensor":
            whose = f"those of {[tissue_names[k] for k in bad]}"
        else:
            whose = f"those of {bad.size} of {len(tensors)} cells (the first is cell {bad[0]})"
        raise ValueError(f"conductivity tensors must be {what}; {whose} are not: {remedy}")
