import numpy as np
import pytest

from jaxinv.head.placement import place_in_tissue
from jaxinv.head.spheres import sphere_head


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (1, ("brain",)),
        (3, ("scalp", "skull", "brain")),
        (4, ("scalp", "skull", "csf", "brain")),
    ],
)
def test_layers_are_named_from_the_outside_in(layers, names):
    radii = np.array([0.092, 0.086, 0.080, 0.078])[:layers]
    head = sphere_head(radii, np.linspace(0.1, 0.4, layers), n_nodes=2000)
    assert head.tissue_names == names
    centres = np.linalg.norm(head.mesh.points[head.mesh.cells].mean(axis=1), axis=1)
    middle = [np.median(centres[head.mesh.tissue == k]) for k in range(layers)]
    assert (np.diff(middle) < 0).all()


def test_every_layer_needs_a_conductivity():
    with pytest.raises(ValueError, match="must match"):
        sphere_head((0.09, 0.08), (0.3,), n_nodes=2000)


def test_points_are_not_moved_in_hexahedra():
    head = sphere_head([0.09, 0.08], [0.43, 0.33], 2000, "hexahedron")
    with pytest.raises(ValueError, match="heads of tetrahedra alone, not hexahedron"):
        place_in_tissue(np.array([[0.0, 0.0, 0.085]]), head, "brain")
