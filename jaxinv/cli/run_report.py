"""What a run has to say, gathered into a report."""

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from jaxinv.cli.config import RunConfig
from jaxinv.cli.head_report import HeadReport
from jaxinv.evaluation import Facts, Picture, Problem, Report, Result, Table, findings
from jaxinv.evaluation.figures import (
    comparison,
    cortical_maps,
    head_sections,
    learning_curve,
    reliability,
    to_png,
)
from jaxinv.forward.exact import FemForward
from jaxinv.head import HeadModel

PACKAGES = ("jaxinv", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "jax-fem", "pyamg", "numpy",
            "scipy", "mne", "nilearn")  # fmt: skip


@dataclass(frozen=True, eq=False)
class RunFacts:
    """What the stages of a run left behind.

    Attributes:
        config: of the run.
        head: for the picture of its mesh.
        head_facts: as `HeadReport` has them, and the seconds it took.
        forward_facts: tolerance, residual, fewest and most iterations, seconds.
        reduced_facts: those of the reduced model; empty where there is none.
        history: rows of the training's metrics.
        seconds: of the evaluation's parts.
    """

    config: RunConfig
    head: HeadModel
    head_facts: Mapping
    forward_facts: Mapping
    reduced_facts: Mapping
    history: Sequence[Mapping]
    seconds: Mapping[str, float]


def compose_report(run: RunFacts, problem: Problem, results: Sequence[Result], forward: FemForward) -> Report:
    """The report of a run; the first result is the network's."""
    last, scenario = run.history[-1], problem.scenario
    summary = (
        f"A U-Net trained for {last['step']:,} updates on measurements simulated from {last['leadfields']:,} "
        f"distinct leadfields inside the jitted training step, {_source_of_leadfields(run)}, on fsaverage "
        f"with {run.head_facts['nodes']:,} nodes, {forward.sensors.n_channels} channels and "
        f"{forward.sources.n_sources:,} sources; tested on {results[0].n_cases} cases of {scenario.name} "
        f"from {run.config.evaluation.test_leadfields} other leadfields, solved exactly."
    )
    return Report(
        title=f"jaxinv: {scenario.name}, network against classical inverses",
        summary=summary,
        findings=findings(results, results[0].name),
        table=Table.of(results),
        pictures=_pictures(run, problem, results, forward),
        facts=_facts(run, forward),
    )


def _pictures(run, problem, results, forward) -> list[Picture]:
    label, scenario = np.asarray(problem.test.activity), problem.scenario
    shared = min(result.n_cases for result in results)
    loss = results[0].metrics["bce"][:shared]
    case = int(np.argsort(loss)[shared // 2])
    judged = [result for result in results if result.threshold is not None]
    maps = {"truth": label[case], **{result.name: result.probability[case] for result in judged}}
    losses = {
        result.name: float(result.metrics["bce"].mean())
        for result in results[1:]
        if result.name not in ("prior", "chance")
    }
    focal = scenario.score == "magnitude"
    figures = (
        (
            cortical_maps(maps, problem.heads[0].sources, f"A typical test case (number {case + 1})",
                          label="probability of being active" + (", relative" if focal else ""), focal=focal),
            f"Truth and estimates on the inflated cortex, for the test case whose cross-entropy under "
            f"{results[0].name} is the median. Grey: medial wall.",
        ),
        (
            comparison(results),
            "Means over test cases with 95 % bootstrap intervals; the network on top.",
        ),
        (
            learning_curve(run.history, losses),
            "Loss of the network while it learns, and of the other methods on the test cases (dashed).",
        ),
        (
            reliability({result.name: result.probability for result in judged}, label),
            "Calibration on the test cases: on the diagonal a method knows how sure it may be.",
        ),
        (
            head_sections(run.head, np.asarray(forward.sensors.positions)),
            "The finite-element mesh, cut in three planes, and the electrodes within 12 mm of each.",
        ),
    )  # fmt: skip
    return [Picture(caption, to_png(figure)) for figure, caption in figures]


def _source_of_leadfields(run: RunFacts) -> str:
    if run.config.head.reduction is None:
        return "each solved exactly"
    return f"by a reduced model certified to {run.config.head.reduction:g}"


def _facts(run: RunFacts, forward: FemForward) -> tuple[Facts, ...]:
    known = {field.name for field in dataclasses.fields(HeadReport)}
    head = HeadReport(**{name: value for name, value in run.head_facts.items() if name in known})
    judged = [row["validation_loss"] for row in run.history if row["validation_loss"] is not None]
    last, solver = run.history[-1], run.forward_facts
    training = (
        (
            "distinct leadfields inside the jitted step",
            f"{last['leadfields']:,}, {_source_of_leadfields(run)}",
        ),
        ("updates", f"{last['step']:,}"),
        ("samples seen", f"{last['step'] * run.config.training.batch_size:,}"),
        ("best validation loss (nats)", f"{min(judged):.4f}" if judged else "not evaluated"),
    )
    nominal = ", ".join(
        f"{n} {float(s):g}" for n, s in zip(forward.tissue_names, np.asarray(forward.mean_conductivity))
    )
    operator = (
        ("solver", "conjugate gradients, algebraic multigrid"),
        ("relative residual asked", f"{solver['tolerance']:g}"),
        ("reached at nominal conductivities", f"{solver['residual']:.2g}"),
        ("iterations on test conductivities", " to ".join(map(str, solver["iterations"]))),
        ("nominal conductivities (S/m)", nominal),
    )
    durations = {
        "head": run.head_facts["seconds"],
        "forward operator": solver["seconds"],
        **({"reduced model": run.reduced_facts["seconds"]} if run.reduced_facts else {}),
        "training": last["seconds"],
        **run.seconds,
    }
    return (
        Facts("Head", head.rows()),
        Facts("Forward operator", operator),
        Facts("Training", training),
        Facts("Durations", tuple((name, f"{seconds:.1f} s") for name, seconds in durations.items())),
        Facts("Machine", machine()),
        Facts("Versions", tuple((name, importlib.metadata.version(name)) for name in PACKAGES)),
        Facts("Configuration", tuple(_settings(dataclasses.asdict(run.config)))),
    )


def machine() -> tuple[tuple[str, str], ...]:
    """Where this runs."""
    devices = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    return (
        ("JAX devices", f"{len(jax.devices())} × {devices} ({jax.default_backend()})"),
        ("CPU cores", str(os.cpu_count())),
        ("processor", platform.processor() or platform.machine()),
        ("system", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
    )


def _settings(tree: Mapping, prefix: str = ""):
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield prefix + name, str(value)
