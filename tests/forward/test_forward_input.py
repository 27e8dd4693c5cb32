import subprocess
import sys
import textwrap

import numpy as np
import pytest

from jaxinv.forward.exact import FemForward
from jaxinv.head import Electrodes, SourceSpace

from .conftest import RADII, directions


@pytest.mark.parametrize("conductivity", [(0.33, 0.0, 1.79, 0.33), (0.33, -0.01, 1.79, 0.33), (0.33, 0.01)])
def test_bad_conductivity_is_named(forward, conductivity):
    with pytest.raises(ValueError, match="conductivity"):
        forward.leadfield(np.asarray(conductivity))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_model": "monopole"}, "source_model"),
        ({"dtype": "float16"}, "dtype"),
        ({"dtype": "float32", "tolerance": 1e-8}, "tolerance"),
        ({"tolerance": 0.0}, "tolerance"),
    ],
)
def test_bad_options_are_named(head, sources, electrodes, options, message):
    with pytest.raises(ValueError, match=message):
        FemForward.build(head, sources, electrodes, **options)


def test_nothing_to_measure_or_to_measure_with_is_named(head, sources, electrodes):
    with pytest.raises(ValueError, match="sources is empty"):
        FemForward.build(head, SourceSpace(np.zeros((0, 3))), electrodes)
    with pytest.raises(ValueError, match="sensors is empty"):
        FemForward.build(head, sources, Electrodes(np.zeros((0, 3))))


def test_an_electrode_five_centimetres_away_is_named(head, sources, electrodes):
    positions = np.array(electrodes.positions)
    positions[3] *= 1 + 0.05 / RADII[0]
    with pytest.raises(ValueError, match=r"E4.*50\.\d mm"):
        FemForward.build(head, sources, Electrodes(positions))


@pytest.mark.parametrize(("radius", "where"), [(0.083, "skull"), (0.2, "air")])
def test_sources_outside_the_brain_are_counted(head, electrodes, radius, where):
    positions = np.concatenate([0.05 * directions(3, 0), radius * directions(2, 1)])
    with pytest.raises(ValueError, match=rf"2 of 5 sources.*source 3 in {where}"):
        FemForward.build(head, SourceSpace(positions), electrodes)


def test_a_saved_operator_is_the_same_and_needs_no_builder(forward, tmp_path):
    path = tmp_path / "forward.npz"
    forward.save(path)
    np.testing.assert_array_equal(FemForward.load(path).leadfield(), forward.leadfield())
    script = textwrap.dedent(
        f"""
        import sys
        class Hidden:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("jax_fem", "pyamg", "mne", "nilearn", "basix"):
                    raise ImportError(name + " is hidden")
        sys.meta_path.insert(0, Hidden())
        import jax
        from jaxinv import FemForward
        try:
            FemForward.load({str(path)!r})
        except ValueError as error:
            assert "jax_enable_x64" in str(error), error
        else:
            raise SystemExit("float64 was accepted with x64 off")
        jax.config.update("jax_enable_x64", True)
        assert FemForward.load({str(path)!r}).leadfield().shape == (10, 12)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kept", [0.5, 0.99, 0.0])
def test_a_truncated_file_is_refused(forward, tmp_path, kept):
    path = tmp_path / "forward.npz"
    forward.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match="truncated"):
        FemForward.load(path)


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, a=np.ones(3))
    with pytest.raises(ValueError, match="does not hold"):
        FemForward.load(path)


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "other.npz"
    path.write_text("not an archive")
    with pytest.raises(ValueError, match="does not hold"):
        FemForward.load(path)


def test_float64_needs_x64():
    script = textwrap.dedent(
        """
        import numpy as np
        from jaxinv import Electrodes, FemForward, SourceSpace, sphere_head
        head = sphere_head((0.09,), (0.3,), n_nodes=800)
        positions = 0.09 * np.eye(3)
        try:
            FemForward.build(head, SourceSpace(0.5 * positions), Electrodes(positions))
        except ValueError as error:
            assert "jax_enable_x64" in str(error), error
        else:
            raise SystemExit("float64 was accepted with x64 off")
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
