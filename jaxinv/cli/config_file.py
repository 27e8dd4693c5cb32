"""A configuration as JSON: written once at the start of a run, read whenever it goes on."""

import dataclasses
from pathlib import Path
from types import UnionType
from typing import Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxinv.cli.config import RunConfig
from jaxinv.cli.json_file import read_json, write_json

T = TypeVar("T")

REMEDY = "mend it, or begin anew in an empty directory"


def write_config(path: Path, config: RunConfig) -> None:
    """Write a configuration, whole or not at all."""
    write_json(path, dataclasses.asdict(config))


def read_config(path: Path) -> RunConfig:
    """Read a configuration.

    Raises:
        ValueError: if the file is not there, not JSON, names a setting that this version does not have, or
            has a value of the wrong type or out of its range.
    """
    if not path.is_file():
        raise ValueError(
            f"{path.parent} holds no run of jaxinv: {path.name} is missing. Begin with `jaxinv run`"
        )
    values = read_json(path, REMEDY)
    try:
        return _rebuilt(RunConfig, values)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}; {REMEDY}") from error


def differences(one: RunConfig, other: RunConfig) -> list[str]:
    """Dotted names of the settings in which two configurations differ, with both values."""
    flat_one, flat_other = _flat(dataclasses.asdict(one)), _flat(dataclasses.asdict(other))
    return [f"{name}: {value} and {flat_other[name]}" for name, value in flat_one.items()
            if flat_other[name] != value]  # fmt: skip


def _rebuilt(kind: type[T], values: dict, prefix: str = "") -> T:
    hints = get_type_hints(kind)
    unknown = sorted(prefix + name for name in set(values) - set(hints))
    if unknown:
        raise ValueError(f"it has settings that this version of jaxinv does not know: {unknown}")
    built = {}
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise ValueError(f"{prefix}{name} is {value!r}, where {_spelled(hints[name])} is wanted")
        if dataclasses.is_dataclass(hints[name]):
            built[name] = _rebuilt(hints[name], value, f"{prefix}{name}.")
        else:
            built[name] = tuple(value) if isinstance(value, list) else value
    return kind(**built)


def _fits(value, hint) -> bool:
    """Whether a JSON value can stand for a setting of that type."""
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return isinstance(value, dict)
    if origin in (Union, UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(args) and all(map(_fits, value, args))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _spelled(hint) -> str:
    if dataclasses.is_dataclass(hint):
        return "a group of settings"
    return (
        hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
    )


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
