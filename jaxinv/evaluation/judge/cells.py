"""The cells of the grid: what the cortex does, how it is measured, and what the methods know of the head."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from jaxinv.evaluation.scenarios import SCENARIOS

SENSORS = {
    "cap-32": "10-10-32",
    "cap-64": "10-10-64",
    "cap-128": "10-5-128",
    "cap-149": "10-5-149",
    "field-149": "10-5-149",
}
"""Potentials at the electrodes of a montage, or the electric field under them."""

N_TIMES = 50  # of a window


@dataclass(frozen=True)
class Cell:
    """One cell of the grid.

    Attributes:
        scenario: "A" one off-grid dipole, "B" 2 to 4 correlated dipoles, "C" 1 to 4 patches, "D1" signed
            Gaussian maps, "D2" half-active maps.
        snr_db: mean power of the noiseless referenced signal over that of the noise.
        knowledge: what leadfield the methods are given. "crime": the one that made the measurements. "own":
            that of the same head, at nominal conductivities, on another mesh, with electrodes in place.
            "template": that of the default head.
        sensors: a key of `SENSORS`.
        noise: "white", "correlated" in space, or "1/f" in time.
        n_times: samples, 1 or `N_TIMES`.
        correlation_length: of the maps of D1 and D2, in m.

    Raises:
        ValueError: for an unknown name, or samples that the scenario does not have.
    """

    scenario: Literal["A", "B", "C", "D1", "D2"]
    snr_db: float
    knowledge: Literal["crime", "own", "template"] = "own"
    sensors: str = "cap-64"
    noise: Literal["white", "correlated", "1/f"] = "white"
    n_times: int = 1
    correlation_length: float = 20e-3

    def __post_init__(self):
        known = {
            "scenario": ("A", "B", "C", "D1", "D2"),
            "knowledge": ("crime", "own", "template"),
            "sensors": tuple(SENSORS),
            "noise": ("white", "correlated", "1/f"),
            "n_times": (1,) if self.is_map else (1, N_TIMES),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {values}; found {getattr(self, name)!r}")
        if self.noise == "1/f" and self.n_times == 1:
            raise ValueError("1/f noise is noise in time: it needs a window, n_times = 50")
        if not self.correlation_length > 0:
            raise ValueError(f"correlation_length must be positive, in m; found {self.correlation_length}")

    @property
    def is_map(self) -> bool:
        """Whether about half of the cortex is active."""
        return self.scenario in ("D1", "D2")

    @property
    def is_field(self) -> bool:
        """Whether the electric field is measured."""
        return self.sensors.startswith("field")

    @property
    def name(self) -> str:
        """Short and unique; names its files."""
        noise = {"white": "", "correlated": "_correlated", "1/f": "_pink"}[self.noise]
        window = f"_{self.n_times}samples" if self.n_times > 1 else ""
        length = f"_{1e3 * self.correlation_length:g}mm" if self.is_map else ""
        return f"{self.scenario}_{self.knowledge}_{self.sensors}_{self.snr_db:g}dB{noise}{window}{length}"

    @property
    def title(self) -> str:
        """For people."""
        parts = [SCENARIOS[self.scenario].name]
        parts += [f"{1e3 * self.correlation_length:g} mm"] if self.is_map else []
        parts += [f"{self.snr_db:g} dB" + ("" if self.noise == "white" else f" {self.noise} noise")]
        parts += [self.sensors, "one sample" if self.n_times == 1 else f"{self.n_times} samples"]
        return ", ".join(
            [*parts, {"crime": "inverse crime"}.get(self.knowledge, f"{self.knowledge} leadfield")]
        )

    def canonical(self) -> str:
        """The cell as text, the same everywhere, for hashes."""
        return json.dumps(asdict(self), sort_keys=True)


CORE_GRID: tuple[Cell, ...] = (
    Cell("A", 10, "crime"),
    Cell("A", 10),
    Cell("A", 10, "template"),
    Cell("A", 20),
    Cell("A", -5, n_times=N_TIMES),
    Cell("A", 10, sensors="cap-32"),
    Cell("A", 5, noise="correlated", n_times=N_TIMES),
    Cell("B", 5, "crime", n_times=N_TIMES),
    Cell("B", 5, n_times=N_TIMES),
    Cell("B", 5, "template", n_times=N_TIMES),
    Cell("B", 0, noise="1/f", n_times=N_TIMES),
    Cell("B", 10, sensors="cap-128", n_times=N_TIMES),
    Cell("C", 10, "crime"),
    Cell("C", 10),
    Cell("C", 10, "template"),
    Cell("C", 0, n_times=N_TIMES),
    Cell("C", 20, sensors="cap-128", noise="correlated", n_times=N_TIMES),
    Cell("D1", 20, "crime"),
    Cell("D1", 20),
    Cell("D1", 20, correlation_length=10e-3),
    Cell("D1", 20, correlation_length=40e-3),
    Cell("D2", 20, "crime", "cap-149"),
    Cell("D2", 20, "own", "cap-149"),
    Cell("D2", 20, "template", "cap-149"),
    Cell("D2", 20, "own", "field-149"),
)
"""Looked at once methods are frozen: nobody tunes on it."""
