import errno
import runpy

import pytest

from jaxinv.cli import stages
from jaxinv.cli.cli import main
from jaxinv.cli.commands import Evaluate, Head, Judge, Run, Train, parse
from jaxinv.cli.config import PRESETS, EvaluationConfig, RunConfig
from jaxinv.cli.run_directory import RunDirectory


@pytest.fixture(autouse=True)
def no_work(monkeypatch, tmp_path):
    """Fails a test in which work begins, and keeps what it would write out of the repository."""

    def work(*args, **kwargs):
        pytest.fail("work began")

    for stage in ("judge", "build_head", "begin_with_head", "build_forward"):
        monkeypatch.setattr(stages, stage, work)
    monkeypatch.chdir(tmp_path)


def refused(capsys, *args) -> str:
    """What is printed by a command that exits with 2, on one line."""
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).replace("│", " ").split())


def raising(error: BaseException):
    """A stage that ends in an error."""

    def stage(*args, **kwargs):
        raise error

    return stage


def test_settings_change_the_preset():
    command = parse(
        ["run", "--preset", "paper", "--seed", "3", "--head.sources", "1000", "--training.updates", "600"]
    )
    assert isinstance(command, Run)
    assert command.config.head.sources == 1000
    assert command.config.training.updates == 600
    assert command.config.seeded_training.seed == 3
    assert command.config.network == PRESETS["paper"].network
    assert parse(["head"]) == Head(PRESETS["quick"])


def test_a_run_that_is_gone_on_with_keeps_its_settings(tmp_path):
    config = RunConfig(seed=9, evaluation=EvaluationConfig(test_size=32))
    RunDirectory.begin(tmp_path / "a", config)
    directory = ["--directory", str(tmp_path / "a")]
    resumed = parse(["train", "--resume", *directory])
    assert resumed == Train(config, directory=tmp_path / "a", resume=True)
    assert parse(["evaluate", *directory]) == Evaluate(tmp_path / "a", config.evaluation)
    changed = parse(["evaluate", *directory, "--evaluation.lasso-size", "8"])
    assert changed.evaluation == EvaluationConfig(test_size=32, lasso_size=8)


def test_the_judge_takes_a_part_of_the_grid(tmp_path):
    args = ["judge", "--directory", str(tmp_path), "--cases", "50", "--scenarios", "A", "D1"]
    assert parse(args) == Judge(tmp_path, 50, scenarios=("A", "D1"))


