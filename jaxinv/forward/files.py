"""A tree of dataclasses and arrays in one .npz file, without pickle."""

import json
import zipfile
from dataclasses import fields, is_dataclass
from os import PathLike
from typing import Any

import numpy as np

from jaxinv.whole_file import whole_file

STRUCTURE = "structure"  # name of the entry that says where each array belongs


def write_pytree(path: str | PathLike, kind: str, tree: Any) -> None:
    """Writes a dataclass of arrays, numbers, strings, tuples and further dataclasses, whole or not at all.

    Args:
        path: of the file.
        kind: what the file holds, in words; asked for again when it is read.
        tree: the dataclass.
    """
    arrays: dict[str, np.ndarray] = {}
    structure = json.dumps({"kind": kind, "tree": _encode(tree, arrays)})
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **{STRUCTURE: np.array(structure)}, **arrays)


def read_pytree(path: str | PathLike, kind: str, types: tuple[type, ...]) -> Any:
    """Reads what `write_pytree` wrote; arrays are NumPy's.

    Args:
        path: of the file.
        kind: what it must hold.
        types: the dataclasses that it may hold.

    Raises:
        OSError: if there is no such file, or it cannot be read.
        ValueError: if the file is truncated or holds something else.
    """
    with open(path, "rb") as file:
        complete = zipfile.is_zipfile(file)
    if not complete:
        raise ValueError(f"{path} does not hold a {kind}, or is truncated: make it again")
    try:
        with np.load(path, allow_pickle=False) as file:
            content = json.loads(str(file[STRUCTURE]))
            if content["kind"] != kind:
                raise ValueError(f"{path} holds a {content['kind']}, not a {kind}")
            return _decode(content["tree"], file, {cls.__name__: cls for cls in types})
    except (zipfile.BadZipFile, EOFError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} does not hold a {kind} of this version, or is truncated: make it again ({error})"
        ) from error


def _encode(node, arrays):
    if is_dataclass(node):
        parts = {field.name: _encode(getattr(node, field.name), arrays) for field in fields(node)}
        return {"type": type(node).__name__, "fields": parts}
    if isinstance(node, tuple):
        return {"tuple": [_encode(part, arrays) for part in node]}
    if node is None or isinstance(node, str | int | float):
        return {"value": node}
    name = f"array{len(arrays)}"
    arrays[name] = np.asarray(node)
    return {"array": name}


def _decode(node, arrays, types):
    if "array" in node:
        return arrays[node["array"]]
    if "value" in node:
        return node["value"]
    if "tuple" in node:
        return tuple(_decode(part, arrays, types) for part in node["tuple"])
    parts = {name: _decode(part, arrays, types) for name, part in node["fields"].items()}
    return types[node["type"]](**parts)
