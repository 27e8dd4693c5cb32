import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxinv.forward import greedy, offline
from jaxinv.forward.exact import FemForward
from jaxinv.forward.protocol import Forward
from jaxinv.forward.reduced import ReducedForward
from jaxinv.head import Electrodes, SourceSpace, SurfaceField
from jaxinv.simulate import HalfActiveMaps, WhiteNoise, simulate_batch

from .conftest import CONDUCTIVITY, RADII, directions

LOW, HIGH = np.array([0.28, 0.001, 1.7, 0.22]), np.array([0.87, 0.04, 1.8, 0.67])
TOLERANCE = 1e-3


def build(forward, **options):
    options = {"tolerance": TOLERANCE, "dtype": "float64", "progress": False, **options}
    return ReducedForward.build(forward, LOW, HIGH, **options)


@pytest.fixture(scope="module")
def reduced(forward):
    return build(forward)


@pytest.fixture(scope="module")
def cases():
    """Held-out conductivities in the box, and its two extreme corners."""
    share = np.random.default_rng(11).random((12, 4))
    return np.vstack([np.exp(np.log(LOW) + share * np.log(HIGH / LOW)), LOW, HIGH])


def errors(exact, found):
    exact = np.asarray(exact).reshape(len(exact), -1)
    difference = np.linalg.norm(np.asarray(found).reshape(exact.shape) - exact, axis=1)
    return difference / np.linalg.norm(exact, axis=1)


def test_follows_the_protocol(reduced):
    assert isinstance(reduced, Forward)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_the_bound_bounds_and_the_tolerance_is_met(forward, reduced, cases, dtype):
    """On conductivities that the build has not seen, and corners that it has, in both precisions."""
    cast = jax.tree.map(lambda a: a.astype(dtype) if a.dtype == jnp.float64 else a, reduced)
    ratios = []
    for sigma in cases:
        true, bound = errors(forward.leadfield(sigma), cast.leadfield(sigma)), cast.error_bound(sigma)
        assert (true <= np.asarray(bound)).all()
        assert true.max() <= TOLERANCE
        ratios.append(np.asarray(bound) / true)
    assert max(reduced.error_bound(cases[-1]).max(), reduced.error_bound(cases[-2]).max()) <= TOLERANCE
    assert np.median(ratios) < 15


@pytest.mark.parametrize("factors", [(1, 1, 1, 3), (0.2, 1, 1, 1), (1, 0.1, 0.3, 1), (0.1, 9, 0.2, 8)])
def test_the_bound_holds_outside_the_box_too(forward, reduced, cases, factors):
    """Where grey matter conducts more than the box allows, or another tissue less, the constant must grow."""
    for corner in (LOW, HIGH, cases[0]):
        sigma = corner * np.array(factors)
        found = reduced.leadfield(sigma, extrapolate=True)
        assert (errors(forward.leadfield(sigma), found) <= np.asarray(reduced.error_bound(sigma))).all()


def test_where_nothing_can_be_said_the_bound_is_infinite(reduced, cases):
    bounds = jax.jit(reduced.error_bound)(-cases[0])
    assert np.isposinf(bounds).all()
    with pytest.raises(ValueError, match="conductivity must be positive"):
        reduced.error_bound(-cases[0])


def test_batches_of_projections_and_bounds_are_loops(reduced, cases):
    current = np.random.default_rng(2).normal(size=(len(cases), 12))
    measured = jax.jit(jax.vmap(reduced.project))(cases, current)
    bounds = jax.jit(jax.vmap(reduced.error_bound))(cases)
    for k, sigma in enumerate(cases):
        np.testing.assert_allclose(measured[k], reduced.project(sigma, current[k]), rtol=1e-9)
        np.testing.assert_allclose(bounds[k], reduced.error_bound(sigma), rtol=1e-6)


