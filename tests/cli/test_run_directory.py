import dataclasses
from contextlib import contextmanager
from pathlib import Path

import pytest

from jaxinv.cli.cli import main
from jaxinv.cli.config import RunConfig
from jaxinv.cli.run_directory import RunDirectory, new_run_path

CONFIG = RunConfig(seed=1)


def trained(path):
    """A run that has been trained, with something to lose."""
    run = RunDirectory.begin(path, CONFIG)
    (path / "checkpoints").mkdir()
    (path / "metrics.jsonl").write_text("precious")
    return run


@contextmanager
def killed_in(moment, monkeypatch):
    """Stops the process half way through what it writes, or just before that takes its place."""

    def killed(path, *args, **kwargs):
        if moment == "write_text":
            path.write_bytes(args[0].encode()[: len(args[0]) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, moment, killed)
        yield


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


@pytest.mark.parametrize("content", ['{"nodes": 5', "[5]", ""])
def test_a_damaged_note_is_named(tmp_path, content):
    run = RunDirectory.begin(tmp_path / "a", CONFIG)
    (run.path / "head.json").write_text(content)
    with pytest.raises(ValueError, match=r"a/head\.json is damaged .*: delete it, .* or begin anew"):
        run.noted("head")


def test_a_note_that_is_not_text_is_named(tmp_path):
    run = RunDirectory.begin(tmp_path / "a", CONFIG)
    (run.path / "head.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"a/head\.json is damaged"):
        run.noted("head")


def test_a_forward_operator_without_its_head_is_refused(tmp_path):
    run = RunDirectory.begin(tmp_path / "a", CONFIG)
    assert not run.has_forward()
    run.note("forward", {"seconds": 1.0})
    with pytest.raises(ValueError, match=r"a/head\.json is missing, .*: put it back, or delete"):
        run.has_forward()
    run.note("head", {"seconds": 1.0})
    assert run.has_forward()


@pytest.mark.parametrize("content", [None, '{"nodes": 5'])
def test_an_evaluation_without_what_was_noted_of_the_head_is_refused(tmp_path, capsys, content):
    run = RunDirectory.begin(tmp_path / "a", CONFIG)
    (run.path / "checkpoints").mkdir()
    run.note("forward", {"seconds": 1.0})
    if content is not None:
        (run.path / "head.json").write_text(content)
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", "--directory", str(run.path)])
    assert exit_.value.code == 2
    said = "".join(capsys.readouterr().err.split())
    assert ("head.jsonismissing" if content is None else "head.jsonisdamaged") in said


@pytest.mark.parametrize("moment", ["write_text", "replace"])
def test_a_note_that_is_killed_leaves_the_one_before(tmp_path, monkeypatch, moment):
    run = RunDirectory.begin(tmp_path / "a", CONFIG)
    run.note("head", {"nodes": 5})
    with killed_in(moment, monkeypatch), pytest.raises(KeyboardInterrupt):
        run.note("head", {"nodes": 6})
    assert run.noted("head") == {"nodes": 5}
    run.note("head", {"nodes": 7})
    assert run.noted("head") == {"nodes": 7}


@pytest.mark.parametrize("moment", ["write_text", "replace"])
def test_a_run_that_is_killed_at_its_first_file_begins_again(tmp_path, monkeypatch, moment):
    with killed_in(moment, monkeypatch), pytest.raises(KeyboardInterrupt):
        RunDirectory.begin(tmp_path / "a", CONFIG)
    with pytest.raises(ValueError, match="holds no run"):
        RunDirectory.existing(tmp_path / "a")
    RunDirectory.begin(tmp_path / "a", CONFIG)
    assert RunDirectory.existing(tmp_path / "a", CONFIG)[1] == CONFIG
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["config.json"]


def test_a_new_name_bears_the_preset():
    assert new_run_path("quick").name.startswith("quick-")


def test_a_directory_in_work_is_left_alone(tmp_path):
    run = RunDirectory.begin(tmp_path / "a", RunConfig())
    with run.alone():
        with pytest.raises(ValueError, match="another process is at work"), RunDirectory(run.path).alone():
            pass
        with pytest.raises(ValueError, match="another process is at work"):
            RunDirectory.begin(run.path, RunConfig(seed=1))
    RunDirectory.begin(run.path, RunConfig(seed=1))
    assert len(list(tmp_path.iterdir())) == 2
