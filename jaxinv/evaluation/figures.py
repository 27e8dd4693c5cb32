"""The pictures of the report, as matplotlib figures drawn without a display. Nothing here is global."""

import io
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jaxinv.evaluation.benchmark import Result
from jaxinv.evaluation.case_metrics import metric
from jaxinv.evaluation.cortex_view import cortex_view, on_fsaverage5, sulcal_depth
from jaxinv.evaluation.intervals import mean_interval
from jaxinv.evaluation.mesh_section import mesh_section
from jaxinv.head import HeadModel, SourceSpace

INK, GRID = "#22272e", "#d9dde3"
PALETTE = ("#c2410c", "#1d6fa5", "#2a9d6f", "#8a5fb4", "#8b949e", "#b8a13a")  # the subject first
TISSUE_COLOURS = {
    "scalp": "#e9c4a6", "skull": "#f3ecd6", "csf": "#9cc9e3", "grey": "#a5788c", "white": "#f0dfe0",
}  # fmt: skip
QUIET, WARM = "#efece6", ("#e0946a", "#a8320a")
HALVES = LinearSegmentedColormap.from_list("halves", ["#234f7d", "#7fa8cc", QUIET, *WARM])
SPOTS = LinearSegmentedColormap.from_list("spots", [QUIET, *WARM])
VIEWS = (("left", "lateral"), ("left", "medial"), ("right", "medial"), ("right", "lateral"))
SECTIONS = (
    ("sagittal, x = 12 mm", 0, 0.012),
    ("coronal, y = −20 mm", 1, -0.02),
    ("axial, z = 20 mm", 2, 0.02),
)
NEAR_SECTION = 12e-3  # m; electrodes so close to a cut are drawn on it


def to_png(figure: Figure, *, dpi: int = 110) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def cortical_maps(
    maps: Mapping[str, Float[np.ndarray, " source"]],
    sources: SourceSpace,
    title: str,
    *,
    label: str,
    focal: bool = False,
) -> Figure:
    """Maps of values in [0, 1] on the inflated cortex: one row a map, both hemispheres from both sides.

    Args:
        maps: values of every source, by the heading of the row.
        sources: where they are.
        title: of the figure.
        label: of the colour bar.
        focal: few sources are active, so that a small value has no colour, and each map is shown relative to
            its largest value.
    """
    colours = SPOTS if focal else HALVES
    figure = new_figure(10.4, 1.62 * len(maps) + 1.1)
    axes = figure.subplots(len(maps), len(VIEWS), squeeze=False)
    figure.subplots_adjust(left=0.1, right=0.91, top=1 - 0.75 / figure.get_figheight(), bottom=0.01,
                           wspace=0.0, hspace=0.02)  # fmt: skip
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK, fontweight="bold")
    for row, (name, values) in zip(axes, maps.items()):
        largest = np.max(values) if focal and np.max(values) > 0 else 1.0
        on_vertices = on_fsaverage5(values / largest, sources)
        for axis, (hemisphere, side) in zip(row, VIEWS):
            _draw_hemisphere(axis, on_vertices, colours, hemisphere, side)
        row[0].text(
            -0.02,
            0.5,
            textwrap.fill(name, 11),
            transform=row[0].transAxes,
            ha="right",
            va="center",
            color=INK,
        )
    for axis, (hemisphere, side) in zip(axes[0], VIEWS):
        axis.set_title(f"{hemisphere}, {side}", fontsize=9, color=INK, pad=2)
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), colours), cax=figure.add_axes((0.93, 0.25, 0.014, 0.45)), label=label
    )
    bar.outline.set_visible(False)
    return figure


