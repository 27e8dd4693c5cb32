"""The metrics of a run: one JSON object a line, appended as the run goes and cut back when it resumes."""

import json
import os
from pathlib import Path

from jaxinv.whole_file import whole_file

Row = dict[str, float | int | None]


class MetricsLog:
    """Rows of metrics in a JSONL file, in the order of their `step`.

    Args:
        path: the file; made at the first row.
    """

    def __init__(self, path: Path):
        self.path = path

    def append(self, row: Row) -> None:
        """Write a row through to the disk, so that a checkpoint saved after it never lacks it."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[Row]:
        """All complete rows; a last line that a killed process left unfinished does not count.

        Raises:
            ValueError: if another line is damaged.
        """
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        complete, _, _ = text.rpartition("\n")
        try:
            return [json.loads(line) for line in complete.splitlines()]
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.path} is damaged ({error}): take the damaged line out") from error

    def known_rows(self) -> list[Row]:
        """All complete rows of a run that has some.

        Raises:
            ValueError: if there are none, or one is damaged.
        """
        if not (rows := self.rows()):
            raise ValueError(f"{self.path} is missing or empty: put it back, or train in another directory")
        return rows

    def cut(self, last_step: int) -> list[Row]:
        """Drop the rows after `last_step`, atomically, and return those that stay.

        Raises:
            ValueError: if a line is damaged, or all rows up to that step are missing.
        """
        rows = self.known_rows() if last_step else self.rows()
        kept = [row for row in rows if row["step"] <= last_step]
        with whole_file(self.path) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        return kept
