import numpy as np
import pytest

from jaxinv.metrics import expected_calibration_error, interval_coverage, skill


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_calibrated_probabilities_have_no_error_beyond_chance(rng):
    """Ten bins of n nodes each err by about √(p(1-p)/n)."""
    probability = rng.random((20, 5000))
    label = rng.random((20, 5000)) < probability
    assert expected_calibration_error(probability, label, floor=0.0) < 2 / np.sqrt(10_000)


@pytest.mark.parametrize("shift", [-0.2, 0.1, 0.2])
def test_probabilities_that_are_shifted_err_by_the_shift(rng, shift):
    truth = rng.uniform(0.3, 0.7, 100_000)
    label = rng.random(truth.size) < truth
    assert expected_calibration_error(truth + shift, label) == pytest.approx(abs(shift), abs=0.01)


def test_known_bins():
    """Two bins: mean probability 0.2 and frequency 0.5; 0.8 and 0.5."""
    probability, label = np.array([0.1, 0.3, 0.7, 0.9]), np.array([1, 0, 0, 1])
    assert expected_calibration_error(probability, label, n_bins=2) == pytest.approx(0.3)
    assert expected_calibration_error(probability, label, n_bins=1) == pytest.approx(0.0)
    assert expected_calibration_error(probability, label, n_bins=4) == pytest.approx(
        (0.9 + 0.3 + 0.7 + 0.1) / 4
    )


def test_bins_hold_equally_many_nodes(rng):
    """With every value alone in its bin the error is the mean absolute one."""
    probability, label = rng.uniform(0.1, 1, 50) ** 4 * 0.9 + 0.06, rng.random(50) < 0.5
    expected = np.mean(np.abs(probability - label))
    assert expected_calibration_error(probability, label, n_bins=50) == pytest.approx(expected)


def test_equal_probabilities_share_a_bin_whatever_their_order(rng):
    probability, label = np.round(rng.random(400), 1), rng.random(400) < 0.4
    order = rng.permutation(400)
    expected = expected_calibration_error(probability, label)
    assert expected_calibration_error(probability[order], label[order]) == pytest.approx(expected, abs=1e-15)
    constant = expected_calibration_error(np.full(400, 0.7), label)
    assert constant == pytest.approx(0.7 - label.mean())


def test_cases_are_pooled():
    """One case too sure and one too unsure are each wrong and together right."""
    probability = np.full((2, 100), 0.5)
    label = np.stack([np.arange(100) < 30, np.arange(100) < 70])
    assert [expected_calibration_error(p, y) for p, y in zip(probability, label)] == pytest.approx([0.2, 0.2])
    assert expected_calibration_error(probability, label) == pytest.approx(0.0)


def test_nodes_that_are_neither_active_nor_probable_do_not_count(rng):
    probability, label = rng.uniform(0.1, 1, 100), rng.random(100) < 0.2
    padded = expected_calibration_error(
        np.append(probability, np.full(900, 0.01)), np.append(label, np.zeros(900))
    )
    assert padded == pytest.approx(expected_calibration_error(probability, label))


def test_calibrated_probabilities_below_the_floor_err_as_the_docstring_says(rng):
    """Of nodes at 0.02 only the active are kept; their frequency is 1."""
    label = rng.random(10_000) < 0.02
    assert expected_calibration_error(np.full(10_000, 0.02), label) == pytest.approx(0.98)
    assert expected_calibration_error(np.full(10_000, 0.02), label, floor=0.0) < 0.01


def test_calibration_error_of_nothing_is_not_a_number():
    assert np.isnan(expected_calibration_error(np.zeros(3), np.zeros(3)))
    assert np.isnan(expected_calibration_error(np.array([0.5, np.nan]), np.ones(2)))


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_coverage_of_the_right_gaussian_is_the_level(rng, level):
    mean, std = rng.normal(size=(50, 2000)), rng.uniform(0.5, 2, 2000)
    truth = mean + std * rng.normal(size=mean.shape)
    assert interval_coverage(mean, std, truth, level) == pytest.approx(level, abs=0.006)
    assert interval_coverage(mean, 0.5 * std, truth, level) < level - 0.01
    assert interval_coverage(mean, 2 * std, truth, level) > level + 0.005


def test_the_interval_of_68_percent_ends_at_one_standard_deviation():
    truth, level = np.array([-1.01, -0.99, 0, 0.99, 1.01]), 0.6826894921370859
    assert interval_coverage(np.zeros(5), 1.0, truth, level) == pytest.approx(3 / 5)
    assert interval_coverage(np.full(5, 7.0), 3.0, 7 + 3 * truth, level) == pytest.approx(3 / 5)


def test_coverage_of_a_certain_estimate_is_the_share_that_is_right():
    assert interval_coverage(np.array([1.0, 2.0]), 0.0, np.array([1.0, 3.0]), 0.9) == 0.5


def test_coverage_of_nothing_is_not_a_number():
    assert np.isnan(interval_coverage(np.zeros(0), 1.0, np.zeros(0), 0.9))
    assert np.isnan(interval_coverage(np.array([0.0, np.nan]), 1.0, np.zeros(2), 0.9))


def test_skill_of_known_losses():
    np.testing.assert_allclose(skill(np.array([0.0, 0.5, 1.0, 2.0]), 1.0), [1, 0.5, 0, -1])
    assert skill(0.3, 0.6) == pytest.approx(0.5)


def test_mean_skill_against_one_reference_is_the_skill_of_the_mean(rng):
    loss = rng.random(20)
    assert skill(loss, 0.7).mean() == pytest.approx(skill(loss.mean(), 0.7))


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        expected_calibration_error(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="n_bins"):
        expected_calibration_error(np.zeros(3), np.zeros(3), n_bins=0)
    with pytest.raises(ValueError, match="turn scores into probabilities"):
        expected_calibration_error(np.array([1.5]), np.ones(1))
    with pytest.raises(ValueError, match="std must end it"):
        interval_coverage(np.zeros((2, 3)), np.ones(2), np.zeros((2, 3)), 0.9)
    with pytest.raises(ValueError, match="root of a variance"):
        interval_coverage(np.zeros(2), -1.0, np.zeros(2), 0.9)
    with pytest.raises(ValueError, match="90 %"):
        interval_coverage(np.zeros(2), 1.0, np.zeros(2), 90)
    with pytest.raises(ValueError, match="reference_loss"):
        skill(0.5, 0.0)
