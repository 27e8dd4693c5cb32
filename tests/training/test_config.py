import pytest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"updates": 0}, "updates=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"patience": 0}, "patience=0"),
        ({"updates": 42}, "multiple of updates_per_leadfield=4; 40 is"),
        ({"validation_size": 33}, "multiple of validation_leadfields=2"),
        ({"warmup": 40}, "warmup=40"),
    ],
)
def test_bad_settings_are_refused(toy, changes, message):
    with pytest.raises(ValueError, match=message):
        toy.config(**changes)
