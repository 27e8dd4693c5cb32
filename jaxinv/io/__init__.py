"""The edge: objects of other packages become arrays, and estimates become theirs again."""

from jaxinv.io.mne_python import Recording, from_mne

__all__ = ["Recording", "from_mne"]
