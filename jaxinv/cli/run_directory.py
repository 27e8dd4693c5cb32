"""Where a run lives on the disk, and the rule that none overwrites another."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from jaxinv.cli.config import RunConfig
from jaxinv.cli.config_file import differences, read_config, write_config
from jaxinv.cli.json_file import read_json, write_json
from jaxinv.whole_file import PARTIAL

logger = logging.getLogger(__name__)

BAD_INPUT = (ValueError, OSError, FloatingPointError)
"""What a command can be stopped by that the user can mend; the message says how, or names the file."""


@dataclass(frozen=True)
class RunDirectory:
    """Names of all that a run leaves behind.

    Attributes:
        path: of the directory. Training adds `metrics.jsonl` and `checkpoints/`.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.path / "config.json"

    @property
    def head(self) -> Path:
        """The head model."""
        return self.path / "head.npz"

    @property
    def forward(self) -> Path:
        """The forward operator, with sources and sensors."""
        return self.path / "forward.npz"

    @property
    def reduced(self) -> Path:
        """The reduced forward model, which training simulates with."""
        return self.path / "reduced.npz"

    @property
    def reduction(self) -> Path:
        """Finished parts of a reduced model in work."""
        return self.path / "reduction"

    @property
    def evaluation(self) -> Path:
        """The figures of the table, case by case."""
        return self.path / "evaluation.json"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        """What was logged, with the tracebacks of errors."""
        return self.path / "run.log"

    @property
    def is_trained(self) -> bool:
        """Whether training has left a checkpoint here."""
        return (self.path / "checkpoints").is_dir()

    def note(self, stage: str, facts: Mapping) -> None:
        """Keep what a finished stage found, as JSON; this also says that it is finished."""
        write_json(self._note_of(stage), facts)

    def noted(self, stage: str) -> dict | None:
        """What a stage found, or None if it did not finish in this directory.

        Raises:
            ValueError: if the file is damaged.
        """
        path = self._note_of(stage)
        if not path.is_file():
            return None
        return read_json(path, "delete it, so that its stage is done again, or begin anew elsewhere")

    def has_forward(self) -> bool:
        """Whether the forward operator is finished, and with it the head.

        Raises:
            ValueError: if what was noted of either is damaged, or of the head alone is missing.
        """
        if self.noted("forward") is None:
            return False
        if self.noted("head") is None:
            raise ValueError(
                f"{self._note_of('head')} is missing, the head of {self._note_of('forward')}: put it back, "
                "or delete that one too, so that head and forward operator are built anew"
            )
        return True

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process builds or trains here meanwhile; the end of this one gives the directory free.

        Raises:
            ValueError: if another one is at work.
        """
        lock = FileLock(self.path / ".lock", blocking=False)
        try:
            lock.acquire()
        except Timeout as error:
            raise ValueError(
                f"another process is at work in {self.path}: wait for its end, or choose another --directory"
            ) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def log_file(self, logger: logging.Logger) -> Iterator[None]:
        """Append what is logged, tracebacks of errors included, to `run.log`."""
        handler = logging.FileHandler(self.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        try:
            yield
        except (*BAD_INPUT, RuntimeError):
            logger.debug("stopped by an error", exc_info=True)
            raise
        finally:
            logger.removeHandler(handler)
            handler.close()

    @classmethod
    def begin(cls, path: Path, config: RunConfig) -> "RunDirectory":
        """A directory for a new run.

        A run that is already there is moved beside it, whole; one of the same configuration that has a head
        but has not been trained is gone on with.

        Raises:
            ValueError: if the path holds something that is not a run of jaxinv, or one that another process
                is at work on, or cannot be written to.
        """
        run = cls(path)
        with writing_to(path):
            if run._is_taken():
                if not run.is_trained and not differences(read_config(run.config), config):
                    return run
                moved = _free_name(path, datetime.fromtimestamp(run.config.stat().st_mtime))
                with run.alone():
                    path.rename(moved)
                logger.warning("%s held an earlier run, which is now in %s", path, moved)
            path.mkdir(parents=True, exist_ok=True)
            write_config(run.config, config)
        return run

    @classmethod
    def existing(cls, path: Path, config: RunConfig | None = None) -> tuple["RunDirectory", RunConfig]:
        """The directory of a run that began before, and the run's configuration.

        Args:
            path: of the directory.
            config: what the configuration must be; None takes any.

        Raises:
            ValueError: if there is no run, or it has another configuration.
        """
        run = cls(path)
        found = read_config(run.config)
        if config is not None and (different := differences(found, config)):
            raise ValueError(
                f"{path} holds a run with another configuration, then and now: {'; '.join(different)}. "
                "Leave out --resume to begin anew, or these options to go on with it"
            )
        return run, found

    def _is_taken(self) -> bool:
        """Whether there is a run already; raises where there is something else."""
        if not self.path.exists():
            return False
        if self.path.is_dir() and all(file.suffix == PARTIAL for file in self.path.iterdir()):
            return False
        if not self.config.is_file():
            raise ValueError(
                f"{self.path} holds something that is not a run of jaxinv; choose another directory"
            )
        return True

    def _note_of(self, stage: str) -> Path:
        return self.path / f"{stage}.json"


@contextmanager
def writing_to(directory: Path) -> Iterator[None]:
    """Say which directory it is that cannot be made or written to.

    Raises:
        ValueError: in place of the system's error.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot write to {directory}: {error.strerror}; choose another --directory"
        ) from error


def new_run_path(preset: str) -> Path:
    """runs/<preset>-<date>-<time>."""
    return _free_name(Path("runs") / preset, datetime.now())


def _free_name(path: Path, when: datetime) -> Path:
    """The path with a time behind its name, and a number where that is taken."""
    stamped = path.with_name(f"{path.name}-{when:%Y%m%d-%H%M%S}")
    free, count = stamped, 1
    while free.exists():
        count += 1
        free = stamped.with_name(f"{stamped.name}-{count}")
    return free
