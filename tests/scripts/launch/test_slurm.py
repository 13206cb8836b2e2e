"""Runs as Slurm jobs: on a real Slurm of two nodes, and the faults that need none."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from plasticity.scripts.config.launchers import SlurmOptions
from plasticity.scripts.launch import slurm
from plasticity.scripts.launch.slurm import SlurmLauncher
from plasticity.scripts.run.atomic_files import RunError

sys.path.append(str(Path(__file__).parent))
from slurm_cluster import SlurmCluster, is_installed

RUNS = ("permuted-digits", "--methods", "none", "syre", "--device", "cpu")
PLASTICITY = (sys.executable, "-m", "plasticity.scripts.main")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    if not is_installed():
        pytest.skip("Debian's slurm-wlm and munge are not installed, or this is not root")
    folder = tmp_path_factory.mktemp("slurm")
    for each in (folder, *folder.parents[:3]):  # munge is a user of its own in some installations
        each.chmod(0o755)
    with SlurmCluster(folder) as started:
        yield started


def rows(out):
    found = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("metrics.jsonl")}
    assert all(found.values())
    return found


def running(cluster):
    """Node of each running job, by Slurm's name for the job."""
    lines = cluster.ask("squeue", "--noheader", "--states=R", "--format=%i %N").splitlines()
    return dict(line.split() for line in lines)


def begun(out):
    return {file.parent for file in out.rglob("checkpoint.pt")}


@pytest.mark.timeout(3000)
def test_a_node_that_vanishes_and_a_job_that_is_queued_again_change_no_byte(cluster, tmp_path):
    options = (*RUNS, "--seeds", "0..11", "--tasks", "10", "--stack", "6")
    command = [*PLASTICITY, "run", *options, "--out", str(tmp_path / "slurm")]
    command += ["--launcher", "slurm", "--slurm.memory", "1.5", "--slurm.partition", "p"]
    log = tmp_path / "launcher.log"
    with log.open("wb") as said:
        launched = subprocess.Popen(command, stdout=said, stderr=said, env=cluster.environment)
    try:
        cluster.wait_until(lambda: "n1" in running(cluster).values() and begun(tmp_path), 300)
        lost = cluster.vanish("n1")
        assert len(lost) == 1
        cluster.wait_until(lambda: "n2" in running(cluster).values(), 300)
        again = next(job for job, node in running(cluster).items() if node == "n2")
        cluster.ask("scontrol", "requeue", again)
        cluster.wait_until(lambda: cluster.states()["n1"].startswith("down"), 120)
        cluster.start_node("n1")
        assert launched.wait(timeout=2400) == 0, log.read_text()
    finally:
        launched.kill()
        launched.wait()
    for job in (lost[0], again):  # Slurm's own count of how often it was queued again
        assert "Restarts=1 " in cluster.ask("scontrol", "show", "job", job), job

    local = [*PLASTICITY, "run", *options, "--out", str(tmp_path / "local"), "--jobs", "2"]
    subprocess.run(local, check=True)
    assert len(rows(tmp_path / "local")) == 24
    assert rows(tmp_path / "slurm") == rows(tmp_path / "local")


@pytest.mark.timeout(900)
def test_after_an_interruption_the_jobs_are_gone_and_the_same_command_continues(cluster, tmp_path):
    options = (*RUNS, "--seeds", "0", "--tasks", "15")
    command = [*PLASTICITY, "run", *options, "--out", str(tmp_path / "slurm")]
    command += ["--launcher", "slurm", "--slurm.memory", "1.5"]
    launched = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=cluster.environment)
    try:
        cluster.wait_until(lambda: len(begun(tmp_path)) == 2, 300)
        launched.send_signal(signal.SIGINT)
        _, said = launched.communicate(timeout=120)
    finally:
        launched.kill()
    assert launched.returncode == 128 + signal.SIGINT, said
    assert "2 runs stopped, their checkpoints are written. Continue:" in said
    cluster.wait_until(lambda: not cluster.ask("squeue", "--noheader"))
    subprocess.run(command, check=True, env=cluster.environment)
    subprocess.run([*PLASTICITY, "run", *options, "--out", str(tmp_path / "local")], check=True)
    assert rows(tmp_path / "slurm") == rows(tmp_path / "local")