def test_the_energy_bound_is_sharp(forward):
    """Of the potential's own error, which by Galerkin orthogonality is a difference of energies.

    Far from the box, so that the difference is not rounding.
    """
    reduced = build(forward, tolerance=0.3)
    loads = offline.referenced_loads(forward)
    for sigma in ([0.43, 0.2, 1.79, 0.33], [0.43, 0.01, 0.2, 0.33], [3, 0.005, 1.79, 1.5]):
        sigma = np.array(sigma)
        exact = forward.sensors.reference_operator() @ forward.transfer_matrix(sigma)
        coefficients = reduced.potentials.model.coefficients(jnp.asarray(sigma))
        energy = np.einsum("cn,nc->c", exact, loads) - (coefficients * reduced.potentials.model.load).sum(
            axis=1
        )
        bound = np.asarray(reduced.potentials.model.energy_error(jnp.asarray(sigma), coefficients))
        assert (bound >= np.sqrt(energy)).all()
        assert np.median(bound / np.sqrt(energy)) < 3


def test_scaling_every_conductivity_divides_the_leadfield(reduced, cases):
    scaled = reduced.leadfield(1.3 * cases[0], extrapolate=True)
    np.testing.assert_allclose(scaled, reduced.leadfield(cases[0]) / 1.3, rtol=1e-6, atol=1e-12)


def test_projecting_is_multiplying_by_the_leadfield(reduced, cases):
    current = np.random.default_rng(0).normal(size=(12, 3))
    expected = reduced.leadfield(cases[0]) @ current
    np.testing.assert_allclose(reduced.project(cases[0], current), expected, rtol=1e-9, atol=1e-12)
    one = reduced.project(cases[0], current[:, 0])
    np.testing.assert_allclose(one, expected[:, 0], rtol=1e-9, atol=1e-12)


