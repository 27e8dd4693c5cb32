"""The entry point `jaxinv`: parse, dispatch, and say clearly what went wrong."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import NoReturn

import jax
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from jaxinv import cli
from jaxinv.cli.commands import Command, Evaluate, Head, Judge, Run, Train, parse
from jaxinv.cli.config import RunConfig
from jaxinv.cli.run_directory import BAD_INPUT, RunDirectory, new_run_path
from jaxinv.training import TrainingInterrupted
from jaxinv.training.parallel import batch_mesh

REFUSED, INTERRUPTED = 2, 130  # exit codes
WIDTH_OF_FILES = 140  # of the table, where there is no terminal that has a width

logger = logging.getLogger("jaxinv")


def main(args: Sequence[str] | None = None) -> None:
    """Run a command. Exits with 2 and one message for what the user can mend, with 130 after Ctrl-C.

    The user can mend bad input, a directory that cannot be written to, and settings for which no solver
    converges.

    Switches x64 on, which the solver's reference precision needs.

    Args:
        args: what was typed after `jaxinv`; the process's own when None.
    """
    jax.config.update("jax_enable_x64", True)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_OF_FILES)
    try:
        with _logged_to(console):
            _execute(parse(sys.argv[1:] if args is None else args), console)
    except BAD_INPUT as error:
        _refuse(error)
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # those of XLA and of Python are faults: the traceback says where
            raise
        _refuse(error)
    except KeyboardInterrupt:
        console.print("[yellow]stopped[/]")
        sys.exit(INTERRUPTED)


def _refuse(error: Exception) -> NoReturn:
    Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
    sys.exit(REFUSED)


def _execute(command: Command, console: Console) -> None:
    if isinstance(command, Head) and command.directory is None:
        cli.stages.build_head(command.config.head, console)
        return
    if isinstance(command, Judge):
        _judge(command, console)
        return
    if isinstance(command, Run | Train):
        batch_mesh(command.config.training.batch_size)  # refuses what does not divide over the devices
    with _run_of(command, console) as (run, config):
        if isinstance(command, Head):
            cli.stages.begin_with_head(run, config, console)
            console.print(f"train on it with: jaxinv train --resume --directory {run.path}")
            return
        forward = cli.stages.build_forward(run, config, console)
        if isinstance(command, Run | Train):
            simulator = cli.stages.reduce_forward(run, config, forward, console)
            cli.stages.train_stage(run, config, simulator, console)
        if isinstance(command, Train):
            console.print(f"evaluate it with: jaxinv evaluate --directory {run.path}")
            return
        cli.stages.evaluate_stage(run, config, forward, console)
        console.print(f"[bold]the report is {run.report}[/], the figures of each case are {run.evaluation}")


def _judge(command: Judge, console: Console) -> None:
    try:
        cli.stages.judge_stage(command, console)
    except KeyboardInterrupt:
        console.print("[yellow]stopped[/]\nfinished results are kept; the same command goes on")
        sys.exit(INTERRUPTED)


@contextmanager
def _run_of(command: Command, console: Console) -> Iterator[tuple[RunDirectory, RunConfig]]:
    """The run that a command is about and its configuration; on Ctrl-C says how to go on with it."""
    if isinstance(command, Evaluate):
        run, config = RunDirectory.existing(command.directory)
        if not run.is_trained:
            raise ValueError(f"{run.path} has not been trained: first `jaxinv train --directory {run.path}`")
        config = replace(config, evaluation=command.evaluation)
    elif isinstance(command, Run | Train) and command.resume:
        run, config = RunDirectory.existing(command.directory, command.config)
    else:
        config = command.config
        run = RunDirectory.begin(command.directory or new_run_path(command.preset), config)
    console.print(f"everything is written to [bold]{run.path}[/]")
    with nullcontext() if isinstance(command, Evaluate) else run.alone(), run.log_file(logger):
        try:
            yield run, config
        except KeyboardInterrupt as stop:
            said = str(stop) if isinstance(stop, TrainingInterrupted) else "stopped"
            console.print(f"[yellow]{escape(said)}[/]\nfinished stages are kept; go on with:")
            console.print(f"  jaxinv {_going_on(command)} --directory {run.path}", highlight=False)
            sys.exit(INTERRUPTED)


def _going_on(command: Command) -> str:
    """The command that goes on with an interrupted one, its directory left out."""
    if isinstance(command, Evaluate):
        return "evaluate"
    return "run --resume" if isinstance(command, Run) else "train --resume"


@contextmanager
def _logged_to(console: Console) -> Iterator[None]:
    """Show what the package logs from INFO on, once. Other packages' loggers are left as they are."""
    handler = RichHandler(console=console, show_path=False, show_time=False)
    handler.setLevel(logging.INFO)
    before = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # some library's handler of the root logger would show all of it again
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
