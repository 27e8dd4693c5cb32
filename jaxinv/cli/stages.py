"""From a configuration to a report, one function a stage. A stage that a directory has finished is reused."""

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import jax
import numpy as np
from rich.console import Console

from jaxinv.cli.commands import Judge
from jaxinv.cli.config import EvaluationConfig, HeadConfig, RunConfig, SimulationConfig
from jaxinv.cli.head_report import HeadReport
from jaxinv.cli.run_directory import RunDirectory, writing_to
from jaxinv.cli.run_report import RunFacts, compose_report
from jaxinv.evaluation import (
    SCENARIOS,
    KnownHead,
    Problem,
    Result,
    Table,
    baselines,
    evaluate,
    findings,
    network_entrant,
    save_results,
    write_report,
)
from jaxinv.evaluation.figures import to_png
from jaxinv.evaluation.judge import (
    CORE_GRID,
    Protocol,
    findings_on_oracles,
    judge,
    overview,
    paper_tables,
    tables,
)
from jaxinv.forward.exact import FemForward
from jaxinv.forward.reduced import ReducedForward
from jaxinv.head import Electrodes, HeadModel, SourceSpace, SurfaceField
from jaxinv.head.fsaverage import cortical_sources, fsaverage_electrodes, fsaverage_head, volumetric_sources
from jaxinv.simulate import ActivityModel, Batch, Dipoles, HalfActiveMaps, Patches, WhiteNoise, simulate_batch
from jaxinv.training import TrainResult, load_trained, train
from jaxinv.training.metrics_log import MetricsLog
from jaxinv.whole_file import whole_file

_simulate = jax.jit(simulate_batch, static_argnames=("size", "conductivities", "displacement"))

WIDTH_OF_TABLES = 220  # characters, in the file
EVALUATION_STREAM = 20_000  # folded into the seed's key, away from what training splits off it


@dataclass(frozen=True)
class Anatomy:
    """A head, and what lies in and on it."""

    head: HeadModel
    sources: SourceSpace
    sensors: Electrodes | SurfaceField
    report: HeadReport


def build_head(config: HeadConfig, console: Console) -> Anatomy:
    """Mesh the head, place sources and electrodes, and print whether they are valid."""
    with timed("head, sources and electrodes", console):
        head = fsaverage_head(config.resolution)
        anatomy = _placed(head, config)
    console.print(anatomy.report.to_rich())
    return anatomy


def begin_with_head(run: RunDirectory, config: RunConfig, console: Console) -> Anatomy:
    """Build the head of a run, or read it if the directory has it."""
    if run.noted("head") is not None:
        console.print(f"the head is in {run.head} already")
        return _placed(HeadModel.load(run.head), config.head)
    started = time.perf_counter()
    anatomy = build_head(config.head, console)
    anatomy.head.save(run.head)
    run.note("head", {"seconds": time.perf_counter() - started, **asdict(anatomy.report)})
    return anatomy


def build_forward(run: RunDirectory, config: RunConfig, console: Console) -> FemForward:
    """Build the forward operator of a run and its head, or read it if the directory has it."""
    if run.has_forward():
        console.print(f"the forward operator is in {run.forward} already")
        return FemForward.load(run.forward)
    anatomy = begin_with_head(run, config, console)
    with timed("forward operator", console) as clock:
        forward = FemForward.build(
            anatomy.head,
            anatomy.sources,
            anatomy.sensors,
            tolerance=config.head.tolerance,
            dtype=config.head.dtype,
        )
        solved = forward.solve_report()
    forward.save(run.forward)
    run.note("forward", {
        "seconds": clock.seconds,
        "tolerance": config.head.tolerance,
        "residual": float(np.max(solved.residual)),
    })  # fmt: skip
    return forward.replace(head=None)  # as the file has it, so that both compile to the same


