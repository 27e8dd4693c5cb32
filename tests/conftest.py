import jax
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture(scope="module", autouse=True)
def _programs_go_with_their_module():
    """Each keeps memory maps, of which Linux allows a process 65,530; XLA crashes when there are no more."""
    yield
    jax.clear_caches()


@pytest.fixture
def key():
    return jax.random.key(0)
