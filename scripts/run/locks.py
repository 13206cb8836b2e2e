"""Lock of a run folder: the operating system's where it is enough, a lease too where machines share files."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.leases import Holder, Lease, holder, take

LOCK_PATIENCE_SECONDS = 5.0
"""Seconds to wait for a lock: a process that is being killed may hold its own for a moment after the same
command starts again."""

MACHINES_OWN = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "f2fs", "ramfs", "bcachefs"}
)
"""File systems of one machine, all of whose processes see each other's `flock`."""

WITHOUT_FLOCK = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
"""Errors of `flock` where the file system has no locks."""


class InUseError(RunError):
    """Error that another process works on a run; the message says which, and what to do."""


class Lock:
    """Lock that this process holds until it is closed.

    Args:
        file: Path of the lock.
        handle: Open file that holds the operating system's lock; None where there is none.
        lease: Lease beside it; None where the operating system's lock is enough.
    """

    def __init__(self, file: Path, handle: IO[bytes] | None, lease: Lease | None) -> None:
        self._file, self._handle, self._lease = file, handle, lease

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def require_held(self) -> None:
        """Raise an error if another process has taken over, because this one was silent for too long.

        Raises:
            RunError: in that case.
        """
        if self._lease is not None and self._lease.is_lost:
            raise RunError(
                f"{self._file.parent} was taken over by another process, as this one did not reach the shared"
                " folder for a minute: nothing is lost, the other continues from the checkpoint."
            )

    def close(self) -> None:
        """Release the lock."""
        if self._lease is not None:
            self._lease.close()
        if self._handle is not None:
            self._handle.close()


def locked(file: Path, patience: float | None = None) -> Lock:
    """Acquire the lock at a path.

    On a file system of this machine it is the operating system's (`flock`), of which a killed process leaves
    nothing behind. On any other, or where `flock` fails or is given twice, it is a lease too.

    Args:
        file: Created if it does not exist; it stays afterwards, empty.
        patience: Seconds to wait for another process to release it. None:
            `LOCK_PATIENCE_SECONDS`. A holder that has missed touches of its lease is waited for in any case
            until it is heard of, or known to be gone.

    Returns:
        The lock; closing it releases it.

    Raises:
        InUseError: if another process still holds it.
        OSError: if the file cannot be written.
    """
    deadline = time.monotonic() + (LOCK_PATIENCE_SECONDS if patience is None else patience)
    while True:
        found = _attempt(file)
        if isinstance(found, Lock):
            return found
        is_silent = found is not None and found.is_silent
        if time.monotonic() > deadline and not is_silent:
            where = (
                f" ({found.process} on {found.host})" if found is not None and found.host else ""
            )
            raise InUseError(
                f"{file.parent} is in use by another process{where}: wait until it ends, or give"
                " another --out."
            )
        time.sleep(0.05 if found is None else 0.5)


def is_locked(file: Path) -> bool:
    """Return whether a process holds the lock at a path; a file that is not there is not locked."""
    try:
        with file.open("rb") as handle:
            if not _flock(handle, fcntl.LOCK_SH):
                return True
    except FileNotFoundError:
        return False
    found = holder(file)
    return found is not None and not found.is_gone


_NEEDS_LEASE: dict[int, bool] = {}  # by the device number of the file system


def needs_lease(folder: Path) -> bool:
    """Return whether the locks of a folder have to be leases too.

    They have to where the file system is not one of a single machine (NFS, Lustre, FUSE: whether its `flock`
    reaches other machines depends on how each has mounted it), and where `flock` fails, or lets two have it.

    Raises:
        OSError: if the folder cannot be written.
    """
    device = folder.stat().st_dev
    if device not in _NEEDS_LEASE:
        is_own = kind_of_file_system(folder) in MACHINES_OWN
        _NEEDS_LEASE[device] = not (is_own and flock_excludes(folder))
    return _NEEDS_LEASE[device]


def flock_excludes(folder: Path) -> bool:
    """Return whether the operating system's lock on a file in a folder is refused to a second one.

    Raises:
        OSError: if the folder cannot be written.
    """
    probe = folder / f".flock.{os.getpid()}.tmp"
    try:
        with probe.open("ab") as first, probe.open("ab") as second:
            try:
                fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno not in WITHOUT_FLOCK:
                    raise
            return False
    finally:
        probe.unlink(missing_ok=True)


def _attempt(file: Path) -> Lock | Holder | None:
    """Return the lock, or who holds it; None if that is not known."""
    handle = file.open("ab")
    try:
        if not _flock(handle, fcntl.LOCK_EX):
            handle.close()
            return None
        lease = take(file) if needs_lease(file.parent) else None
        if isinstance(lease, Holder):
            handle.close()
            return lease
    except BaseException:
        handle.close()
        raise
    return Lock(file, handle, lease)


def _flock(handle: IO[bytes], kind: int) -> bool:
    """Try the operating system's lock; where the file system has none, it is granted, and a lease decides."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_FLOCK:
            raise
    return True


def kind_of_file_system(folder: Path) -> str:
    """Return the kind of a folder's file system, such as "nfs4"; empty where the system does not tell."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # macOS
        return ""
    path, best, kind = folder.resolve(), -1, ""
    for line in mounts.splitlines():
        fields = line.split()
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields[4]))
        if (
            path.is_relative_to(point) and len(point.parts) >= best
        ):  # of equal ones, the last is on top
            best, kind = len(point.parts), fields[fields.index("-") + 1]
    return kind
