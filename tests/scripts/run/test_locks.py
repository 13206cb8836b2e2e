"""Lock of a folder: which file systems need more than `flock`, and two launchers on one folder."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from plasticity.scripts.run import locks
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.locks import InUseError, flock_excludes, is_locked, locked, needs_lease


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch):
    monkeypatch.setattr(locks, "_NEEDS_LEASE", {})


def failing(number):
    def flock(handle, kind):
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gets_a_lease(number, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    assert not flock_excludes(tmp_path)
    with locked(tmp_path / "lock"):
        assert (tmp_path / "lock.lease.1").exists()
        assert is_locked(tmp_path / "lock")
        with pytest.raises(RunError, match=rf"in use by another process \({os.getpid()} on "):
            locked(tmp_path / "lock", patience=0.0)
    assert not is_locked(tmp_path / "lock")


def test_a_lock_that_two_get_at_once_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda handle, kind: None)
    assert not flock_excludes(tmp_path)
    with locked(tmp_path / "lock"), pytest.raises(RunError, match="in use by another process"):
        locked(tmp_path / "lock", patience=0.0)


def test_a_file_system_of_this_machine_needs_no_lease(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "kind_of_file_system", lambda folder: "ext4")
    assert flock_excludes(tmp_path)
    with locked(tmp_path / "lock"):
        assert [each.name for each in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "fuse.sshfs", ""])
def test_one_that_machines_share_needs_one_whatever_flock_says_here(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "kind_of_file_system", lambda folder: kind)
    assert needs_lease(tmp_path)


def test_the_kind_is_that_of_the_innermost_mount():
    assert locks.kind_of_file_system(Path("/proc/self")) == "proc"


def test_an_error_of_the_disk_is_not_taken_for_a_missing_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        locked(tmp_path / "lock")


def test_who_was_silent_and_replaced_writes_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    with locked(tmp_path / "lock") as first:
        first.require_held()
        (tmp_path / "lock.lease.2").write_text('{"host": "node7", "boot": "", "process": 1}')
        with pytest.raises(RunError, match=r"taken over by another process.*nothing is lost"):
            first.require_held()


def test_a_holder_that_is_not_known_is_not_named(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "kind_of_file_system", lambda folder: "nfs4")
    (tmp_path / "lock.lease.1").touch()
    with pytest.raises(InUseError, match="in use by another process: wait until it ends"):
        locked(tmp_path / "lock", patience=0.0)
