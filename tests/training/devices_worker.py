"""Run two steps of the toy on eight devices and save the parameters: `devices_worker.py FILE`."""

import sys

import jax
import numpy as np
from conftest import TINY, leaves, toy_config, toy_problem
from flax import nnx

from jaxinv.networks import DirectInversionUNet
from jaxinv.training.parallel import batch_mesh, replicated
from jaxinv.training.step import TrainState, make_train_step


def main(path: str) -> None:
    jax.config.update("jax_enable_x64", True)
    config = toy_config()
    mesh = batch_mesh(config.batch_size)
    if mesh.size != 8:
        raise ValueError(f"found {mesh.size} devices, not 8")
    graphdef, state = TrainState.create(DirectInversionUNet(16, 96, TINY, rngs=nnx.Rngs(0)), config)
    key, state, problem = replicated((jax.random.key(1), state, toy_problem()), mesh)
    step = make_train_step(graphdef, config, mesh)
    for _ in range(2):
        state, _ = step(key, state, *problem)
    if "all-reduce" not in step.lower(key, state, *problem).compile().as_text():
        raise ValueError("the batch is not divided over the devices")
    np.savez(path, **{f"{i:03d}": leaf for i, leaf in enumerate(leaves(state.params))})


if __name__ == "__main__":
    main(sys.argv[1])
