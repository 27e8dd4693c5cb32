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


def test_settings_change_the_preset():
    command = parse(
        ["run", "--preset", "paper", "--seed", "3", "--head.sources", "100", "--training.updates", "600"]
    )
    assert isinstance(command, Run)
    assert command.config.head.sources == 100
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