def _draw_hemisphere(axis, values, colours, hemisphere, side):
    view = cortex_view(hemisphere, side)
    depth = sulcal_depth()[view.vertices].mean(axis=1)
    value = values[view.vertices].mean(axis=1)  # NaN at the border of the medial wall
    colour = np.where(np.isnan(value)[:, None], (0.80, 0.80, 0.79), colours(np.nan_to_num(value))[:, :3])
    fold = np.where(depth > 0, 0.86, 1.0)
    colour = np.clip(colour * (fold * (0.42 + 0.62 * view.shade))[:, None], 0, 1)
    axis.add_collection(
        PolyCollection(1e3 * view.triangles, facecolors=colour, edgecolors=colour, linewidths=0.3)
    )
    axis.autoscale_view()
    axis.set_aspect("equal")
    axis.axis("off")


def learning_curve(history: Sequence[Mapping[str, float | None]], references: Mapping[str, float]) -> Figure:
    """Training and validation loss over updates, with the loss of what was not trained.

    Args:
        history: rows of `metrics.jsonl`.
        references: cross-entropy of other methods on the test cases, in nats.
    """
    figure = new_figure(8.4, 4.4)
    axis = figure.subplots()
    step = np.array([row["step"] for row in history])
    axis.plot(step, [row["train_loss"] for row in history], color=PALETTE[0], alpha=0.35, lw=1,
              label="training, fresh samples")  # fmt: skip
    judged = [(row["step"], row["validation_loss"]) for row in history if row["validation_loss"] is not None]
    if judged:
        at, loss = np.array(judged).T
        axis.plot(at, loss, "o-", color=PALETTE[0], lw=2, ms=4, label="validation, other conductivities")
        best = int(np.argmin(loss))
        axis.annotate(f"best {loss[best]:.3f}", (at[best], loss[best]), (0, 7), textcoords="offset points",
                      ha="right", color=PALETTE[0], fontweight="bold")  # fmt: skip
    for (name, loss), colour in zip(references.items(), PALETTE[1:] * 2):
        axis.axhline(loss, color=colour, ls="--", lw=1.2, label=f"{name}, {loss:.3f}")
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)
    losses = [
        *references.values(),
        *(loss for _, loss in judged),
        *(row["train_loss"] for row in history[-50:]),
    ]
    axis.set_ylim(min(losses) - 0.03, min(max(losses) + 0.05, 1.5))
    _style(axis, "Cross-entropy while the network learns", "updates", "binary cross-entropy (nats)")
    if history[-1].get("leadfields"):
        top = axis.secondary_xaxis("top", functions=_scales(history[-1]["step"] / history[-1]["leadfields"]))
        top.set_xlabel("distinct leadfields solved", fontsize=9, color=INK)
        top.tick_params(labelsize=8, colors=INK)
        top.spines["top"].set_color(GRID)
        axis.title.set_y(1.14)
    figure.subplots_adjust(left=0.09, right=0.68, top=0.79, bottom=0.13)
    return figure


def _scales(updates_a_leadfield):
    return lambda update: update / updates_a_leadfield, lambda leadfield: leadfield * updates_a_leadfield


def reliability(
    probabilities: Mapping[str, Float[np.ndarray, "case source"]], label: Float[np.ndarray, "case source"]
) -> Figure:
    """How often a source is active, against how probable a method says it is.

    Args:
        probabilities: of the first test cases, by method.
        label: the truth.
    """
    figure = new_figure(9.6, 4.0)
    axis, histogram = figure.subplots(1, 2)
    edges = np.linspace(0, 1, 16)
    axis.plot([0, 1], [0, 1], color=GRID, lw=2, zorder=0)
    for (name, probability), colour in zip(probabilities.items(), PALETTE):
        active = np.asarray(label)[: len(probability)].ravel() != 0
        p = np.asarray(probability, dtype=np.float64).ravel()
        bins = np.clip(np.digitize(p, edges) - 1, 0, len(edges) - 2)
        count = np.bincount(bins, minlength=len(edges) - 1)
        enough = count > 1e-4 * len(p)
        with np.errstate(invalid="ignore"):
            said, found = (np.bincount(bins, w, minlength=len(count)) / count for w in (p, active))
        axis.plot(said[enough], found[enough], "o-", color=colour, ms=4, label=name)
        histogram.stairs(count / len(p), edges, color=colour, lw=1.6, label=name)
    _style(axis, "Said and found", "probability given", "share that is active")
    _style(histogram, "How sure each method is", "probability given", "share of sources")
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    histogram.set(xlim=(0, 1), ylim=(0, None))
    histogram.legend(frameon=False, fontsize=8)
    figure.subplots_adjust(left=0.05, right=0.98, top=0.88, bottom=0.14, wspace=0.1)
    return figure


