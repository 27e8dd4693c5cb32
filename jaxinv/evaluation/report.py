"""The report of a run: one HTML file that needs nothing beside it."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from jaxinv.evaluation.published import CITATION
from jaxinv.evaluation.table import Table
from jaxinv.whole_file import whole_file

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("jaxinv.evaluation"), autoescape=True, undefined=jinja2.StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip

CAVEATS = (
    "Inverse crime: training and test measurements come from the same mesh and the same source space that "
    "the estimators know, and this flatters all of them. What they do not know is the conductivities: each "
    "test leadfield has its own, drawn from the literature's ranges; the baselines have the leadfield at the "
    "nominal ones, and the network has seen other draws.",
    "The baselines are given what the network learns from its examples: the noise covariance, and the mean "
    "of the currents, whose field is subtracted from the measurements. Their regularisation, the logistic "
    "that turns a current into a probability, and one threshold for each method are chosen on the validation "
    "cases.",
    "MNE and sLORETA take the sources for independent, while the network learns how smooth the maps are. The "
    "row called true smoothness, where the table has it, is the minimum norm that is told: the best linear "
    "estimate on the nominal head.",
    "Some of these metrics can be won by a guess: on half-active maps the centroid of all sources lies close "
    "to that of the active ones. The rows of the constant guess and of chance show by how much. A prediction "
    "without an active source counts as the worst that any could be.",
    "Published rows were measured on another head, with other data and on another machine; they stand there "
    "for orientation.",
)


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    Attributes:
        caption: what one sees.
        png: the file.
    """

    caption: str
    png: bytes

    @property
    def source(self) -> Markup:
        """As a data address."""
        return Markup("data:image/png;base64," + base64.b64encode(self.png).decode("ascii"))


@dataclass(frozen=True)
class Facts:
    """A list of names and values under a heading.

    Attributes:
        title: the heading.
        rows: name and value, as text.
    """

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Report:
    """What the file says, from top to bottom.

    Attributes:
        title: of the page.
        summary: what was done, in one sentence.
        findings: the result in sentences, losses as well as wins.
        table: the methods.
        pictures: in order.
        facts: head, forward model, training, configuration, versions, durations.
        caveats: how to read the figures.
    """

    title: str
    summary: str
    findings: Sequence[str]
    table: Table
    pictures: Sequence[Picture]
    facts: Sequence[Facts]
    caveats: Sequence[str] = CAVEATS


def write_report(path: str | Path, report: Report) -> Path:
    """Write the report to a file of its own, pictures inside, text escaped.

    Args:
        path: of the HTML file; its directory must be there.
        report: what it says.

    Returns:
        The path.

    Raises:
        ValueError: if the directory is not there.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(
            f"path={str(path)!r} cannot be written: {path.parent} is not a directory; make it first"
        )
    html = _TEMPLATES.get_template("report.html").render(report=report, citation=CITATION)
    with whole_file(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path
