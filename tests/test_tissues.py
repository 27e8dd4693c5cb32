import numpy as np
import pytest

from jaxinv.tissues import TISSUES, Tissue, conductivity_range, nominal_conductivity


@pytest.mark.parametrize("name", TISSUES)
def test_every_tissue_cites_a_doi_and_its_nominal_value_lies_in_its_range(name):
    tissue = TISSUES[name]
    assert 0 < tissue.low <= tissue.nominal <= tissue.high
    assert "doi:10." in tissue.citation


def test_order_of_conductivities_is_that_of_the_head():
    """CSF conducts best, then scalp and grey matter, then white matter, then bone."""
    skull, white, grey, scalp, csf = nominal_conductivity(("skull", "white", "grey", "scalp", "csf"))
    assert skull < white < grey < scalp < csf


def test_names_keep_their_order():
    names = ("csf", "skull", "brain", "csf")
    low, high = conductivity_range(names)
    np.testing.assert_array_equal(nominal_conductivity(names), [TISSUES[n].nominal for n in names])
    np.testing.assert_array_equal(low, [TISSUES[n].low for n in names])
    np.testing.assert_array_equal(high, [TISSUES[n].high for n in names])
    assert low.dtype == high.dtype == np.float64


@pytest.mark.parametrize("function", [nominal_conductivity, conductivity_range])
def test_unknown_tissue_is_named_with_the_known_ones(function):
    with pytest.raises(ValueError, match=r"'air'.*scalp, skull, csf, grey, white"):
        function(("scalp", "air"))


@pytest.mark.parametrize("values", [(0.0, 0.0, 1.0), (1.0, 2.0, 3.0), (4.0, 2.0, 3.0), (1.0, 0.5, np.inf)])
def test_impossible_tissue_is_refused(values):
    with pytest.raises(ValueError, match="low <= nominal <= high"):
        Tissue(*values, citation="none")
