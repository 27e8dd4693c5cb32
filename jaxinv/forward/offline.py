"""From an exact forward model to the arrays of a reduced one: block after block, resumable."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from scipy import sparse
from scipy.linalg import eigh

from jaxinv.fem.multigrid import VCycle
from jaxinv.fem.stiffness import Stiffness
from jaxinv.forward.exact import FemForward
from jaxinv.forward.files import read_pytree, write_pytree
from jaxinv.forward.greedy import (
    LEAST_RESIDUAL,
    MAX_ITERATIONS,
    PROBED_TO,
    SOLVED_TO,
    OfflineProblem,
    ReducedBlock,
    reduce_block,
    solved,
)
from jaxinv.forward.hypercircle import Hypercircle
from jaxinv.forward.placement import place_sensors
from jaxinv.forward.reduced_rows import ReducedRows
from jaxinv.forward.spectrum import FAILURE, STARTS, eigenvalue_bound
from jaxinv.forward.tissue_basis import TissueMatrices
from jaxinv.head.sensors import SurfaceField
from jaxinv.kernels.csr_product import csr_product

FORMAT = 2  # of the blocks in a cache
CUT = 0.5  # share of the tolerance spent on rows left out; the rest is the potentials'
LANCZOS_STEPS = 10
LANCZOS_TOLERANCE = 1e-6  # relative residual of its solves
FLOOR_STEPS, FLOOR_COLUMNS, FLOOR_SAFETY = 20, 8, 4
BLOCK_KIND = "block of a jaxinv ReducedForward"

logger = logging.getLogger(__name__)


def reduce_channels(
    forward: FemForward,
    loads: Float[np.ndarray, "node channel"],
    *,
    problem: Callable[[], OfflineProblem],
    training: Float[np.ndarray, "case tissue"],
    tolerance: float,
    max_modes: int,
    channels_per_block: int,
    cache: str | os.PathLike | None,
    progress: bool,
) -> ReducedRows:
    """Reduce channels with these loads, in A, of zero sum; in float64. See `ReducedForward.build`.

    `problem` gives what `offline_problem` makes; it is asked for only where a block is not in the cache.
    """
    size = np.linalg.norm(loads, axis=0)
    if not size.any():
        raise ValueError(
            "no channel measures anything: with one electrode its own potential is the reference"
        )
    active = np.flatnonzero(size > 1e-12 * size.max())
    blocks = np.array_split(active, max(math.ceil(len(active) / channels_per_block), 1))
    directory = None if cache is None else Path(cache) / _digest(forward, loads, training, tolerance, blocks)
    found = []
    with _bar(progress) as bar:
        for number, channels in enumerate(blocks):
            path = None if directory is None else directory / f"block-{number}.npz"
            name = f"channels {channels[0] + 1} to {channels[-1] + 1}"
            task = bar.add_task(name, total=1.0, modes=0, bound="–")
            if path is not None and path.exists():
                block = read_pytree(path, BLOCK_KIND, (ReducedBlock, Hypercircle))
            else:
                block = reduce_block(
                    problem(),
                    jnp.asarray(loads[:, channels]),
                    tolerance=(1 - CUT) * tolerance,
                    max_modes=max_modes,
                    report=partial(_show, bar, task, (1 - CUT) * tolerance),
                )
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_pytree(path, BLOCK_KIND, block)
            bar.update(task, completed=1.0, modes=len(block.conductivities), bound=f"{block.bound:.1e}")
            found.append(block)
    return _assembled(found, active, len(size), training, tolerance)


def offline_problem(
    forward: FemForward,
    center: Float[np.ndarray, " tissue"],
    least: Float[np.ndarray, " tissue"],
    training: Float[np.ndarray, "case tissue"],
) -> OfflineProblem:
    """The operator in double precision, and the two constants of the bound; `least` is `row_least`."""
    stiffness = _balanced(forward.stiffness)
    rows = _row_matrix(forward, stiffness.n_nodes)
    gathered = _GatheredRows(
        jnp.asarray(rows.data),
        jnp.asarray(rows.indices, jnp.int32),
        jnp.asarray(rows.indptr, jnp.int32),
    )
    parameters = forward.parameters(jnp.asarray(least))

    def rows_of_rows(block):
        loads = jnp.asarray(rows.T @ block)
        found = solved(
            stiffness, forward.hierarchy, parameters, loads, jnp.zeros_like(loads), LANCZOS_TOLERANCE,
            at="where the bound's constant is sought",
        )  # fmt: skip
        return rows @ np.asarray(found)

    constant = eigenvalue_bound(rows_of_rows, rows.shape[0], steps=LANCZOS_STEPS)
    middle = forward.parameters(jnp.asarray(center))
    cycle = jax.jit(VCycle.at)(forward.hierarchy, stiffness.astype(jnp.float32), middle.astype(jnp.float32))
    matrices = [stiffness.to_scipy(forward.parameters(jnp.asarray(unit))) for unit in np.eye(len(center))]
    for matrix in matrices:
        matrix.eliminate_zeros()
    return OfflineProblem(
        stiffness=stiffness,
        tissues=TissueMatrices.from_scipy(matrices),
        hierarchy=forward.hierarchy,
        parameters=forward.parameters,
        rows=gathered,
        row_limit=math.sqrt(constant),
        row_least=least,
        cycle=cycle,
        cycle_floor=_cycle_floor(stiffness, cycle, middle),
        center=center,
        training=training,
    )


def _balanced(stiffness: Stiffness) -> Stiffness:
    """The matrices in double precision, with rows that sum to zero though single precision rounded them."""
    values = jnp.asarray(stiffness.values, jnp.float64)
    ones = jnp.ones((stiffness.n_nodes, 1))
    sums = jnp.stack([stiffness.product(entries, ones)[:, 0] for entries in values])
    return stiffness.replace(values=values.at[:, stiffness.diagonal].add(-sums))


@dataclass(frozen=True)
class _GatheredRows:
    """Rows (channel, row) of potentials (node, channel), by a sparse product."""

    values: jax.Array
    indices: jax.Array
    indptr: jax.Array

    def __call__(self, potential):
        return csr_product(self.values, self.indices, self.indptr, potential).T


def referenced_loads(forward: FemForward) -> Float[np.ndarray, "node channel"]:
    """Loads of the referenced channels, each of zero sum."""
    columns = np.asarray(forward.weights.columns(forward.stiffness.n_nodes), np.float64)
    loads = columns @ np.asarray(forward.sensors.reference_operator(jnp.float64)).T
    return loads - loads.mean(axis=0)


def slope_loads(
    forward: FemForward,
) -> tuple[Float[np.ndarray, "node slope"], Float[np.ndarray, "channel 3 2"]]:
    """Loads of the unreferenced potentials' slopes along the scalp, two an electrode, and their directions.

    They are minus the tangential field, of which the electric field under an electrode consists.
    """
    field = SurfaceField(forward.sensors.positions, forward.sensors.names)
    placed = place_sensors(forward.require_head(), field, np.float64)
    columns = -np.asarray(placed.columns(forward.stiffness.n_nodes))
    columns = columns.reshape(len(columns), -1, 3)
    _, directions = np.linalg.eigh(np.einsum("nex,ney->exy", columns, columns))
    tangents = directions[..., 1:]  # nothing is along the first, the normal
    loads = np.einsum("nex,exk->nek", columns, tangents).reshape(len(columns), -1)
    return loads - loads.mean(axis=0), tangents


def _row_matrix(forward: FemForward, n_nodes: int) -> sparse.csr_array:
    """From potentials to the leadfield's rows: (source, node), or (3 source, node) when free."""
    weights = np.asarray(forward.loads.weights, np.float64)
    nodes = np.asarray(forward.loads.nodes)
    if forward.sources.is_fixed:
        weights = np.einsum("skx,sx->sk", weights, np.asarray(forward.sources.normals))[:, :, None]
    n_sources, _, n_components = weights.shape
    row = n_components * np.arange(n_sources)[:, None, None] + np.arange(n_components)
    row, column = np.broadcast_to(row, weights.shape), np.broadcast_to(nodes[:, :, None], weights.shape)
    shape = (n_sources * n_components, n_nodes)
    return sparse.coo_array((weights.ravel(), (row.ravel(), column.ravel())), shape=shape).tocsr()


