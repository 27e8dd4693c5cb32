import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture(scope="module", autouse=True)
def _programs_go_with_their_module():
    """Each keeps memory maps, of which Linux allows a process 65,530; XLA crashes when there are no more."""
    yield
    jax.clear_caches()


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def mne_recording():
    """Makes objects of MNE-Python as its users have them: evoked, forward model, covariance."""
    return _recording


def _recording(n_side=6, projections=True, kind="surface", seed=0, patches=False):
    """Evoked, forward, covariance: a sphere with two patches of cortex, a bad channel, an EOG channel."""
    import mne

    with mne.use_log_level("ERROR"):
        rng = np.random.default_rng(seed)
        names = mne.channels.make_standard_montage("standard_1020").ch_names[::4]
        info = mne.create_info([*names, "EOG"], 100.0, ["eeg"] * len(names) + ["eog"])
        info.set_montage("standard_1020")
        sphere = mne.make_sphere_model("auto", "auto", info)
        positions, normals, triangles = _patches(n_side, sphere["r0"], rng)
        sources = mne.setup_volume_source_space(pos={"rr": positions, "nn": normals}, sphere=sphere)
        forward = mne.make_forward_solution(info, None, sources, sphere, eeg=True, meg=False)
        if kind == "surface":
            forward["src"] = _hemispheres(forward["src"][0], triangles, patches)
        evoked = mne.EvokedArray(1e-6 * rng.normal(size=(len(names) + 1, 3)), info, nave=5, tmin=-0.1)
        if projections:
            vector = rng.normal(size=(1, len(names)))
            data = {
                "nrow": 1, "ncol": len(names), "row_names": None, "col_names": names,
                "data": vector / np.linalg.norm(vector),
            }  # fmt: skip
            evoked.add_proj(mne.Projection(active=False, data=data, desc="blink", kind=1, explained_var=None))
            evoked.set_eeg_reference(projection=True)
        evoked.info["bads"] = [names[4]]
        root = rng.normal(size=(len(names), 40)) * 1e-7
        cov = mne.Covariance(root @ root.T, names, [], [], nfree=1)
    return evoked, forward, cov


def _patches(n_side, centre, rng):
    """Positions, normals and triangles of two square patches, left and right."""
    index = np.arange(n_side**2).reshape(n_side, n_side)
    a, b, c, d = (x.ravel() for x in (index[:-1, :-1], index[1:, :-1], index[:-1, 1:], index[1:, 1:]))
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])
    y, z = 6e-3 * (np.indices((n_side, n_side)).reshape(2, -1) - n_side / 2)
    sides = [np.stack([np.full_like(y, x), y, z + 0.02], axis=1) for x in (-0.04, 0.04)]
    positions = centre + np.concatenate(sides)
    normals = rng.normal(size=positions.shape)
    return positions, normals / np.linalg.norm(normals, axis=1, keepdims=True), triangles


def _hemispheres(space, triangles, patches):
    """The sources as two surfaces, of which MNE-Python keeps all vertices but the first.

    With patches a source stands for its next neighbour too, and has their mean normal.
    """
    import mne

    half = space["nuse"] // 2
    spaces = []
    for number, part in enumerate((slice(0, half), slice(half, 2 * half))):
        # one vertex more, which is no source
        nowhere = np.full((1, 3), 9.0)
        spaces.append({
            **{key: space[key] for key in ("coord_frame", "subject_his_id")},
            "type": "surf", "id": 101 + number, "np": half + 1, "nuse": half, "ntri": len(triangles),
            "rr": np.concatenate([nowhere, space["rr"][space["vertno"]][part]]),
            "nn": np.concatenate([[[0, 0, 1.0]], space["nn"][space["vertno"]][part]]),
            "vertno": 1 + np.arange(half), "inuse": np.r_[0, np.ones(half, int)],
            "tris": 1 + triangles, "use_tris": np.concatenate([1 + triangles, [[0, 1, 2]]]),
            "nuse_tri": len(triangles) + 1, "nearest": None, "dist": None,
            "patch_inds": np.arange(half) if patches else None,
            "pinfo": [np.array([1 + k, 1 + (k + 1) % half]) for k in range(half)],
        })  # fmt: skip
    return mne.SourceSpaces(spaces)
