"""Lease: a lock between machines that needs no `flock`, only that a file is made once (`O_EXCL`).

The lock is held by whoever made the lease of the highest number (`lock.lease.7`): of all who try to make it,
one succeeds. It names its owner, who touches it every `HEARTBEAT_SECONDS` and at the end shortens it to one
byte (which a full disk allows). One that was silent for `SILENCE_SECONDS` is taken to be of a machine that is
gone, and the next number is free. The lease of the highest number is never removed, so that a process that
was asleep while others came and went cannot win with a number that has been used: it looks again afterwards.

Ages are differences of times that the file system itself gave (the lease's, and that of a file touched just
now), so clocks of machines may differ.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HEARTBEAT_SECONDS = 10.0
"""Seconds between two touches of a lease by its owner."""

SILENCE_SECONDS = 60.0
"""Age from which a lease is taken to be of a machine or process that is gone."""

RELEASED_BYTES = 1
"""Length of a lease that was given back."""


@dataclass(frozen=True)
class Holder:
    """Owner of a lease."""

    host: str
    """Name of its machine; empty while the lease is being written, or if it is broken."""

    boot: str
    """Name of the machine's latest start and of the process's numbering in it; empty where unknown."""

    process: int
    """Number of its process."""

    age: float
    """Seconds since its latest touch, by the clock of the file system."""

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended: by its silence, or as a process of this machine."""
        if self.age > SILENCE_SECONDS:
            return True
        is_here = (self.host, self.boot) == (socket.gethostname(), _boot())
        return is_here and not _is_alive(self.process)

    @property
    def is_silent(self) -> bool:
        """Whether it has missed touches, so that waiting for `SILENCE_SECONDS` tells whether it is gone."""
        return self.age > 2.5 * HEARTBEAT_SECONDS


class Lease:
    """Lease that this process holds, touched by a thread until it is closed.

    Args:
        file: Path of the lock; the lease is beside it.
        number: Number of the lease.
    """

    def __init__(self, file: Path, number: int) -> None:
        self._file, self._number = file, number
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._touch, name="lease", daemon=True)
        self._beat.start()

    @property
    def is_lost(self) -> bool:
        """Whether another process has taken this one, silent for too long, to be gone."""
        return max(_numbers(self._file), default=0) != self._number

    def close(self) -> None:
        """Give the lock back; without effect if it is closed or lost."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._beat.join()
        with suppress(OSError):  # on a disk that fails, silence frees it
            os.truncate(_named(self._file, self._number), RELEASED_BYTES)

    def _touch(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # lost, or a file system that will answer again
                os.utime(_named(self._file, self._number))


def take(file: Path) -> Lease | Holder:
    """Take the lease of a lock, or return who holds it.

    Args:
        file: Path of the lock, in a folder that exists.

    Raises:
        OSError: if the folder cannot be written.
    """
    latest = max(_numbers(file), default=0)
    found = None if latest == 0 else holder(file)
    if found is not None and not found.is_gone:
        return found
    number = latest + 1
    try:
        with _named(file, number).open("x", encoding="utf-8") as handle:
            json.dump(
                {"host": socket.gethostname(), "boot": _boot(), "process": os.getpid()}, handle
            )
    except FileExistsError:  # another was faster
        return holder(file) or take(file)
    except OSError:  # a full disk: not held, which would make others wait for its silence
        with suppress(OSError):
            os.truncate(_named(file, number), RELEASED_BYTES)
        raise
    if max(_numbers(file)) != number:  # numbers went on between our look and our file
        os.truncate(_named(file, number), RELEASED_BYTES)
        return holder(file) or take(file)
    for earlier in _numbers(file):
        if earlier < number:
            _named(file, earlier).unlink(missing_ok=True)
    return Lease(file, number)


def holder(file: Path) -> Holder | None:
    """Return who holds the lease of a lock, even if it may be gone; None if it is free."""
    while numbers := _numbers(file):
        try:
            with _named(file, max(numbers)).open(encoding="utf-8", errors="replace") as handle:
                content = handle.read()
                touched = os.fstat(handle.fileno()).st_mtime
        except FileNotFoundError:  # replaced by a higher number between two looks
            continue
        if len(content) == RELEASED_BYTES:
            return None
        return Holder(*_owner(content), _now(file.parent) - touched)
    return None


def _owner(content: str) -> tuple[str, str, int]:
    """Return who wrote a lease; nobody if it is not yet, or not wholly, written: its silence frees it."""
    try:
        owner = json.loads(content)
        return str(owner["host"]), str(owner["boot"]), int(owner["process"])
    except (ValueError, LookupError, TypeError):
        return "", "", 0


def _now(folder: Path) -> float:
    try:
        return time_of_file_system(folder)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return time.time()  # who may only read has but the own clock


def time_of_file_system(folder: Path) -> float:
    """Return the time by the clock of a folder's file system, in seconds since 1970.

    Raises:
        OSError: if the folder cannot be written.
    """
    probe = folder / f".time.{uuid.uuid4().hex}.tmp"
    try:
        probe.touch()
        os.utime(probe)  # by the server, where the file system has one
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _named(file: Path, number: int) -> Path:
    return file.with_name(f"{file.name}.lease.{number}")


def _numbers(file: Path) -> list[int]:
    pattern = re.compile(re.escape(file.name) + r"\.lease\.(\d+)")
    found = (pattern.fullmatch(name) for name in os.listdir(file.parent))  # noqa: PTH208  (names only)
    return [int(each[1]) for each in found if each]


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # Containers number their processes themselves.
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not on Linux
        return ""


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
