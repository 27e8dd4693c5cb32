"""The edge: objects of other packages become arrays, and estimates become theirs again."""

from jaxinv.io.fieldtrip import read_segmentation
from jaxinv.io.mne_python import Recording, from_mne

__all__ = ["Recording", "from_mne", "read_segmentation"]
