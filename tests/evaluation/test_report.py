import base64
import io
import re

import numpy as np
import pytest
from rich.console import Console

from jaxinv.evaluation import (
    PUBLISHED,
    Facts,
    Picture,
    Report,
    Result,
    Table,
    load_results,
    save_results,
    write_report,
)


@pytest.fixture
def results():
    rng = np.random.default_rng(0)
    values = {"accuracy": rng.random(50), "localisation_error": 1e-2 * rng.random(50)}
    return [
        Result("U-Net <small>", values, threshold=0.5, setup_seconds=240.0, apply_seconds=3.2e-3),
        Result("MNE", {**values, "accuracy": np.full(50, 0.61)}, "snr = 3", 0.5, 0.02, 4e-5),
    ]


def report(results, picture=b"\x89PNG not really"):
    return Report(
        title="a & b",
        summary="what was <done>",
        findings=["U-Net <small> loses to MNE."],
        table=Table.of(results),
        pictures=[Picture("what one sees", picture)],
        facts=[Facts("Head", (("nodes", "106,000"),))],
    )


def test_cells_have_units_and_intervals(results):
    table = Table.of(results)
    network, mne, *published = table.rows
    at = {name: i for i, name in enumerate(table.columns)}
    assert (network.cells[0], network.cells[1]) == ("240 s", "3.2 ms")
    assert mne.cells[1] == "40 µs"
    assert mne.cells[at["accuracy ↑"]] == "0.610 [0.610, 0.610]"
    mean, low, high = map(float, re.findall(r"[\d.]+", network.cells[at["loc. error (mm) ↓"]]))
    assert low < mean < high
    assert mean == pytest.approx(1e3 * results[0].metrics["localisation_error"].mean(), abs=0.06)
    assert "BCE (nats) ↓" not in at
    assert len(published) == len(PUBLISHED)
    assert all(row.published for row in published)


def test_the_terminal_shows_every_method_measured_here(results):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(Table.of(results).to_rich("the title"))
    text = console.export_text()
    for word in ("the title", "U-Net <small>", "MNE", "snr = 3", "[0.610, 0.610]"):
        assert word in text
    assert PUBLISHED[0].name not in text
    console.print(Table.of(results).published_to_rich())
    published = console.export_text()
    assert PUBLISHED[0].name in published
    assert "loc. error" not in published


def test_the_report_needs_no_other_file_and_escapes_what_it_is_given(results, tmp_path):
    path = write_report(tmp_path / "report.html", report(results))
    html = path.read_text(encoding="utf-8")
    assert "U-Net &lt;small&gt; loses to MNE." in html
    assert "<small>" not in html
    assert "what was &lt;done&gt;" in html
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert base64.b64decode(picture) == b"\x89PNG not really"
    assert not re.search(r'(src|href)="(?!data:)', html)
    for name in (row.name for row in PUBLISHED):
        assert name in html
    assert "nverse crime" in html


def test_a_directory_that_is_not_there_is_refused(results, tmp_path):
    with pytest.raises(ValueError, match="is not a directory"):
        write_report(tmp_path / "nowhere" / "report.html", report(results))


def test_results_come_back_from_the_disk(results, tmp_path):
    results[0].metrics["localisation_error"][3] = np.nan
    save_results(tmp_path / "evaluation.json", results)
    for before, after in zip(results, load_results(tmp_path / "evaluation.json")):
        assert (before.name, before.setting, before.apply_seconds) == (
            after.name,
            after.setting,
            after.apply_seconds,
        )
        for key in before.metrics:
            np.testing.assert_array_equal(before.metrics[key], after.metrics[key])


@pytest.mark.parametrize("text", ["", "[{}]", '{"a": 1}'])
def test_a_damaged_file_of_results_is_refused(tmp_path, text):
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(ValueError, match="holds no results"):
        load_results(tmp_path / "evaluation.json")
