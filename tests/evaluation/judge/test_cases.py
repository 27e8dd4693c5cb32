import numpy as np
import pytest
from scipy.stats import kstest

from jaxinv.evaluation.judge import CORE_GRID, Cell
from jaxinv.evaluation.judge.cases import draw_cases, patches, pose, temporal_factor
from jaxinv.evaluation.judge.cells import N_TIMES
from jaxinv.evaluation.judge.true_head import TrueHead, carrying, nearest_along
from jaxinv.evaluation.judge.world import field_factor, make_world

LENGTH = 40e-3


@pytest.fixture(scope="module")
def factors():
    return {LENGTH: field_factor(LENGTH, "ico4")}


def cell_of(scenario, **settings):
    return Cell(scenario, settings.pop("snr_db", 10), correlation_length=LENGTH, **settings)


def worlds_of(cell, toy_heads, factors):
    return tuple(make_world(cell, toy_heads[seed], factors) for seed in (2, 3))


@pytest.mark.parametrize("scenario", ["A", "B", "C", "D1", "D2"])
@pytest.mark.parametrize("knowledge", ["crime", "own", "template"])
def test_the_noise_has_the_ratio_that_was_asked_for(scenario, knowledge, toy_heads, factors):
    """Of mean powers over channels and samples, in a case or, for maps, over the cases of a leadfield."""
    n_times = 1 if scenario in ("D1", "D2") else N_TIMES
    cell = cell_of(scenario, knowledge=knowledge, n_times=n_times, snr_db=3)
    drawn = draw_cases(cell, worlds_of(cell, toy_heads, factors), 0, 24, "test", 0)
    np.testing.assert_allclose(drawn.signal_power / drawn.noise_level**2, 10**0.3)
    measured = np.asarray(drawn.batch.measurements).reshape(24, -1)
    expected = drawn.signal_power + drawn.noise_level**2
    assert np.mean(np.mean(measured**2, axis=1) / expected) == pytest.approx(1, abs=0.15)
    np.testing.assert_allclose(
        measured.reshape(24, 64, -1).sum(axis=1), 0, atol=1e-4 * np.abs(measured).max()
    )


def test_the_same_seed_gives_the_same_cases_and_fewer_are_the_first(toy_heads, factors):
    cell = cell_of("C")
    worlds = worlds_of(cell, toy_heads, factors)
    few, many = (draw_cases(cell, worlds, 0, count, "test", 0).batch for count in (5, 9))
    np.testing.assert_array_equal(few.measurements, many.measurements[:5])
    np.testing.assert_array_equal(few.activity, many.activity[:5])
    other = draw_cases(cell, worlds, 0, 5, "test", 1).batch
    assert not np.allclose(other.activity, few.activity)
    validation = draw_cases(cell, worlds, 0, 5, "validation", 0).batch
    assert not np.allclose(validation.activity, few.activity)


def test_cells_that_differ_in_knowledge_or_noise_share_the_truth(toy_heads, factors):
    cells = [cell_of("B", n_times=N_TIMES), cell_of("B", n_times=N_TIMES, knowledge="template"),
             cell_of("B", n_times=N_TIMES, snr_db=0, noise="1/f")]  # fmt: skip
    found = [draw_cases(c, worlds_of(c, toy_heads, factors), 0, 6, "test", 0) for c in cells]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].batch.activity, other.batch.activity)
        np.testing.assert_array_equal(found[0].focal.positions, other.focal.positions)


def test_noise_has_the_covariance_that_is_given(toy_heads, factors):
    cell = cell_of("A", noise="correlated")
    worlds = worlds_of(cell, toy_heads, factors)[:1]
    drawn = draw_cases(cell, worlds, 0, 3000, "test", 0)
    clean = draw_cases(cell_of("A", noise="correlated", snr_db=300), worlds, 0, 3000, "test", 0)
    noise = np.asarray(drawn.batch.measurements - clean.batch.measurements) / drawn.noise_level[:, None]
    found, expected = noise.T @ noise / len(noise), worlds[0].noise_cov
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.1
    np.testing.assert_allclose(
        drawn.batch.noise_cov[7], drawn.noise_level[7] ** 2 * expected, rtol=1e-4, atol=1e-20
    )


