import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxinv.evaluation import Entrant, standardised
from jaxinv.evaluation.judge import Cell, findings_on_oracles, judge, limits, overview, paper_tables, tables
from jaxinv.evaluation.judge.classical import classical_entrants
from jaxinv.evaluation.judge.run import digest
from jaxinv.inverse import minimum_norm

LENGTH = 40e-3
SAMPLED = 8  # cases of an oracle that samples
CELLS = (Cell("A", 10), Cell("D1", 20, "crime", correlation_length=LENGTH), Cell("C", 10))


def mine(given, snr):
    return minimum_norm(given.leadfield, given.noise_cov, snr=snr, method="sLORETA")


ENTRANT = Entrant("mine", standardised(mine), (1.0, 3.0), "snr")


@pytest.fixture(scope="module")
def verdicts(judge_directory, protocol):
    sampled = dataclasses.replace(limits.ORACLES["C"], max_cases=SAMPLED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "N_ATOMS", 2000)
        patch.setitem(limits.ORACLES, "C", sampled)
        return judge(
            judge_directory,
            [ENTRANT],
            cells=CELLS,
            n_cases=40,
            n_validation=30,
            protocol=protocol,
            progress=False,
        )


def test_every_cell_has_the_method_the_guesses_and_its_oracle(verdicts):
    names = [[result.name for result in verdict.results] for verdict in verdicts]
    guesses = ["constant guess", "prior", "chance"]
    assert names[0] == ["mine", *guesses, "oracle (dense dictionary)"]
    assert names[1] == ["mine", *guesses, "oracle (exact)"]
    assert names[2] == ["mine", *guesses, "oracle (sampled dictionary)"]
    cases = [[result.n_cases for result in verdict.results] for verdict in verdicts]
    assert cases == [[40] * 5, [40] * 5, [40, 40, 40, 40, SAMPLED]]


def test_no_method_beats_its_oracle_and_methods_beat_guesses(verdicts):
    assert findings_on_oracles(verdicts) == []
    for verdict in verdicts:
        loss = {result.name: result.metrics["bce"].mean() for result in verdict.results}
        assert loss["mine"] < loss["prior"]


def test_the_prior_has_no_skill(verdicts):
    for verdict in verdicts:
        skill = {result.name: result.metrics["skill"] for result in verdict.results}
        np.testing.assert_allclose(skill["prior"], 0, atol=1e-5)
        assert skill["mine"].mean() > 0


def test_the_same_grid_again_is_read_and_elsewhere_is_the_same(verdicts, judge_directory, protocol, tmp_path):
    """Of what was judged, and of what is judged anew: all but the seconds."""
    settings = {
        "cells": CELLS[:2], "n_cases": 40, "n_validation": 30, "protocol": protocol, "progress": False,
    }  # fmt: skip

    def never(given, snr):
        raise AssertionError("a result that is kept was made again")

    again = judge(judge_directory, [dataclasses.replace(ENTRANT, setup=never)], **settings)
    (tmp_path / "heads").symlink_to(judge_directory / "heads")
    anew = judge(tmp_path, [ENTRANT], **settings)
    for found in (again, anew):
        for one, other in zip(verdicts, found):
            for mine, theirs in zip(one.results, other.results):
                assert (mine.name, mine.setting, mine.threshold) == (
                    theirs.name,
                    theirs.setting,
                    theirs.threshold,
                )
                for key, values in mine.metrics.items():
                    np.testing.assert_array_equal(values, theirs.metrics[key])


def test_the_summary_has_versions_machine_and_hashes(verdicts, judge_directory, protocol):
    judge(
        judge_directory,
        [ENTRANT],
        cells=CELLS,
        n_cases=40,
        n_validation=30,
        protocol=protocol,
        progress=False,
    )
    summary = json.loads((judge_directory / "judge.json").read_text())
    assert {"jax", "numpy", "mne"} <= set(summary["versions"])
    assert summary["protocol"]["test_heads"] == [2, 3]
    for row, cell in zip(summary["cells"], CELLS):
        assert row["hash"] == digest(cell, protocol, 40, 30)
        assert row["results"][0]["metrics"]["bce"]["cases"] == 40
        assert 0 <= row["results"][0]["pooled"]["calibration_error"] <= 1
        assert not any("made with" in result for result in row["results"])


