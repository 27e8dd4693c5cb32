"""The whole road once, on a coarse head with few sources, electrodes, updates and cases."""

import dataclasses
import json
import re
import shlex
import shutil

import numpy as np
import pytest

from jaxinv.cli import stages
from jaxinv.cli.cli import main
from jaxinv.cli.config_file import read_config
from jaxinv.cli.head_report import mean_node_volume
from jaxinv.cli.run_directory import RunDirectory
from jaxinv.evaluation import load_results
from jaxinv.forward.exact import FemForward
from jaxinv.head import HeadModel
from jaxinv.mesh import VolumeMesh
from jaxinv.training import TrainingInterrupted

TINY = shlex.split("""
    --head.resolution 0.01 --head.sources ico3 --head.montage 10-20 --head.reduction 0.1
    --network.latent-length 32 --network.width 8 --network.depth 1 --network.no-attention
    --training.updates 20 --training.updates-per-leadfield 10 --training.warmup 2 --training.batch-size 32
    --training.evaluate-every 10 --training.validation-size 32 --training.validation-leadfields 2
    --training.no-whiten-input
    --evaluation.validation-size 32 --evaluation.validation-leadfields 2
    --evaluation.test-size 32 --evaluation.test-leadfields 2 --evaluation.lasso-size 32
""")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    main(["run", "--directory", str(directory), *TINY])
    return directory


@pytest.fixture
def printed(run, capsys):
    def print_of(*args):
        main([*args, "--directory", str(run)])
        return " ".join(capsys.readouterr().out.split())

    return print_of


def test_a_run_leaves_all_that_it_promises(run):
    for name in (
        "config.json",
        "head.npz",
        "forward.npz",
        "reduced.npz",
        "metrics.jsonl",
        "evaluation.json",
        "report.html",
    ):
        assert (run / name).stat().st_size > 0
    results = {result.name: result for result in load_results(run / "evaluation.json")}
    assert {"U-Net", "MNE", "sLORETA", "Lasso", "constant guess", "chance"} <= set(results)
    for result in results.values():
        for key, values in result.metrics.items():
            assert values.shape == (32,), key
            assert np.isfinite(values).all(), key


def test_the_report_tells_what_was_done(run):
    html = (run / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r'src="data:image/png;base64', html)) == 5
    for words in (
        "distinct leadfields inside the jitted step</td><td>2, by a reduced model certified to 0.1<",
        "nodes that leak through the skull</td><td>0<",
        "electrodes moved by the projection",
        "relative residual asked",
        "iterations on test conductivities",
        "<td>head.resolution</td><td>0.01</td>",
        "<td>jax</td>",
        "Inverse crime",
        "constant guess",
        "FieldTrip MNE",
    ):
        assert words in html


def test_cases_go_round_the_leadfields_and_their_mean_is_the_activitys(run):
    config, forward = read_config(run / "config.json"), FemForward.load(run / "forward.npz")
    problem = stages.pose_problem(config, forward)
    for batch in (problem.validation, problem.test):
        sigma = np.asarray(batch.conductivity)
        assert len(np.unique(sigma[:2], axis=0)) == len(np.unique(sigma, axis=0)) == 2
        np.testing.assert_array_equal(sigma[::2], np.tile(sigma[:1], (16, 1)))
    mean = np.full(forward.sources.n_sources, 5e-9, np.float32)
    np.testing.assert_array_equal(problem.mean_current(0), mean)


def test_electrodes_that_miss_their_places_do_so_in_the_evaluation_too(run):
    config, forward = read_config(run / "config.json"), FemForward.load(run / "forward.npz")
    moved = dataclasses.replace(config, training=dataclasses.replace(config.training, displacement=5e-3))
    forward = stages.movable(RunDirectory(run), moved, forward)
    own, other = (np.asarray(stages.pose_problem(c, forward).test.measurements) for c in (config, moved))
    change = np.linalg.norm(own - other, axis=1) / np.linalg.norm(own, axis=1)
    assert 0.01 < np.median(change) < 0.5


def test_the_head_of_a_run_is_valid(run):
    head = json.loads((run / "head.json").read_text())
    assert (head["leaking"], head["inverted"], head["pieces"]) == (0, 0, 1)
    assert head["channels"] == 19
    assert head["electrode_displacement"][1] <= 7e-3


def test_an_evaluation_again_gives_the_same_figures(run, printed):
    before = load_results(run / "evaluation.json")
    text = printed("evaluate")
    assert "half-active maps" in text
    assert "U-Net" in text
    for one, other in zip(before, load_results(run / "evaluation.json")):
        for key, values in one.metrics.items():
            np.testing.assert_array_equal(values, other.metrics[key])


def test_a_finished_run_is_not_trained_again(run, printed):
    before = (run / "metrics.jsonl").read_bytes()
    text = printed("train", "--resume")
    assert "the forward operator is in" in text
    assert "after 20 updates on 2 leadfields" in text
    assert (run / "metrics.jsonl").read_bytes() == before


def test_ctrl_c_says_how_to_go_on(run, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)

    def interrupted(*args, **kwargs):
        raise TrainingInterrupted("stopped by SIGINT after update 10")

    monkeypatch.setattr(stages, "train", interrupted)
    with pytest.raises(SystemExit) as exit_:
        main(["train", "--resume", "--directory", str(copy)])
    assert exit_.value.code == 130
    text = capsys.readouterr().out
    assert "stopped by SIGINT after update 10" in text
    assert f"jaxinv train --resume --directory {copy}" in text.replace("\n", "")


@pytest.mark.parametrize("name", ["forward.npz", "head.npz"])
def test_a_truncated_file_is_refused(run, tmp_path, capsys, name):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / name).write_bytes((copy / name).read_bytes()[:1000])
    if name == "head.npz":
        (copy / "forward.json").unlink()  # so that the head is read again
    with pytest.raises(SystemExit) as exit_:
        main(["train", "--resume", "--directory", str(copy)])
    assert exit_.value.code == 2
    assert name in capsys.readouterr().err.replace("\n", "")
    assert "Traceback" in (copy / "run.log").read_text()


def test_the_volume_of_a_node_is_that_of_the_cells_around_it():
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -2]], dtype=float)
    mesh = VolumeMesh(corners, [[0, 1, 2, 3], [0, 2, 1, 4]], [0, 0])
    head = HeadModel(mesh, ("grey",), [0.33])
    above, below = 1 / 6, 2 / 6
    found = mean_node_volume(head, np.array([[0, 0, 1.1], [0.1, 0, 0]]))
    assert found == pytest.approx((above + (above + below) / 2) / 2)
