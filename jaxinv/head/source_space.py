"""Where current may flow: positions of the sources, and their normals when orientation is fixed."""

from dataclasses import dataclass, fields

import jax
import numpy as np
from jaxtyping import Array, Float, Int


def as_array(value, dtype=np.float64):
    """An array in place of a list, whose numbers JAX would take for leaves of their own."""
    return np.asarray(value, dtype) if isinstance(value, list | tuple) else value


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False)
class SourceSpace:
    """Positions of the sources, and what is known of the surface they lie on. A pytree.

    Attributes:
        positions: in m.
        normals: unit vectors that fix each source's orientation; None leaves it free.
        faces: triangles of the cortical surface, indices into the sources.
        vertices: number of each source's vertex in the surface it was taken from.
        area: of the surface that each source stands for, in m².
        thickness: of the cortex at each source, in m.

    Raises:
        ValueError: for a wrong shape, values that are not finite, normals that are not unit vectors,
            or faces that index no source.
    """

    positions: Float[Array, "source 3"]
    normals: Float[Array, "source 3"] | None = None
    faces: Int[Array, "face 3"] | None = None
    vertices: Int[Array, " source"] | None = None
    area: Float[Array, " source"] | None = None
    thickness: Float[Array, " source"] | None = None

    def __post_init__(self):
        for field in fields(self):
            kind = np.int64 if field.name in ("faces", "vertices") else np.float64
            object.__setattr__(self, field.name, as_array(getattr(self, field.name), kind))
        positions = np.shape(self.positions)
        if len(positions) != 2 or positions[1] != 3:
            raise ValueError(f"positions must have shape (source, 3), not {positions}")
        expected = {"normals": positions, **dict.fromkeys(("vertices", "area", "thickness"), positions[:1])}
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and np.shape(value) != shape:
                raise ValueError(f"{name} must have shape {shape}, not {np.shape(value)}")
        if any(isinstance(getattr(self, field.name), jax.core.Tracer) for field in fields(self)):
            return
        for name in ("positions", "normals", "area", "thickness"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value).all():
                raise ValueError(f"{name} has values that are not finite")
        if self.normals is not None and not np.allclose(np.linalg.norm(self.normals, axis=1), 1, atol=1e-4):
            raise ValueError("normals must be unit vectors: divide each by its norm")
        if self.faces is not None and len(self.faces):
            if np.ndim(self.faces) != 2 or np.shape(self.faces)[1] != 3:
                raise ValueError(f"faces must have shape (face, 3), not {np.shape(self.faces)}")
            if np.min(self.faces) < 0 or np.max(self.faces) >= positions[0]:
                raise ValueError(f"faces must index the {positions[0]} sources; found {np.max(self.faces)}")

    @property
    def n_sources(self) -> int:
        """Number of source positions."""
        return np.shape(self.positions)[0]

    @property
    def is_fixed(self) -> bool:
        """Whether normals fix the orientation."""
        return self.normals is not None

    def take(self, index: Int[np.ndarray, " kept"]) -> "SourceSpace":
        """The sources `index`, with the faces whose three corners are all kept."""
        index = np.asarray(index)
        faces = self.faces
        if faces is not None:
            new = np.full(self.n_sources, -1)
            new[index] = np.arange(len(index))
            faces = new[np.asarray(faces)]
            faces = faces[(faces >= 0).all(axis=1)]
        others = {
            name: None if (own := getattr(self, name)) is None else np.asarray(own)[index]
            for name in ("positions", "normals", "vertices", "area", "thickness")
        }
        return SourceSpace(faces=faces, **others)

    def tree_flatten_with_keys(self):
        """Leaves with their names, for JAX."""
        return [(jax.tree_util.GetAttrKey(f.name), getattr(self, f.name)) for f in fields(self)], None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        """The object from its leaves, unchecked: JAX puts more than arrays there."""
        new = object.__new__(cls)
        for field, leaf in zip(fields(cls), leaves):
            object.__setattr__(new, field.name, leaf)
        return new
