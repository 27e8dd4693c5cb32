r"""Posterior of one dipole out of a dictionary (A), whose signal power is known: an exact sum."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinv.evaluation.oracles.whitened import course_modes, whitened
from jaxinv.inverse import Estimate
from jaxinv.inverse.estimator import check_measurements
from jaxinv.inverse.validation import check_finite, check_positive

_matmul = partial(jnp.matmul, precision="highest")


@flax.struct.dataclass
class DipoleOracle:
    """One dipole of a dictionary, bound to a covariance. A pytree; make it with `dipole_oracle`.

    Attributes:
        whitener: of the noise, in 1/V.
        gain: whitened fields of the atoms, each scaled to the known power.
        log_prior: of each atom.
        node: that each atom is carried to.
        modes: from samples to modes in which noise is white; None for samples that are independent.
        variance: of the course in each mode.
        n_nodes: of the estimate.
    """

    whitener: Float[Array, "channel channel"]
    gain: Float[Array, "channel atom"]
    log_prior: Float[Array, " atom"]
    node: Int[Array, " atom"]
    modes: Float[Array, "time mode"] | None
    variance: Float[Array, " mode"] | None
    n_nodes: int = flax.struct.field(pytree_node=False)

    def __call__(self, measurements: Float[Array, "channel *time"]) -> Estimate:
        """Probability (node,) that each node carries the dipole of the window; `current` is the same.

        Raises:
            ValueError: if the first axis is not the fields' channels, a value is not finite, or the number of
                samples is not that of `course_cov`.
        """
        check_measurements(measurements, len(self.whitener))
        measurements = jnp.asarray(measurements)
        measurements = measurements.reshape(len(measurements), -1)
        if self.modes is not None and measurements.shape[1] != len(self.modes):
            raise ValueError(
                f"measurements have {measurements.shape[1]} samples, course_cov {len(self.modes)}"
            )
        probability = _probability(self, measurements.astype(self.gain.dtype))
        return Estimate(probability, probability=probability)


def dipole_oracle(
    fields: Float[Array, "channel atom"],
    node: Int[Array, " atom"],
    n_nodes: int,
    noise_cov: Float[Array, "channel channel"],
    signal_power: float,
    *,
    course_cov: Float[Array, "time time"] | None = None,
    noise_course_cov: Float[Array, "time time"] | None = None,
    weight: Float[Array, " atom"] | None = None,
) -> DipoleOracle:
    r"""The Bayes answer for one dipole of a known dictionary. Exact, for the courses that are assumed.

    With noise at a fixed ratio to each case's signal, the signal's power $P$ is known: the mean square over
    the referenced channels (and samples). Of one sample, the amplitude of atom $i$ is $\pm \sqrt{P} /
    \mathrm{rms}(a_i)$, both signs alike. Of several, the course is Gaussian, its power $P$ in the mean; that
    the power of every single case is $P$ is then not made use of.

    Args:
        fields: $a_i$ of a unit dipole at each atom, referenced, in V.
        node: that each atom is carried to.
        n_nodes: number of nodes.
        noise_cov: in V², same reference; may lack ranks.
        signal_power: $P$, in V², at the level of `noise_cov`.
        course_cov: of the course over the samples, up to a factor; None for independent samples, of any
            number.
        noise_course_cov: of the noise over the samples, which must be regular; None for white noise.
        weight: how probable each atom is, up to a factor; None for all alike.

    Raises:
        ValueError: for arrays that are traced, shapes that do not fit, values that are not finite, an atom
            without field, indices of no node, weights that are negative, or a power that is not positive.
    """
    matrix, white = whitened("fields", fields, noise_cov)
    n_atoms = white.shape[1]
    check_positive("signal_power", signal_power)
    rms = np.sqrt(np.mean(np.asarray(fields, np.float64) ** 2, axis=0))
    if not rms.all():
        raise ValueError(f"fields has {np.sum(rms == 0)} atoms that no channel sees: leave them out")
    node = np.asarray(node)
    if node.shape != (n_atoms,) or not np.issubdtype(node.dtype, np.integer):
        raise ValueError(
            f"node must be an index for each of {n_atoms} atoms; found {node.dtype} {node.shape}"
        )
    if node.min() < 0 or node.max() >= n_nodes:
        raise ValueError(f"node must index the {n_nodes} nodes; found {node.min()} to {node.max()}")
    weight = np.ones(n_atoms) if weight is None else np.asarray(weight, np.float64)
    check_finite("weight", weight)
    if weight.shape != (n_atoms,) or weight.min() < 0 or not weight.any():
        raise ValueError(f"weight must be {n_atoms} numbers, none negative and not all zero")
    modes = variance = None
    dtype = jnp.result_type(fields, noise_cov)
    if course_cov is not None:
        modes, variance = course_modes(course_cov, noise_course_cov, left_out=0.0)
        variance = jnp.asarray(variance / np.mean(np.diag(course_cov)), dtype)
        modes = jnp.asarray(modes, dtype)
    elif noise_course_cov is not None:
        raise ValueError("noise_course_cov is of a window: give course_cov too")
    with np.errstate(divide="ignore"):
        log_prior = np.log(weight / weight.sum())
    gain = white * (np.sqrt(float(signal_power)) / rms)
    arrays = (jnp.asarray(array, dtype) for array in (matrix, gain, log_prior))
    return DipoleOracle(*arrays, jnp.asarray(node, jnp.int32), modes, variance, n_nodes=int(n_nodes))


@jax.jit
def _probability(oracle, measurements):
    """Of the nodes, by the evidence of every atom."""
    white = _matmul(oracle.whitener, measurements)
    power = jnp.sum(oracle.gain**2, axis=0)
    if oracle.modes is None and measurements.shape[1] == 1:
        seen = jnp.abs(_matmul(oracle.gain.T, white[:, 0]))
        evidence = seen + jnp.log1p(jnp.exp(-2 * seen)) - power / 2
    else:
        modes = white if oracle.modes is None else _matmul(white, oracle.modes)
        variance = jnp.ones(modes.shape[1], modes.dtype) if oracle.variance is None else oracle.variance
        gained = 1 + power[:, None] * variance
        seen = _matmul(oracle.gain.T, modes) ** 2
        evidence = jnp.sum(seen * variance / gained - jnp.log(gained), axis=1) / 2
    share = jax.nn.softmax(evidence + oracle.log_prior)
    return jnp.clip(jax.ops.segment_sum(share, oracle.node, oracle.n_nodes), 0, 1)
