"""JSON files of a run: written whole or not at all, and read with an error that names the file."""

import json
from collections.abc import Mapping
from pathlib import Path

from jaxinv.whole_file import whole_file


def write_json(path: Path, values: Mapping) -> None:
    """Write an object. A process that is killed meanwhile leaves what was there before, or all of the new."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path, remedy: str) -> dict:
    """Read an object.

    Args:
        path: of the file, which must be there.
        remedy: what to do where it cannot be read, as the error says it.

    Raises:
        ValueError: if the file holds no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged (it holds no JSON object): {remedy}")
    return values
