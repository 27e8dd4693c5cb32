"""Other people's programs as witnesses: OpenMEEG, MNE-Python and jax-fem's own assembly."""

import mne
import numpy as np
import openmeeg
import pytest
from scipy.spatial import ConvexHull

from jaxinv import fem
from jaxinv.fem.elements import JAX_FEM_NAMES
from jaxinv.forward.exact import FemForward
from jaxinv.forward.sphere import sphere_leadfield
from jaxinv.head import Electrodes, SourceSpace
from jaxinv.head.spheres import sphere_head
from jaxinv.mesh import sphere_mesh
from jaxinv.metrics.forward import mag, rdm

from .conftest import directions

RADII, CONDUCTIVITY = np.array([0.092, 0.086, 0.080]), np.array([0.33, 0.01, 0.33])
POSITIONS = np.linspace(0.01, 0.06, 12)[:, None] * directions(12, 0)
ELECTRODES = RADII[0] * directions(30, 2)


def referenced(free):
    """(channel, source, 3) in average reference, as (channel, 3 source)."""
    free = np.asarray(free).reshape(len(ELECTRODES), -1)
    return free - free.mean(axis=0)


def icosphere(divisions):
    """Unit vectors, 10 · 4ⁿ + 2 of them, and triangles wound inwards."""
    golden = (1 + np.sqrt(5)) / 2
    points = np.array([(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)])
    points = np.concatenate([np.roll(points, k, axis=1) for k in range(3)]) / np.hypot(1, golden)
    for _ in range(divisions):
        faces = ConvexHull(points).simplices
        edges = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0)
        points = np.concatenate([points, points[edges].sum(axis=1)])
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    faces = ConvexHull(points).simplices
    outward = np.linalg.det(points[faces]) > 0
    return points, np.where(outward[:, None], faces[:, [0, 2, 1]], faces)


def assert_close(ours, theirs, *, median, largest, magnitude):
    """Bounds on the RDM, median and largest, and on how far the MAG is from 1."""
    topography = np.asarray(rdm(ours, theirs))
    assert np.median(topography) < median
    assert topography.max() < largest
    assert np.abs(np.asarray(mag(ours, theirs)) - 1).max() < magnitude


@pytest.fixture(scope="module")
def series():
    """The analytic leadfield of the three axes at each position, in average reference."""
    return np.asarray(
        sphere_leadfield(
            np.repeat(POSITIONS, 3, axis=0), np.tile(np.eye(3), (12, 1)), ELECTRODES, RADII, CONDUCTIVITY
        )
    )


@pytest.fixture(scope="module")
def boundary_elements():
    """OpenMEEG's leadfield, by symmetric boundary elements."""
    points, faces = icosphere(2)
    spheres = [(np.asfortranarray(radius * points), faces) for radius in RADII[::-1]]
    geometry = openmeeg.make_nested_geometry(spheres, CONDUCTIVITY[::-1])
    head = openmeeg.HeadMat(geometry)
    head.invert()
    dipoles = np.hstack([np.repeat(POSITIONS, 3, axis=0), np.tile(np.eye(3), (12, 1))])
    sources = openmeeg.DipSourceMat(geometry, openmeeg.Matrix(np.asfortranarray(dipoles)), "Brain")
    sensors = openmeeg.Sensors(openmeeg.Matrix(np.asfortranarray(ELECTRODES)), geometry)
    return referenced(openmeeg.GainEEG(head, sources, openmeeg.Head2EEGMat(geometry, sensors)).array())


def test_series_and_boundary_elements_agree(series, boundary_elements):
    """162 vertices a sphere. Measured: RDM 0.006 (median), 0.033 (largest); MAG 1.03."""
    assert_close(boundary_elements, series, median=0.01, largest=0.05, magnitude=0.04)