def test_a_partition_that_is_not_there(cluster, tmp_path):
    command = [*PLASTICITY, "run", *RUNS, "--out", str(tmp_path), "--launcher", "slurm"]
    done = subprocess.run(
        [*command, "--slurm.partition", "gpus"],
        capture_output=True, text=True, check=False, env=cluster.environment,
    )  # fmt: skip
    assert done.returncode == 2
    assert "invalid partition" in done.stderr
    assert "give a --slurm.partition that `sinfo` lists" in done.stderr


def test_a_controller_that_does_not_answer(cluster, tmp_path):
    """The configuration names a port at which nothing listens."""
    conf = (cluster.folder / "slurm.conf").read_text()
    (tmp_path / "slurm.conf").write_text(conf.replace("SlurmctldPort=", "SlurmctldPort=1 #"))
    command = [*PLASTICITY, "run", *RUNS, "--out", str(tmp_path / "runs"), "--launcher", "slurm"]
    environment = {**os.environ, "SLURM_CONF": str(tmp_path / "slurm.conf")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "Slurm does not answer; `scontrol ping` tells about its controller" in done.stderr
    assert "Nothing is lost, the same command continues" in " ".join(done.stderr.split())


# ---- without Slurm ------------------------------------------------------------------------------


def test_submitit_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(slurm, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"needs submitit.*pip install 'plasticity\[slurm\]'"):
        SlurmLauncher(SlurmOptions(), tmp_path).require_ready()


def test_slurm_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(slurm, "find_spec", lambda name: object())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"needs Slurm's sbatch, .* on a login node"):
        SlurmLauncher(SlurmOptions(), tmp_path).require_ready()


def program(folder, name, script):
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


# The messages are Slurm's own, as 22.05 prints them.
@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("slurm_load_partitions: Unable to contact slurm controller (connect failure)", "scontrol ping"),
        ("error: Munge decode failed: Rewound credential", "have NTP set them"),
        ("error: Munge encode failed: Failed to access /run/munge/munge.socket.2", "munge runs"),
        ("sbatch: error: Batch job submission failed: Invalid job array specification", "give --stack"),
        ("AssocMaxSubmitJobLimit", "give --stack"),
        ("Batch job submission failed: Requested node configuration is not available", "--slurm"),
    ],
)  # fmt: skip
def test_what_slurm_says_gets_a_remedy(said, remedy, monkeypatch, tmp_path):
    for name in ("sbatch", "srun", "squeue", "scancel"):
        program(tmp_path, name, "exit 0")
    program(tmp_path, "sinfo", f"echo '{said}' >&2; exit 1")
    monkeypatch.setattr(slurm, "find_spec", lambda name: object())
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(RunError, match=remedy) as caught:
        SlurmLauncher(SlurmOptions(), tmp_path).require_ready()
    assert said in str(caught.value)


def test_jobs_that_cannot_be_cancelled_go_on_and_the_message_says_so(monkeypatch, tmp_path):
    program(tmp_path, "scancel", "echo 'Unable to contact slurm controller' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(RunError, match=r"Unable to contact.*The jobs go on; .*: scancel 17$"):
        slurm._cancel("17")


def test_a_job_that_left_the_queue_without_a_result_is_lost_only_after_a_while(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(slurm.time, "monotonic", lambda: now[0])
    since = {}
    assert not slurm._has_left("7_0", {"7_0"}, since, at_once=False)
    assert not slurm._has_left("7_0", set(), since, at_once=False)
    now[0] += slurm.ABSENCE_SECONDS - 1
    assert not slurm._has_left("7_0", set(), since, at_once=False)
    now[0] += 2
    assert slurm._has_left("7_0", set(), since, at_once=False)
    assert not slurm._has_left("7_0", {"7_0"}, since, at_once=False)  # queued again
    assert not slurm._has_left("7_0", set(), since, at_once=False)  # counted anew
    assert slurm._has_left("7_0", set(), since, at_once=True)


def test_a_lost_job_is_named_with_the_last_words_of_its_log(tmp_path):
    log = tmp_path / "7_0_log.err"
    assert f'{log} ends with "nothing"' in slurm._lost("7_0", log)
    log.write_text("error\nsrun: error: n1: task 0: Out Of Memory\n\n")
    said = slurm._lost("7_0", log)
    assert "Slurm job 7_0 ended without a result" in said
    assert f'{log} ends with "srun: error: n1: task 0: Out Of Memory"' in said
