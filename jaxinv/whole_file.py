"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

PARTIAL = ".part"  # suffix of a file that is being written, or that a killed process left


@contextmanager
def whole_file(path: str | PathLike) -> Iterator[Path]:
    """A path to write to; the file takes the place of another once all is written.

    What was there before stays if the block raises or its process is killed. Processes that write the same
    file at once do not meet: the last one stands.

    Args:
        path: of the file, in a directory that exists.

    Yields:
        A path beside it, for the block to write.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