def reduce_forward(
    run: RunDirectory, config: RunConfig, forward: FemForward, console: Console
) -> FemForward | ReducedForward:
    """What training simulates with: the reduced model of a run, built or read, or the exact one."""
    forward = movable(run, config, forward)
    if config.head.reduction is None:
        return forward
    if run.noted("reduced") is not None:
        console.print(f"the reduced forward model is in {run.reduced} already")
        return ReducedForward.load(run.reduced)
    console.print(f"reducing the forward model to an error of {config.head.reduction:g}, certified …")
    started = time.perf_counter()
    reduced = ReducedForward.build(
        forward,
        tolerance=config.head.reduction,
        displacement=config.training.displacement,
        cache=run.reduction,
    )
    seconds = time.perf_counter() - started
    reduced.save(run.reduced)
    shutil.rmtree(run.reduction, ignore_errors=True)
    modes = reduced.potentials.model.load.shape[1]
    run.note("reduced", {"seconds": seconds, "tolerance": config.head.reduction, "modes": modes})
    console.print(f"[green]✓[/] reduced forward model, at most {modes} modes a channel, {seconds:.1f} s")
    return reduced


def movable(run: RunDirectory, config: RunConfig, forward: FemForward) -> FemForward:
    """The operator with its head, where electrodes are moved over it."""
    return forward.replace(head=HeadModel.load(run.head)) if config.training.displacement else forward


def train_stage(
    run: RunDirectory, config: RunConfig, forward: FemForward | ReducedForward, console: Console
) -> TrainResult:
    """Train the network, with a progress bar; goes on from the last checkpoint where there is one."""
    activity, noise = build_activity(config.simulation, forward.sources), WhiteNoise(config.simulation.snr_db)
    result = train(
        forward, activity, noise, config.network, config.seeded_training, run.path, resume=run.is_trained
    )
    ended = "stopped early" if result.stopped_early else "finished"
    console.print(
        f"[green]✓[/] training {ended} after {result.updates} updates on {result.leadfields_solved} "
        f"leadfields, {result.seconds:.0f} s; best validation loss {result.best_validation_loss:.4f} "
        f"at update {result.best_update}"
    )
    return result


def evaluate_stage(
    run: RunDirectory, config: RunConfig, forward: FemForward, console: Console
) -> list[Result]:
    """Simulate the cases, evaluate network and baselines, print the table, write the report."""
    trained, history = load_trained(run.path), MetricsLog(run.path / "metrics.jsonl").known_rows()
    head_facts, reduced_facts = run.noted("head"), run.noted("reduced") or {}
    with timed("validation and test cases", console) as simulating:
        problem = pose_problem(config, movable(run, config, forward), head_facts["node_volume"])
    with timed("evaluation", console) as evaluating:
        seconds = history[-1]["seconds"] + reduced_facts.get("seconds", 0.0)
        network = network_entrant(trained, training_seconds=seconds)
        smooth = problem.heads[0].prior_factor is not None
        entrants = [network, *baselines(lasso_cases=config.evaluation.lasso_size, smooth=smooth)]
        results = evaluate(entrants, problem, seed=config.seed)
        save_results(run.evaluation, results)
    table = Table.of(results)
    console.print(table.to_rich(f"{problem.scenario.name}: test cases"), table.published_to_rich())
    for sentence in findings(results, network.name):
        console.print(f"• {sentence}", highlight=False)
    with timed("report", console):
        facts = RunFacts(
            config=config,
            head=HeadModel.load(run.head),
            head_facts=head_facts,
            forward_facts={**run.noted("forward"), "iterations": iterations_on(problem, forward)},
            reduced_facts=reduced_facts,
            history=history,
            seconds={"test cases": simulating.seconds, "evaluation": evaluating.seconds},
        )
        write_report(run.report, compose_report(facts, problem, results, forward))
    return results


