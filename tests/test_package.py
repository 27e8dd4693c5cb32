import subprocess
import sys
import textwrap

import pytest

import jaxinv


def python(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_import_has_no_effect_on_the_process():
    """Nothing printed, no flag or logger changed, and nothing heavy loaded."""
    output = python(
        """
        import logging, sys
        import jax
        import numpy as np

        def state():
            names = sorted(logging.root.manager.loggerDict)
            levels = {name: logging.getLogger(name).level for name in names}
            flags = jax.config.jax_enable_x64, jax.config.jax_numpy_dtype_promotion
            return levels, flags, logging.root.handlers[:], np.get_printoptions()

        before = state()
        import jaxinv
        assert state() == before
        heavy = {"mne", "nilearn", "jax_fem", "pyamg", "matplotlib", "flax", "gmsh"} & set(sys.modules)
        assert not heavy, heavy
        """
    )
    assert output == ""


@pytest.mark.parametrize("name", sorted(jaxinv.__all__))
def test_public_names_resolve(name):
    assert getattr(jaxinv, name) is not None


def test_a_saved_operator_loads_without_what_built_it(tmp_path):
    """Only JAX, NumPy and SciPy are needed where an operator is used."""
    path = tmp_path / "forward.npz"
    python(
        f"""
        import jax; jax.config.update("jax_enable_x64", True)
        import numpy as np, jaxinv
        head = jaxinv.sphere_head((0.09,), (0.3,), n_nodes=600)
        sources = jaxinv.SourceSpace(0.04 * np.eye(3))
        forward = jaxinv.FemForward.build(head, sources, jaxinv.Electrodes(0.09 * np.eye(3)))
        forward.save({str(path)!r})
        reduced = jaxinv.ReducedForward.build(forward, [0.2], [0.4], tolerance=0.1, progress=False)
        reduced.save({str(path.with_name("reduced.npz"))!r})
        """
    )
    python(
        f"""
        import sys
        for name in ("mne", "nilearn", "jax_fem", "pyamg", "basix", "llvmlite", "matplotlib"):
            sys.modules[name] = None
        import jax; jax.config.update("jax_enable_x64", True)
        import jaxinv
        forward = jaxinv.FemForward.load({str(path)!r})
        assert forward.leadfield().shape == (3, 3, 3)
        reduced = jaxinv.ReducedForward.load({str(path.with_name("reduced.npz"))!r})
        assert reduced.leadfield().shape == (3, 3, 3)
        """
    )
