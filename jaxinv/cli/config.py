"""A run in numbers: a tree of frozen dataclasses that the command line exposes, and its presets."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from jaxinv.networks import UNetConfig
from jaxinv.training import TrainConfig

LEAST_REDUCTION = 1e-5  # of ReducedForward, without loading it
MOST_NODES = {"ico3": 1_284, "ico4": 5_124, "ico5": 20_484}  # of both hemispheres, with the medial wall


@dataclass(frozen=True)
class HeadConfig:
    """The head (fsaverage), where sources and sensors lie on it, and how its potential is solved for.

    Attributes:
        resolution: edge of the cube whose volume is that of one node of the lattice that is cut, in m. Near
            surfaces the mesh has more nodes: at 4 mm, 0.64 of that volume for each.
        sources: cortical surface "ico3" (1,200), "ico4" (5,000) or "ico5" (20,000), or a number of nodes
            in the volume of the grey matter.
        montage: named set of electrodes.
        field: measure the electric field (Ex, Ey, Ez) under each electrode, not its potential.
        tolerance: relative residual at which the solver stops.
        dtype: precision of the solver.
        reduction: relative error of a leadfield row that the reduced model used in training is certified to;
            None trains on exact solves.
    """

    resolution: float = 4e-3
    sources: Literal["ico3", "ico4", "ico5"] | int = "ico4"
    montage: Literal["10-20", "10-10-32", "10-10-64", "10-5-128", "10-5-149"] = "10-10-64"
    field: bool = False
    tolerance: float = 1e-4
    dtype: Literal["float32", "float64"] = "float32"
    reduction: float | None = 1e-2

    def __post_init__(self):
        if not 1e-3 <= self.resolution <= 10e-3:
            raise ValueError(f"head.resolution must lie between 0.001 and 0.01 m, not {self.resolution:g}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"head.tolerance must lie between 0 and 1, not {self.tolerance:g}")
        if self.dtype == "float32" and self.tolerance < 1e-6:
            raise ValueError(
                f"head.tolerance {self.tolerance:g} needs --head.dtype float64; float32 ends at 1e-6"
            )
        if isinstance(self.sources, int) and self.sources < 1:
            raise ValueError(f"head.sources must be a positive number, not {self.sources}")
        if self.reduction is not None and not LEAST_REDUCTION <= self.reduction < 1:
            raise ValueError(
                f"head.reduction must be {LEAST_REDUCTION:g} or more and below 1, not {self.reduction:g}"
            )


@dataclass(frozen=True)
class SimulationConfig:
    """What the cortex does, and how well it is measured.

    Attributes:
        activity: "half-active" maps (the published task), focal "dipoles", or cortical "patches".
        correlation_length: of half-active maps, in m.
        count: fewest and most dipoles or patches.
        radius: smallest and largest patch, in m along the cortex.
        snr_db: lowest and highest signal-to-noise ratio of a case, in dB.
    """

    activity: Literal["half-active", "dipoles", "patches"] = "half-active"
    correlation_length: float = 20e-3
    count: tuple[int, int] = (1, 3)
    radius: tuple[float, float] = (10e-3, 30e-3)
    snr_db: tuple[float, float] = (20.0, 20.0)

    def __post_init__(self):
        if not 0 < self.correlation_length < math.inf:
            raise ValueError(
                "simulation.correlation-length must be positive and finite, in m, "
                f"not {self.correlation_length:g}"
            )
        low, high = self.count
        if not 1 <= low <= high:
            raise ValueError(f"simulation.count must be low and high, 1 or more, not {low} {high}")
        low, high = self.radius
        if not 0 < low <= high < math.inf:
            raise ValueError(
                f"simulation.radius must be low and high, positive and finite, in m, not {low:g} {high:g}"
            )
        low, high = self.snr_db
        if not -math.inf < low <= high < math.inf:
            raise ValueError(f"simulation.snr-db must be low and high, finite, in dB, not {low:g} {high:g}")


@dataclass(frozen=True)
class EvaluationConfig:
    """How many cases decide. Each leadfield has conductivities of its own.

    Attributes:
        validation_size: cases on which regularisation, calibration and thresholds are chosen.
        validation_leadfields: leadfields they come from.
        test_size: cases of the table.
        test_leadfields: leadfields they come from.
        lasso_size: how many of the cases the Lasso is given, which is slow.
    """

    validation_size: int = 128
    validation_leadfields: int = 4
    test_size: int = 256
    test_leadfields: int = 8
    lasso_size: int = 64

    def __post_init__(self):
        for name in ("validation", "test"):
            size, leadfields = getattr(self, f"{name}_size"), getattr(self, f"{name}_leadfields")
            if leadfields < 1 or size < 1 or size % leadfields:
                raise ValueError(
                    f"evaluation.{name}-size must be a positive multiple of evaluation.{name}-leadfields, "
                    f"not {size} and {leadfields}"
                )
        if self.lasso_size < 1:
            raise ValueError(f"evaluation.lasso-size must be positive, not {self.lasso_size}")


@dataclass(frozen=True)
class RunConfig:
    """All that decides the outcome of a run.

    Attributes:
        seed: of everything random, training included.
        head: the head, its sources and sensors.
        simulation: activity and noise.
        network: sizes of the network.
        training: how it is trained; its own seed is not to be given.
        evaluation: how it is judged.
    """

    seed: int = 0
    head: HeadConfig = field(default_factory=HeadConfig)
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    network: UNetConfig = field(default_factory=UNetConfig.quick)
    training: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self):
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed must be a whole number from 0 to 2^63 - 1, not {self.seed}")
        if self.simulation.activity == "patches" and isinstance(self.head.sources, int):
            raise ValueError(
                "patches grow along the cortical surface: give --head.sources ico3, ico4 or ico5"
            )
        most, count = MOST_NODES.get(self.head.sources, self.head.sources), self.simulation.count
        if self.simulation.activity != "half-active" and count[1] > most:
            raise ValueError(
                f"simulation.count must be {most} at most, as head.sources={self.head.sources} has no more "
                f"nodes, not {count[0]} {count[1]}"
            )
        if most < self.network.latent_length:
            raise ValueError(
                f"network.latent-length must be {most} at most, as head.sources={self.head.sources} has no "
                f"more nodes, not {self.network.latent_length}"
            )
        if self.head.field and self.training.displacement:
            raise ValueError("training.displacement moves electrodes: with --head.field it must be 0")
        if self.training.seed != 0:
            raise ValueError(f"one seed decides all: give --seed {self.training.seed}, not --training.seed")

    @property
    def seeded_training(self) -> TrainConfig:
        """How the network is trained, with the seed of the run."""
        return replace(self.training, seed=self.seed)


PRESETS: dict[str, RunConfig] = {
    "quick": RunConfig(),
    "paper": RunConfig(
        head=HeadConfig(resolution=3e-3, sources=15_684, montage="10-5-149", field=True, tolerance=1e-5),
        network=UNetConfig.paper(),
        training=TrainConfig(
            updates=20_000, batch_size=256, learning_rate=1e-3, warmup=500, evaluate_every=500,
            checkpoint_every=500,
        ),
        evaluation=EvaluationConfig(
            validation_size=512, validation_leadfields=16, test_size=512, test_leadfields=32
        ),
    ),
}  # fmt: skip
"""`quick`: minutes on two CPU cores. `paper`: the published task's sizes (447 field channels, 15,684 nodes);
it wants an accelerator."""


def preset(name: str) -> RunConfig:
    """The preset of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {' and '.join(map(repr, PRESETS))}")
    return PRESETS[name]
