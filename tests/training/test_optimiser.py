import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxinv.training.optimiser import learning_rate, make_optimiser


def test_learning_rate_is_optax_warmup_and_cosine(toy):
    """Against Optax's own schedule; its warm-up starts at 0, ours with the first share of it."""
    config = toy.config(updates=100, warmup=20, learning_rate=1e-2)
    updates = np.arange(100)
    found = np.array([learning_rate(jnp.int32(update), config) for update in updates])
    cosine = optax.cosine_decay_schedule(1e-2, 80)
    np.testing.assert_allclose(found[20:], [cosine(update - 20) for update in updates[20:]], rtol=1e-4)
    np.testing.assert_allclose(found[:20], 1e-2 * (updates[:20] + 1) / 20, rtol=1e-6)


def test_updates_are_optax_adamw(toy, key):
    """Five updates against `optax.adamw` in float64, and every leaf of the state stays as it was typed."""
    config = toy.config(gradient_clip=1e9, weight_decay=0.1, learning_rate=1e-2)
    params = {"kernel": jax.random.normal(key, (3, 2), jnp.float32), "bias": jnp.ones((2,), jnp.float32)}
    ours = make_optimiser(config)
    rates = [float(learning_rate(jnp.int32(i), config)) for i in range(5)]
    oracle = optax.adamw(
        lambda count: jnp.asarray(rates)[count], weight_decay=0.1, mask={"kernel": True, "bias": False}
    )
    exact = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    state, oracle_state = ours.init(params), oracle.init(exact)
    dtypes = jax.tree.map(lambda x: x.dtype, state)
    for i in range(5):
        gradient = jax.tree.map(lambda x, number=i + 1: jnp.cos(x * number), exact)
        single = jax.tree.map(lambda x: x.astype(jnp.float32), gradient)
        change, state = ours.update(single, state, params)
        params = optax.apply_updates(params, change)
        change, oracle_state = oracle.update(gradient, oracle_state, exact)
        exact = optax.apply_updates(exact, change)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), params, exact)
    assert jax.tree.map(lambda x: x.dtype, state) == dtypes
    assert jnp.float64 not in jax.tree.leaves(dtypes)
