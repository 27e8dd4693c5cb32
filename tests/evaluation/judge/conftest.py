from dataclasses import replace

import numpy as np
import pytest

from jaxinv.evaluation.judge.true_head import ELECTRODES, Protocol, TrueHead, nearest_along
from jaxinv.head import SourceSpace
from jaxinv.head.fsaverage import fsaverage_electrodes, mid_surface


def potentials(electrodes, sources, sharpness):
    """Of dipoles in an infinite medium, sharper or not, in V/(A m)."""
    offset = electrodes[:, None] - np.asarray(sources.positions)
    distance = np.linalg.norm(offset, axis=2)
    dipole = np.einsum("csx,sx->cs", offset, sources.normals) / (4 * np.pi * 0.33 * distance**3)
    return (dipole * (distance / 0.08) ** sharpness).astype(np.float32)


def _of_other_areas(surface: SourceSpace, seed: int) -> SourceSpace:
    """As in another head."""
    stretch = 1 + 0.3 * np.sin(30 * np.asarray(surface.positions) @ [1, 0.5, 0.2] + seed)
    return replace(surface, area=np.asarray(surface.area) * stretch)


def toy_head(seed: int) -> TrueHead:
    """Two draws of another medium and of electrodes that missed their place."""
    rng = np.random.default_rng(seed)
    surface, nodes = (_of_other_areas(mid_surface(name), seed) for name in ("ico4", "ico3"))
    electrodes = np.asarray(fsaverage_electrodes(ELECTRODES).positions)
    carried = nearest_along(surface, np.searchsorted(surface.vertices, nodes.vertices))
    places = rng.choice(surface.n_sources, 300, replace=False)
    dipoles = SourceSpace(np.asarray(surface.positions)[places] + 1e-4, np.asarray(surface.normals)[places])
    draws = [(electrodes + 2e-3 * rng.normal(size=electrodes.shape), -0.3 * draw) for draw in range(2)]
    return TrueHead(
        surface, dipoles, nodes, nodes, carried, carried[places], electrodes,
        np.stack([potentials(at, surface, sharpness) for at, sharpness in draws]),
        np.stack([potentials(at, dipoles, sharpness) for at, sharpness in draws]),
        np.ones((2, 5)), potentials(electrodes, nodes, 0.0), potentials(1.02 * electrodes, nodes, 0.0),
        ELECTRODES,
    )  # fmt: skip


@pytest.fixture(scope="session")
def toy_heads() -> dict[int, TrueHead]:
    return {seed: toy_head(seed) for seed in (1, 2, 3)}


@pytest.fixture(scope="session")
def protocol() -> Protocol:
    return Protocol(validation_heads=(1,), test_heads=(2, 3), truth_surface="ico4", known_surface="ico3")


@pytest.fixture(scope="session")
def judge_directory(tmp_path_factory, toy_heads, protocol):
    """A directory in which the toy heads are kept as if they had been solved."""
    directory = tmp_path_factory.mktemp("judge")
    (directory / "heads").mkdir()
    for seed, head in toy_heads.items():
        head.save(directory / "heads" / f"{protocol.digest}-{seed}.npz")
    return directory
