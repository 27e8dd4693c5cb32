"""Differentiable EEG source imaging in JAX."""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["evaluation", "fem", "forward", "head", "inverse", "io", "mesh", "metrics", "networks",
                "simulate", "tissues", "training"],
    submod_attrs={
        "forward.exact": ["FemForward"],
        "forward.reduced": ["ReducedForward"],
        "forward.sphere": ["sphere_field", "sphere_leadfield"],
        "head.fsaverage": ["fsaverage", "fsaverage_electrodes"],
        "head.head_model": ["HeadModel"],
        "head.sensors": ["Contacts", "Electrodes", "SurfaceField"],
        "head.source_space": ["SourceSpace"],
        "head.spheres": ["sphere_head"],
        "mesh.second_order": ["second_order"],
        "mesh.volume_mesh": ["VolumeMesh"],
        "simulate.batch": ["simulate_batch"],
    },
)  # fmt: skip
