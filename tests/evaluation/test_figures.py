import dataclasses
import io
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from jaxinv.evaluation import Result
from jaxinv.evaluation.cortex_view import cortex_view, on_fsaverage5
from jaxinv.evaluation.figures import (
    comparison,
    cortical_maps,
    head_sections,
    learning_curve,
    reliability,
    to_png,
)
from jaxinv.head import HeadModel
from jaxinv.head.fsaverage import mid_surface
from jaxinv.mesh import VolumeMesh


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(to_png(figure))).convert("RGB"), dtype=int)


def test_a_value_lies_where_its_source_is(sources):
    fine = mid_surface("ico5")
    for placed in (sources, dataclasses.replace(sources, vertices=None)):
        for axis in range(3):
            shown = on_fsaverage5(sources.positions[:, axis], placed)[fine.vertices]
            apart = np.abs(shown - fine.positions[:, axis])
            assert np.nanmedian(apart) < 5e-3
            assert np.nanmean(np.isnan(apart)) < 0.15


def test_values_of_all_vertices_come_back_unchanged():
    fine = mid_surface("ico5")
    values = np.random.default_rng(0).normal(size=fine.n_sources)
    shown = on_fsaverage5(values, fine)
    np.testing.assert_array_equal(shown[fine.vertices], values)
    assert np.isnan(np.delete(shown, fine.vertices)).all()


@pytest.mark.parametrize(
    ("hemisphere", "side", "front_is_right"),
    [
        ("left", "lateral", False),
        ("left", "medial", True),
        ("right", "lateral", True),
        ("right", "medial", False),
    ],
)
def test_a_view_is_from_its_side(hemisphere, side, front_is_right):
    view = cortex_view(hemisphere, side)
    fine = mid_surface("ico5")
    forward = np.full(20_484, np.nan)
    forward[fine.vertices] = fine.positions[:, 1]
    anterior = np.nan_to_num(forward[view.vertices].mean(axis=1))
    correlation = np.corrcoef(anterior, view.triangles[:, :, 0].mean(axis=1))[0, 1]
    assert (correlation > 0.8) if front_is_right else (correlation < -0.8)
    assert (view.vertices >= 10_242).all() == (hemisphere == "right")


def test_active_cortex_is_another_colour(sources):
    quiet, active = (
        pixels(cortical_maps({"a map": np.full(sources.n_sources, p)}, sources, "title", label="p"))
        for p in (0.0, 1.0)
    )
    assert (quiet != active).any(axis=2).mean() > 0.2


def test_focal_maps_are_shown_relative_to_their_largest_value(sources):
    spot = np.zeros(sources.n_sources)
    spot[:200] = 1
    loud, faint = (
        pixels(cortical_maps({"a map": scale * spot}, sources, "title", label="p", focal=True))
        for scale in (1.0, 0.01)
    )
    np.testing.assert_array_equal(loud, faint)


def test_a_loss_is_drawn_at_its_height():
    history = [
        {
            "step": 10 * i,
            "train_loss": 0.7 / i,
            "validation_loss": 0.7 / i if i % 3 == 0 else None,
            "leadfields": i,
        }
        for i in range(1, 20)
    ]
    (axis, *_) = learning_curve(history, {"MNE": 0.5}).axes
    low, high = axis.get_ylim()
    assert low < 0.7 / 18 < 0.5 < high
    assert any("MNE, 0.500" in text.get_text() for text in axis.get_legend().get_texts())
    without = [{**row, "validation_loss": None} for row in history]
    assert learning_curve(without, {}).axes


def test_a_calibrated_method_lies_on_the_diagonal():
    rng = np.random.default_rng(0)
    probability = rng.random((40, 500))
    figure = reliability({"honest": probability}, rng.random(probability.shape) < probability)
    _, honest = figure.axes[0].get_lines()
    np.testing.assert_allclose(honest.get_ydata(), honest.get_xdata(), atol=0.05)


def test_every_method_has_its_interval():
    rng = np.random.default_rng(0)
    results = [
        Result(name, {"bce": rng.random(30), "localisation_error": rng.random(30) / 100}) for name in "ab"
    ]
    bce, error = comparison(results, ("bce", "localisation_error")).axes
    assert [label.get_text() for label in bce.get_yticklabels()] == ["a", "b"]
    assert "mm" in error.get_title(loc="left")


def test_a_head_is_cut_into_its_tissues():
    corners = 0.1 * np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"), axis=-1).reshape(-1, 3)
    points = np.concatenate([corners, [[0.011, 0.012, 0.013]]])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    cells = np.array([(8, a, b, c) for q in quads for a, b, c in (q[:3], (q[0], q[2], q[3]))])
    edges = points[cells[:, 1:]] - points[cells[:, :1]]
    flipped = np.linalg.det(edges) < 0
    cells[flipped] = cells[flipped][:, [0, 1, 3, 2]]
    mesh = VolumeMesh(points, cells, np.arange(12) % 2)
    head = HeadModel(mesh, ("scalp", "a tissue without a colour"), [0.4, 0.1])
    figure = head_sections(head, np.array([[0.0, 0.1, 0.0]]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(head.tissue_names)
    assert len(np.unique(pixels(figure).reshape(-1, 3), axis=0)) > 3


def test_nothing_global_is_touched():
    assert "matplotlib.pyplot" not in sys.modules or not matplotlib.pyplot.get_fignums()