def comparison(
    results: Sequence[Result], keys: Sequence[str] = ("bce", "average_precision", "accuracy")
) -> Figure:
    """Means and 95 % intervals of all methods, a panel for each metric."""
    figure = new_figure(9.6, 0.34 * len(results) + 1.3)
    axes = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    names = [result.name for result in results]
    for axis, m in zip(axes, map(metric, keys)):
        for i, result in enumerate(results):
            found = mean_interval(result.metrics[m.key])
            low, middle, high = (m.scale * value for value in (found.low, found.mean, found.high))
            axis.plot([low, high], [i, i], color=PALETTE[0] if i == 0 else PALETTE[1], lw=3, alpha=0.5)
            axis.plot([middle], [i], "o", color=PALETTE[0] if i == 0 else PALETTE[1], ms=6)
        heading = f"{m.title} ({m.unit})" if m.unit else m.title
        _style(axis, heading, m.aim, "")
        axis.grid(True, axis="x", color=GRID, lw=0.8)
    axes[0].set_yticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
    axes[0].invert_yaxis()
    figure.subplots_adjust(left=0.13, right=0.98, top=1 - 0.45 / figure.get_figheight(),
                           bottom=0.6 / figure.get_figheight(), wspace=0.12)  # fmt: skip
    return figure


def head_sections(head: HeadModel, electrodes: Float[np.ndarray, "electrode 3"]) -> Figure:
    """The mesh cut through in three planes, coloured by tissue, with the electrodes beside the cuts.

    Args:
        head: of tetrahedra.
        electrodes: positions, in m.
    """
    figure = new_figure(10.4, 4.3)
    spare = iter(PALETTE[1:] * len(head.tissue_names))
    colours = {name: TISSUE_COLOURS.get(name) or next(spare) for name in head.tissue_names}
    by_label = np.array([to_rgb(colour) for colour in colours.values()])
    for axis, (name, normal, position) in zip(figure.subplots(1, len(SECTIONS)), SECTIONS):
        section = mesh_section(head.mesh, normal, position)
        face = by_label[head.mesh.tissue[section.cells]]
        axis.add_collection(
            PolyCollection(1e3 * section.polygons, facecolors=face, edgecolors=0.72 * face, linewidths=0.15)
        )
        near = np.abs(electrodes[:, normal] - position) < NEAR_SECTION
        across, up = np.delete(1e3 * electrodes[near], normal, axis=1).T
        axis.plot(across, up, "o", ms=5, color=PALETTE[0], mec="white", mew=0.6)
        axis.autoscale_view()
        axis.set_aspect("equal")
        others = [letter for i, letter in enumerate("xyz") if i != normal]
        _style(axis, name, f"{others[0]} (mm)", f"{others[1]} (mm)")
    handles = [Patch(facecolor=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.subplots_adjust(left=0.06, right=0.99, top=0.92, bottom=0.2, wspace=0.22)
    return figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that needs no display."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _style(axis, title, xlabel, ylabel):
    axis.set_title(title, loc="left", fontsize=10.5, color=INK, fontweight="bold")
    axis.set_xlabel(xlabel, fontsize=9, color=INK)
    axis.set_ylabel(ylabel, fontsize=9, color=INK)
    axis.tick_params(labelsize=8, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GRID)
