import dataclasses
import json

import pytest

from jaxinv.cli.config import (
    LEAST_REDUCTION,
    MOST_NODES,
    PRESETS,
    EvaluationConfig,
    HeadConfig,
    RunConfig,
    SimulationConfig,
    preset,
)
from jaxinv.cli.config_file import differences, read_config, write_config
from jaxinv.forward.reduced import LEAST_TOLERANCE
from jaxinv.head.fsaverage_surfaces import ICO_VERTICES
from jaxinv.training import TrainConfig


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_comes_back_from_the_disk(tmp_path, name):
    config = dataclasses.replace(PRESETS[name], seed=7)
    write_config(tmp_path / "config.json", config)
    assert read_config(tmp_path / "config.json") == config


def test_one_seed_decides_all():
    assert RunConfig(seed=3).seeded_training.seed == 3
    with pytest.raises(ValueError, match="--seed 4"):
        RunConfig(seed=3, training=TrainConfig(seed=4))


def test_quick_is_what_it_promises():
    quick = preset("quick")
    assert quick.head.resolution <= 4e-3
    assert quick.head.sources == "ico4"
    assert quick.training.updates_per_leadfield == 0
    assert quick.head.reduction == 1e-2


def test_paper_has_the_published_sizes():
    paper = preset("paper")
    assert (paper.head.montage, paper.head.field, paper.head.sources) == ("10-5-149", True, 15_684)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="unknown preset 'slow'; there are 'quick' and 'paper'"):
        preset("slow")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (HeadConfig, {"resolution": 4.0}, "head.resolution"),
        (HeadConfig, {"tolerance": 0.0}, "head.tolerance"),
        (HeadConfig, {"sources": 0}, "head.sources"),
        (HeadConfig, {"tolerance": 1e-8, "dtype": "float32"}, "needs --head.dtype float64"),
        (
            RunConfig,
            {"head": HeadConfig(sources=9), "simulation": SimulationConfig("patches")},
            "patches grow",
        ),
        (SimulationConfig, {"correlation_length": -1.0}, "correlation-length"),
        (SimulationConfig, {"count": (0, 2)}, "simulation.count"),
        (SimulationConfig, {"radius": (0.02, 0.01)}, "simulation.radius"),
        (SimulationConfig, {"snr_db": (20.0, 10.0)}, "snr-db"),
        (SimulationConfig, {"snr_db": (float("nan"), 10.0)}, "snr-db"),
        (SimulationConfig, {"snr_db": (float("-inf"), 10.0)}, "snr-db"),
        (SimulationConfig, {"count": (3, 2)}, "simulation.count"),
        (SimulationConfig, {"radius": (0.0, 0.01)}, "simulation.radius"),
        (SimulationConfig, {"radius": (0.01, float("inf"))}, "simulation.radius"),
        (SimulationConfig, {"correlation_length": float("inf")}, "correlation-length"),
        (HeadConfig, {"reduction": 9e-6}, "head.reduction"),
        (HeadConfig, {"reduction": 1.0}, "head.reduction"),
        (RunConfig, {"seed": -1}, "--seed"),
        (RunConfig, {"seed": 2**63}, "--seed"),
        (
            RunConfig,
            {"head": HeadConfig(sources=9), "simulation": SimulationConfig("dipoles", count=(1, 10))},
            "must be 9 at most",
        ),
        (RunConfig, {"head": HeadConfig(sources=50)}, "network.latent-length must be 50 at most"),
        (
            RunConfig,
            {"head": HeadConfig(field=True), "training": TrainConfig(displacement=5e-3)},
            "with --head.field it must be 0",
        ),
        (EvaluationConfig, {"test_size": 100, "test_leadfields": 16}, "evaluation.test-size"),
        (EvaluationConfig, {"validation_leadfields": 0}, "evaluation.validation-size"),
        (EvaluationConfig, {"lasso_size": 0}, "lasso-size"),
    ],
)
def test_a_value_out_of_its_range_is_named(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_the_least_reduction_is_that_of_the_reduced_model():
    assert LEAST_REDUCTION == LEAST_TOLERANCE
    assert HeadConfig(reduction=LEAST_TOLERANCE).reduction == LEAST_TOLERANCE


def test_no_more_nodes_than_the_surfaces_have():
    assert {name: 2 * count for name, count in ICO_VERTICES.items()} == MOST_NODES


def test_differences_are_named_with_both_values():
    one = RunConfig()
    other = dataclasses.replace(one, head=HeadConfig(resolution=3e-3))
    assert differences(one, one) == []
    assert differences(one, other) == ["head.resolution: 0.004 and 0.003"]


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(ValueError, match="holds no run of jaxinv"):
        read_config(path)
    path.write_text('{"seed": 0')
    with pytest.raises(ValueError, match="is damaged"):
        read_config(path)
    path.write_text(json.dumps({"seed": 0, "speed": "high"}))
    with pytest.raises(ValueError, match=r"does not know: \['speed'\]"):
        read_config(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": "0"}, "seed is '0', where int is wanted"),
        ({"seed": True}, "seed is True, where int is wanted"),
        ({"head": 5}, "head is 5, where a group of settings is wanted"),
        ({"head": {"sources": 1.5}}, r"head.sources is 1.5, where .*'ico4'.*int.* is wanted"),
        ({"head": {"reduction": "no"}}, r"head.reduction is 'no', where float \| None is wanted"),
        ({"head": {"field": 1}}, "head.field is 1, where bool is wanted"),
        ({"simulation": {"count": [1, 2, 3]}}, r"simulation.count is \[1, 2, 3\], where tuple"),
        ({"simulation": {"count": 1}}, "simulation.count is 1, where tuple"),
        ({"training": {"speed": 1}}, r"does not know: \['training.speed'\]"),
        ({"head": {"reduction": 1e-9}}, "head.reduction must be"),
    ],
)
def test_a_file_with_a_value_that_is_none_names_file_setting_and_remedy(tmp_path, values, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"config.json cannot be used: .*{message}.*begin anew"):
        read_config(path)


def test_a_whole_number_stands_for_a_float_and_null_for_none(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"simulation": {"snr_db": [5, 20]}, "head": {"reduction": None}}))
    assert read_config(path) == RunConfig(
        head=HeadConfig(reduction=None), simulation=SimulationConfig(snr_db=(5, 20))
    )
