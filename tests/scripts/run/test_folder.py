"""Run folder as it is written: its files, its lock, and disks that are full or refuse."""

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from curve_runs import DrawsConfig, Killed, Points, after, content, rows, run

from plasticity.scripts.config.nested import with_values
from plasticity.scripts.run import locks
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.run.folder import RunFolder, require_free

CONFIG = DrawsConfig()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "run"
    assert run(path)
    return content(path)


def test_a_run_leaves_its_files(tmp_path):
    assert run(tmp_path / "a" / "b")
    path = tmp_path / "a" / "b"
    assert sorted(file.name for file in path.iterdir()) == [
        "checkpoint.pt",
        "config.json",
        "lock",
        "metrics.jsonl",
        "tensorboard",
        "timings.jsonl",
    ]
    saved = json.loads((path / "config.json").read_text())
    assert {key: saved[key] for key in CONFIG.to_json()} == CONFIG.to_json()
    assert saved["versions"]["torch"] == torch.__version__
    assert "git_commit" in saved


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ValueError("no such file"), "no such file\n"), (KeyError("x"), "KeyError: 'x'\n")],
)
def test_an_error_is_kept_until_the_run_continues(tmp_path, error, expected):
    def fail():
        with RunFolder(tmp_path, CONFIG):
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (tmp_path / "failure.txt").read_text().endswith(expected)
    assert run(tmp_path)
    assert not (tmp_path / "failure.txt").exists()


def test_an_interruption_is_no_failure(tmp_path):
    def interrupted():
        with RunFolder(tmp_path, CONFIG):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not (tmp_path / "failure.txt").exists()


def test_the_configuration_names_the_code_that_began_the_run(tmp_path):
    def renamed(commit):
        file = tmp_path / "config.json"
        saved = json.loads(file.read_text())
        file.write_text(json.dumps({**saved, "git_commit": commit}))
        return saved["git_commit"]

    with RunFolder(tmp_path, CONFIG):
        pass  # killed before the first checkpoint
    commit = renamed("earlier")
    assert run(tmp_path)
    assert renamed("earlier") == commit
    assert run(tmp_path)  # there is nothing to do
    assert renamed("earlier") == "earlier"
    longer = with_values(CONFIG, {CONFIG.length_path: CONFIG.length + 1})
    with RunFolder(tmp_path, longer):
        pass
    assert renamed(commit) == "earlier"


# ---- events -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_each_step_once_however_often_it_was_continued(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for calls in (0, 5, 2, 6):
        run(tmp_path, after(calls))
    with monkeypatch.context() as patch:  # torn at its checkpoint: the row's events are written
        patch.setattr(RunFolder, "save", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(tmp_path)
    run(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["value", "bad", "diverged"]
    values = events.Scalars("value")
    assert [each.step for each in values] == [0, 1, 2, 3]
    expected = [row["value"] for row in rows(tmp_path)]
    assert [each.value for each in values] == pytest.approx(expected)
    assert all(math.isnan(each.value) for each in events.Scalars("bad"))


def test_timings_and_events_may_be_deleted(tmp_path, reference):
    run(tmp_path, after(6))
    (tmp_path / "timings.jsonl").unlink()
    shutil.rmtree(tmp_path / "tensorboard")
    assert run(tmp_path)
    assert content(tmp_path) == reference


def test_another_configuration_is_refused_with_all_keys(tmp_path):
    run(tmp_path)
    with pytest.raises(RunError) as caught:
        run(tmp_path, changes={"stream.num_points": 9, "rate": 0.2, "width": 4})
    for part in (str(tmp_path), "rate (there 0.1, now 0.2)", "width (there 3, now 4)", "--out"):
        assert part in str(caught.value)
    assert "num_points" not in str(caught.value)
    assert run(tmp_path)  # and its lock was released


@pytest.mark.parametrize("length", ["4", True, {}])
def test_a_length_that_is_no_number_is_refused(tmp_path, length):
    run(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    saved["stream"]["num_points"] = length
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(RunError, match=r"config\.json: stream.num_points must be a whole number"):
        run(tmp_path)


# ---- locks --------------------------------------------------------------------------------------


def test_a_folder_in_use_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "LOCK_PATIENCE_SECONDS", 0.1)
    message = f"{re.escape(str(tmp_path))} is in use by another process.*--out"
    with RunFolder(tmp_path, CONFIG):
        with pytest.raises(RunError, match=message):
            RunFolder(tmp_path, CONFIG).__enter__()
        with pytest.raises(RunError, match=message):
            require_free([tmp_path])
    require_free([tmp_path])
    assert run(tmp_path)


def test_a_lock_that_is_about_to_be_released_is_waited_for(tmp_path):
    with (tmp_path / "lock").open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        timer = threading.Timer(0.2, fcntl.flock, (handle, fcntl.LOCK_UN))
        timer.start()
        assert run(tmp_path)
        timer.join()


def test_an_error_releases_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path, CONFIG):
        _ = 1 / 0
    require_free([tmp_path])


# ---- disks --------------------------------------------------------------------------------------


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"Cannot write to .*file/run.* give an --out"):
        run(tmp_path / "file" / "run")
    with pytest.raises(RunError, match="Cannot write"):
        require_free([tmp_path / "file" / "run"])
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc")  # noqa: PTH112
def test_a_folder_where_nothing_may_be_written():
    with pytest.raises(RunError, match=r"Cannot write to /proc/self/runs .*give an --out"):
        run(Path("/proc/self/runs"))


@pytest.mark.parametrize("number", range(4, 9))
def test_full_disk_keeps_the_checkpoint_and_continues_later(
    tmp_path, reference, monkeypatch, number
):
    """Fail the fsync of the row, of the timing, of the events and of the checkpoint in turn."""
    run(tmp_path, after(6))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    count, fsync = iter(range(100)), os.fsync

    def full(descriptor):
        if next(count) >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"No space left on device\): free some space and run"):
            run(tmp_path)
    assert not list(tmp_path.glob("*.tmp"))
    # five fsyncs a row: three files, the checkpoint, and its folder after the renaming
    assert ((tmp_path / "checkpoint.pt").read_bytes() == before) == (number < 4)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["experiment"]["step"] <= 12
    assert run(tmp_path)
    assert content(tmp_path) == reference


def test_full_disk_that_writes_a_part(tmp_path, reference, monkeypatch):
    """Fill a real disk: 64 KiB of tmpfs, into which the padded checkpoint does not fit."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],
        check=False,
        capture_output=True,
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting needs root")
    try:
        path = disk / "run"
        assert not run(path, after(6))
        before = (path / "checkpoint.pt").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(Points, "padding", 100_000)
            with pytest.raises(RunError, match=r"No space left on device.*: free some space"):
                run(path)
        assert (path / "checkpoint.pt").read_bytes() == before
        assert not list(path.glob("*.tmp"))
        with (disk / "filler").open("wb", 0) as file, contextlib.suppress(OSError):
            while True:  # until there is no space for a row either
                file.write(bytes(64))
        with pytest.raises(RunError, match="No space left on device"):
            run(path)
        assert (path / "checkpoint.pt").read_bytes() == before
        (disk / "filler").unlink()
        assert run(path)
        assert content(path) == reference
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
