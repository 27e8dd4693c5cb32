"""The judge: a grid of cells, every method in every cell, kept on the disk as it goes."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from jaxinv.evaluation.benchmark import Result, evaluate_entrant, reference_results
from jaxinv.evaluation.entrants import Entrant
from jaxinv.evaluation.judge.cases import Posed, pose
from jaxinv.evaluation.judge.cells import CORE_GRID, Cell
from jaxinv.evaluation.judge.classical import classical_entrants
from jaxinv.evaluation.judge.limits import oracle_result
from jaxinv.evaluation.judge.true_head import Protocol, TrueHead, true_head
from jaxinv.evaluation.judge.world import field_factor, make_world
from jaxinv.evaluation.results_file import load_results, provenance, save_results
from jaxinv.whole_file import whole_file

logger = logging.getLogger(__name__)

PROTOCOL = Protocol()
GUESSES, ORACLE = "guesses", "oracle"  # results beside those of the entrants


@dataclass(frozen=True)
class Verdict:
    """What came of one cell.

    Attributes:
        cell: of the grid.
        results: methods, then guesses, then the oracle where there is one.
    """

    cell: Cell
    results: tuple[Result, ...]

    @property
    def n_cases(self) -> int:
        """Test cases of the cell; slow methods and oracles that sample have fewer."""
        return max(result.n_cases for result in self.results)


def judge(
    directory: str | Path,
    entrants: Sequence[Entrant] | Callable[[Cell], Sequence[Entrant]] = classical_entrants,
    *,
    cells: Sequence[Cell] = CORE_GRID,
    n_cases: int = 1000,
    n_validation: int = 200,
    protocol: Protocol = PROTOCOL,
    progress: bool = True,
) -> list[Verdict]:
    """Judge methods in every cell of a grid. What is finished is kept and not done again.

    Heads are built and solved at first: some minutes each. A cell's cases are made anew from their seed.
    Results are one JSON file a method and cell, under a hash of all that they depend on but the method:
    delete those of a method whose code has changed. `judge.json` holds all of it with versions and machine.

    Args:
        directory: where heads and results are kept.
        entrants: methods, the same in all cells, or what gives those that suit a cell.
        cells: to judge in.
        n_cases: test cases a cell, at most; slow methods say that they take fewer.
        n_validation: cases a cell on which methods are tuned.
        protocol: how heads are made.
        progress: show a progress bar.

    Returns:
        The verdicts, in the order of the cells.

    Raises:
        ValueError: for an entrant twice, or one that gives no finite estimate.
    """
    directory = Path(directory)
    chosen = entrants if callable(entrants) else lambda cell: entrants
    for cell in cells:
        names = [entrant.name for entrant in chosen(cell)]
        files = [_file_of(name) for name in (*names, GUESSES, ORACLE)]
        if len(set(files)) < len(files):
            raise ValueError(
                f"names of entrants must differ in letters and digits, and from {GUESSES!r} and "
                f"{ORACLE!r}, as files are named after them; found {sorted(names)}"
            )
    stage = _Stage(directory, protocol)
    verdicts = []
    with Progress(disable=not progress, transient=True) as bar:
        task = bar.add_task("judging", total=len(cells))
        for cell in cells:
            report = lambda text: bar.update(task, description=text)  # noqa: E731
            folder = directory / f"{digest(cell, protocol, n_cases, n_validation)}-{cell.name}"
            verdicts.append(_judge_cell(cell, chosen(cell), folder, stage, n_cases, n_validation, report))
            bar.advance(task)
    _write(directory / "judge.json", verdicts, protocol, n_cases, n_validation)
    return verdicts


def digest(cell: Cell, protocol: Protocol, n_cases: int, n_validation: int) -> str:
    """A hash of what a cell's cases depend on."""
    text = f"{cell.canonical()} {protocol.digest} {n_cases} {n_validation}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class _Stage:
    """Heads and factors, made when a cell first needs them."""

    def __init__(self, directory: Path, protocol: Protocol):
        self.directory, self.protocol = directory / "heads", protocol
        self.heads: dict[tuple[int | str, bool], TrueHead] = {}
        self.factors: dict[float, np.ndarray] = {}

    def pose(self, cell: Cell, n_validation: int, n_cases: int, report: Callable[[str], None]) -> Posed:
        """The cases of a cell."""
        length = cell.correlation_length
        if cell.is_map and length not in self.factors:
            report(f"maps with a correlation length of {1e3 * length:g} mm")
            self.factors[length] = self._factor(length)
        groups = [
            tuple(make_world(cell, self._head(name, cell.is_field, report), self.factors) for name in names)
            for names in (self.protocol.validation_heads, self.protocol.test_heads)
        ]
        report(f"{cell.name}: cases")
        return pose(cell, *groups, n_validation, n_cases, self.protocol.seed)

    def _head(self, name: int | str, field: bool, report: Callable[[str], None]) -> TrueHead:
        if (name, field) not in self.heads:
            self.heads = {key: head for key, head in self.heads.items() if key[1] == field}  # memory
            self.heads[name, field] = true_head(
                name, self.protocol, self.directory, field=field, report=report
            )
        return self.heads[name, field]

    def _factor(self, length: float) -> np.ndarray:
        path = self.directory / f"factor-{self.protocol.truth_surface}-{1e3 * length:g}mm.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            factor = field_factor(length, self.protocol.truth_surface)
            with whole_file(path) as partial, partial.open("wb") as file:
                np.save(file, factor)
        return np.load(path)


