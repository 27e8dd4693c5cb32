import dataclasses

import pytest

from jaxinv.cli.config import RunConfig
from jaxinv.cli.run_directory import RunDirectory, new_run_path

CONFIG = RunConfig(seed=1)


def trained(path):
    """A run that has been trained, with something to lose."""
    run = RunDirectory.begin(path, CONFIG)
    (path / "checkpoints").mkdir()
    (path / "metrics.jsonl").write_text("precious")
    return run


def test_a_new_run_knows_its_configuration(tmp_path):
    RunDirectory.begin(tmp_path / "runs" / "a", CONFIG)
    run, found = RunDirectory.existing(tmp_path / "runs" / "a", CONFIG)
    assert found == CONFIG
    assert run.noted("head") is None
    run.note("head", {"nodes": 5})
    assert run.noted("head") == {"nodes": 5}


def test_a_run_that_is_there_is_moved_aside_whole(tmp_path):
    for _ in range(3):
        trained(tmp_path / "quick")
    assert len(list(tmp_path.glob("quick-*"))) == 2
    for moved in tmp_path.glob("quick*"):
        assert (moved / "metrics.jsonl").read_text() == "precious"


def test_an_untrained_run_of_the_same_configuration_is_gone_on_with(tmp_path):
    RunDirectory.begin(tmp_path / "a", CONFIG).note("head", {"nodes": 5})
    assert RunDirectory.begin(tmp_path / "a", CONFIG).noted("head") == {"nodes": 5}
    assert RunDirectory.begin(tmp_path / "a", dataclasses.replace(CONFIG, seed=2)).noted("head") is None


def test_what_is_not_a_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="not a run of jaxinv"):
        RunDirectory.begin(tmp_path, CONFIG)
    with pytest.raises(ValueError, match="not a run of jaxinv"):
        RunDirectory.begin(tmp_path / "thesis.tex", CONFIG)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_another_configuration_is_refused_by_name(tmp_path):
    trained(tmp_path / "a")
    with pytest.raises(ValueError, match="seed: 1 and 2"):
        RunDirectory.existing(tmp_path / "a", dataclasses.replace(CONFIG, seed=2))
    with pytest.raises(ValueError, match="holds no run"):
        RunDirectory.existing(tmp_path / "b")


def test_a_new_name_bears_the_preset():
    assert new_run_path("quick").name.startswith("quick-")
