"""Where a run lives on the disk, and the rule that none overwrites another."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jaxinv.cli.config import RunConfig
from jaxinv.cli.config_file import differences, read_config, write_config

logger = logging.getLogger(__name__)

BAD_INPUT = (ValueError, FileNotFoundError, FloatingPointError)
"""What a command can be stopped by that the user can mend; the message says how."""


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
        (self.path / f"{stage}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    def noted(self, stage: str) -> dict | None:
        """What a stage found, or None if it did not finish in this directory."""
        path = self.path / f"{stage}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    @contextmanager
    def log_file(self, logger: logging.Logger) -> Iterator[None]:
        """Append what is logged, tracebacks of errors included, to `run.log`."""
        handler = logging.FileHandler(self.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        try:
            yield
        except BAD_INPUT:
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
            ValueError: if the path is taken by something that is not a run of jaxinv.
        """
        run = cls(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if not run.config.is_file():
                raise ValueError(
                    f"{path} holds something that is not a run of jaxinv; choose another directory"
                )
            if not run.is_trained and not differences(read_config(run.config), config):
                return run
            moved = _free_name(path, datetime.fromtimestamp(run.config.stat().st_mtime))
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