def _judge_cell(cell, entrants, folder, stage, n_cases, n_validation, report) -> Verdict:
    posed = None

    def kept(name: str, make: Callable[[Posed], Sequence[Result]]) -> list[Result]:
        nonlocal posed
        path = folder / _file_of(name)
        if not path.exists():
            posed = posed or stage.pose(cell, n_validation, n_cases, report)
            report(f"{cell.name}: {name}")
            folder.mkdir(parents=True, exist_ok=True)
            save_results(path, make(posed))
        return load_results(path)

    results = []
    for entrant in entrants:
        results += kept(entrant.name, lambda posed: [evaluate_entrant(entrant, posed.problem)])  # noqa: B023
    results += kept(GUESSES, lambda posed: reference_results(posed.problem))
    results += kept(ORACLE, lambda posed: [found for found in [oracle_result(posed)] if found])
    return Verdict(cell, tuple(results))


def _file_of(name: str) -> str:
    return f"{re.sub('[^a-z0-9]+', '-', name.lower())}.json"


def _write(
    path: Path, verdicts: Sequence[Verdict], protocol: Protocol, n_cases: int, n_validation: int
) -> None:
    now = provenance()
    others = sum(result.made != now for verdict in verdicts for result in verdict.results)
    if others:
        logger.warning(
            "%d results were made with other versions or on another machine, as %s tells: delete their "
            "files to have them made anew", others, path,
        )  # fmt: skip
    rows = [
        {
            "cell": asdict(verdict.cell),
            "title": verdict.cell.title,
            "hash": digest(verdict.cell, protocol, n_cases, n_validation),
            "results": [
                {
                    "name": result.name,
                    "setting": result.setting,
                    "cases": result.n_cases,
                    "setup_seconds": result.setup_seconds,
                    "apply_seconds": result.apply_seconds,
                    "pooled": result.pooled,
                    "metrics": {key: asdict(interval) for key, interval in result.intervals().items()},
                    **({} if result.made == now else {"made with": result.made}),
                }
                for result in verdict.results
            ],
        }
        for verdict in verdicts
    ]
    about = {
        "protocol": asdict(protocol),
        "cases": n_cases,
        "validation cases": n_validation,
        **now,
    }
    with whole_file(path) as partial:
        partial.write_text(json.dumps({**about, "cells": rows}, indent=1) + "\n", encoding="utf-8")