def test_results_made_with_other_versions_say_so(judge_directory, protocol, monkeypatch, caplog):
    settings = {
        "cells": CELLS[:1],
        "n_cases": 40,
        "n_validation": 30,
        "protocol": protocol,
        "progress": False,
    }
    judge(judge_directory, [ENTRANT], **settings)
    later = {"versions": {"jax": "99"}, "machine": {"cores": 512}}
    monkeypatch.setattr("jaxinv.evaluation.judge.run.provenance", lambda: later)
    with caplog.at_level("WARNING"):
        judge(judge_directory, [ENTRANT], **settings)
    summary = json.loads((judge_directory / "judge.json").read_text())
    assert summary["versions"] == {"jax": "99"}
    made = [result["made with"]["versions"]["jax"] for result in summary["cells"][0]["results"]]
    assert "5 results were made with other versions" in caplog.text
    assert set(made) == {jax.__version__}


@pytest.mark.parametrize("names", [("mine", "mine"), ("net >10", "net <10"), ("Oracle",)])
def test_entrants_whose_files_would_have_one_name_are_refused(names, tmp_path):
    entrants = [dataclasses.replace(ENTRANT, name=name) for name in names]
    with pytest.raises(ValueError, match="must differ in letters and digits"):
        judge(tmp_path, entrants, cells=CELLS)


def test_the_hash_follows_cell_heads_and_sizes(protocol):
    hashes = {
        digest(cell, p, n, 30)
        for cell in (CELLS[0], dataclasses.replace(CELLS[0], snr_db=11))
        for p in (protocol, dataclasses.replace(protocol, displacement=1e-3))
        for n in (40, 41)
    }
    assert len(hashes) == 8


def test_there_are_tables_for_each_scenario_and_a_figure(verdicts):
    titles = [table.title for table in tables(verdicts)]
    assert {title.split(":")[0] for title in titles} == {"A", "C", "D1"}
    assert len(overview(verdicts).axes) == 3


def test_the_papers_tables_have_its_figures_and_the_gap_to_the_oracle(verdicts):
    maps = dataclasses.replace(verdicts[1], cell=Cell("D2", 20, correlation_length=LENGTH))
    assert paper_tables(verdicts) == []
    decisions, places = paper_tables([maps])
    text = io.StringIO()
    Console(file=text, width=200).print(decisions, places)
    lines = {line.split("│")[1].strip(): line for line in text.getvalue().splitlines() if "│" in line}
    assert "0.617" in lines["published: enhanced U-Net, 50,000 samples"]
    assert "22.0" in lines["published: case 1"]
    assert "0.000 [0.000, 0.000]" in text.getvalue()
    oracle, mine = (
        next(result for result in maps.results if result.name == name).metrics["accuracy"].mean()
        for name in ("oracle (exact)", "mine")
    )
    assert f"{oracle - mine:.3f} [" in text.getvalue()


def test_heads_that_are_tuned_on_are_not_judged_on(protocol):
    with pytest.raises(ValueError, match="both for validation and for test"):
        dataclasses.replace(protocol, test_heads=(1, 2))


@pytest.mark.parametrize("cell", [Cell("A", 10), Cell("B", 5, n_times=50), Cell("D2", 20)], ids=str)
def test_classical_entrants_suit_their_cell(cell):
    entrants = classical_entrants(cell)
    names = {entrant.name for entrant in entrants}
    assert len(names) == len(entrants)
    assert ("LCMV" in names) == (cell.n_times > 1)
    assert ("Lasso" in names) == cell.is_map
