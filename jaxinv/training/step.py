"""One jitted training step: solve a leadfield, then several updates on batches simulated from it."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from jaxinv.networks import DirectInversionUNet
from jaxinv.training.config import TrainConfig
from jaxinv.training.optimiser import learning_rate, make_optimiser
from jaxinv.training.parallel import split_over_batch
from jaxinv.training.simulation import LabelledSet, draw_batch, draw_fresh_batch, draw_leadfield


@flax.struct.dataclass
class TrainState:
    """All that changes during a run. A pytree; counters are int32, the rest float32.

    Attributes:
        params: the network's parameters.
        statistics: its variables that are not trained (`input_scaling`).
        opt_state: the optimiser's state.
        update: updates made, skipped ones included; the keys of a step derive from it.
        leadfields: leadfields solved in steps.
        unsolved: leadfields that were not finite.
        skipped: updates whose loss or gradient was not finite, so that parameters stayed as they were.
        best_loss: lowest validation loss so far.
        best_update: `update` at that loss.
        stale_evaluations: evaluations since then.
    """

    params: nnx.State
    statistics: nnx.State
    opt_state: optax.OptState
    update: Int[Array, ""]
    leadfields: Int[Array, ""]
    unsolved: Int[Array, ""]
    skipped: Int[Array, ""]
    best_loss: Float[Array, ""]
    best_update: Int[Array, ""]
    stale_evaluations: Int[Array, ""]

    @classmethod
    def create(cls, network: DirectInversionUNet, config: TrainConfig) -> tuple[nnx.GraphDef, "TrainState"]:
        """The static half of a network and the state of a run that starts from it."""
        graphdef, params, statistics = nnx.split(network, nnx.Param, ...)
        zero = jnp.zeros((), jnp.int32)
        state = cls(
            params=params,
            statistics=statistics,
            opt_state=make_optimiser(config).init(params),
            update=zero,
            leadfields=zero,
            unsolved=zero,
            skipped=zero,
            best_loss=jnp.full((), jnp.inf, jnp.float32),
            best_update=zero,
            stale_evaluations=zero,
        )
        return graphdef, state

    def network(self, graphdef: nnx.GraphDef) -> DirectInversionUNet:
        """A network with this state's parameters; changing its variables leaves the state alone."""
        params, statistics = jax.tree.map(lambda leaf: leaf, (self.params, self.statistics))
        return nnx.merge(graphdef, params, statistics)

    def evaluated(self, loss: float) -> "TrainState":
        """The state after an evaluation that gave this validation loss."""
        loss = jnp.asarray(loss, jnp.float32)
        better = loss < self.best_loss
        return self.replace(
            best_loss=jnp.where(better, loss, self.best_loss),
            best_update=jnp.where(better, self.update, self.best_update),
            stale_evaluations=jnp.where(better, 0, self.stale_evaluations + 1).astype(jnp.int32),
        )


@flax.struct.dataclass
class StepReport:
    """What a step has to say. A pytree.

    Attributes:
        loss: mean training loss over the step's updates.
        learning_rate: of the last of them.
    """

    loss: Float[Array, ""]
    learning_rate: Float[Array, ""]


Step = Callable[..., tuple[TrainState, StepReport]]


def binary_cross_entropy(
    logits: Float[Array, "*batch source"], labels: Float[Array, "*batch source"]
) -> Float[Array, ""]:
    """Mean binary cross-entropy over samples and sources, in nats."""
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels))


def make_train_step(graphdef: nnx.GraphDef, config: TrainConfig, mesh: Mesh) -> Step:
    """Compile-once training step.

    The step makes one update on a batch whose samples have conductivities of their own; or it draws
    conductivities, solves their leadfield, and scans over `config.updates_per_leadfield` updates, each on a
    batch simulated for it. All keys derive from `key` and the state's counter, so a
    resumed run draws what an unbroken one would. An update whose loss or gradient is not finite leaves
    parameters and optimiser alone and is counted in the state.

    Args:
        graphdef: static half of the network.
        config: settings.
        mesh: devices that the batch is divided over; see `batch_mesh`.

    Returns:
        `step(key, state, forward, activity, noise) -> (state, report)`, jitted; forward, activity and noise
        are pytrees and travel as arguments.
    """
    optimiser = make_optimiser(config)

    def loss_of(params, statistics, measurements, labels):
        return binary_cross_entropy(nnx.merge(graphdef, params, statistics)(measurements), labels)

    @jax.jit
    def step(key: Key[Array, ""], state: TrainState, forward, activity, noise):
        leadfield_key, batch_key = jax.random.split(jax.random.fold_in(key, state.update))
        shared = None
        if config.updates_per_leadfield:
            shared = draw_leadfield(leadfield_key, forward, config.displacement)

        def update(state: TrainState, inner_key):
            if shared is None:
                batch = draw_fresh_batch(
                    inner_key, forward, activity, noise, config.batch_size, config.displacement
                )
                finite = jnp.isfinite(batch[0]).all(axis=1).sum(dtype=jnp.int32)
                state = state.replace(
                    leadfields=state.leadfields + finite,
                    unsolved=state.unsolved + config.batch_size - finite,
                )
            else:
                batch = draw_batch(inner_key, shared, forward, activity, noise, config.batch_size)
            measurements, labels = (split_over_batch(array, mesh) for array in batch)
            loss, gradient = jax.value_and_grad(loss_of)(state.params, state.statistics, measurements, labels)
            changes, opt_state = optimiser.update(gradient, state.opt_state, state.params)
            usable = _all_finite((loss, gradient))
            params, opt_state = jax.tree.map(
                lambda new, old: jnp.where(usable, new, old),
                (optax.apply_updates(state.params, changes), opt_state),
                (state.params, state.opt_state),
            )
            state = state.replace(
                params=params,
                opt_state=opt_state,
                update=state.update + 1,
                skipped=state.skipped + (~usable).astype(jnp.int32),
            )
            return state, loss

        state, losses = jax.lax.scan(update, state, jax.random.split(batch_key, config.updates_per_step))
        if shared is not None:
            solved = shared.is_finite().astype(jnp.int32)
            state = state.replace(leadfields=state.leadfields + solved, unsolved=state.unsolved + 1 - solved)
        return state, StepReport(jnp.mean(losses), learning_rate(state.update - 1, config))

    return step


def _all_finite(tree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def make_validation_loss(graphdef: nnx.GraphDef) -> Callable[[TrainState, LabelledSet], Float[Array, ""]]:
    """Jitted mean binary cross-entropy of a state's network over a labelled set, one group at a time."""

    @jax.jit
    def validation_loss(state: TrainState, data: LabelledSet) -> Float[Array, ""]:
        network = state.network(graphdef)
        losses = jax.lax.map(
            lambda group: binary_cross_entropy(network(group.measurements), group.labels), data
        )
        return jnp.mean(losses)

    return validation_loss
