"""Runs as Ray tasks: on a local Ray, one of whose workers is killed, and the faults that need none."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from plasticity.scripts.config.launchers import RayOptions
from plasticity.scripts.launch import ray as ray_module
from plasticity.scripts.launch.ray import RayLauncher
from plasticity.scripts.run.atomic_files import RunError

PLASTICITY = (sys.executable, "-m", "plasticity.scripts.main")


def worker_of(launcher):
    """Number of the worker that does a unit: Ray names a worker's process by its task."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cmdline").read_bytes().startswith(b"ray::_do") and launcher in ancestors(
                path
            ):
                return int(path.name)
        except OSError:  # ended
            continue
    return None


def ancestors(path):
    number, found = int(path.name), []
    while number > 1:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        number = int(fields[1])
        found.append(number)
    return found


@pytest.mark.timeout(900)
def test_a_worker_that_is_killed_changes_no_byte(tmp_path):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    options = ("permuted-digits", "--methods", "none", "syre", "--seeds", "0..3", "--tasks", "10")
    options += ("--device", "cpu", "--stack", "2")
    command = [*PLASTICITY, "run", *options, "--out", str(tmp_path / "ray"), "--launcher", "ray"]
    log = tmp_path / "launcher.log"
    with log.open("wb") as said:
        launched = subprocess.Popen([*command, "--jobs", "2"], stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + 300
        while not list(tmp_path.rglob("checkpoint.pt")) and time.monotonic() < deadline:
            time.sleep(0.1)
        killed = worker_of(launched.pid)
        assert killed is not None, log.read_text()
        os.kill(killed, signal.SIGKILL)
        assert launched.wait(timeout=600) == 0, log.read_text()
    finally:
        launched.kill()
        launched.wait()
    assert "8 runs finished" in log.read_text()
    subprocess.run([*PLASTICITY, "run", *options, "--out", str(tmp_path / "local")], check=True)
    found = [
        {file.relative_to(out): file.read_bytes() for file in out.rglob("metrics.jsonl")}
        for out in (tmp_path / "ray", tmp_path / "local")
    ]
    assert len(found[1]) == 8
    assert found[0] == found[1]


def test_ray_is_missing(monkeypatch):
    monkeypatch.setattr(ray_module, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"needs Ray.*pip install 'plasticity\[ray\]'"):
        RayLauncher(RayOptions()).require_ready()


def test_no_ray_answers(monkeypatch):
    monkeypatch.setattr(ray_module, "find_spec", lambda name: object())
    with socket.socket() as bound:  # bound, and not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(RunError, match=f"No Ray answers at {address}.*ray start --head"):
            RayLauncher(RayOptions(address=address)).require_ready()


def test_a_local_ray_that_does_not_start_is_no_traceback(monkeypatch):
    def init(**_):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(
        RunError, match=r"local Ray could not be started \(The current node timed out"
    ):
        RayLauncher(RayOptions()).launch([], lambda *_: None, lambda *_: None)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (RayOptions(cores=3), "--ray.cores 3 is more than the 2 that Ray finds on this machine"),
        (RayOptions(gpus=0.5), "--ray.gpus 0.5 is more than the 0 .* the --ray.address of a Ray"),
    ],
)
def test_a_task_that_could_never_start_here_is_refused(asked, message):
    with pytest.raises(RunError, match=message):
        ray_module._require_fit(asked, {"CPU": 2.0})
    ray_module._require_fit(asked, {"CPU": 4.0, "GPU": 1.0})
