"""Potentials kept tissue by tissue, so that their energies in each tissue are plain inner products.

A node between two tissues is kept in both. Each tissue's potentials lie one channel after the other, as
products with many of them at once read memory in one go.
"""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import sparse

from jaxinv.kernels.csr_product import csr_product

CHUNK = 8  # modes that are stored together

Pieces = tuple[Float[Array, "channel tissue_node"], ...]


@flax.struct.dataclass
class TissueMatrices:
    """The stiffness matrix of each tissue on the nodes that it touches. A pytree.

    Attributes:
        nodes: of each tissue.
        places: where each node is found first among the tissues' nodes, one tissue after the other.
        values: entries of each matrix, in m.
        indices: columns of the entries, among the tissue's nodes.
        indptr: where each row starts.
    """

    nodes: tuple[Int[Array, " tissue_node"], ...]
    places: Int[Array, " node"]
    values: tuple[Float[Array, " entry"], ...]
    indices: tuple[Int[Array, " entry"], ...]
    indptr: tuple[Int[Array, " tissue_node_1"], ...]

    @classmethod
    def from_scipy(cls, matrices: list[sparse.csr_array]) -> "TissueMatrices":
        """Of matrices on all nodes, one a tissue."""
        nodes = [np.flatnonzero(matrix.diagonal() > 0) for matrix in matrices]
        parts = [sparse.csr_array(matrix[own][:, own]) for matrix, own in zip(matrices, nodes)]
        _, places = np.unique(np.concatenate(nodes), return_index=True)

        def each(name, dtype):
            return tuple(jnp.asarray(getattr(part, name), dtype) for part in parts)

        return cls(
            nodes=tuple(jnp.asarray(own, jnp.int32) for own in nodes),
            places=jnp.asarray(places, jnp.int32),
            values=each("data", jnp.float64),
            indices=each("indices", jnp.int32),
            indptr=each("indptr", jnp.int32),
        )


class TissueBasis:
    """Modes of some channels, which grow by one at a time."""

    def __init__(self, matrices: TissueMatrices, n_channels: int):
        self._matrices = matrices
        self._n_channels = n_channels
        self._chunks: list[Pieces] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, mode: Float[Array, "node channel"]) -> Float[np.ndarray, "channel tissue mode"]:
        """Adds a mode; returns its product in each tissue's matrix with every mode, itself the last."""
        pieces, images = _split(self._matrices, mode)
        chunk, place = divmod(self._size, CHUNK)
        if place == 0:
            self._chunks.append(tuple(jnp.zeros((self._n_channels, CHUNK, p.shape[1])) for p in pieces))
        self._chunks[chunk] = _stored(self._chunks[chunk], pieces, place)
        self._size += 1
        products = [np.asarray(_products(chunk, images)) for chunk in self._chunks]
        return np.concatenate(products, axis=2)[:, :, : self._size]

    def combined(self, weights: Float[np.ndarray, "channel mode"]) -> Float[Array, "node channel"]:
        """Sum of the modes with a weight each."""
        padded = np.pad(weights, ((0, 0), (0, len(self._chunks) * CHUNK - self._size)))
        total = tuple(jnp.zeros((self._n_channels, own.shape[0])) for own in self._matrices.nodes)
        for number, chunk in enumerate(self._chunks):
            total = _added(total, chunk, jnp.asarray(padded[:, number * CHUNK : (number + 1) * CHUNK]))
        return _joined(self._matrices, total)


@jax.jit
def _split(matrices: TissueMatrices, mode: Float[Array, "node channel"]) -> tuple[Pieces, Pieces]:
    """A mode on the nodes of each tissue, and its image there."""
    pieces = [mode[own] for own in matrices.nodes]
    parts = zip(matrices.values, matrices.indices, matrices.indptr, pieces)
    return tuple(piece.T for piece in pieces), tuple(csr_product(*part).T for part in parts)


@partial(jax.jit, donate_argnums=0)
def _stored(chunk: Pieces, pieces: Pieces, place: int) -> Pieces:
    return tuple(whole.at[:, place].set(piece) for whole, piece in zip(chunk, pieces))


@jax.jit
def _products(chunk: Pieces, images: Pieces) -> Float[Array, "channel tissue mode"]:
    products = [jnp.einsum("cmn,cn->cm", whole, image) for whole, image in zip(chunk, images)]
    return jnp.stack(products, axis=1)


@partial(jax.jit, donate_argnums=0)
def _added(total: Pieces, chunk: Pieces, weights: Float[Array, "channel mode"]) -> Pieces:
    # a sum of products written out: XLA makes one pass over memory of it, and more of a matrix product
    terms = [[whole[:, k] * weights[:, k, None] for k in range(CHUNK)] for whole in chunk]
    return tuple(sum(parts, part) for part, parts in zip(total, terms))


@jax.jit
def _joined(matrices: TissueMatrices, pieces: Pieces) -> Float[Array, "node channel"]:
    return jnp.concatenate(pieces, axis=1).T[matrices.places]
