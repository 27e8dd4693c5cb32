"""The analytic potential of dipoles in a layered sphere: the oracle of every numerical forward model."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

TRUNCATION = 1e-15  # size at which a geometric tail is cut
BLOCK = 64  # the number of terms is a multiple of this, so that few compilations serve all positions
TRACED_ECCENTRICITY = 0.999


def sphere_leadfield(
    positions: Float[Array, "source 3"],
    moments: Float[Array, "source 3"],
    electrodes: Float[Array, "channel 3"],
    radii: Float[Array, " layer"],
    conductivity: Float[Array, " layer"] | Float[Array, "layer 2"],
) -> Float[Array, "channel source"]:
    r"""Potential at electrodes on a layered sphere around the origin, average reference.

    $V = \frac{1}{4\pi\sigma_L R_1^2} \sum_n g_n\, q \cdot \nabla_y S_n(y)$ with $y = r_0 / R_1$ and
    $S_n = |y|^n P_n$. The factor $g_n$ follows from the continuity of potential and current, from the
    outside in, as a ratio and a logarithm, so that nothing overflows. The $S_n$ are polynomials in $y$,
    so the centre is no special case. One isotropic layer has a closed form, which is used. Differentiable
    in every argument.

    Args:
        positions: in m, in the innermost layer. Where they or the radii are traced, the series is long
            enough for any position up to an eccentricity of 0.999 of the outermost sphere.
        moments: in A m; unit moments give a leadfield in V/(A m).
        electrodes: in m; projected onto the outermost sphere along their radius.
        radii: outermost first, in m.
        conductivity: outermost first, in S/m; (layer, 2) for radially anisotropic layers: along the
            radius and across it, equal in the innermost layer, where the sources are.

    Returns:
        The potentials in V, minus their mean over the channels.

    Raises:
        ValueError: for wrong shapes, radii that do not decrease, a conductivity that is not positive, an
            anisotropic innermost layer, a position outside the innermost layer, or float64 switched off.

    References:
        de Munck & Peters 1993, doi:10.1109/10.245610; Zhang 1995, doi:10.1088/0031-9155/40/3/001; Brody,
        Terry & Ideker 1973, doi:10.1109/TBME.1973.324171 (one layer).
    """
    potential = _potential(*_checked(positions, moments, electrodes, radii, conductivity))
    return potential - potential.mean(axis=0)


def sphere_field(
    positions: Float[Array, "source 3"],
    moments: Float[Array, "source 3"],
    points: Float[Array, "point 3"],
    radii: Float[Array, " layer"],
    conductivity: Float[Array, " layer"] | Float[Array, "layer 2"],
) -> Float[Array, "point 3 source"]:
    """Electric field E = -∇V just inside the outermost sphere, in V/m.

    Its component along the radius is 0, since no current leaves the sphere. Differentiable in every
    argument; the arguments and errors are those of `sphere_leadfield`, with `points` for its electrodes.
    """
    positions, moments, points, radii, conductivity, n_terms = _checked(
        positions, moments, points, radii, conductivity, name="points"
    )
    points = radii[0] * points / jnp.linalg.norm(points, axis=1, keepdims=True)

    def slope(axis):
        return jax.jvp(
            lambda x: _potential(positions, moments, x, radii, conductivity, n_terms),
            (points,),
            (jnp.broadcast_to(axis, points.shape),),
        )[1]

    # the potential is constant along each radius outside the sphere, so its gradient is the tangential one
    return -jax.vmap(slope, out_axes=1)(jnp.eye(3))


def _checked(positions, moments, electrodes, radii, conductivity, name="electrodes"):
    """The arguments as float64 arrays, and the number of terms."""
    if not jax.config.jax_enable_x64:
        raise ValueError('the series needs float64: call jax.config.update("jax_enable_x64", True) first')
    arrays = (positions, moments, electrodes, radii, conductivity)
    positions, moments, electrodes, radii, conductivity = (jnp.asarray(a, jnp.float64) for a in arrays)
    _check_shapes({"positions": positions, "moments": moments, name: electrodes}, radii, conductivity)
    _check_values(positions, radii, conductivity)
    if conductivity.ndim == 1:
        n_terms = 0 if len(radii) == 1 else _count_terms(positions, radii, np.ones((len(radii), 2)))
        conductivity = jnp.stack([conductivity, conductivity], axis=1)
    else:
        n_terms = _count_terms(positions, radii, conductivity)
    return positions, moments, electrodes, radii, conductivity, n_terms


def _check_shapes(named, radii, conductivity) -> None:
    for name, array in named.items():
        if array.ndim != 2 or array.shape[1] != 3:
            raise ValueError(f"{name} must have shape (n, 3), not {array.shape}")
    if named["positions"].shape != named["moments"].shape:
        raise ValueError(
            f"moments must have the positions' shape {named['positions'].shape}, not {named['moments'].shape}"
        )
    if radii.ndim != 1 or len(radii) == 0 or conductivity.shape not in (radii.shape, (*radii.shape, 2)):
        raise ValueError(
            "radii must hold one value a layer and conductivity one, or two; found "
            f"{radii.shape}, {conductivity.shape}"
        )


def _is_known(*arrays) -> bool:
    return not any(isinstance(array, jax.core.Tracer) for array in arrays)


def _check_values(positions, radii, conductivity) -> None:
    if _is_known(conductivity):
        conductivity = np.asarray(conductivity)
        if not (conductivity > 0).all():
            raise ValueError(f"conductivity must be positive, in S/m, not {conductivity}")
        if conductivity.ndim == 2 and conductivity[-1, 0] != conductivity[-1, 1]:
            raise ValueError(
                f"conductivity of the innermost layer must be isotropic, not {conductivity[-1]}: the sources "
                "lie in it"
            )
    if _is_known(radii) and (not (np.asarray(radii) > 0).all() or (np.diff(radii) >= 0).any()):
        raise ValueError(f"radii must be positive and decrease, outermost first, not {radii}")
    if _is_known(radii, positions):
        distance = np.linalg.norm(positions, axis=1)
        innermost = float(np.asarray(radii)[-1])
        outside = np.flatnonzero(~(distance < innermost))
        if outside.size:
            raise ValueError(
                f"{outside.size} positions lie outside the innermost layer of {innermost} m, the "
                f"first is {outside[0]} at {distance[outside[0]]:.6g} m: move them inside"
            )


def _count_terms(positions, radii, conductivity) -> int:
    """Terms after which the series is exact in float64, as far as the values are known.

    Term n falls with the n-th power of the eccentricity, in which a layer counts by its radii's ratio to
    the power √(tangential / radial conductivity).
    """
    ratio = TRACED_ECCENTRICITY
    if _is_known(radii, conductivity):
        squeeze = np.sqrt(np.asarray(conductivity)[:-1, 1] / np.asarray(conductivity)[:-1, 0])
        ratio = float(np.prod((np.asarray(radii)[1:] / np.asarray(radii)[:-1]) ** squeeze))
    if _is_known(radii, positions):
        ratio *= float(np.linalg.norm(positions, axis=1).max(initial=0)) / float(np.asarray(radii)[-1])
    eccentricity = np.clip(ratio, 0.1, None if _is_known(radii, positions) else TRACED_ECCENTRICITY)
    # the derivative of a degree-n polynomial brings a factor n², hence the margin
    terms = 1.4 * np.log(TRUNCATION) / np.log(eccentricity) + 10
    return BLOCK * int(np.ceil(terms / BLOCK))


@partial(jax.jit, static_argnames="n_terms")
def _potential(positions, moments, electrodes, radii, conductivity, n_terms: int):
    unit = electrodes / jnp.linalg.norm(electrodes, axis=1, keepdims=True)
    inner = conductivity[-1, 0]
    if n_terms == 0:
        return _closed_form(positions, moments, unit, radii[0]) / (4 * jnp.pi * inner)
    order = jnp.arange(n_terms, dtype=jnp.float64)
    factor = _layer_factor(order + 1, radii, conductivity)
    y = positions / radii[0]
    return _series(y, moments, unit, order, factor) / (4 * jnp.pi * inner * radii[0] ** 2)


def _closed_form(positions, moments, unit, radius):
    """4πσ times the potential of a homogeneous sphere at its surface."""
    offset = radius * unit[:, None] - positions
    length = jnp.linalg.norm(offset, axis=2)
    along = jnp.einsum("csk,sk->cs", offset, moments, precision="highest")
    radial = jnp.einsum("ck,sk->cs", unit, moments, precision="highest")
    depth = length + jnp.einsum("ck,csk->cs", unit, offset, precision="highest")
    return 2 * along / length**3 + (along / length + radial) / (radius * depth)


def _series(y, moments, unit, order, factor):
    along = jnp.einsum("ck,sk->cs", unit, y, precision="highest")
    moment_along = jnp.einsum("ck,sk->cs", unit, moments, precision="highest")
    square, slope = jnp.sum(y * y, axis=1), 2 * jnp.sum(y * moments, axis=1)

    def add(state, term):
        """S_n and its derivative along the moment, by the recurrence of solid harmonics."""
        total, value, before, change, change_before = state
        n, weight = term
        next_value = ((2 * n + 1) * along * value - n * square * before) / (n + 1)
        next_change = (
            (2 * n + 1) * (moment_along * value + along * change)
            - n * (slope * before + square * change_before)
        ) / (n + 1)
        return (total + weight * next_change, next_value, value, next_change, change), None

    @jax.checkpoint  # a reverse derivative keeps the states between blocks and one block's, not all
    def add_block(state, terms):
        return lax.scan(add, state, terms)

    zero = jnp.zeros_like(along)
    start = (zero, jnp.ones_like(along), zero, zero, zero)
    (total, *_), _ = lax.scan(add_block, start, (order.reshape(-1, BLOCK), factor.reshape(-1, BLOCK)))
    return total


def _layer_factor(n, radii, conductivity):
    """g_n: what the layers make of the terms of order n.

    In a layer with outer radius R the potential is A (r/R)^ν + B (r/R)^-(ν+1), with ν = n where it is
    isotropic. From no current through the outermost sphere, each interface gives the next A / B and B.

    References:
        de Munck 1988, doi:10.1063/1.341987 (anisotropic layers).
    """
    power = (
        jnp.sqrt(1 + 4 * n[:, None] * (n[:, None] + 1) * conductivity[:, 1] / conductivity[:, 0]) - 1
    ) / 2
    outermost = power[:, 0]

    def cross(state, interface):
        (ratio, scale), (nu, mu, shrink, contrast) = state, interface
        ratio, scale = ratio * shrink ** (2 * nu + 1), scale + (n - nu) * jnp.log(shrink)
        current = contrast * (nu * ratio - (nu + 1))
        a = ((mu + 1) * (ratio + 1) + current) / (2 * mu + 1)
        b = (mu * (ratio + 1) - current) / (2 * mu + 1)
        return (a / b, scale + jnp.log(b)), None

    start = (outermost + 1) / outermost, jnp.log(outermost / (outermost + 1))
    contrast = conductivity[:-1, 0] / conductivity[1:, 0]
    (_, scale), _ = lax.scan(cross, start, (power.T[:-1], power.T[1:], radii[1:] / radii[:-1], contrast))
    return (2 * outermost + 1) / (outermost + 1) * jnp.exp(-scale)
