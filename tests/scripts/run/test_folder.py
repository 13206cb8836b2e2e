"""Run folder, with a fast experiment that only draws random numbers, each of which enters its rows."""

import contextlib
import errno
import fcntl
import json
import math
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from plasticity.scripts.run import atomic_files
from plasticity.scripts.run import folder as folder_module
from plasticity.scripts.run.folder import (
    RunError,
    RunFolder,
    execute,
    is_finished,
    progress_made,
    require_free,
    require_same_config,
    saved_config,
)

CONFIG = {"stream": {"num_tasks": 5}, "rate": 0.1, "width": 3}


class Draws:
    """Experiment of five rows with two steps each, which draw from all three random generators."""

    def __init__(self, num_rows=5, padding=0):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        self.num_rows, self.row, self.step, self.total = num_rows, 0, 0, 0.0
        self.padding = torch.zeros(padding)

    @property
    def finished(self):
        return self.row >= self.num_rows

    @property
    def progress(self):
        return self.row + self.step / 2

    def next_row(self, should_stop):
        while self.step < 2:
            if should_stop():
                return None
            self.total += torch.randn(()).item() + np.random.randn() + random.gauss(0, 1)  # noqa: NPY002
            self.step += 1
        self.step = 0
        self.row += 1
        return {"task": self.row - 1, "total": self.total, "bad": math.nan, "diverged": False}

    def take_episodes(self):
        return []

    def state_dict(self):
        return {**{k: getattr(self, k) for k in ("row", "step", "total")}, "padding": self.padding}

    def load_state_dict(self, state):
        self.row, self.step, self.total = state["row"], state["step"], state["total"]


class Killed(BaseException):
    """Error that ends a run at once, as SIGKILL does, except that the folder's lock is released."""


def never():
    return False


def after(calls):
    """Return a should_stop that is True from the given call on, counted from 1."""
    count = iter(range(1, 10**6))
    return lambda: next(count) >= calls


def run(path, should_stop=never, config=CONFIG, num_rows=5):
    with RunFolder(path, config) as folder:
        return execute(folder, Draws(num_rows), should_stop)


def rows(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_bytes().splitlines()]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "run"
    assert run(path)
    return (path / "metrics.jsonl").read_bytes()


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
    assert {key: saved[key] for key in CONFIG} == CONFIG
    assert saved["versions"]["torch"] == torch.__version__
    assert "git_commit" in saved
    assert [row["task"] for row in rows(path)] == [0, 1, 2, 3, 4]
    assert rows(path)[0]["bad"] is None  # JSON has no NaN
    timings = [json.loads(line) for line in (path / "timings.jsonl").read_text().splitlines()]
    assert [timing["task"] for timing in timings] == [0, 1, 2, 3, 4]
    assert all(timing["seconds"] > 0 and timing["tasks_per_second"] > 0 for timing in timings)
    assert not {"seconds", "time", "tasks_per_second"} & set(rows(path)[0])


@pytest.mark.parametrize("calls", [1, 2, 3, 4, 7, 10])
def test_stopped_and_continued_gives_the_same_bytes(tmp_path, reference, calls):
    assert not run(tmp_path, after(calls))
    assert (tmp_path / "checkpoint.pt").exists()
    assert len(rows(tmp_path)) == (calls - 1) // 2 if calls > 2 else progress_made(tmp_path) == 0
    assert run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == reference


