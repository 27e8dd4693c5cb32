"""Anatomy: what is conducted, where sources lie and where is measured.

The default head needs mne and nilearn; both are loaded when it is first asked for, so that a head
read from a file needs neither.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "fsaverage": [
            "cortical_sources", "fsaverage_electrodes", "fsaverage_head", "mid_surface", "project_electrodes",
            "source_displacement", "volumetric_sources",
        ],
        "conductivity": ["anisotropic"],
        "head_model": ["HeadModel"],
        "montages": ["MONTAGES", "montage"],
        "placement": ["place_in_tissue"],
        "segmentation": ["segmented_head"],
        "sensors": ["Contacts", "Electrodes", "SurfaceField"],
        "source_space": ["SourceSpace"],
        "spheres": ["sphere_head"],
        "warp": ["Warp", "random_warp", "warp_head", "warp_sensors", "warp_sources"],
    },
)  # fmt: skip
