import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxinv.forward.exact import FemForward
from jaxinv.forward.sphere import sphere_leadfield
from jaxinv.head import Electrodes, HeadModel, SourceSpace, anisotropic
from jaxinv.head.spheres import sphere_head
from jaxinv.mesh import VolumeMesh

from .conftest import directions

RADII, VALUES = (0.09, 0.08), (0.02, 0.33)
STRETCH = np.array([[1.2, 0.1, -0.1], [0.0, 0.9, 0.1], [0.1, 0.0, 1.1]])
SOURCES = SourceSpace(0.05 * directions(6, 3), directions(6, 4))
ELECTRODES = Electrodes(RADII[0] * directions(8, 5))


def close(ours, theirs, relative):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=relative * np.abs(theirs).max())


def build(tensors, form, **options):
    head = sphere_head(RADII, VALUES, n_nodes=1500)
    given = tensors if form == "tensor" else tensors[head.mesh.tissue]
    head = HeadModel(head.mesh, head.tissue_names, given)
    return FemForward.build(head, SOURCES, ELECTRODES, tolerance=1e-12, **options)


@pytest.fixture(scope="module")
def tensors():
    """Of a skull and a brain that conduct better or worse along an axis."""
    return np.concatenate([anisotropic([[0, 0, 1]], 0.008, 0.08), anisotropic([[1, 1, 0]], 0.6, 0.2)])


@pytest.mark.parametrize("form", ["tensor", "cells"])
def test_isotropic_tensors_give_the_leadfield_of_values(form):
    head = sphere_head(RADII, VALUES, n_nodes=1500)
    expected = FemForward.build(head, SOURCES, ELECTRODES, tolerance=1e-12).leadfield()
    close(build(np.asarray(VALUES)[:, None, None] * np.eye(3), form=form).leadfield(), expected, 1e-8)


def test_a_stretched_sphere_has_the_stretched_potential():
    """u'(A x) = u(x) of the analytic sphere, for moments A q and σ' = A σ Aᵀ / det A.

    Measured: a relative error of 0.012 (0.075 by partial integration).
    """
    ball = sphere_head((0.09,), (0.33,), n_nodes=6000)
    mesh = VolumeMesh(ball.mesh.points @ STRETCH.T, ball.mesh.cells, ball.mesh.tissue)
    tensor = 0.33 * STRETCH @ STRETCH.T / np.linalg.det(STRETCH)
    moments = SOURCES.normals @ STRETCH.T
    length = np.linalg.norm(moments, axis=1)
    sources = SourceSpace(SOURCES.positions @ STRETCH.T, moments / length[:, None])
    electrodes = Electrodes(ELECTRODES.positions @ STRETCH.T)
    ours = FemForward.build(HeadModel(mesh, ("brain",), tensor[None]), sources, electrodes).leadfield()
    exact = sphere_leadfield(SOURCES.positions, SOURCES.normals, ELECTRODES.positions, (0.09,), (0.33,))
    error = np.linalg.norm(ours * length - exact) / np.linalg.norm(exact)
    assert error < 0.02


def test_differentiable_in_tensor_entries(tensors):
    """Against central differences of solves that are not traced."""
    forward = build(tensors, form="tensor")
    probe = directions(8, 6)[:, 0]

    def summed(tensors):
        return (probe @ forward.leadfield(tensors)).sum()

    sigma = jnp.asarray(tensors) * 1.1
    assert forward.conductivity.shape == (2, 3, 3)
    check_grads(summed, (sigma,), order=1, modes=["fwd", "rev"], eps=1e-4, rtol=1e-4, atol=1e-4)
    batch = jax.jit(jax.vmap(forward.leadfield))(jnp.stack([sigma, forward.conductivity]))
    close(batch[1], forward.leadfield(), 1e-8)


def test_mean_conductivities_scale_the_tensors(tensors):
    """Tensors of cells and of tissues, and the tensors scaled by hand; the derivative follows."""
    cells, tissues = build(tensors, form="cells"), build(tensors, form="tensor")
    mean = np.trace(tensors, axis1=1, axis2=2) / 3
    np.testing.assert_allclose(cells.conductivity, mean)
    np.testing.assert_allclose(tissues.mean_conductivity, mean)
    sigma = mean * np.array([1.7, 0.8])
    by_hand = tissues.leadfield((sigma / mean)[:, None, None] * tensors)
    close(cells.leadfield(sigma), by_hand, 1e-8)
    close(tissues.leadfield(sigma), by_hand, 1e-8)
    ours, theirs = (jax.jacfwd(f.leadfield)(jnp.asarray(sigma)) for f in (cells, tissues))
    close(ours, theirs, 1e-7)


def test_bad_tensors_are_refused(tensors):
    forward = build(tensors, form="tensor")
    with pytest.raises(ValueError, match=r"shape \(2,\) or \(2, 3, 3\)"):
        forward.leadfield(np.ones(3))
    with pytest.raises(ValueError, match=r"must be positive, in S/m; that of \['brain'\] is not"):
        forward.leadfield(tensors * np.array([1, -1])[:, None, None])


def test_a_saved_operator_keeps_its_tensors(tensors, tmp_path):
    forward = build(tensors, form="tensor")
    forward.save(tmp_path / "forward.npz")
    close(FemForward.load(tmp_path / "forward.npz").leadfield(2 * tensors), forward.leadfield() / 2, 1e-8)