@pytest.mark.parametrize("row", range(5))
@pytest.mark.parametrize("moment", ["row", "timing", "event", "before renaming", "after renaming"])
def test_killed_at_any_moment_of_a_row_gives_the_same_bytes(
    tmp_path, reference, monkeypatch, moment, row
):
    append, replace = atomic_files.append, os.replace
    count = {"append": 0, "replace": 0}

    def kill_in_append(file, content):
        count["append"] += 1
        at = 3 * row + ["row", "timing", "event"].index(moment) + 1
        if count["append"] == at:
            append(file, content[: len(content) // 2])  # torn in the middle
            raise Killed
        append(file, content)

    def kill_at_replace(source, target):
        count["replace"] += target.name == "checkpoint.pt"
        if count["replace"] != row + 1:
            return replace(source, target)
        if moment == "after renaming":
            replace(source, target)
        monkeypatch.setattr(
            type(target), "unlink", lambda *_, **__: None
        )  # SIGKILL cleans up nothing
        raise Killed

    if "renaming" in moment:
        monkeypatch.setattr(os, "replace", kill_at_replace)
    else:
        monkeypatch.setattr(atomic_files, "append", kill_in_append)
    with pytest.raises(Killed):
        run(tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "checkpoint.pt.tmp").exists() == (moment == "before renaming")
    assert not is_finished(tmp_path, 5) or (row == 4 and moment == "after renaming")
    assert run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == reference
    assert is_finished(tmp_path, 5)


def test_extended_is_as_if_it_had_been_longer_from_the_start(tmp_path):
    longer = {**CONFIG, "stream": {"num_tasks": 8}}
    run(tmp_path / "twice")
    run(tmp_path / "twice", config=longer, num_rows=8)
    run(tmp_path / "once", config=longer, num_rows=8)
    twice, once = tmp_path / "twice", tmp_path / "once"
    assert (twice / "metrics.jsonl").read_bytes() == (once / "metrics.jsonl").read_bytes()
    assert saved_config(twice)["stream"]["num_tasks"] == 8


def test_a_shorter_run_in_the_folder_of_a_longer_one_changes_nothing(tmp_path):
    run(tmp_path)
    files = ["metrics.jsonl", "checkpoint.pt", "config.json"]
    before = {name: (tmp_path / name).read_bytes() for name in files}
    assert is_finished(tmp_path, 3)
    run(tmp_path, config={**CONFIG, "stream": {"num_tasks": 3}}, num_rows=3)
    assert saved_config(tmp_path)["stream"]["num_tasks"] == 5
    assert {name: (tmp_path / name).read_bytes() for name in files} == before


# ---- events -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_each_step_once_however_often_it_was_continued(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for calls in (1, 4, 2, 5):
        run(tmp_path, after(calls))
    with (
        monkeypatch.context() as patch
    ):  # torn at its checkpoint: the row's events are written already
        patch.setattr(RunFolder, "save", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(tmp_path)
    run(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["total", "bad", "diverged"]
    totals = events.Scalars("total")
    assert [each.step for each in totals] == [0, 1, 2, 3, 4]
    assert [each.value for each in totals] == pytest.approx(
        [row["total"] for row in rows(tmp_path)]
    )
    assert all(math.isnan(each.value) for each in events.Scalars("bad"))


def test_timings_and_events_may_be_deleted(tmp_path, reference):
    run(tmp_path, after(6))
    (tmp_path / "timings.jsonl").unlink()
    shutil.rmtree(tmp_path / "tensorboard")
    assert run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == reference


# ---- damaged folders ----------------------------------------------------------------------------


def test_another_configuration_is_refused_with_all_keys(tmp_path):
    run(tmp_path)
    with pytest.raises(RunError) as caught:
        RunFolder(tmp_path, {"stream": {"num_tasks": 9}, "rate": 0.2, "width": 4}).__enter__()
    for part in (str(tmp_path), "rate (there 0.1, now 0.2)", "width (there 3, now 4)", "--out"):
        assert part in str(caught.value)
    assert "num_tasks" not in str(caught.value)
    assert run(tmp_path)  # and its lock was released


def test_require_same_config_accepts_a_new_folder(tmp_path):
    require_same_config(tmp_path, None, CONFIG)
    assert saved_config(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b'{"stream": {"num_tasks": "5"}}',
        b'{"stream": {"num_tasks": true}}',
        b'{"stream": {"num_tasks": {}}}',
    ],
)
def test_corrupt_config_is_refused(tmp_path, content):
    run(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(RunError, match=r"config\.json.*remove the folder .* or give another --out"):
        saved_config(tmp_path)


def test_config_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(RunError, match="cannot be read"):
        saved_config(tmp_path)


def test_rows_without_their_config_are_refused(tmp_path):
    run(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(RunError, match=r"not its config\.json"):
        saved_config(tmp_path)


def corruptions():
    def truncated(file):
        file.write_bytes(file.read_bytes()[:-200])

    def pickled(file):
        file.write_bytes(pickle.dumps({"lengths": {}}, protocol=2))

    return {
        "empty": lambda file: file.write_bytes(b""),
        "text": lambda file: file.write_bytes(b"not a checkpoint"),
        "truncated": truncated,
        "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
        "a plain pickle": pickled,
        "a list": lambda file: torch.save([1, 2], file),
        "keys missing": lambda file: torch.save({"lengths": {"metrics": 3}}, file),
        "no numbers": lambda file: torch.save(
            {"lengths": {"metrics": "x"}, "experiment": {}, "random": {}}, file
        ),
        "a folder": lambda file: (file.unlink(), file.mkdir()),
    }


@pytest.mark.parametrize("kind", corruptions())
def test_corrupt_checkpoint_is_an_error_with_a_remedy(tmp_path, kind):
    run(tmp_path, after(6))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    corruptions()[kind](tmp_path / "checkpoint.pt")
    message = rf"{re.escape(str(tmp_path / 'checkpoint.pt'))} cannot be read .*remove the folder"
    with pytest.raises(RunError, match=message) as caught:
        run(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match=message):
        is_finished(tmp_path, 5)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_checkpoint_of_another_experiment_is_an_error(tmp_path):
    run(tmp_path, after(6))
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del saved["experiment"]["step"]
    torch.save(saved, tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match=r"cannot be read \(it lacks 'step'; another version"):
        run(tmp_path)


@pytest.mark.parametrize("length", [0, 10, -1])
def test_metrics_shorter_than_the_checkpoint_recorded(tmp_path, length):
    run(tmp_path, after(6))
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:length])
    with pytest.raises(RunError, match=r"its checkpoint recorded .*Restore the file"):
        run(tmp_path)
    with pytest.raises(RunError, match="its checkpoint recorded"):
        is_finished(tmp_path, 5)


def test_rows_are_not_truncated_when_the_checkpoint_is_missing(tmp_path):
    run(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "checkpoint.pt").unlink()
    for attempt in (lambda: run(tmp_path), lambda: is_finished(tmp_path, 5)):
        with pytest.raises(RunError, match=r"no checkpoint\.pt beside it"):
            attempt()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_is_finished(tmp_path):
    assert not is_finished(tmp_path / "new", 5)
    assert progress_made(tmp_path / "new") == 0
    run(tmp_path, after(4))
    assert not is_finished(tmp_path, 5)
    assert progress_made(tmp_path) == 1
    assert is_finished(tmp_path, 1)
    run(tmp_path)
    assert is_finished(tmp_path, 5)
    assert not is_finished(tmp_path, 6)
    with (tmp_path / "metrics.jsonl").open(
        "ab"
    ) as file:  # a row that the checkpoint does not cover
        file.write(b'{"task": 5}\n')
    assert not is_finished(tmp_path, 5)


def test_a_diverged_run_is_finished(tmp_path):
    class Diverging(Draws):
        finished = property(lambda self: self.row >= 2)

        def next_row(self, should_stop):
            return {**super().next_row(should_stop), "diverged": self.row >= 2}

    with RunFolder(tmp_path, CONFIG) as folder:
        assert execute(folder, Diverging(), never)
    assert progress_made(tmp_path) == 2
    assert is_finished(tmp_path, 5)


# ---- locks --------------------------------------------------------------------------------------


def test_a_folder_in_use_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_files, "LOCK_PATIENCE_SECONDS", 0.1)
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
        run(folder_module.Path("/proc/self/runs"))


@pytest.mark.parametrize("number", range(4, 9))
def test_full_disk_keeps_the_checkpoint_and_continues_later(
    tmp_path, reference, monkeypatch, number
):
    """Fail the fsync of the row, of the timing, of the events and of the checkpoint in turn."""
    run(tmp_path, after(4))
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
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["experiment"]["row"] <= 3
    assert run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == reference


def test_full_disk_that_writes_a_part(tmp_path, reference):
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
        assert not run(path, after(4))
        before = (path / "checkpoint.pt").read_bytes()
        experiment = Draws(padding=100_000)
        with (
            pytest.raises(RunError, match=r"No space left on device.*: free some space"),
            RunFolder(path, CONFIG) as folder,
        ):
            execute(folder, experiment, never)
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
        assert (path / "metrics.jsonl").read_bytes() == reference
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


# ---- the origin of a result ---------------------------------------------------------------------


def test_versions_name_what_a_result_depends_on():
    found = folder_module.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__


def test_commit_of_the_checkout_that_holds_the_code(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code = tmp_path / "runs.py"
    code.write_text("one")
    monkeypatch.setattr(folder_module, "__file__", str(code))
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a git hook
    with monkeypatch.context() as patch:
        patch.delenv("GIT_DIR")
        git("init", "-q")
        assert folder_module.git_commit() is None  # a checkout that does not track the file
        git("add", "runs.py")
        git("commit", "-q", "-m", "a")
        git("tag", "-a", "v1", "-m", "v1")
        commit = git("rev-parse", "HEAD")
    assert folder_module.git_commit() == commit
    code.write_text("two")
    assert folder_module.git_commit() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert folder_module.git_commit() is None