@pytest.mark.parametrize("command", ["run", "head", "train", "evaluate"])
def test_help_speaks_of_each_setting(capsys, command):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "--directory" in text
    assert "lowest" not in text or "in dB" in text
    if command != "evaluate":
        for word in ("--preset", "--head.resolution", "in m", "--training.updates", "--network.width"):
            assert word in text


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for word in ("run", "head", "train", "evaluate", "judge", "report.html"):
        assert word in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["judge", "--cells", "A_own"], "no cell is called ['A_own']; there are ['A_crime_cap-64_10dB',"),
        (["judge", "--cases", "1"], "cases and validation must be 2 or more"),
        (["run", "--preset", "slow"], "unknown preset 'slow'; there are 'quick' and 'paper'"),
        (["run", "--head.resolution", "4"], "head.resolution must lie between 0.001 and 0.01 m, not 4"),
        (["run", "--head.montage", "10-30"], "10-30"),
        (
            ["run", "--training.updates", "101", "--training.updates-per-leadfield", "10"],
            "must be a multiple of updates_per_leadfield",
        ),
        (["run", "--training.seed", "5"], "give --seed 5"),
        (["run", "--network.depth", "many"], "many"),
        (["run", "--sed", "5"], "--sed"),
        (["train", "--resume"], "needs the --directory"),
        (["train", "--resume", "--directory", "nowhere"], "nowhere holds no run of jaxinv"),
        (["evaluate", "--directory", "nowhere"], "nowhere holds no run of jaxinv"),
        (["evaluate"], "--directory"),
        (["run", "--seed", "-1"], "--seed must be a whole number from 0 to 2^63 - 1, not -1"),
        (["run", "--simulation.snr-db", "inf", "inf"], "simulation.snr-db must be low and high, finite"),
        (["train", "--simulation.correlation-length", "inf"], "correlation-length must be positive and fin"),
        (["head", "--head.reduction", "1e-6"], "head.reduction must be 1e-05 or more and below 1, not 1e-06"),
        (
            ["run", "--simulation.activity", "patches", "--simulation.radius", "0", "0"],
            "simulation.radius must be low and high, positive and finite, in m, not 0 0",
        ),
        (["walk"], "walk"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(capsys, args, message):
    assert message in refused(capsys, *args)


def test_going_on_with_other_settings_is_refused(capsys, tmp_path):
    RunDirectory.begin(tmp_path / "a", RunConfig())
    said = refused(
        capsys, "run", "--resume", "--directory", str(tmp_path / "a"), "--head.resolution", "0.005"
    )
    assert "head.resolution: 0.004 and 0.005" in said


def test_an_evaluation_before_training_is_refused(capsys, tmp_path):
    RunDirectory.begin(tmp_path / "a", RunConfig())
    assert "has not been trained" in refused(capsys, "evaluate", "--directory", str(tmp_path / "a"))


@pytest.mark.parametrize("command", ["run", "head", "train", "judge"])
@pytest.mark.parametrize("place", ["afile/sub", "/sys/jaxinv", "n" * 300])
def test_a_directory_that_cannot_be_written_to_is_named(capsys, tmp_path, command, place):
    (tmp_path / "afile").write_text("precious")
    said = refused(capsys, command, "--directory", place)
    assert "cannot write to" in said
    assert place.replace(" ", "") in said.replace(" ", "")
    assert "choose another --directory" in said


@pytest.mark.parametrize(
    ("stage", "args"),
    [
        ("build_head", ["head"]),
        ("begin_with_head", ["head", "--directory", "a"]),
        ("judge", ["judge"]),
        ("build_forward", ["run"]),
        ("build_forward", ["train", "--directory", "a"]),
        ("build_forward", ["evaluate", "--directory", "trained"]),
    ],
)
def test_ctrl_c_ends_every_command_with_130(capsys, monkeypatch, tmp_path, stage, args):
    (RunDirectory.begin(tmp_path / "trained", RunConfig()).path / "checkpoints").mkdir()
    monkeypatch.setattr(stages, stage, raising(KeyboardInterrupt()))
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code == 130
    captured = capsys.readouterr()
    assert "stopped" in captured.out
    assert captured.err == ""


def test_ctrl_c_while_a_head_is_built_offers_a_command_that_exists(capsys, monkeypatch):
    monkeypatch.setattr(stages, "begin_with_head", raising(KeyboardInterrupt()))
    with pytest.raises(SystemExit):
        main(["head", "--seed", "4", "--directory", "a"])
    (offered,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  jaxinv")]
    assert parse(offered.split()[1:]).config == RunConfig(seed=4)


@pytest.mark.parametrize(
    ("stage", "args"), [("build_head", ["head"]), ("build_forward", ["run"]), ("judge", ["judge"])]
)
def test_a_solver_that_does_not_converge_ends_in_its_message(capsys, monkeypatch, stage, args):
    monkeypatch.setattr(stages, stage, raising(RuntimeError("the solver did not converge: raise it")))
    assert "error: the solver did not converge: raise it" in refused(capsys, *args)


def test_the_traceback_of_a_solver_that_does_not_converge_is_logged(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "build_forward", raising(RuntimeError("the solver did not converge")))
    refused(capsys, "run", "--directory", "a")
    assert "Traceback" in (tmp_path / "a" / "run.log").read_text()


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(stages, "build_head", raising(NotImplementedError("a fault")))
    with pytest.raises(NotImplementedError, match="a fault"):
        main(["head"])


def test_a_full_disk_ends_in_its_message(capsys, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device", "a/forward.npz")
    monkeypatch.setattr(stages, "build_forward", raising(full))
    assert "No space left on device: 'a/forward.npz'" in refused(capsys, "run", "--directory", "a")


@pytest.mark.parametrize("content", ['{"seed": "0"}', '{"seed": 0', "[1]"])
def test_a_configuration_that_cannot_be_read_is_named(capsys, tmp_path, content):
    run = RunDirectory.begin(tmp_path / "a", RunConfig())
    run.config.write_text(content)
    for args in (["evaluate"], ["run", "--resume"], ["train"]):
        said = refused(capsys, *args, "--directory", "a")
        assert "a/config.json" in said
        assert "begin anew in an empty directory" in said


def test_the_package_runs_as_a_module(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["jaxinv", "walk"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("jaxinv", run_name="__main__")
    assert "walk" in capsys.readouterr().err