def row_least(
    forward: FemForward, low: Float[np.ndarray, " tissue"], high: Float[np.ndarray, " tissue"]
) -> Float[np.ndarray, " tissue"]:
    """Conductivities for the constant of the bound: highest in the sources' tissue, lowest elsewhere.

    The sources' tissue is that on whose nodes the rows weigh most: where the bound of a row is sharpest.
    """
    rows = _row_matrix(forward, forward.stiffness.n_nodes)
    weight = np.asarray((rows**2).sum(axis=0)).ravel()
    diagonal = np.asarray(forward.stiffness.diagonal)
    units = np.eye(len(forward.tissue_names))
    held = [np.asarray(forward.stiffness.at(forward.parameters(jnp.asarray(u))))[diagonal] > 0 for u in units]
    tissue = np.argmax([weight[here].sum() for here in held])
    return np.where(np.arange(len(low)) == tissue, high, low)


def _cycle_floor(stiffness: Stiffness, cycle: VCycle, parameters) -> float:
    """The cycle's least eigenvalue on K by subspace iteration on what it leaves, over a safety factor.

    An estimate from above, not a bound: hence the factor. It weighs the solver's own residual alone, a few
    percent of the bound.
    """
    product, apply = jax.jit(lambda s, x: s.product(s.at(parameters), x)), jax.jit(VCycle.__call__)
    start = np.random.default_rng(0).standard_normal((stiffness.n_nodes, FLOOR_COLUMNS))
    columns = jnp.asarray(start)

    def cycled(columns):
        return apply(cycle, product(stiffness, columns).astype(jnp.float32))[0].astype(columns.dtype)

    for _ in range(FLOOR_STEPS):
        columns = columns - cycled(columns)
        columns = columns - columns.mean(axis=0)
        columns = columns / jnp.linalg.norm(columns, axis=0)
    images = product(stiffness, columns)
    energy = np.asarray(columns.T @ images)
    kept = np.asarray(images.T @ cycled(columns))
    return float(eigh((kept + kept.T) / 2, (energy + energy.T) / 2, eigvals_only=True)[0]) / FLOOR_SAFETY