def test_finite_elements_agree_with_both(series, boundary_elements):
    """Measured: RDM 0.003 (median), 0.009 (largest) from the series; 0.008, 0.037 from boundary elements."""
    head = sphere_head(RADII, CONDUCTIVITY, n_nodes=6000)
    leadfield = FemForward.build(head, SourceSpace(POSITIONS), Electrodes(ELECTRODES)).leadfield()
    assert_close(referenced(leadfield), series, median=0.005, largest=0.02, magnitude=0.02)
    assert_close(referenced(leadfield), boundary_elements, median=0.012, largest=0.055, magnitude=0.04)


def test_shifted_nodes_halve_the_error_of_voxels():
    """Voxels of 7 mm, two to a layer. Measured: median RDM 0.047 in cubes, 0.020 in shifted ones."""
    radii = np.array([0.092, 0.078, 0.064])
    sources = SourceSpace(0.05 * directions(40, 3), directions(40, 4))
    exact = sphere_leadfield(sources.positions, sources.normals, ELECTRODES, radii, CONDUCTIVITY)
    error = []
    for adapt in (0.0, 0.49):
        head = sphere_head(radii, CONDUCTIVITY, 9000, "hexahedron", adapt=adapt)
        forward = FemForward.build(head, sources, Electrodes(ELECTRODES), source_model="recovery")
        error.append(np.asarray(rdm(forward.leadfield(), exact)))
    assert np.median(error[1]) < np.median(error[0]) / 2
    assert np.percentile(error[1], 95) < 0.6 * np.percentile(error[0], 95)


def test_series_agrees_with_mne(series):
    """MNE-Python approximates the layers by three dipoles in a homogeneous sphere (Berg & Scherg 1994).

    Measured: RDM 0.0006 (median), 0.002 (largest); MAG within 0.002 of 1.
    """
    names = [f"E{k}" for k in range(len(ELECTRODES))]
    info = mne.create_info(names, 1000.0, "eeg", verbose=False)
    info.set_montage(mne.channels.make_dig_montage(dict(zip(names, ELECTRODES)), coord_frame="head"))
    model = mne.make_sphere_model(
        (0.0, 0.0, 0.0),
        RADII[0],
        relative_radii=RADII[::-1] / RADII[0],
        sigmas=CONDUCTIVITY[::-1],
        verbose=False,
    )
    places = {"rr": POSITIONS, "nn": np.tile([0.0, 0.0, 1.0], (12, 1))}
    source_space = mne.setup_volume_source_space(pos=places, sphere_units="m", mindist=0.0, verbose=False)
    solution = mne.make_forward_solution(
        info, None, source_space, model, meg=False, eeg=True, mindist=0.0, verbose=False
    )
    theirs = referenced(solution["sol"]["data"])
    assert_close(theirs, series, median=0.002, largest=0.005, magnitude=0.005)


@pytest.mark.parametrize(("element", "adapt"), [("tetra", 0.0), ("tetra10", 0.0), ("hexahedron", 0.49)])
def test_stiffness_product_is_the_residual_of_jax_fem(element, adapt):
    """jax-fem's own assembly of ∫ σ ∇u · ∇v, cell by cell, with the same conductivities."""
    from jax_fem.generate_mesh import Mesh  # after jaxinv.fem, which keeps jax-fem's side effects away
    from jax_fem.problem import Problem

    class Poisson(Problem):
        def get_tensor_map(self):
            return lambda slope, sigma: sigma * slope

    mesh = sphere_mesh((0.09, 0.07, 0.05), 4000, element, adapt=adapt)
    name = JAX_FEM_NAMES[element]
    problem = Poisson(Mesh(mesh.points, mesh.cells, name), vec=1, dim=3, ele_type=name)
    sigma = np.array([0.4, 0.01, 0.3])
    per_cell = np.broadcast_to(sigma[mesh.tissue][:, None], problem.fes[0].JxW.shape)
    potential = np.random.default_rng(0).normal(size=(mesh.n_nodes, 2))
    theirs = [problem.compute_residual_vars([u[:, None]], [per_cell], [])[0] for u in potential.T]
    ours = fem.assemble_stiffness(mesh, 3).to_scipy(sigma) @ potential
    np.testing.assert_allclose(ours, np.concatenate(theirs, axis=1), rtol=0, atol=1e-12 * np.abs(ours).max())
