"""Heads that no training sees: the default head under a random warp, or a real head of other shape."""

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from jaxinv.head import HeadModel, SourceSpace
from jaxinv.head.fsaverage import cortical_sources, fsaverage_head, mid_surface
from jaxinv.head.fsaverage_surfaces import MNI305_TO_MNI152, mni305_to_mni152
from jaxinv.head.montages import template_positions
from jaxinv.head.placement import place_in_tissue
from jaxinv.head.segmentation import segmented_head
from jaxinv.head.sensors import Sensors
from jaxinv.head.warp import Warp, random_warp, warp_head, warp_sensors, warp_sources
from jaxinv.io import read_segmentation

LAYERS = {"scalp": 1, "skull": 2, "brain": 3}  # of FieldTrip's template


class Anatomy(Protocol):
    """A head at any resolution.

    Attributes:
        number: what its random draws are seeded with.
        tissue: where sources lie.
    """

    number: int
    tissue: str

    def build(self, resolution: float, surface: str) -> tuple[HeadModel, SourceSpace]:
        """The head, and the cortex in it."""

    def sensors(self, default: Sensors) -> Sensors:
        """Of the default head, where they are on this one."""


@dataclass(frozen=True)
class WarpedHead:
    """The default head under the warp of a seed."""

    number: int
    tissue: str = "grey"

    @cached_property
    def warp(self) -> Warp:
        """Of the seed."""
        return random_warp(self.number)

    def build(self, resolution: float, surface: str) -> tuple[HeadModel, SourceSpace]:
        """Warped, sources that left the grey matter put back into it."""
        head = fsaverage_head(resolution)
        sources = warp_sources(cortical_sources(head, surface), self.warp)
        head = warp_head(head, self.warp)
        return head, _placed(sources, head, self.tissue)

    def sensors(self, default: Sensors) -> Sensors:
        """Moved with the head."""
        return warp_sensors(default, self.warp)


@dataclass(frozen=True)
class SegmentedHead:
    """A segmentation in MNI152's coordinates, with the default head's cortex in its brain."""

    path: Path
    tissue: str = "brain"

    @cached_property
    def number(self) -> int:
        """From what the file holds."""
        return int(content_hash(self.path)[:8], 16)

    def build(self, resolution: float, surface: str) -> tuple[HeadModel, SourceSpace]:
        """Three layers."""
        head = segmented_head(*read_segmentation(self.path), LAYERS, resolution)
        return head, _placed(warp_sources(mid_surface(surface), _ToMni152()), head, self.tissue)

    def sensors(self, default: Sensors) -> Sensors:
        """Where the 10-5 system's template has them."""
        return default.at(template_positions(default.names))


def anatomy(name: int | str) -> Anatomy:
    """Of a seed, or of a file with a segmentation."""
    return WarpedHead(name) if isinstance(name, int) else SegmentedHead(Path(name))


def content_hash(path: str | Path) -> str:
    """Of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class _ToMni152:
    """A warp from fsaverage's frame to MNI152's."""

    def __call__(self, points):
        return mni305_to_mni152(points)

    def jacobian(self, points):
        return np.broadcast_to(MNI305_TO_MNI152[:3, :3], (len(points), 3, 3))


def _placed(sources: SourceSpace, head: HeadModel, tissue: str) -> SourceSpace:
    positions, _ = place_in_tissue(np.asarray(sources.positions), head, tissue)
    return dataclasses.replace(sources, positions=positions)
