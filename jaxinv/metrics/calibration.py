"""Whether probabilities and intervals mean what they say: on the host, pooled over arrays of any shape."""

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy.special import ndtri


def expected_calibration_error(
    probability: Float[np.ndarray, "*shape"],
    label: Num[np.ndarray, "*shape"] | Bool[np.ndarray, "*shape"],
    *,
    n_bins: int = 10,
    floor: float = 0.05,
) -> float:
    r"""Mean difference of probability and frequency, over bins of probability that hold equally many nodes.

    $\sum_b n_b |\bar p_b - \bar y_b| / \sum_b n_b$, over the nodes that are active or more probable than
    `floor`, so that the many that are neither do not hide the others. *Pooled*: nodes of all cases are binned
    together, and the result is not the mean of the cases' errors. Equal probabilities share a bin, whatever
    their order.

    Active nodes below `floor` are kept and inactive ones are not. Perfect probabilities therefore err too, by
    about the share of kept nodes that lie below. This is much where few nodes are active and most of their
    probabilities are small; `floor=0` keeps every node of positive probability and has no such error.

    Args:
        probability: in [0, 1].
        label: non-zero where active.
        n_bins: fewer where probabilities are equal.
        floor: smallest probability that matters where nothing is active.

    Returns:
        Between 0 and 1. NaN where a probability is NaN or no node is kept.

    Raises:
        ValueError: for different shapes, a probability outside [0, 1], or no bins.

    References:
        Naeini et al. 2015, doi:10.1609/aaai.v29i1.9602; Nguyen & O'Connor 2015, doi:10.18653/v1/D15-1182.
    """
    probability, label = np.asarray(probability, dtype=np.float64), np.asarray(label) != 0
    if probability.shape != label.shape:
        raise ValueError(
            f"probability and label must have one shape, not {probability.shape} and {label.shape}"
        )
    if n_bins < 1:
        raise ValueError(f"n_bins must be 1 or more, not {n_bins}")
    if ((probability < 0) | (probability > 1)).any():
        raise ValueError("probability must lie in [0, 1]: turn scores into probabilities first")
    kept = (probability > floor) | label
    if np.isnan(probability).any() or not kept.any():
        return float("nan")
    p, y = probability[kept], label[kept]
    first_of_bin = np.arange(1, n_bins) * p.size // n_bins
    bin_of = np.searchsorted(np.sort(p)[first_of_bin], p, side="right")
    return float(np.abs(np.bincount(bin_of, p - y)).sum() / p.size)


def interval_coverage(
    mean: Float[np.ndarray, "*shape"],
    std: Float[np.ndarray, "*shape"] | float,
    truth: Float[np.ndarray, "*shape"],
    level: float,
) -> float:
    r"""Share of true values inside the central interval of a Gaussian, pooled; `level` where it is right.

    $|x - \mu| \le \sigma \Phi^{-1}((1 + \mathrm{level})/2)$.

    Args:
        mean: $\mu$, in any unit.
        std: $\sigma$, in the same; broadcast to the others' shape.
        truth: $x$, in the same.
        level: probability inside the interval, between 0 and 1.

    Returns:
        Between 0 and 1; NaN where a value is NaN or there is none.

    Raises:
        ValueError: for different shapes, a negative `std`, or a level outside (0, 1).
    """
    mean, std, truth = (np.asarray(x, dtype=np.float64) for x in (mean, std, truth))
    if mean.shape != truth.shape or std.shape not in ((), truth.shape[truth.ndim - std.ndim :]):
        raise ValueError(
            "mean and truth must have one shape and std must end it, "
            f"not {mean.shape}, {truth.shape} and {std.shape}"
        )
    if (std < 0).any():
        raise ValueError("std must not be negative: take the root of a variance")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}; 0.9 stands for 90 %")
    if not truth.size or np.isnan(mean + std + truth).any():
        return float("nan")
    return float(np.mean(np.abs(truth - mean) <= std * ndtri((1 + level) / 2)))


def skill(
    loss: Float[np.ndarray, "*shape"] | float, reference_loss: Float[np.ndarray, "*shape"] | float
) -> Float[np.ndarray, "*shape"]:
    """Share of a reference's loss that is avoided: 1 is perfect, 0 no better, negative worse.

    For many cases, give one mean `reference_loss`: then the mean of the skills is the skill of the mean loss.

    Args:
        loss: 0 or more, for example the cross-entropy of each case.
        reference_loss: of a reference, for example of the prior; broadcast.

    Raises:
        ValueError: for a reference without loss.

    References:
        Murphy 1988, doi:10.1175/1520-0493(1988)116<2417:SSBOTM>2.0.CO;2.
    """
    loss, reference_loss = np.asarray(loss, dtype=np.float64), np.asarray(reference_loss, dtype=np.float64)
    if (reference_loss <= 0).any():
        raise ValueError("reference_loss must be positive: a reference without loss cannot be improved on")
    return 1 - loss / reference_loss
