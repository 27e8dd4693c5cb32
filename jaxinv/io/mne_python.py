"""MNE-Python's measurements, forward model and covariance as arrays; estimates as its source estimates."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Array, Float, Int

from jaxinv.head.source_space import SourceSpace

if TYPE_CHECKING:
    import mne


@dataclass(frozen=True)
class Recording:
    """What an inverse needs of a recording; all referenced to the average of the channels, and projected.

    Attributes:
        measurements: in V.
        leadfield: in V/(A m), along the sources' normals; along x, y and z where orientation is free.
        noise_cov: of the measurements, in V².
        sources: positions in m and faces, in the frame of MNE-Python's forward model; with normals where they
            fix the orientation.
        normals: of the cortex at each source, averaged over its patch where MNE-Python knows that, also where
            orientation is free (for `loose=`); None in a volume.
        channels: names.
        vertices: numbers of the sources in each of MNE-Python's source spaces.
        kind: of source spaces: "surface", "volume" or "discrete".
        subject: whose source space it is.
        tmin: time of the first sample, in s.
        tstep: between samples, in s.
    """

    measurements: Float[np.ndarray, "channel time"]
    leadfield: Float[np.ndarray, "channel source"] | Float[np.ndarray, "channel source 3"]
    noise_cov: Float[np.ndarray, "channel channel"]
    sources: SourceSpace
    normals: Float[np.ndarray, "source 3"] | None
    channels: tuple[str, ...]
    vertices: tuple[Int[np.ndarray, " vertex"], ...]
    kind: str
    subject: str | None
    tmin: float
    tstep: float

    def source_estimate(
        self, current: Float[Array, "source *time"] | Float[Array, "source 3 *time"]
    ) -> (
        "mne.SourceEstimate | mne.VectorSourceEstimate | mne.VolSourceEstimate | mne.VolVectorSourceEstimate"
    ):
        """MNE-Python's object, for its plots, morphs and files.

        Args:
            current: of an estimate, or its probability: anything that a source has; one sample or many. Of a
                recording of three samples (source, 3) are its samples; three components have a time axis.

        Raises:
            ValueError: for another number of sources.
        """
        import mne

        data = np.asarray(current)
        n_sources = self.sources.n_sources
        of_three = self.leadfield.ndim == 3 and data.shape[1:2] == (3,)
        vector = of_three and (data.ndim == 3 or self.measurements.shape[1] != 3)  # three samples otherwise
        if data.shape[:1] != (n_sources,) or data.ndim - vector not in (1, 2):
            raise ValueError(
                f"current must have shape ({n_sources},), ({n_sources}, time), or with three components as "
                f"its second axis where orientation is free; found {data.shape}"
            )
        data = data.reshape(*data.shape[: 1 + vector], -1)
        if self.kind == "surface":
            made = mne.VectorSourceEstimate if vector else mne.SourceEstimate
        else:
            made = mne.VolVectorSourceEstimate if vector else mne.VolSourceEstimate
        return made(data, list(self.vertices), self.tmin, self.tstep, subject=self.subject)


def from_mne(
    evoked: "mne.Evoked", forward: "mne.Forward", noise_cov: "mne.Covariance", *, fixed: bool = True
) -> Recording:
    """What an inverse needs, from what MNE-Python has: EEG channels that are good and known to all three.

    Measurements, forward model and covariance are projected as `evoked.info["projs"]` say, and referenced to
    the average of the channels, which a forward model of MNE-Python is not; the covariance is divided by
    `evoked.nave`. With the same regularisation the linear methods then give what `apply_inverse` does.

    Args:
        evoked: average; `mne.EvokedArray` makes one of any measurements.
        forward: with EEG channels, of fixed or free orientation.
        noise_cov: of single trials.
        fixed: sources along the normals of the cortex, as MNE-Python's `fixed=True`; otherwise x, y and z.

    Raises:
        TypeError: for objects of other kinds.
        ValueError: if there is no such channel, a good EEG channel of `evoked` is unknown to the other two,
            source spaces are mixed, or the forward model has fixed orientation and free is asked for.
    """
    import mne

    kinds = (
        ("evoked", evoked, mne.Evoked),
        ("forward", forward, mne.Forward),
        ("noise_cov", noise_cov, mne.Covariance),
    )
    for name, given, wanted in kinds:
        if not isinstance(given, wanted):
            raise TypeError(f"{name} must be an mne.{wanted.__name__}, not {type(given).__name__}")
    with mne.use_log_level("ERROR"):
        picked = mne.pick_types(evoked.info, meg=False, eeg=True, exclude="bads")
        bad = {*forward["info"]["bads"], *noise_cov["bads"]}
        good = [evoked.ch_names[k] for k in picked if evoked.ch_names[k] not in bad]
        if not good:
            raise ValueError("evoked has no good EEG channel: look at its channel types and info['bads']")
        for name, known in (("forward", forward["sol"]["row_names"]), ("noise_cov", noise_cov.ch_names)):
            unknown = [channel for channel in good if channel not in known]
            if unknown:
                raise ValueError(
                    f"{name} does not have {len(unknown)} of the {len(good)} good EEG channels of evoked: "
                    f"{unknown[:5]}; drop them, or mark them as bad"
                )
        kind = forward["src"].kind
        if kind == "mixed":
            raise ValueError("forward has surfaces and volumes: compute a forward model for each")
        oriented = not _is_volume(forward["src"])
        turn = partial(mne.convert_forward_solution, forward, use_cps=True)
        along = turn(surf_ori=True, force_fixed=True) if oriented else None
        turned = along if fixed and oriented else turn(surf_ori=fixed)
        turned = mne.pick_channels_forward(turned, good, ordered=True)
        cov = mne.pick_channels_cov(noise_cov, good, ordered=True)
        projector = _projector(evoked, good)
    gain, n_sources = np.asarray(turned["sol"]["data"], np.float64), turned["nsource"]
    is_fixed = gain.shape[1] == n_sources
    if fixed and not is_fixed:
        raise ValueError("a volume has no normals that would fix the orientation: pass fixed=False")
    if is_fixed and not fixed:
        raise ValueError("forward was computed for fixed orientation: compute it anew, or pass fixed=True")
    noise = np.diag(cov["data"]) if cov["diag"] else cov["data"]
    spaces = turned["src"]
    normals = np.asarray(along["source_nn"], np.float64) if oriented else None
    leadfield = projector @ gain
    return Recording(
        measurements=projector @ evoked.get_data(picks=good),
        leadfield=leadfield if is_fixed else leadfield.reshape(len(good), n_sources, 3),
        noise_cov=projector @ noise @ projector.T / evoked.nave,
        sources=SourceSpace(
            np.asarray(turned["source_rr"], np.float64), normals if is_fixed else None, faces=_faces(spaces)
        ),
        normals=normals,
        channels=tuple(good),
        vertices=tuple(space["vertno"] for space in spaces),
        kind=kind,
        subject=spaces[0].get("subject_his_id"),
        tmin=float(evoked.times[0]),
        tstep=1 / evoked.info["sfreq"],
    )


def _is_volume(spaces) -> bool:
    """Whether sources have no normals: in a grid without an MRI, "discrete" to MNE-Python, all point up."""
    return spaces.kind == "volume" or all(
        (space["nn"][space["vertno"]] == (0, 0, 1)).all() for space in spaces
    )


def _projector(evoked, names) -> Float[np.ndarray, "channel channel"]:
    """On what the projections of a recording leave of some channels, and their average reference."""
    import mne

    info = mne.create_info(list(names), 1.0, "eeg")
    projections = [
        mne.Projection(
            active=False, data=p["data"], desc=p["desc"], kind=p["kind"], explained_var=p["explained_var"]
        )
        for p in evoked.info["projs"]
    ]
    units = mne.EvokedArray(np.eye(len(names)), info).add_proj(projections)
    projected = units.copy().apply_proj().data
    if not np.allclose(projected.sum(axis=0), 0):  # no average reference among them
        projected = units.set_eeg_reference(projection=True).apply_proj().data
    return projected


def _faces(spaces) -> Int[np.ndarray, "face 3"] | None:
    """Triangles of the sources, as indices into all of them; None where there are none."""
    found, before = [], 0
    for space in spaces:
        triangles = space.get("use_tris") if space.get("nuse_tri") else None
        if triangles is None and space["nuse"] == space["np"]:
            triangles = space.get("tris")
        if triangles is None or not len(triangles):
            return None
        index = np.full(space["np"], -1)
        index[space["vertno"]] = before + np.arange(space["nuse"])
        triangles = index[np.asarray(triangles, int)]
        found.append(triangles[(triangles >= 0).all(axis=1)])
        before += space["nuse"]
    return np.concatenate(found)
