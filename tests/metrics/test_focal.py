from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from jax.test_util import check_grads
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from jaxinv import metrics

SEPARATION = 0.5
peak_error = jax.jit(metrics.peak_error)
spatial_dispersion = jax.jit(metrics.spatial_dispersion)
assigned_error = jax.jit(metrics.assigned_localisation_error)
area_under_curve = jax.jit(metrics.area_under_curve)
OF_TRUE_SOURCES = [peak_error, spatial_dispersion, lambda *case: assigned_error(*case, SEPARATION)]


def draw(seed: int, n_present: int = 3):
    """Score, positions, true positions and which are present; the padding is not a number."""
    rng = np.random.default_rng(seed)
    present = rng.permutation(np.arange(4) < n_present)
    true_positions = np.where(present[:, None], rng.normal(size=(4, 3)), np.nan)
    return rng.random(200), rng.normal(size=(200, 3)), true_positions, present


@pytest.mark.parametrize("kind", ["tied", "distinct", "constant", "perfect", "reversed", "infinite"])
def test_area_under_curve_equals_that_of_scikit_learn(kind):
    rng = np.random.default_rng(0)
    label = rng.random(200) < 0.3
    tied = np.round(rng.random(200) * 0.6 + 0.3 * label, 1)
    score = {
        "tied": tied,
        "distinct": rng.random(200) + 0.3 * label,
        "constant": np.zeros(200),
        "perfect": label.astype(float),
        "reversed": 1 - label.astype(float),
        "infinite": np.where(tied > 0.5, -1e300, tied),
    }[kind]
    expected = sklearn.metrics.roc_auc_score(label, score)
    assert area_under_curve(label, score) == pytest.approx(expected, abs=1e-14)


def test_area_under_curve_counts_pairs():
    rng = np.random.default_rng(1)
    label, score = rng.random(200) < 0.4, rng.integers(0, 6, 200).astype(float)
    pairs = [np.sign(a - b) / 2 + 0.5 for a, b in product(score[label], score[~label])]
    assert area_under_curve(label, score) == pytest.approx(np.mean(pairs), abs=1e-15)
    assert area_under_curve(label, -score) == pytest.approx(1 - np.mean(pairs), abs=1e-15)
    assert area_under_curve(label, np.exp(3 * score)) == pytest.approx(np.mean(pairs), abs=1e-15)


@pytest.mark.parametrize("label", [False, True])
def test_area_under_curve_needs_both_kinds(label):
    assert np.isnan(area_under_curve(np.full(200, label), np.arange(200.0)))


def test_area_under_curve_of_scores_that_are_not_numbers_is_none():
    assert np.isnan(area_under_curve(np.arange(200) < 5, np.where(np.arange(200) == 7, np.nan, 1.0)))


def test_peak_error_is_the_distance_from_the_nearest_true_source():
    positions = np.array([[0, 0, 0], [1, 0, 0], [4, 0, 0.0]])
    true_positions = np.array([[0, 3, 0], [9, 9, 9], [4, 0, 1.0]])
    present = np.array([True, False, True])
    for node, expected in enumerate((3.0, np.sqrt(10), 1.0)):
        error = peak_error(np.eye(3)[node], positions, true_positions, present)
        assert error == pytest.approx(expected)


def test_peak_error_of_a_constant_guess_is_the_mean_over_nodes():
    score, positions, true_positions, present = draw(0)
    distance = cdist(positions, true_positions[present]).min(axis=1)
    error = peak_error(np.full_like(score, 0.5), positions, true_positions, present)
    assert error == pytest.approx(distance.mean())
    score[[3, 8]] = 2.0
    error = peak_error(score, positions, true_positions, present)
    assert error == pytest.approx(distance[[3, 8]].mean())


def test_spatial_dispersion_of_one_source_is_that_of_mne():
    """Equation 12 of Molins et al., which MNE-Python calls the spatial deviation, there in cm."""
    from mne.minimum_norm import spatial_resolution

    rng = np.random.default_rng(2)
    positions, resolution = rng.normal(size=(12, 3)), rng.normal(size=(12, 12))

    class Surface(list):
        kind = "surface"

    halves = [{"rr": half, "vertno": np.arange(6)} for half in (positions[:6], positions[6:])]
    expected = spatial_resolution._spatial_extent(resolution, Surface(halves), "psf", "sd_ext") / 100
    dispersion = jax.vmap(lambda score, x: spatial_dispersion(score, positions, x[None], np.ones(1, bool)))
    np.testing.assert_allclose(dispersion(jnp.asarray(resolution.T), jnp.asarray(positions)), expected)


def test_spatial_dispersion_of_nodes_on_a_shell_is_its_radius():
    score, positions, _, present = draw(3)
    shell = 0.07 * positions / np.linalg.norm(positions, axis=1, keepdims=True)
    assert spatial_dispersion(score, shell, np.zeros((4, 3)), present) == pytest.approx(0.07)