def test_pink_noise_has_a_spectrum_of_one_over_f(toy_heads, factors):
    cell = cell_of("A", noise="1/f", n_times=N_TIMES, snr_db=-80)
    drawn = draw_cases(cell, worlds_of(cell, toy_heads, factors)[:1], 0, 200, "test", 0)
    noise = np.asarray(drawn.batch.measurements) / drawn.noise_level[:, None, None]
    power = np.mean(np.abs(np.fft.rfft(noise)) ** 2, axis=(0, 1))[1:-1]
    slope = np.polyfit(np.log(np.arange(1, len(power) + 1)), np.log(power), 1)[0]
    assert slope == pytest.approx(-1, abs=0.05)
    assert np.mean(noise**2) == pytest.approx(1, abs=0.02)


def test_half_of_the_cortex_is_active_in_maps(toy_heads, factors):
    cell = cell_of("D2")
    drawn = draw_cases(cell, worlds_of(cell, toy_heads, factors), 0, 60, "test", 0)
    share = np.asarray(drawn.batch.activity).mean(axis=1)
    assert share.mean() == pytest.approx(0.5, abs=0.06)


def test_a_dipole_is_active_at_its_nearest_node(toy_heads, factors):
    cell = cell_of("A")
    drawn = draw_cases(cell, worlds_of(cell, toy_heads, factors), 0, 40, "test", 0)
    active = np.asarray(drawn.batch.activity)
    np.testing.assert_array_equal(active.sum(axis=1), 1)
    nodes = np.asarray(toy_heads[2].nodes.positions)
    distance = np.linalg.norm(nodes[active.argmax(axis=1)] - drawn.focal.positions[:, 0], axis=1)
    assert distance.max() < 15e-3
    assert np.median(distance) < 8e-3


def test_correlations_of_courses_span_what_is_said(toy_heads, factors):
    """Two dipoles whose fields are told apart: courses by least squares."""
    cell = cell_of("B", n_times=N_TIMES, snr_db=300)
    factor = temporal_factor(N_TIMES)
    np.testing.assert_allclose(np.diag(factor @ factor.T), 1, rtol=1e-6)
    worlds = worlds_of(cell, toy_heads, factors)[:1]
    drawn = draw_cases(cell, worlds, 0, 100, "test", 0)
    rank = [
        np.linalg.matrix_rank(y, tol=1e-3 * np.linalg.norm(y, 2))
        for y in np.asarray(drawn.batch.measurements)
    ]
    assert (np.array(rank) <= drawn.focal.present.sum(axis=1)).all()
    counts = np.bincount(drawn.focal.present.sum(axis=1), minlength=5)
    assert counts[:2].sum() == 0
    assert (counts[2:] > 10).all()


def test_patches_are_discs_along_the_cortex(toy_heads, factors):
    world = worlds_of(cell_of("C"), toy_heads, factors)[0]
    inside = patches(world, np.array([100, 3000]), np.array([15e-3, 25e-3])) != 0
    positions = np.asarray(world.surface.positions)
    for row, centre, radius in zip(inside, (100, 3000), (15e-3, 25e-3)):
        assert row[centre]
        assert np.linalg.norm(positions[row] - positions[centre], axis=1).max() <= radius
    smaller = patches(world, np.array([3000]), np.array([15e-3])) != 0
    assert (inside[1] | ~smaller[0]).all()


def test_carrying_takes_means_weighted_by_area():
    carried, area = np.array([0, 0, 1, 1, 1]), np.array([1.0, 3.0, 1.0, 1.0, 2.0])
    matrix = carrying(carried, area, 2)
    np.testing.assert_allclose(matrix @ np.ones(5), 1)
    values = np.random.default_rng(0).normal(size=5)
    np.testing.assert_allclose(matrix @ values, [values[:2] @ [0.25, 0.75], values[2:] @ [0.25, 0.25, 0.5]])


def test_every_node_carries_itself(toy_heads):
    head = toy_heads[1]
    at = np.searchsorted(head.surface.vertices, head.nodes.vertices)
    np.testing.assert_array_equal(nearest_along(head.surface, at)[at], np.arange(head.nodes.n_sources))


