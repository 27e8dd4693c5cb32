import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv.training.checkpoint import Checkpoints

RUN = {"n_channels": 3, "training": {"seed": 0, "updates": 10}}


def state_of(step):
    return {"params": jnp.arange(6, dtype=jnp.float32) * step, "count": jnp.int32(step)}


@pytest.fixture
def saved(tmp_path):
    """Five checkpoints: the best is the second, the last has no validation loss."""
    with Checkpoints(tmp_path) as checkpoints:
        for step, loss in ((1, 0.6), (2, 0.4), (3, 0.5), (4, None), (5, None)):
            checkpoints.save(step, state_of(step), RUN, loss)
    return tmp_path


def test_best_and_last_are_kept_bit_for_bit(saved):
    with Checkpoints(saved, create=False) as checkpoints:
        assert (checkpoints.best_step, checkpoints.last_step) == (2, 5)
        for step in (2, 5):
            restored = checkpoints.restore(step, state_of(0), RUN)
            for name, expected in state_of(step).items():
                assert restored[name].dtype == expected.dtype
                np.testing.assert_array_equal(restored[name], expected)
    kept = {path.name for path in (saved / "checkpoints").iterdir() if path.is_dir()}
    assert kept == {"2", "5"}


def test_unevaluated_checkpoints_have_no_best(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(1), RUN)
        assert checkpoints.best_step is None


def test_another_configuration_is_refused_by_name(saved):
    other = {"n_channels": 3, "training": {"seed": 1, "updates": 10}}
    with (
        Checkpoints(saved) as checkpoints,
        pytest.raises(ValueError, match=r"training\.seed was 0 and is now 1"),
    ):
        checkpoints.restore(5, state_of(0), other)


def test_a_state_of_another_shape_is_refused(saved):
    with Checkpoints(saved) as checkpoints, pytest.raises(ValueError, match="damaged or not"):
        checkpoints.restore(5, {"params": jnp.zeros((7,), jnp.float32), "other": jnp.int32(0)}, RUN)


@pytest.mark.parametrize("damage", ["halve", "remove"])
def test_damage_to_any_file_of_the_state_is_one_clear_error_or_harmless(saved, damage):
    """Each file in turn; the arrays that come back, if any, are the ones saved."""
    step = saved / "checkpoints" / "5"
    refused = 0
    files = sorted(path for part in ("state", "run") for path in (step / part).rglob("*") if path.is_file())
    for path in files:
        whole = path.read_bytes()
        if damage == "halve":
            path.write_bytes(whole[: len(whole) // 2])
        else:
            path.unlink()
        with Checkpoints(saved) as checkpoints:
            try:
                restored = checkpoints.restore(5, state_of(0), RUN)
            except ValueError as error:
                refused += "damaged" in str(error)
            else:
                np.testing.assert_array_equal(restored["params"], state_of(5)["params"])
        path.write_bytes(whole)
    assert refused


def test_a_checkpoint_with_every_file_cut_short_is_refused(saved):
    for path in (saved / "checkpoints" / "5" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-9])
    with Checkpoints(saved) as checkpoints, pytest.raises(ValueError, match=r"checkpoint 5 in .* is damaged"):
        checkpoints.restore(5, state_of(0), RUN)


def test_reading_where_there_is_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no checkpoints"):
        Checkpoints(tmp_path / "nowhere", create=False)
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    with pytest.raises(ValueError, match="no complete checkpoint"):
        Checkpoints(tmp_path, create=False)
