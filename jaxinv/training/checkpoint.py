"""Checkpoints of a run with Orbax: the best and the last, atomic, with the configuration inside.

A step's directory appears by a rename once all of it is on the disk, so a killed process leaves whole steps
and temporary directories, which the next opening removes. Deletion renames into a subdirectory first, so
that a kill in the middle of one leaves no broken step in the list.
"""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

Tree = TypeVar("Tree")

FORMAT = 1
"""Version of what a checkpoint holds; another one is refused."""

_METRIC = "validation_loss"
_DELETED = "deleted"
_UNREADABLE = (ValueError, KeyError, TypeError, OSError, jax.errors.JaxRuntimeError)


class Checkpoints:
    """The checkpoints in one directory. A context; close it when done.

    Args:
        directory: made if it is not there and `create`.
        create: False only reads, and raises if there is nothing.

    Raises:
        ValueError: if only reading and the directory holds no checkpoint.
    """

    def __init__(self, directory: Path, *, create: bool = True):
        self.directory = Path(directory).absolute()
        steps = self.directory / "checkpoints"
        if not create and not steps.is_dir():
            raise ValueError(f"directory={str(directory)!r} holds no checkpoints of a training run")
        if create:
            steps.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(steps / _DELETED, ignore_errors=True)
        self._deleted = steps / _DELETED
        self._manager = ocp.CheckpointManager(
            steps,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy(
                    [LatestN(1), BestN(get_metric_fn=_loss, reverse=True, n=1)]
                ),
                best_fn=_loss,
                best_mode="min",
                create=False,
                cleanup_tmp_directories=create,
                todelete_subdir=_DELETED,
                enable_async_checkpointing=False,
            ),
        )
        if not create and self.last_step is None:
            self.close()
            raise ValueError(f"directory={str(directory)!r} holds no complete checkpoint of a training run")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory."""
        self._manager.close()

    @property
    def last_step(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint with the lowest validation loss, or None if none was evaluated."""
        step = self._manager.best_step()
        return None if step is None or math.isinf(_loss(self._manager.metrics(step))) else step

    def save(self, step: int, state: Tree, run: Mapping, validation_loss: float | None = None) -> None:
        """Save a state and the description of its run; return when it is on the disk.

        Args:
            step: number of the checkpoint, larger than that of any before.
            state: pytree of arrays.
            run: JSON values that say which run this is; checked when restoring.
            validation_loss: at this state, if it was evaluated there.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_named_leaves(state)),
            run=ocp.args.JsonSave({"format": FORMAT, **run}),
        )
        loss = math.inf if validation_loss is None else float(validation_loss)
        self._manager.save(step, args=items, metrics={_METRIC: loss}, force=True)
        self._manager.wait_until_finished()
        shutil.rmtree(self._deleted, ignore_errors=True)

    def restore_run(self, step: int) -> dict:
        """The description of the run that saved a step.

        Raises:
            ValueError: if it cannot be read, or another version of jaxinv wrote it.
        """
        try:
            items = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))
            run = dict(items["run"])
        except _UNREADABLE as error:
            raise ValueError(self._unreadable(step)) from error
        if run.pop("format", None) != FORMAT:
            raise ValueError(
                f"checkpoint {step} in {self.directory} is not of format {FORMAT}; "
                "use the version of jaxinv that wrote it"
            )
        return run

    def restore(self, step: int, like: Tree, run: Mapping | None = None) -> Tree:
        """The state of a step, bit for bit, as NumPy arrays in the structure of `like`.

        Args:
            step: one of the checkpoints.
            like: pytree of arrays with the shapes and dtypes to expect.
            run: what the description of the run must be; None takes any.

        Raises:
            ValueError: for a checkpoint that is truncated, of another run, or of another network.
        """
        saved = self.restore_run(step)
        if run is not None:
            _check_same_run(saved, json.loads(json.dumps(run)), self.directory)
        expected = _named_leaves(like)
        try:
            found = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(expected))
            )["state"]
        except _UNREADABLE as error:
            raise ValueError(self._unreadable(step)) from error
        return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in expected])

    def _unreadable(self, step: int) -> str:
        return (
            f"checkpoint {step} in {self.directory} is damaged or not one of jaxinv's; remove "
            f"{self.directory / 'checkpoints' / str(step)} to go back to the one before, if there is one"
        )


def _loss(metrics: Mapping) -> float:
    return metrics[_METRIC]


def _named_leaves(tree) -> dict[str, np.ndarray]:
    """Leaves as host arrays, named by their number and path, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {f"{i:04d}{jax.tree_util.keystr(path)}": np.asarray(leaf) for i, (path, leaf) in enumerate(leaves)}


def _check_same_run(saved: Mapping, asked: Mapping, directory: Path) -> None:
    different = [
        f"{name} was {_at(saved, name)!r} and is now {_at(asked, name)!r}"
        for name in sorted(_names(saved) | _names(asked))
        if _at(saved, name) != _at(asked, name)
    ]
    if different:
        raise ValueError(
            f"directory={str(directory)!r} holds a run with another configuration: {'; '.join(different)}. "
            "Resume with the configuration it began with, or train in another directory"
        )


def _names(tree: Mapping, prefix: str = "") -> set[str]:
    """Dotted names of the leaves of nested mappings."""
    names = set()
    for key, value in tree.items():
        names |= _names(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}"}
    return names


def _at(tree: Mapping, name: str):
    """The value at a dotted name, or None."""
    for key in name.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