def test_the_crime_has_no_error_of_the_model(toy_heads, factors):
    """Without noise the known leadfield explains a crime's measurements exactly, and no others."""
    residual = {}
    for knowledge in ("crime", "own", "template"):
        cell = cell_of("A", knowledge=knowledge, snr_db=300)
        world = worlds_of(cell, toy_heads, factors)[0]
        drawn = draw_cases(cell, (world,), 0, 20, "test", 0)
        y = np.asarray(drawn.batch.measurements, np.float64)
        columns = np.asarray(world.known.leadfield, np.float64)[
            :, np.asarray(drawn.batch.activity).argmax(axis=1)
        ].T
        cosine = np.sum(y * columns, axis=1) / np.linalg.norm(y, axis=1) / np.linalg.norm(columns, axis=1)
        residual[knowledge] = 1 - np.mean(np.abs(cosine))
    assert residual["crime"] < 1e-6 < residual["own"]
    assert residual["own"] < residual["template"]


def test_a_cell_is_posed_for_all_heads(toy_heads, factors):
    cell = cell_of("D2", knowledge="template")
    validation = (make_world(cell, toy_heads[1], factors),)
    posed = pose(cell, validation, worlds_of(cell, toy_heads, factors), 6, 8, 0)
    np.testing.assert_array_equal(posed.problem.validation.head, 0)
    np.testing.assert_array_equal(posed.problem.test.head, [1, 2] * 4)
    power = np.asarray(posed.problem.noise_cov).diagonal().mean()
    assert power == pytest.approx(1 / (1 + 10), rel=0.5)


@pytest.mark.parametrize("knowledge", ["crime", "own", "template"])
def test_half_active_maps_have_the_mean_that_methods_are_told_of_each_head(knowledge, toy_heads, factors):
    cell = cell_of("D2", knowledge=knowledge)
    for world in worlds_of(cell, toy_heads, factors):
        drawn = draw_cases(cell, (world,), 0, 400, "test", 0)
        mean = np.asarray(drawn.batch.current).mean(axis=0)
        told = np.asarray(world.known.mean_current)
        assert np.corrcoef(mean, told)[0, 1] > (0.9 if knowledge != "template" else 0.5)
        np.testing.assert_allclose(told.sum(), world.moment.sum() / 2, rtol=1e-4)
        if knowledge == "template":
            area = np.asarray(world.known.sources.area)
            np.testing.assert_allclose(told / told.sum(), area / area.sum(), rtol=1e-5)
    assert not np.any(make_world(cell_of("A"), toy_heads[2], factors).known.mean_current)


def test_a_head_is_kept_whole(toy_heads, tmp_path):
    toy_heads[1].save(tmp_path / "head.npz")
    again = TrueHead.load(tmp_path / "head.npz")
    np.testing.assert_array_equal(again.leadfields, toy_heads[1].leadfields)
    np.testing.assert_array_equal(again.nodes.faces, toy_heads[1].nodes.faces)
    assert again.names == toy_heads[1].names
    (tmp_path / "head.npz").write_bytes((tmp_path / "head.npz").read_bytes()[:1000])
    with pytest.raises(ValueError, match="delete it, and it is made again"):
        TrueHead.load(tmp_path / "head.npz")


def test_the_core_grid_has_cells_of_every_kind_and_names_of_their_own():
    assert len({cell.name for cell in CORE_GRID}) == len(CORE_GRID) >= 24
    for name, values in (("scenario", "A B C D1 D2"), ("knowledge", "crime own template"),
                         ("noise", "white correlated 1/f")):  # fmt: skip
        assert {getattr(cell, name) for cell in CORE_GRID} == set(values.split())
    assert {cell.snr_db for cell in CORE_GRID} == {-5, 0, 5, 10, 20}


@pytest.mark.parametrize(
    "settings",
    [
        {"scenario": "E"},
        {"knowledge": "some"},
        {"n_times": 7},
        {"noise": "1/f"},
        {"sensors": "cap-5"},
        {"correlation_length": 0.0},
    ],
)
def test_cells_that_are_none_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Cell(**{"scenario": "A", "snr_db": 10, **settings})
    with pytest.raises(ValueError, match="n_times"):
        Cell("D1", 10, n_times=N_TIMES)


def test_places_of_single_dipoles_are_uniform(toy_heads, factors):
    cell = cell_of("A")
    world = worlds_of(cell, toy_heads, factors)[0]
    drawn = draw_cases(cell, (world,), 0, 400, "test", 0)
    height = drawn.focal.positions[:, 0, 2]
    assert kstest(height, np.asarray(world.dipoles.positions)[:, 2]).pvalue > 1e-3