def test_free_orientation_and_a_field_are_certified_too(head, sources, cases):
    sensors = SurfaceField(RADII[0] * directions(3, 2))
    forward = FemForward.build(head, SourceSpace(sources.positions), sensors, tolerance=1e-10)
    reduced = build(forward, tolerance=1e-2)
    exact, found = forward.leadfield(cases[0]), reduced.leadfield(cases[0])
    assert found.shape == exact.shape == (9, 12, 3)
    assert (errors(exact, found) <= np.asarray(reduced.error_bound(cases[0]))).all()
    current = np.random.default_rng(0).normal(size=(12, 3))
    expected = np.einsum("csx,sx->c", found, current)
    np.testing.assert_allclose(reduced.project(cases[0], current), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(forward.project(cases[0], current), np.einsum("csx,sx->c", exact, current))


def test_a_channel_that_is_the_reference_measures_nothing(head, sources, electrodes, cases):
    weights = tuple(float(k == 3) for k in range(10))
    sensors = Electrodes(electrodes.positions, reference=weights)
    reduced = build(FemForward.build(head, sources, sensors), tolerance=1e-2)
    assert not np.any(reduced.leadfield(cases[0])[3])
    assert float(reduced.error_bound(cases[0])[3]) == 0
    assert np.isfinite(reduced.error_bound(cases[0])).all()


def test_a_tissue_of_known_conductivity_stays_as_it_is(forward):
    low, high = LOW.copy(), HIGH.copy()
    low[2] = high[2] = 1.79
    reduced = ReducedForward.build(forward, low, high, tolerance=0.1, dtype="float64", progress=False)
    sigma = np.sqrt(low * high)
    true = errors(forward.leadfield(sigma), reduced.leadfield(sigma))
    assert (true <= np.asarray(reduced.error_bound(sigma))).all()
    with pytest.raises(ValueError, match="outside the box"):
        reduced.leadfield(LOW)


def test_conductivities_that_a_jitted_function_closes_over(reduced, cases):
    sigma, current = jnp.asarray(cases[0]), jnp.ones(12)
    found = jax.jit(lambda j: reduced.project(sigma, j))(current)
    np.testing.assert_allclose(found, reduced.project(sigma, current), rtol=1e-9)
    np.testing.assert_allclose(jax.jit(lambda: reduced.leadfield())(), reduced.leadfield(), rtol=1e-9)
    np.testing.assert_allclose(
        jax.jit(lambda r: r.leadfield(sigma))(reduced), reduced.leadfield(sigma), rtol=1e-9
    )
    assert np.isnan(jax.jit(lambda r: r.leadfield(3 * sigma))(reduced)).all()


def test_derivatives_in_the_conductivity(reduced, cases):
    weights = np.random.default_rng(1).normal(size=(10, 12))
    scale = jnp.asarray(cases[0])
    check_grads(lambda x: (weights * reduced.leadfield(scale * x)).sum(), (jnp.ones(4),), order=2, rtol=1e-4)


@pytest.fixture(scope="module")
def movable(forward):
    return build(forward, tolerance=0.02, displacement=4e-3)


def test_moved_electrodes_follow_the_exact_slopes(movable, forward, cases):
    """First order in the displacement: the exact leadfield's derivative in the positions."""
    step = np.random.default_rng(3).normal(size=(forward.sensors.n_channels, 3))
    step *= 3e-3 / np.linalg.norm(step, axis=1, keepdims=True)
    at = forward.sensors.positions

    def along(model):
        return lambda s: model.leadfield(cases[0], sensors=forward.sensors.at(at + s * step))

    change = along(movable)(1.0) - movable.leadfield(cases[0])
    _, exact = jax.jvp(along(forward), (0.0,), (1.0,))
    norms = np.linalg.norm(exact, axis=1)
    assert (np.linalg.norm(change - exact, axis=1) < 0.05 * norms).all()
    _, slope = jax.jvp(along(movable), (0.5,), (1.0,))
    np.testing.assert_allclose(slope, change, rtol=1e-6, atol=1e-9 * float(norms.max()))


def test_moved_electrodes_are_nearer_than_unmoved_ones(movable, forward, cases):
    step = np.random.default_rng(4).normal(size=(forward.sensors.n_channels, 3))
    outward = np.asarray(forward.sensors.positions)
    outward = outward / np.linalg.norm(outward, axis=1, keepdims=True)
    step = step - (step * outward).sum(axis=1, keepdims=True) * outward
    step *= 3e-3 / np.linalg.norm(step, axis=1, keepdims=True)
    moved = forward.sensors.at(forward.sensors.positions + step)
    exact = forward.leadfield(cases[0], sensors=moved)
    unmoved = np.linalg.norm(movable.leadfield(cases[0]) - exact)
    assert np.linalg.norm(movable.leadfield(cases[0], sensors=moved) - exact) < 0.25 * unmoved


def test_projecting_onto_moved_electrodes(movable, cases):
    moved = movable.sensors.at(movable.sensors.positions + 1e-3)
    leadfield = movable.leadfield(cases[0], sensors=moved)
    current = np.random.default_rng(5).normal(size=(leadfield.shape[1], 2))
    measured = jax.jit(lambda r, s: r.project(cases[0], current, sensors=s))(movable, moved)
    np.testing.assert_allclose(measured, leadfield @ current, rtol=1e-9)


def test_moved_electrodes_keep_the_precision_of_the_rows(forward, movable, cases):
    rows = jax.tree.map(
        lambda a: a.astype(jnp.float32), (movable.potentials, movable.slopes, movable.tangents)
    )
    single = movable.replace(
        potentials=rows[0],
        slopes=rows[1],
        tangents=rows[2],
        conductivity=movable.conductivity.astype(jnp.float32),
    )
    moved = movable.sensors.at(movable.sensors.positions + 1e-3)
    found, expected = (model.leadfield(cases[0], sensors=moved) for model in (single, movable))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_batch_has_conductivities_and_misses_of_its_own(movable, sources):
    """Every case, as in training: what it measures is near what electrodes in place would, and not equal."""
    activity, noise = HalfActiveMaps.build(sources, 20e-3), WhiteNoise((200.0, 200.0))
    batch = simulate_batch(
        jax.random.key(0), movable, activity, noise, 6, conductivities=6, displacement=3e-3
    )
    assert len(np.unique(batch.conductivity[:, 1])) == 6
    unmoved = jnp.stack([movable.project(s, j) for s, j in zip(batch.conductivity, batch.current)])
    change = jnp.linalg.norm(batch.measurements - unmoved, axis=1) / jnp.linalg.norm(unmoved, axis=1)
    assert ((change > 1e-3) & (change < 0.5)).all()
    in_place = simulate_batch(jax.random.key(0), movable, activity, noise, 6, conductivities=6)
    np.testing.assert_allclose(in_place.measurements, unmoved, rtol=1e-4, atol=1e-6 * np.abs(unmoved).max())


def test_electrodes_that_cannot_be_moved_are_refused(movable, reduced, forward, cases):
    with pytest.raises(ValueError, match="read from a file"):
        build(forward.replace(head=None), displacement=4e-3)
    far = movable.sensors.at(movable.sensors.positions + np.array([0, 0, 5e-3]))
    with pytest.raises(ValueError, match=r"moved by 5\.0 mm, farther than displacement=0\.004"):
        movable.leadfield(cases[0], sensors=far)
    assert np.isnan(jax.jit(lambda s: movable.leadfield(cases[0], sensors=s))(far)).all()
    with pytest.raises(ValueError, match="build it with displacement="):
        reduced.leadfield(cases[0], sensors=far)
    other = Electrodes(movable.sensors.positions, reference=None)
    with pytest.raises(ValueError, match="electrodes of the build"):
        movable.leadfield(cases[0], sensors=other)


def test_moved_electrodes_come_back_from_their_file(movable, cases, tmp_path):
    movable.save(tmp_path / "reduced.npz")
    again = ReducedForward.load(tmp_path / "reduced.npz")
    moved = movable.sensors.at(movable.sensors.positions + 1e-3)
    np.testing.assert_array_equal(
        again.leadfield(cases[0], sensors=moved), movable.leadfield(cases[0], sensors=moved)
    )


def test_vmap_equals_a_loop_under_jit(reduced, cases):
    batched = jax.jit(jax.vmap(lambda r, s: r.leadfield(s), in_axes=(None, 0)))(reduced, cases)
    for sigma, leadfield in zip(cases, batched):
        np.testing.assert_allclose(leadfield, reduced.leadfield(sigma), rtol=1e-9, atol=1e-12)


def test_outside_the_box_is_refused_unless_asked_for(forward, reduced):
    sigma = np.array([0.43, 0.08, 1.79, 0.33])
    with pytest.raises(ValueError, match=r"outside the box .*'skull': '0.08 not in \[0.001, 0.04\]'"):
        reduced.leadfield(sigma)
    assert np.isnan(jax.jit(lambda r, s: r.leadfield(s))(reduced, sigma)).all()
    found = reduced.leadfield(sigma, extrapolate=True)
    assert (errors(forward.leadfield(sigma), found) <= np.asarray(reduced.error_bound(sigma))).all()


@pytest.mark.parametrize(
    ("low", "high", "options", "message"),
    [
        (LOW, LOW[:3], {}, r"low and high must have shape \(4,\)"),
        (HIGH, LOW, {}, "0 < low <= high"),
        (LOW, HIGH, {"tolerance": 1.0}, "tolerance must lie between 1e-05, .* and 1; found 1"),
        (LOW, HIGH, {"tolerance": 1e-6}, "tolerance must lie between 1e-05, .* found 1e-06"),
        (LOW, HIGH, {"dtype": "float16"}, "dtype must be one of"),
        (LOW, HIGH, {"max_modes": 0}, "max_modes must be 1 or more"),
        (LOW, HIGH, {"channels_per_block": 0}, "channels_per_block must be 1 or more"),
    ],
)
def test_bad_input_is_refused(forward, low, high, options, message):
    with pytest.raises(ValueError, match=message):
        ReducedForward.build(forward, low, high, **options)


def test_a_nominal_head_outside_the_box_is_refused_too(reduced):
    beyond = reduced.replace(high=reduced.high.at[1].set(0.9 * reduced.conductivity[1]))
    with pytest.raises(ValueError, match=r"outside the box .*'skull'"):
        beyond.leadfield()


def test_other_sources_are_refused(reduced, sources):
    with pytest.raises(ValueError, match="knows the sources of its build alone"):
        reduced.leadfield(sources=SourceSpace(sources.positions))


def test_a_source_model_whose_loads_depend_on_the_conductivity_is_refused(head, sources, electrodes):
    forward = FemForward.build(head, sources, electrodes, source_model="localized-subtraction")
    with pytest.raises(ValueError, match="'localized-subtraction' depend on the conductivity"):
        build(forward)


def test_too_few_modes_are_not_an_answer(forward):
    with pytest.raises(RuntimeError, match=r"after 3 solutions, not 0\.0005 as the tolerance asks"):
        build(forward, max_modes=3)


def test_solutions_that_cannot_be_told_apart_are_not_an_answer(forward, monkeypatch):
    def singular(*_):
        raise np.linalg.LinAlgError

    monkeypatch.setattr(greedy, "build_hypercircle", singular)
    with pytest.raises(RuntimeError, match="no more than the solver's error: raise the tolerance"):
        build(forward)


def test_solves_are_sharper_where_rows_are_small_beside_their_energy(forward, monkeypatch):
    """A row of a thousandth the size needs its potential a thousand times sharper."""
    reached = []

    def record(*arguments, **options):
        reached.append(arguments[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(greedy._Collected, "solve", record)
    for factor in (1, 1e-3):
        weak = forward.replace(loads=forward.loads.replace(weights=factor * forward.loads.weights))
        monkeypatch.setattr(offline, "eigenvalue_bound", lambda *_, **__: 1e8)
        with pytest.raises(KeyboardInterrupt):
            build(weak, tolerance=1e-2)
    assert reached[1] == pytest.approx(1e-3 * reached[0], rel=1e-3)


def test_a_finished_block_is_taken_from_the_cache(forward, reduced, cases, tmp_path, monkeypatch):
    """An interrupted build goes on after its last block; another tolerance begins anew."""
    real, calls = offline.reduce_block, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(offline, "reduce_block", interrupted)
    options = {"cache": tmp_path, "channels_per_block": 5, "tolerance": 1e-2}
    with pytest.raises(KeyboardInterrupt):
        build(forward, **options)
    whole = build(forward, **options)
    assert len(calls) == 3
    np.testing.assert_allclose(build(forward, **options).leadfield(cases[0]), whole.leadfield(cases[0]))
    assert len(calls) == 3
    calls[:] = [1]  # the next block that is begun is interrupted
    with pytest.raises(KeyboardInterrupt):
        build(forward, **{**options, "tolerance": 2e-2})
    monkeypatch.setattr(offline, "FORMAT", offline.FORMAT + 1)  # nothing of another version is taken
    calls[:] = [1]
    with pytest.raises(KeyboardInterrupt):
        build(forward, **options)
    assert errors(forward.leadfield(cases[0]), whole.leadfield(cases[0])).max() < 1e-2


def test_an_operator_in_single_precision_can_be_reduced(head, forward, sources, electrodes, cases):
    single = FemForward.build(head, sources, electrodes, tolerance=1e-5, dtype="float32")
    reduced = build(single, tolerance=1e-2, dtype="float32")
    assert errors(forward.leadfield(cases[0]), reduced.leadfield(cases[0])).max() < 1e-2


def test_comes_back_from_its_file(reduced, cases, tmp_path):
    reduced.save(tmp_path / "reduced.npz")
    loaded = ReducedForward.load(tmp_path / "reduced.npz")
    np.testing.assert_array_equal(loaded.leadfield(cases[0]), reduced.leadfield(cases[0]))
    np.testing.assert_array_equal(loaded.error_bound(cases[0]), reduced.error_bound(cases[0]))


def test_a_tensor_for_each_tissue_is_scaled_as_a_whole(head, sources, electrodes):
    tensors = np.array(CONDUCTIVITY)[:, None, None] * np.diag([1.2, 1.0, 0.8])
    anisotropic = type(head)(head.mesh, head.tissue_names, tensors)
    forward = FemForward.build(anisotropic, sources, electrodes, tolerance=1e-10)
    reduced = build(forward, tolerance=1e-2)
    sigma = np.sqrt(LOW * HIGH) * [1.1, 0.5, 1.0, 0.9]
    assert (errors(forward.leadfield(sigma), reduced.leadfield(sigma)) <= reduced.error_bound(sigma)).all()
