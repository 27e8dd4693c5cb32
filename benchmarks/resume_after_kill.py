"""Kill a training run at random moments, resume it, and compare it with an unbroken one, bit by bit.

`python benchmarks/resume_after_kill.py --kills 10` trains a toy in a subprocess, ends it with SIGKILL after a
random time, as often as asked, lets the last one finish, and exits with 1 if its final parameters or its
metrics differ from those of a run that was left alone. The forward model is a weighted sum of random smooth
leadfields, so that the time goes into what is tested: steps, checkpoints and restores.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxinv.head
import jaxinv.networks
import jaxinv.simulate
import jaxinv.training
from jaxinv.tissues import conductivity_range

PAUSE = 0.05
"""Seconds that a worker that is to be killed waits after every step."""

N_CHANNELS, N_SOURCES = 12, 64
NETWORK = jaxinv.networks.UNetConfig(
    latent_length=16, width=4, depth=0, correction_stages=1, correction_width=4
)
CONFIG = jaxinv.training.TrainConfig(
    updates=120,
    updates_per_leadfield=2,
    batch_size=8,
    warmup=4,
    evaluate_every=4,
    checkpoint_every=2,
    patience=None,
    validation_size=16,
    validation_leadfields=2,
)


@flax.struct.dataclass
class SumOfLeadfields:
    """A forward model whose leadfield is linear in the conductivities."""

    sources: jaxinv.head.SourceSpace
    sensors: jaxinv.head.Electrodes
    conductivity: Float[Array, " tissue"]
    parts: Float[Array, "tissue channel source"]
    tissue_names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=("scalp", "grey", "white"))
    conductivities_at_once: ClassVar[int] = 4

    def leadfield(self, conductivity=None, *, sources=None, sensors=None):
        """The leadfield, (channel, source), average reference."""
        conductivity = self.conductivity if conductivity is None else conductivity
        unreferenced = jnp.tensordot(conductivity, self.parts, axes=1)
        return self.sensors.reference_operator(self.parts.dtype) @ unreferenced

    def project(self, conductivity, current, *, sensors=None):
        """Measurements of currents along the normals."""
        return self.leadfield(conductivity) @ current

    @property
    def conductivity_range(self):
        """Lower and upper conductivities, in S/m."""
        return conductivity_range(self.tissue_names)


def problem():
    """Forward model, activity and noise, the same in every process."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(N_CHANNELS + N_SOURCES, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    electrodes, normals = 0.09 * directions[:N_CHANNELS], directions[N_CHANNELS:]
    distance = np.linalg.norm(electrodes[:, None] - 0.075 * normals[None], axis=-1)
    forward = SumOfLeadfields(
        sources=jaxinv.head.SourceSpace(0.075 * normals, normals),
        sensors=jaxinv.head.Electrodes(electrodes),
        conductivity=jnp.asarray([0.43, 0.33, 0.14], jnp.float32),
        parts=jnp.asarray([(0.05 / distance) ** power for power in (1.0, 2.0, 3.0)], jnp.float32),
    )
    activity = jaxinv.simulate.HalfActiveMaps.build(forward.sources, correlation_length=0.05)
    return forward, activity, jaxinv.simulate.WhiteNoise(snr_db=(20.0, 20.0))


def work(directory: Path, pause: float) -> None:
    """Train, or go on training, in `directory`; wait a little after every step; save what came out."""

    def rest(_row):
        time.sleep(pause)

    result = jaxinv.training.train(
        *problem(), NETWORK, CONFIG, directory, resume=True, progress=False, callbacks=[rest]
    )
    leaves = {f"{i:03d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(result.last_state))}
    np.savez(directory / "last_state.npz", **leaves)


def start(directory: Path, pause: float, cache: Path) -> subprocess.Popen:
    """The worker in a process of its own; compiled code is shared through a cache."""
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, __file__, "--work", str(directory), "--pause", str(pause)]
    return subprocess.Popen(command, env=environment)


def steps_done(directory: Path) -> int:
    """Lines of metrics written so far."""
    path = directory / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_at_random(process: subprocess.Popen, directory: Path, most: int, rng: random.Random) -> bool:
    """SIGKILL somewhere in or after one of the next `most` steps; False if the run ended before."""
    last_step = steps_done(directory) + rng.randint(1, most)
    while process.poll() is None:
        if steps_done(directory) >= last_step:
            time.sleep(rng.uniform(0.0, 2 * PAUSE))
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.003)
    return False


def finish(process: subprocess.Popen) -> None:
    """Wait for a worker to end well."""
    if process.wait():
        raise RuntimeError(f"a worker ended with status {process.returncode}; its message is above")


def outcome(directory: Path) -> tuple[dict[str, np.ndarray], list[dict]]:
    """Final state and metrics, without the clock's."""
    state = dict(np.load(directory / "last_state.npz"))
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return state, [{k: v for k, v in row.items() if k not in ("rate", "seconds")} for row in rows]


def compare(kills: int, seed: int) -> bool:
    """Print and return whether killed and unbroken runs ended alike."""
    rng = random.Random(seed)
    root = Path(tempfile.mkdtemp(prefix="resume-after-kill-"))
    unbroken, killed, cache = root / "unbroken", root / "killed", root / "cache"
    finish(start(unbroken, 0.0, cache))
    done = 0
    while done < kills:
        process = start(killed, PAUSE, cache)
        most = CONFIG.updates // CONFIG.updates_per_leadfield // (kills + 1)
        if not kill_at_random(process, killed, most, rng):
            finish(process)
            break
        done += 1
        print(f"kill {done}: {steps_done(killed)} steps in the metrics", flush=True)
    finish(start(killed, 0.0, cache))
    (state, rows), (expected_state, expected_rows) = outcome(killed), outcome(unbroken)
    same_state = all(np.array_equal(state[name], expected_state[name]) for name in expected_state)
    same_rows = rows == expected_rows
    print(f"{done} kills of {kills}; final state identical: {same_state}; metrics identical: {same_rows}")
    shutil.rmtree(root)
    return done == kills and same_state and same_rows


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10, help="how often to kill the run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pause", type=float, default=0.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if arguments.work is not None:
        work(arguments.work, arguments.pause)
        return 0
    return 0 if compare(arguments.kills, arguments.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
