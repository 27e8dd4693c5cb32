"""Patches of cortex of several sizes around every source: a dictionary that is applied, never stored."""

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import sparse


@flax.struct.dataclass
class PatchDictionary:
    r"""Patches that diffusion over a mesh makes of single sources. A pytree; make it with `patch_dictionary`.

    Order $k$ holds the rows of $S^k$ over their largest values, where $S$ moves a share of each source's
    current to each of its neighbours. Order 0 is the sources themselves.

    Attributes:
        neighbours: of each source, filled up with the source itself.
        peak: largest value of each patch before it is scaled to one.
        share: of a source's current that goes to each neighbour in a step.
    """

    neighbours: Int[Array, "source neighbour"]
    peak: Float[Array, "order source"]
    share: Float[Array, ""]

    def fields(self, gain: Float[Array, "channel source"]) -> Float[Array, "channel order source"]:
        """What the channels see of every patch."""
        steps = [gain]
        for _ in self.peak[1:]:
            steps.append(self._diffuse(steps[-1]))
        return jnp.stack(steps, axis=1) / self.peak

    def currents(self, amplitude: Float[Array, "... order source"]) -> Float[Array, "... source"]:
        """Currents of patches with these amplitudes."""
        parts = amplitude / self.peak
        total = parts[..., -1, :]
        for order in reversed(range(len(self.peak) - 1)):
            total = parts[..., order, :] + self._diffuse(total)
        return total

    def _diffuse(self, values):
        """Each value moved towards those of its neighbours; symmetric, so that rows are columns."""
        around = values[..., self.neighbours] - values[..., None]
        return values + self.share.astype(values.dtype) * jnp.sum(around, axis=-1)


def patch_dictionary(
    faces: Int[np.ndarray, "face 3"] | None, n_sources: int, *, n_orders: int = 4, share: float = 0.1
) -> PatchDictionary:
    """Dictionary of diffusion patches on a mesh. On the host.

    Args:
        faces: triangles of the cortical surface, indices into the sources; None has single sources alone.
        n_sources: of the source space.
        n_orders: sizes of patches, the single source included; one more reaches a ring of neighbours farther.
        share: of a source's current that goes to each neighbour in a step, below one over their number.

    Raises:
        ValueError: for triangles of a wrong shape, indices of no source, or an argument out of its range.
    """
    if n_orders != int(n_orders) or n_orders < 1:
        raise ValueError(f"n_orders must be an integer of 1 or more; found {n_orders}")
    faces = np.zeros((0, 3), int) if faces is None else np.asarray(faces)
    if faces.ndim != 2 or faces.shape[1] != 3 or not np.issubdtype(faces.dtype, np.integer):
        raise ValueError(f"faces must hold triangles (face, 3), not {faces.dtype} {faces.shape}")
    if faces.size and (faces.min() < 0 or faces.max() >= n_sources):
        raise ValueError(f"faces must index the {n_sources} sources; found {faces.min()} to {faces.max()}")
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    degree = np.bincount(pairs[:, 0], minlength=n_sources)
    most = max(degree.max(), 1)
    if not 0 < share * most < 1:
        raise ValueError(
            f"share must be above 0 and below 1 / {most}, one over the neighbours; found {share}"
        )
    neighbours = np.tile(np.arange(n_sources)[:, None], (1, most))
    place = np.arange(len(pairs)) - np.repeat(np.cumsum(degree) - degree, degree)
    neighbours[pairs[:, 0], place] = pairs[:, 1]
    links = sparse.csr_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (n_sources,) * 2)
    step = sparse.eye_array(n_sources) + share * (links - sparse.diags_array(degree.astype(float)))
    power, peak = sparse.eye_array(n_sources).tocsr(), [np.ones(n_sources)]
    for _ in range(1, n_orders):
        power = (power @ step).tocsr()
        peak.append(power.max(axis=1).toarray().ravel())
    return PatchDictionary(jnp.asarray(neighbours), jnp.asarray(np.stack(peak)), jnp.asarray(share))
