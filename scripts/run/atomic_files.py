"""Files that survive a kill and a full disk: written whole or not at all, appended to."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RunError(Exception):
    """Error that ends a run; the message gives the reason and the remedy."""


def reason(error: Exception) -> str:
    """Return the message of an error that is meant for a user, or else the whole traceback."""
    if isinstance(error, (RunError, ValueError, OSError)):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of the file system inside a `with` into errors that name a remedy.

    Args:
        path: File or folder that the error names.

    Raises:
        RunError: for every OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space and run the same command again; it continues"
        else:
            remedy = "give an --out that you may write to"
        raise RunError(f"Cannot write to {path} ({error.strerror or error}): {remedy}.") from error


def write_whole(file: Path, content: bytes | memoryview) -> None:
    """Replace a file: write to a temporary name, flush to the disk, rename.

    Raises:
        OSError: if it cannot be written; the file is then unchanged, and no temporary file remains.
    """
    temporary = file.with_name(file.name + ".tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, file)  # noqa: PTH105  (one name that tests can replace by a kill)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # makes the renaming durable
    finally:
        os.close(folder)


def append(file: Path, content: bytes) -> None:
    """Append to a file and flush it to the disk; the file is created if it does not exist."""
    with file.open("ab", buffering=0) as handle:
        written = 0
        while written < len(content):
            written += handle.write(content[written:])
        os.fsync(handle.fileno())


def size(file: Path) -> int:
    """Return the number of bytes in a file; 0 if it does not exist."""
    return file.stat().st_size if file.exists() else 0
