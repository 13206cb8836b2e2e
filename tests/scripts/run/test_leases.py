"""Leases: one holder at a time, silence by the file system's clock, and a holder that wakes up too late."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from plasticity.scripts.run import leases
from plasticity.scripts.run.leases import Holder, Lease, holder, take, time_of_file_system


@pytest.fixture
def file(tmp_path):
    return tmp_path / "lock"


def of_elsewhere(file, number=1, age=0.0):
    """Write the lease of a process on another machine, touched so many seconds ago."""
    path = file.with_name(f"lock.lease.{number}")
    path.write_text(json.dumps({"host": "node7", "boot": "b", "process": 42}))
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))


def test_a_lease_excludes_and_is_given_back(file):
    mine = take(file)
    assert isinstance(mine, Lease)
    found = take(file)
    assert (found.process, found.is_gone) == (os.getpid(), False)
    mine.close()
    assert holder(file) is None
    again = take(file)
    assert isinstance(again, Lease)
    again.close()
    assert [each.name for each in file.parent.iterdir()] == [
        "lock.lease.2"
    ]  # the former is removed


def take_once(file, start, results):
    start.wait()
    found = take(file)
    results.put(isinstance(found, Lease))
    start.wait()  # none ends, which would free its lease, before all have tried


def test_of_many_at_once_one_gets_it(file):
    of_elsewhere(file, age=leases.SILENCE_SECONDS + 1)  # all see that it is gone
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(6), context.SimpleQueue()
    processes = [context.Process(target=take_once, args=(file, start, results)) for _ in range(6)]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
    assert sorted(results.get() for _ in processes) == [False] * 5 + [True]


def test_a_machine_that_is_silent_for_a_minute_is_gone(file):
    of_elsewhere(file, age=leases.SILENCE_SECONDS - 5)
    assert isinstance(take(file), Holder)
    of_elsewhere(file, age=leases.SILENCE_SECONDS + 5)
    mine = take(file)
    assert isinstance(mine, Lease)
    mine.close()


@pytest.mark.parametrize("wrong_by", [-7200.0, 7200.0])
def test_the_clock_of_this_machine_does_not_matter(wrong_by, file, monkeypatch):
    of_elsewhere(file)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + wrong_by)
    assert not holder(file).is_gone
    assert abs(time_of_file_system(file.parent) - real()) < 5


def test_a_process_of_this_machine_that_was_killed_is_gone_at_once(file):
    code = "import os, pathlib, sys; from plasticity.scripts.run.leases import take;"
    code += "take(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, file], check=False)
    assert holder(file).is_gone
    mine = take(file)
    assert isinstance(mine, Lease)
    mine.close()


def test_a_holder_that_was_taken_to_be_gone_knows_it_when_it_wakes_up(file, monkeypatch):
    asleep = take(file)
    monkeypatch.setattr(leases, "SILENCE_SECONDS", -1.0)
    other = take(file)
    assert (asleep.is_lost, other.is_lost) == (True, False)
    asleep.close()  # leaves the other's lease alone
    monkeypatch.undo()
    assert holder(file).process == os.getpid()
    other.close()


def test_a_number_that_was_used_while_a_process_slept_does_not_win(file, monkeypatch):
    """Between its look and its file, others have come, gone and come: 2 is free, and 3 is held."""
    of_elsewhere(file, number=3)
    real, looks = leases._numbers, iter([[1]])
    monkeypatch.setattr(leases, "_numbers", lambda path: next(looks, None) or real(path))
    monkeypatch.setattr(leases, "holder", lambda path: next(holders, None) or real_holder(path))
    real_holder, holders = holder, iter([Holder("node6", "b", 41, leases.SILENCE_SECONDS + 1)])
    found = take(file)
    assert (found.host, found.process) == ("node7", 42)


def test_a_lease_is_touched(file, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.05)
    mine = take(file)
    path = file.with_name("lock.lease.1")
    os.utime(path, (1.0, 1.0))
    deadline = time.monotonic() + 10
    while path.stat().st_mtime < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert holder(file).age < 10
    mine.close()


@pytest.mark.parametrize(
    "content", [b"", b'{"host": "nod', b'{"host": "node7"}', b"[1, 2]", b"\xff\xfe"]
)
def test_a_broken_lease_holds_until_it_is_silent(content, file):
    path = file.with_name("lock.lease.1")
    path.write_bytes(content)
    assert not holder(file).is_gone
    os.utime(path, (1.0, 1.0))
    mine = take(file)
    assert isinstance(mine, Lease)
    mine.close()


def test_a_lease_that_a_full_disk_did_not_take_makes_nobody_wait(file, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(leases.json, "dump", full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        take(file)
    assert holder(file) is None
