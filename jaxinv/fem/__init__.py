"""Poisson's equation on a head, by finite elements.

What assembles (jax-fem, PyAMG) is loaded when something is built; solving needs JAX alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "assembly": ["assemble_stiffness"],
        "hierarchy": ["build_hierarchy", "linear_interpolation"],
        "loads": ["Loads", "SensorLoads", "SourceLoads"],
        "multigrid": ["Hierarchy", "Level", "VCycle"],
        "sensor_placement": ["place_sensors"],
        "solve": ["SolveReport", "solve_poisson"],
        "source_models": ["SOURCE_MODELS", "SourceModel"],
        "stiffness": ["Stiffness"],
    },
)
