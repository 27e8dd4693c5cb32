"""What can be typed: the commands as dataclasses, from which tyro makes parser and help."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxinv.cli.config import EvaluationConfig, RunConfig, preset
from jaxinv.cli.run_directory import RunDirectory

DESCRIPTION = """Differentiable EEG source imaging.

A U-Net learns to find active cortex from simulated EEG of a real head, whose leadfields are solved by finite
elements inside the training loop, and is held against classical inverses. Begin with `jaxinv run`."""

Settings = Annotated[RunConfig, tyro.conf.arg(name="")]
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True)
class Run:
    """All of it: head, leadfields, training, evaluation, table and report.html.

    `--preset quick` takes minutes on two CPU cores; `--preset paper` has the sizes of the published task and
    wants an accelerator. Any setting below changes the preset. Ctrl-C leaves a checkpoint: go on with
    --resume.

    Attributes:
        config: the settings.
        preset: quick or paper: where the settings below have their defaults from.
        directory: where everything is written; runs/<preset>-<time> by default. A run that is already there
            is moved beside it.
        resume: go on with the run in --directory instead: finished stages are kept.
    """

    config: Settings
    preset: str = "quick"
    directory: Path | None = None
    resume: Switch = False


@dataclass(frozen=True)
class Head:
    """Build the head, its sources and electrodes, and print whether they are valid.

    Attributes:
        config: the settings; those of the head matter.
        preset: quick or paper: where the settings below have their defaults from.
        directory: begin a run there, with this head, for `jaxinv train` to go on with.
    """

    config: Settings
    preset: str = "quick"
    directory: Path | None = None


@dataclass(frozen=True)
class Train:
    """Train the network, building head and forward operator first if the directory has none.

    Attributes:
        config: the settings; with --resume those that the run began with.
        preset: quick or paper: where the settings below have their defaults from.
        directory: of the run; runs/<preset>-<time> by default.
        resume: go on from the last checkpoint in --directory.
    """

    config: Settings
    preset: str = "quick"
    directory: Path | None = None
    resume: Switch = False


@dataclass(frozen=True)
class Evaluate:
    """Hold the trained network of a run against the baselines: table and report.html.

    Attributes:
        directory: of the run.
        evaluation: how many cases decide; by default as the run has it.
    """

    directory: Path
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass(frozen=True)
class Judge:
    """Hold every classical method against oracles and guesses, in a frozen grid of scenarios.

    On heads, leadfields and measurements that share nothing with what the methods are given but where the
    column says so. Hours for the whole grid; what is finished is kept, and the same command goes on.

    Attributes:
        directory: where heads, results, tables and the figure are kept.
        cases: of each cell.
        validation: cases of each cell on which the methods are tuned.
        scenarios: of which the cells of the grid are taken.
        cells: names of those that are judged, as the results have them; all of the scenarios' when empty.
        segmentation: a real head to test on instead of the warped ones: a .mat file of FieldTrip's with
            scalp, skull and brain (1, 2, 3), in MNI152's coordinates.
    """

    directory: Path = Path("runs/judge")
    cases: int = 1000
    validation: int = 200
    scenarios: tuple[Literal["A", "B", "C", "D1", "D2"], ...] = ("A", "B", "C", "D1", "D2")
    cells: tuple[str, ...] = ()
    segmentation: Path | None = None

    def __post_init__(self):
        if self.cases < 2 or self.validation < 2:
            raise ValueError(f"cases and validation must be 2 or more; found {self.cases}, {self.validation}")


Command = Run | Head | Train | Evaluate | Judge


@dataclass(frozen=True)
class _Basis:
    """The options that decide what the others' defaults are."""

    preset: str = "quick"
    directory: Path | None = None
    resume: Switch = False


def parse(args: Sequence[str]) -> Command:
    """The command that was typed. The preset, or the run to go on with, gives all settings their defaults.

    Raises:
        SystemExit: for --help, or what cannot be parsed; tyro has printed why.
        ValueError: for an unknown preset, or a directory without the run to go on with.
    """
    basis, others = tyro.cli(_Basis, args=list(args), return_unknown_args=True, add_help=False)
    command = others[0] if others else ""
    config = preset(basis.preset)
    wants_help = "-h" in others or "--help" in others
    if not wants_help and command in ("run", "train", "evaluate") and (basis.resume or command == "evaluate"):
        config = _saved(basis.directory, command, config)
    defaults = {"config": config, "preset": basis.preset}
    required = basis.directory if command == "evaluate" and basis.directory else tyro.MISSING
    kinds = (
        Annotated[Run, tyro.conf.subcommand("run", default=Run(**defaults))]
        | Annotated[Head, tyro.conf.subcommand("head", default=Head(**defaults))]
        | Annotated[Train, tyro.conf.subcommand("train", default=Train(**defaults))]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate", default=Evaluate(required, config.evaluation))]
        | Annotated[Judge, tyro.conf.subcommand("judge", default=_judge(basis))]
    )
    return tyro.cli(kinds, args=list(args), prog="jaxinv", description=DESCRIPTION)


def _judge(basis: _Basis) -> Judge:
    return Judge() if basis.directory is None else Judge(basis.directory)


def _saved(directory: Path | None, command: str, fallback: RunConfig) -> RunConfig:
    if directory is None:
        if command == "evaluate":
            return fallback  # tyro says that --directory is required
        raise ValueError(f"jaxinv {command} --resume needs the --directory of the run to go on with")
    return RunDirectory.existing(directory)[1]
