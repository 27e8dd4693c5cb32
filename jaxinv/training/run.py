"""What a run is: its description for the checkpoint, the keys it draws from, the state it starts from."""

import dataclasses
import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Key

from jaxinv.networks import DirectInversionUNet, UNetConfig
from jaxinv.training.checkpoint import Checkpoints
from jaxinv.training.config import TrainConfig
from jaxinv.training.step import TrainState
from jaxinv.training.trained import TrainedNetwork


@dataclasses.dataclass(frozen=True)
class RunKeys:
    """Independent keys for each thing that a run draws."""

    parameters: Key[Array, ""]
    steps: Key[Array, ""]
    validation: Key[Array, ""]
    whitening: Key[Array, ""]

    @classmethod
    def from_seed(cls, seed: int) -> "RunKeys":
        """All keys of a run with this seed."""
        return cls(*jax.random.split(jax.random.key(seed), len(dataclasses.fields(cls))))


def describe_run(forward, activity, noise, network: UNetConfig, config: TrainConfig) -> dict:
    """JSON values that a resumed run must share with the one that it goes on from."""
    return {
        "n_channels": forward.sensors.n_channels,
        "n_sources": forward.sources.n_sources,
        "tissue_names": list(forward.tissue_names),
        "forward": {
            "type": type(forward).__name__,
            "conductivity_range": [np.asarray(bound).tolist() for bound in forward.conductivity_range],
            "tolerance": getattr(forward, "tolerance", None),
            "places": _digest((forward.sources, forward.sensors)),
        },
        "activity": _describe(activity),
        "noise": _describe(noise),
        "network": dataclasses.asdict(network),
        "training": dataclasses.asdict(config),
    }


def new_network(run: dict) -> DirectInversionUNet:
    """The untrained network of a described run."""
    key = RunKeys.from_seed(run["training"]["seed"]).parameters
    config = UNetConfig(**run["network"])
    return DirectInversionUNet(run["n_channels"], run["n_sources"], config, rngs=nnx.Rngs(params=key))


def load_trained(directory: str | Path) -> TrainedNetwork:
    """The best network of a run, by validation loss, from its directory alone.

    Args:
        directory: the one given to `train`, of a finished or an interrupted run.

    Raises:
        ValueError: if there is no checkpoint, none was evaluated yet, or it is damaged.
    """
    with Checkpoints(Path(directory), create=False) as checkpoints:
        return restore_best(checkpoints)


def restore_best(checkpoints: Checkpoints) -> TrainedNetwork:
    """The network of the checkpoint with the lowest validation loss.

    Raises:
        ValueError: if none was evaluated yet, or it is damaged.
    """
    step = checkpoints.best_step
    if step is None:
        raise ValueError(
            f"no checkpoint in {checkpoints.directory} has been evaluated yet; resume the training first"
        )
    run = checkpoints.restore_run(step)
    graphdef, like = TrainState.create(new_network(run), TrainConfig(**run["training"]))
    state = jax.tree.map(jnp.asarray, checkpoints.restore(step, like))
    return TrainedNetwork.of(state.network(graphdef))


def _digest(tree) -> str:
    """Of all numbers in a pytree."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _describe(model) -> dict:
    """Type and settings of a frozen pytree; of its arrays the shapes."""
    values = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    settings = {
        name: list(value.shape) if hasattr(value, "shape") else repr(value) for name, value in values.items()
    }
    return {"type": type(model).__name__, **settings}
