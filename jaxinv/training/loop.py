"""The training loop: steps, evaluations, checkpoints, metrics, early stopping, interruption."""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from jaxinv.forward.protocol import Forward
from jaxinv.networks import InputScaling, UNetConfig
from jaxinv.simulate import ActivityModel, WhiteNoise
from jaxinv.training.checkpoint import Checkpoints
from jaxinv.training.config import TrainConfig
from jaxinv.training.interruption import Interruption, TrainingInterrupted
from jaxinv.training.metrics_log import MetricsLog, Row
from jaxinv.training.parallel import batch_mesh, replicated
from jaxinv.training.progress import TrainingProgress
from jaxinv.training.run import RunKeys, describe_run, new_network, restore_best
from jaxinv.training.simulation import LabelledSet, simulate_set, whitening
from jaxinv.training.step import StepReport, TrainState, make_train_step, make_validation_loss
from jaxinv.training.trained import TrainedNetwork

_WHITENING_SAMPLES_A_CHANNEL = 8


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What came of a run.

    Attributes:
        network: the one with the lowest validation loss.
        history: a row of metrics for each step, as in `metrics.jsonl`.
        best_update: updates made when the validation loss was lowest.
        best_validation_loss: binary cross-entropy, in nats.
        updates: made in all.
        leadfields_solved: in training steps, validation not counted.
        seconds: in all processes that worked on the run, compilation included.
        stopped_early: whether patience ran out.
        last_state: state after the last update.
    """

    network: TrainedNetwork
    history: list[Row]
    best_update: int
    best_validation_loss: float
    updates: int
    leadfields_solved: int
    seconds: float
    stopped_early: bool
    last_state: TrainState


def train(
    forward: Forward,
    activity: ActivityModel,
    noise: WhiteNoise,
    network: UNetConfig,
    config: TrainConfig,
    directory: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callable[[Row], None]] = (),
) -> TrainResult:
    """Train a `DirectInversionUNet` on measurements simulated on the fly.

    Each step draws conductivities, for every sample or for a few updates, and updates the network on batches
    simulated for them inside the jitted step. The validation set is simulated once, from its own leadfields.
    On several devices the batch is divided over them.

    The directory receives `metrics.jsonl` and `checkpoints/`, which keep the best and the last state.
    A run that is killed and resumed ends, on the same machine, with the same parameters to the bit as an
    unbroken one. Ctrl-C or SIGTERM finishes the step and saves a checkpoint first.

    Args:
        forward: a `Forward` with sources of fixed orientation.
        activity: sampler of source activity, made for its sources.
        noise: model of sensor noise.
        network: sizes of the network.
        config: settings of the training.
        directory: where the run lives.
        resume: go on from the last checkpoint in the directory; if there is none yet, warn and begin.
        progress: show a progress bar.
        callbacks: each is called with the row of metrics after every step.

    Returns:
        The best network and the run's figures.

    Raises:
        ValueError: for sources of free orientation, a batch that does not divide over the devices, a
            directory that already holds a run, or a checkpoint that is damaged or of another configuration.
        FloatingPointError: if a leadfield, a loss or a gradient is not finite; such an update changes
            nothing, and the last checkpoint stands.
        TrainingInterrupted: after Ctrl-C or SIGTERM.
    """
    if not forward.sources.is_fixed:
        raise ValueError("forward.sources have free orientation; give the SourceSpace normals to train on it")
    directory = Path(directory)
    mesh = batch_mesh(config.batch_size)
    run = describe_run(forward, activity, noise, network, config)
    keys = RunKeys.from_seed(config.seed)
    physics = replicated((forward, activity, noise), mesh)
    log = MetricsLog(directory / "metrics.jsonl")
    began = time.perf_counter()
    with Checkpoints(directory) as checkpoints:
        _check_directory(checkpoints, resume)
        graphdef, state = TrainState.create(new_network(run), config)
        last = checkpoints.last_step
        if last is not None:
            state = checkpoints.restore(last, state, run)
        elif config.whiten_input:
            state = _whitened(state, graphdef, keys, physics, config)
        history = log.cut(0 if last is None else last)
        loop = _Loop(
            step=make_train_step(graphdef, config, mesh),
            validation_loss=make_validation_loss(graphdef),
            validation=_validation_set(keys, physics, config),
            key=replicated(keys.steps, mesh),
            physics=physics,
            config=config,
            run=run,
            checkpoints=checkpoints,
            log=log,
            callbacks=callbacks,
            began=began - (history[-1]["seconds"] if history else 0.0),
        )
        state = loop.iterate(replicated(state, mesh), history, progress=progress)
        return TrainResult(
            network=restore_best(checkpoints),
            history=history,
            best_update=int(state.best_update),
            best_validation_loss=float(state.best_loss),
            updates=int(state.update),
            leadfields_solved=int(state.leadfields),
            seconds=history[-1]["seconds"],
            stopped_early=int(state.update) < config.updates,
            last_state=state,
        )


@dataclasses.dataclass(frozen=True)
class _Loop:
    """All that stays the same from step to step."""

    step: Callable
    validation_loss: Callable
    validation: LabelledSet
    key: jax.Array
    physics: tuple
    config: TrainConfig
    run: dict
    checkpoints: Checkpoints
    log: MetricsLog
    callbacks: Sequence[Callable[[Row], None]]
    began: float

    def iterate(self, state: TrainState, history: list[Row], *, progress: bool) -> TrainState:
        """Step until the run is finished; append a row to `history` for each."""
        bar = TrainingProgress(self.config.updates, int(state.update), visible=progress)
        with Interruption() as interruption, bar:
            while not self.is_finished(state):
                state, row = self.advance(state)
                history.append(row)
                bar.show(row)
                for callback in self.callbacks:
                    callback(row)
                if interruption.signal_name and not self.is_finished(state):
                    if self.checkpoints.last_step != row["step"]:
                        self.checkpoints.save(row["step"], state, self.run, row["validation_loss"])
                    raise TrainingInterrupted(self.farewell(row["step"], interruption.signal_name))
        return state

    def advance(self, state: TrainState) -> tuple[TrainState, Row]:
        """One step, with the evaluation and the checkpoint that are due after it."""
        config, before, started = self.config, int(state.update), time.perf_counter()
        state, report = self.step(self.key, state, *self.physics)
        update = int(state.update)
        _check_step(state, report)
        loss = None
        if _is_due(before, update, config.evaluate_every) or update == config.updates:
            loss = float(self.validation_loss(state, self.validation))
            state = state.evaluated(loss)
        now = time.perf_counter()
        row = {
            "step": update,
            "train_loss": float(report.loss),
            "validation_loss": loss,
            "learning_rate": float(report.learning_rate),
            "leadfields": int(state.leadfields),
            "rate": (update - before) / (now - started),
            "seconds": now - self.began,
        }
        self.log.append(row)
        is_best = loss is not None and int(state.best_update) == update
        if is_best or _is_due(before, update, config.checkpoint_every) or self.is_finished(state):
            self.checkpoints.save(update, state, self.run, loss)
        return state, row

    def is_finished(self, state: TrainState) -> bool:
        """Whether all updates are made or patience has run out."""
        patience = math.inf if self.config.patience is None else self.config.patience
        return int(state.update) >= self.config.updates or int(state.stale_evaluations) >= patience

    def farewell(self, update: int, signal_name: str) -> str:
        """What to tell the user who interrupted."""
        directory = self.checkpoints.directory
        return (
            f"stopped by {signal_name} after update {update} of {self.config.updates}; the checkpoint is in "
            f"{directory}. Go on with `jaxinv train --resume` or train(..., directory, resume=True)"
        )


def _check_directory(checkpoints: Checkpoints, resume: bool) -> None:
    if checkpoints.last_step is not None and not resume:
        raise ValueError(
            f"directory={str(checkpoints.directory)!r} already holds a run, at update "
            f"{checkpoints.last_step}; pass resume=True to go on with it, or another directory"
        )
    if checkpoints.last_step is None and resume:
        warnings.warn(
            f"no checkpoint in {checkpoints.directory} to resume from: training begins", stacklevel=3
        )


def _whitened(state, graphdef, keys: RunKeys, physics, config: TrainConfig) -> TrainState:
    """The state with its input scaling set from simulated measurements."""
    forward = physics[0]
    groups = config.validation_leadfields
    needed = _WHITENING_SAMPLES_A_CHANNEL * forward.sensors.n_channels
    size = max(config.validation_size, math.ceil(needed / groups) * groups)
    data = simulate_set(
        keys.whitening, *physics, size=size, leadfields=groups, displacement=config.displacement
    )
    _check_set(data, "whitening")
    scaling = whitening(state.network(graphdef), data)
    return state.replace(
        statistics=jax.tree.map(
            lambda variable: variable.replace(scaling),
            state.statistics,
            is_leaf=lambda x: isinstance(x, InputScaling),
        )
    )


def _validation_set(keys: RunKeys, physics, config: TrainConfig) -> LabelledSet:
    data = simulate_set(
        keys.validation,
        *physics,
        size=config.validation_size,
        leadfields=config.validation_leadfields,
        displacement=config.displacement,
    )
    _check_set(data, "validation")
    return data


def _check_set(data: LabelledSet, name: str) -> None:
    if not jax.numpy.isfinite(data.measurements).all():
        raise FloatingPointError(
            f"measurements of the {name} set are not finite: a leadfield did not converge; "
            "see forward.solve_report(conductivity), and loosen its tolerance or mend the head"
        )


def _check_step(state: TrainState, report: StepReport) -> None:
    if int(state.unsolved):
        raise FloatingPointError(
            f"the leadfield of the step that ended at update {int(state.update)} is not finite: its solve "
            "did not converge. No parameter was changed by it; see forward.solve_report(conductivity), and "
            "loosen its tolerance or mend the head"
        )
    if int(state.skipped):
        raise FloatingPointError(
            f"{int(state.skipped)} updates before update {int(state.update)} had a loss or gradient that was "
            f"not finite (mean loss {float(report.loss)}) and were skipped; lower learning_rate or "
            "gradient_clip"
        )


def _is_due(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return after // every > before // every