def _assembled(blocks, active, n_channels, training, tolerance) -> ReducedRows:
    """The arrays of all channels, modes and parts padded to the same number; zero for silent channels."""
    n_modes = max(block.model.load.shape[1] for block in blocks)
    cuts = [_cut(block, training, CUT * tolerance / (1 + tolerance)) for block in blocks]
    n_parts = max(weights.shape[1] for weights, _, _ in cuts)

    def spread(arrays, shape):
        whole = np.zeros((n_channels, *shape))
        for channels, array in zip(np.split(active, np.cumsum([len(a) for a in arrays])[:-1]), arrays):
            whole[(channels, *(slice(n) for n in array.shape[1:]))] = array
        return whole

    models = [block.model.padded(n_modes) for block in blocks]
    center = models[0].center
    stacked = {
        field: spread([getattr(model, field) for model in models], getattr(models[0], field).shape[1:])
        for field in Hypercircle.__dataclass_fields__
        if field != "center"
    }
    silent = np.setdiff1d(np.arange(n_channels), active)
    stacked["energy"][silent] = np.eye(n_modes) / center.sum()
    stacked["closed_energy"][silent] = np.eye(n_modes) / (1 / center).sum()
    n_rows = cuts[0][2].shape[2]
    return ReducedRows(
        model=Hypercircle(center=center, **stacked),
        weights=spread([weights for weights, _, _ in cuts], (n_parts, n_modes)),
        dropped=spread([dropped for _, dropped, _ in cuts], (n_modes, n_modes)),
        rows=spread([rows for _, _, rows in cuts], (n_parts, n_rows)),
        row_limit=np.asarray(blocks[0].row_limit),
    )


def _cut(block: ReducedBlock, training, tolerance):
    """Rows of each channel in as few orthonormal parts as the tolerance allows, at the training cases.

    Returns:
        From coefficients to the parts that are kept, to those that are not, and the kept parts.
    """
    model = jax.tree.map(jnp.asarray, block.model)
    coefficients = np.asarray(jax.lax.map(model.coefficients, jnp.asarray(training)))  # (case, channel, mode)
    bases, maps, needed = [], [], 0
    for channel, rows in enumerate(block.rows):
        basis, triangle = np.linalg.qr(np.asarray(rows, np.float64).T)
        cases = triangle @ coefficients[:, channel].T
        cases = cases / np.linalg.norm(cases, axis=0)
        axes, _, _ = np.linalg.svd(cases, full_matrices=True)
        left = np.sqrt(np.cumsum(((axes.T @ cases) ** 2)[::-1], axis=0)[::-1]).max(axis=1)  # without k and on
        needed = max(needed, int(np.sum(left > tolerance)))
        bases.append(axes.T @ basis.T)
        maps.append(axes.T @ triangle)
    bases, maps = np.stack(bases), np.stack(maps)
    return maps[:, :needed], maps[:, needed:], bases[:, :needed]


def _digest(forward: FemForward, loads, training, tolerance, blocks) -> str:
    """A hash of all that the blocks depend on: the operator, the box and the settings."""
    settings = [
        FORMAT, tolerance, [len(block) for block in blocks], MAX_ITERATIONS, SOLVED_TO, LEAST_RESIDUAL,
        PROBED_TO, CUT, LANCZOS_STEPS, LANCZOS_TOLERANCE, STARTS, FAILURE, FLOOR_STEPS, FLOOR_COLUMNS,
        FLOOR_SAFETY,
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(settings).encode())
    leaves, structure = jax.tree.flatten((forward.replace(head=None, start=None), loads, training))
    digest.update(str(structure).encode())
    for leaf in leaves:
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:32]


def _bar(visible: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[modes]} modes, bound {task.fields[bound]}"),
        TimeElapsedColumn(),
        disable=not visible,
    )


def _show(bar: Progress, task, tolerance: float, modes: int, bound: float) -> None:
    """The bar is full when the bound, which falls about exponentially from 1, reaches the tolerance."""
    done = math.log(min(bound, 1)) / math.log(tolerance) if bound > 0 else 1
    bar.update(task, completed=min(done, 1), modes=modes, bound=f"{bound:.1e}")
    logger.debug("%d modes, bound %.2e", modes, bound)
