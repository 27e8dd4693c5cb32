"""The analytic potential of dipoles in a layered sphere: the oracle of every numerical forward model."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

TRUNCATION = 1e-15  # size at which a geometric tail is cut
BLOCK = 64  # the number of terms is a multiple of this, so that few compilations serve all positions
TRACED_ECCENTRICITY = 0.995


def sphere_leadfield(
    positions: Float[Array, "source 3"],
    moments: Float[Array, "source 3"],
    electrodes: Float[Array, "channel 3"],
    radii: Float[Array, " layer"],
    conductivity: Float[Array, " layer"],
) -> Float[Array, "channel source"]:
    r"""Potential at electrodes on a layered sphere around the origin, average reference.

    $V = \frac{1}{4\pi\sigma_L R_1^2} \sum_n g_n\, q \cdot \nabla_y S_n(y)$ with $y = r_0 / R_1$ and
    $S_n = |y|^n P_n$. The factor $g_n$ is $(2n+1)/n$ for one layer; for more it follows from the
    continuity of potential and current, from the outside in, scaled so that nothing overflows. The
    $S_n$ are polynomials in $y$, so the centre is no special case. Differentiable in every argument.

    Args:
        positions: in m, in the innermost layer. Where they are traced, the series is long enough for
            an eccentricity of 0.995.
        moments: in A m; unit moments give a leadfield in V/(A m).
        electrodes: in m; projected onto the outermost sphere along their radius.
        radii: outermost first, in m.
        conductivity: outermost first, in S/m.

    Returns:
        The potentials in V, minus their mean over the channels.

    Raises:
        ValueError: for wrong shapes, radii that do not decrease, a conductivity that is not positive,
            a position outside the innermost layer, or float64 switched off.

    References:
        de Munck & Peters 1993, doi:10.1109/10.245610; Zhang 1995, doi:10.1088/0031-9155/40/3/001.
    """
    if not jax.config.jax_enable_x64:
        raise ValueError('the series needs float64: call jax.config.update("jax_enable_x64", True) first')
    arrays = (positions, moments, electrodes, radii, conductivity)
    positions, moments, electrodes, radii, conductivity = (jnp.asarray(a, jnp.float64) for a in arrays)
    _check_shapes(positions, moments, electrodes, radii, conductivity)
    n_terms = _count_terms(positions, radii, conductivity)
    return _series(positions, moments, electrodes, radii, conductivity, n_terms)


def _check_shapes(positions, moments, electrodes, radii, conductivity) -> None:
    named = {"positions": positions, "moments": moments, "electrodes": electrodes}
    for name, array in named.items():
        if array.ndim != 2 or array.shape[1] != 3:
            raise ValueError(f"{name} must have shape (n, 3), not {array.shape}")
    if positions.shape != moments.shape:
        raise ValueError(f"moments must have the positions' shape {positions.shape}, not {moments.shape}")
    if radii.ndim != 1 or len(radii) == 0 or radii.shape != conductivity.shape:
        raise ValueError(
            f"radii and conductivity must hold one value a layer; found {radii.shape}, {conductivity.shape}"
        )


def _count_terms(positions, radii, conductivity) -> int:
    """Terms after which the series is exact in float64; checks the values that are not traced."""
    if not isinstance(conductivity, jax.core.Tracer) and not (np.asarray(conductivity) > 0).all():
        raise ValueError(f"conductivity must be positive, in S/m, not {conductivity}")
    eccentricity = TRACED_ECCENTRICITY
    if not isinstance(radii, jax.core.Tracer):
        if not (np.asarray(radii) > 0).all() or (np.diff(radii) >= 0).any():
            raise ValueError(f"radii must be positive and decrease, outermost first, not {radii}")
        if not isinstance(positions, jax.core.Tracer):
            distance = np.linalg.norm(positions, axis=1)
            outside = np.flatnonzero(~(distance < float(radii[-1])))
            if outside.size:
                raise ValueError(
                    f"{outside.size} positions lie outside the innermost layer of {float(radii[-1])} m, the "
                    f"first is {outside[0]} at {distance[outside[0]]:.6g} m: move them inside"
                )
            eccentricity = max(float(distance.max(initial=0)) / float(radii[0]), 0.1)
        else:
            eccentricity = min(TRACED_ECCENTRICITY, float(radii[-1] / radii[0]))
    # the derivative of a degree-n polynomial brings a factor n², hence the margin
    terms = 1.4 * np.log(TRUNCATION) / np.log(eccentricity) + 10
    return BLOCK * int(np.ceil(terms / BLOCK))


@partial(jax.jit, static_argnames="n_terms")
def _series(positions, moments, electrodes, radii, conductivity, n_terms: int):
    unit = electrodes / jnp.linalg.norm(electrodes, axis=1, keepdims=True)
    y = positions / radii[0]
    along = jnp.einsum("ck,sk->cs", unit, y, precision="highest")
    moment_along = jnp.einsum("ck,sk->cs", unit, moments, precision="highest")
    square, slope = jnp.sum(y * y, axis=1), 2 * jnp.sum(y * moments, axis=1)

    def add(state, n):
        """S_n and its derivative along the moment, by the recurrence of solid harmonics."""
        total, value, before, change, change_before = state
        next_value = ((2 * n + 1) * along * value - n * square * before) / (n + 1)
        next_change = (
            (2 * n + 1) * (moment_along * value + along * change)
            - n * (slope * before + square * change_before)
        ) / (n + 1)
        total = total + _layer_factor(n + 1, radii, conductivity) * next_change
        return (total, next_value, value, next_change, change), None

    zero = jnp.zeros_like(along)
    start = (zero, jnp.ones_like(along), zero, zero, zero)
    (total, *_), _ = lax.scan(add, start, jnp.arange(n_terms, dtype=jnp.float64))
    potential = total / (4 * jnp.pi * conductivity[-1] * radii[0] ** 2)
    return potential - potential.mean(axis=0)


def _layer_factor(n, radii, conductivity):
    """g_n: what the layers make of the term of order n.

    In a layer with outer radius R the potential is A (r/R)^n + B (r/R)^-(n+1). From no current through
    the outermost sphere, each interface gives the next A and B, here divided by (R_k/R_1)^-(n+1).
    """
    a, b = 1.0, n / (n + 1)
    for k in range(radii.shape[0] - 1):
        a = a * (radii[k + 1] / radii[k]) ** (2 * n + 1)
        current = conductivity[k] / conductivity[k + 1] * (n * a - (n + 1) * b)
        a, b = ((n + 1) * (a + b) + current) / (2 * n + 1), (n * (a + b) - current) / (2 * n + 1)
    return (2 * n + 1) / ((n + 1) * b)