def pose_problem(config: RunConfig, forward: FemForward, node_volume: float | None = None) -> Problem:
    """Validation and test cases on conductivities of their own, and the leadfield at the nominal ones.

    The cases go round the leadfields, so that the first of them are of all.
    """
    activity, noise = build_activity(config.simulation, forward.sources), WhiteNoise(config.simulation.snr_db)
    validation_key, test_key = jax.random.split(
        jax.random.fold_in(jax.random.key(config.seed), EVALUATION_STREAM)
    )
    sizes: EvaluationConfig = config.evaluation

    def simulated(key, size: int, leadfields: int) -> Batch:
        batch = _simulate(
            key, forward, activity, noise, size=size, conductivities=leadfields,
            displacement=config.training.displacement,
        )  # fmt: skip
        order = np.arange(size).reshape(leadfields, -1).T.reshape(-1)
        return jax.tree.map(lambda values: values[order], batch)

    return Problem(
        scenario=SCENARIOS[config.simulation.activity],
        heads=(
            KnownHead(
                forward.leadfield(),
                forward.sources,
                activity.factor if isinstance(activity, HalfActiveMaps) else None,
                mean_current=activity.mean_current,
            ),
        ),
        validation=simulated(validation_key, sizes.validation_size, sizes.validation_leadfields),
        test=simulated(test_key, sizes.test_size, sizes.test_leadfields),
        node_volume=node_volume,
    )


def judge_stage(command: Judge, console: Console) -> None:
    """Judge the classical methods; tables on the console and in a file, and a figure."""
    cells = [cell for cell in CORE_GRID if cell.scenario in command.scenarios]
    unknown = set(command.cells) - {cell.name for cell in cells}
    if unknown:
        raise ValueError(f"no cell is called {sorted(unknown)}; there are {[cell.name for cell in cells]}")
    cells = [cell for cell in cells if not command.cells or cell.name in command.cells]
    protocol = Protocol()
    if command.segmentation is not None:
        protocol = dataclasses.replace(protocol, test_heads=(str(command.segmentation),))
    directory = command.directory
    with writing_to(directory):
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    console.print(f"everything is written to [bold]{directory}[/]")
    verdicts = judge(
        directory, cells=cells, n_cases=command.cases, n_validation=command.validation, protocol=protocol
    )
    with whole_file(directory / "tables.txt") as partial, partial.open("w", encoding="utf-8") as file:
        for shown in (console, Console(file=file, width=WIDTH_OF_TABLES)):
            shown.print(*tables(verdicts), *paper_tables(verdicts), *findings_on_oracles(verdicts), sep="\n")
    with whole_file(directory / "overview.png") as partial:
        partial.write_bytes(to_png(overview(verdicts)))
    console.print(
        f"the figure is [bold]{directory / 'overview.png'}[/], all of it {directory / 'judge.json'}"
    )


def iterations_on(problem: Problem, forward: FemForward, count: int = 2) -> tuple[int, int]:
    """Fewest and most iterations of the solver on the first few conductivities of the test cases."""
    drawn = np.unique(np.asarray(problem.test.conductivity), axis=0)[:count]
    iterations = [int(np.max(forward.solve_report(conductivity).iterations)) for conductivity in drawn]
    return min(iterations), max(iterations)


def build_activity(config: SimulationConfig, sources: SourceSpace) -> ActivityModel:
    """What draws the sources' states."""
    if config.activity == "half-active":
        return HalfActiveMaps.build(sources, config.correlation_length)
    if config.activity == "dipoles":
        return Dipoles.build(sources, config.count)
    return Patches.build(sources, config.count, config.radius)


def _placed(head: HeadModel, config: HeadConfig) -> Anatomy:
    is_surface = isinstance(config.sources, str)
    place = cortical_sources if is_surface else volumetric_sources
    sources = place(head, config.sources)
    sensors = fsaverage_electrodes(config.montage, field=config.field)
    report = HeadReport.of(head, sources, sensors, config.sources if is_surface else None)
    return Anatomy(head, sources, sensors, report)


class Clock:
    """How long a stage took: `seconds`, once it has ended."""

    seconds: float = float("nan")


@contextmanager
def timed(stage: str, console: Console) -> Iterator[Clock]:
    """Show that a stage is under way, and how long it took."""
    clock, started = Clock(), time.perf_counter()
    with console.status(f"{stage} …"):
        yield clock
    clock.seconds = time.perf_counter() - started
    console.print(f"[green]✓[/] {stage}, {clock.seconds:.1f} s")
