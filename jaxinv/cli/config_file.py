"""A configuration as JSON: written once at the start of a run, read whenever it goes on."""

import dataclasses
import json
from pathlib import Path
from typing import TypeVar, get_type_hints

from jaxinv.cli.config import RunConfig

T = TypeVar("T")


def write_config(path: Path, config: RunConfig) -> None:
    """Write a configuration."""
    path.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n", encoding="utf-8")


def read_config(path: Path) -> RunConfig:
    """Read a configuration.

    Raises:
        ValueError: if the file is not there, not JSON, or names a setting that this version does not have.
    """
    if not path.is_file():
        raise ValueError(
            f"{path.parent} holds no run of jaxinv: {path.name} is missing. Begin with `jaxinv run`"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return _rebuilt(RunConfig, values, path)


def differences(one: RunConfig, other: RunConfig) -> list[str]:
    """Dotted names of the settings in which two configurations differ, with both values."""
    flat_one, flat_other = _flat(dataclasses.asdict(one)), _flat(dataclasses.asdict(other))
    return [f"{name}: {value} and {flat_other[name]}" for name, value in flat_one.items()
            if flat_other[name] != value]  # fmt: skip


def _rebuilt(kind: type[T], values: dict, path: Path) -> T:
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{path} has settings that this version of jaxinv does not know: {unknown}")
    built = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            built[name] = _rebuilt(hints[name], value, path)
        else:
            built[name] = tuple(value) if isinstance(value, list) else value
    return kind(**built)


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