@pytest.mark.parametrize("factor", [1e-30, -3.0, 1e30])
def test_spatial_dispersion_knows_no_scale(factor):
    score, *case = (np.asarray(x, np.float32) for x in draw(4))
    expected = float(spatial_dispersion(score, *case))
    assert spatial_dispersion(np.float32(factor) * score, *case) == pytest.approx(expected, rel=1e-5)


def test_spatial_dispersion_of_zeros_is_that_of_a_constant():
    score, *case = draw(5)
    constant = float(spatial_dispersion(np.ones_like(score), *case))
    assert spatial_dispersion(np.zeros_like(score), *case) == pytest.approx(constant)


def test_spatial_dispersion_is_differentiable():
    score, *case = draw(6)
    check_grads(lambda s: spatial_dispersion(s, *case), (score,), order=1)


@pytest.mark.parametrize("n_present", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_assigned_error_is_that_of_greedy_peaks_and_the_hungarian_method(n_present, seed):
    score, positions, true_positions, present = draw(seed, n_present)
    peaks = []
    for node in np.argsort(-score):
        if all(np.linalg.norm(positions[node] - positions[taken]) >= SEPARATION for taken in peaks):
            peaks.append(node)
    distance = cdist(positions[peaks[:n_present]], true_positions[present])
    expected = distance[linear_sum_assignment(distance)].mean()
    error = assigned_error(score, positions, true_positions, present, SEPARATION)
    assert error == pytest.approx(expected, rel=1e-12)


def test_assigned_error_of_scores_that_peak_at_the_sources_is_zero():
    score, positions, true_positions, present = draw(7)
    score[:3] += 1
    positions[:3] *= 5
    true_positions[present] = positions[[2, 0, 1]]
    assert assigned_error(score, positions, true_positions, present, SEPARATION) == 0


def test_assigned_error_does_not_take_a_peak_twice():
    """Of two sources one is found twice within the separation: the second peak is elsewhere."""
    positions = np.array([[0, 0, 0], [0.1, 0, 0], [5, 0, 0.0]])
    case = np.array([3.0, 2.0, 1.0]), positions, positions[[0, 2]], np.ones(2, bool)
    assert assigned_error(*case, 1.0) == 0
    assert assigned_error(*case, 0.0) == pytest.approx(4.9 / 2)


def test_assigned_error_without_room_for_the_peaks_is_not_a_number():
    assert np.isnan(assigned_error(*draw(8), 100.0))
    assert np.isfinite(assigned_error(*draw(8, n_present=1), 100.0))


@pytest.mark.parametrize("metric", OF_TRUE_SOURCES)
def test_errors_of_one_source_alone_agree_with_a_score_at_one_node(metric):
    _, positions, true_positions, present = draw(9, n_present=1)
    expected = np.linalg.norm(positions[4] - true_positions[present][0])
    assert metric(np.eye(200)[4], positions, true_positions, present) == pytest.approx(expected)


@pytest.mark.parametrize("metric", OF_TRUE_SOURCES)
def test_nothing_true_and_scores_that_are_not_numbers_give_no_number(metric):
    score, *case = draw(10)
    assert np.isnan(metric(*draw(10, n_present=0)))
    assert np.isnan(metric(np.where(np.arange(200) == 7, np.nan, score), *case))


@pytest.mark.parametrize("metric", OF_TRUE_SOURCES)
def test_order_of_nodes_and_of_sources_does_not_matter_and_the_head_may_move(metric):
    score, positions, true_positions, present = draw(11)
    expected = float(metric(score, positions, true_positions, present))
    rng = np.random.default_rng(12)
    nodes, sources = rng.permutation(200), rng.permutation(4)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    moved = metric(
        score[nodes],
        positions[nodes] @ rotation + 7,
        true_positions[sources] @ rotation + 7,
        present[sources],
    )
    assert moved == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric", [*OF_TRUE_SOURCES, lambda s, *_: area_under_curve(s > 0.7, s)])
def test_focal_metrics_vmap_to_the_same_numbers(metric):
    cases = [[jnp.asarray(x) for x in draw(seed, 1 + seed % 4)] for seed in range(6)]
    batched = jax.jit(jax.vmap(metric))(*(jnp.stack(x) for x in zip(*cases)))
    np.testing.assert_allclose(batched, [metric(*case) for case in cases], rtol=1e-12)


def test_shapes_that_do_not_fit_are_refused():
    score, positions, true_positions, present = draw(13)
    with pytest.raises(ValueError, match=r"\(node,\).*\(200,\) and \(199,\)"):
        area_under_curve(score, score[1:])
    for metric in OF_TRUE_SOURCES:
        with pytest.raises(ValueError, match=r"positions.*vmap"):
            metric(score, positions[1:], true_positions, present)
        with pytest.raises(ValueError, match=r"present.*vmap"):
            metric(score, positions, true_positions[1:], present)
        with pytest.raises(ValueError, match="room for one"):
            metric(score, positions, true_positions[:0], present[:0])
    with pytest.raises(ValueError, match=r"at most 4.*pad to fewer"):
        assigned_error(score, positions, np.zeros((5, 3)), np.ones(5, bool), SEPARATION)
