"""Files that survive a kill and a full disk: written whole or not at all, cut back, locked."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# A process that is being killed may hold its lock for a moment after the same command starts again.
LOCK_PATIENCE_SECONDS = 5.0


class RunError(Exception):
    """A run that cannot go on; the message says why, and what to do."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the file system refuses inside a `with` into an error that says what to do.

    Args:
        path: Named by the error.

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


def locked(file: Path, patience: float | None = None) -> IO[bytes]:
    """Hold the operating system's lock on a file: a killed process leaves none behind.

    Args:
        file: Made if it is not there; stays afterwards, empty.
        patience: Seconds to wait for another process to let go of it. None:
            `LOCK_PATIENCE_SECONDS`.

    Returns:
        The open file; closing it gives the lock back.

    Raises:
        RunError: if another process keeps it.
        OSError: if the file cannot be written.
    """
    handle = file.open("ab")
    deadline = time.monotonic() + (LOCK_PATIENCE_SECONDS if patience is None else patience)
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                handle.close()
                raise RunError(
                    f"{file.parent} is in use by another process: wait until it ends, or give"
                    " another --out."
                ) from None
            time.sleep(0.05)
        except BaseException:
            handle.close()
            raise
        else:
            return handle


def write_whole(file: Path, content: bytes | memoryview) -> None:
    """Replace a file: write to a temporary name, flush to the disk, rename.

    Raises:
        OSError: if it cannot be written; the file is then as before, and no temporary one is left.
    """
    temporary = file.with_name(file.name + ".tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, file)  # noqa: PTH105  (one name for tests to place a kill at)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the renaming itself
    finally:
        os.close(folder)


def append(file: Path, content: bytes) -> None:
    """Add to the end of a file, flushed to the disk; the file is made if it is not there."""
    with file.open("ab", buffering=0) as handle:
        written = 0
        while written < len(content):
            written += handle.write(content[written:])
        os.fsync(handle.fileno())


def size(file: Path) -> int:
    """Bytes in a file; 0 if there is none."""
    return file.stat().st_size if file.exists() else 0
