"""SIGKILL, SIGTERM and Ctrl-C: the same command continues to the same bytes, and leaves no process.

Runs are tiny. Where only the run itself matters, a harness that has imported everything forks it, so
that a kill costs a fraction of a second; a few kills hit the real command with all its processes.
"""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from plasticity.scripts.config.nested import with_values
from plasticity.scripts.config.options import default_options
from plasticity.scripts.run.folder import RunFolder
from plasticity.scripts.run.runner import Runner

HARNESS = """
import json, os, random, signal, sys, time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
import torch
from plasticity.agents.supervised.config import ClassifierConfig
from plasticity.agents.networks import CNN
from plasticity.mitigations import Syre
from plasticity.scripts.config.run_config import SupervisedRunConfig, SupervisedTracking
from plasticity.scripts.run import atomic_files, events
from plasticity.scripts.run.folder import RunFolder
from plasticity.scripts.run.runner import Runner
from plasticity.tasks import load_dataset
from plasticity.tasks.streams.permuted_images import PermutedImagesConfig

import torch._dynamo  # every optimizer imports it: once here, and not after every fork
for name in events.MODULES:
    __import__(name)

torch.set_num_threads(1)
load_dataset("digits")  # imports scikit-learn
config = SupervisedRunConfig(
    benchmark="permuted-digits", method=(Syre(strength=0.01, sigma=0.3),), seed=0,
    stream=PermutedImagesConfig(dataset="digits", num_tasks=6),
    network=CNN(channels=(4,), hidden=(8,)),
    agent=ClassifierConfig(learning_rate=0.05, momentum=0.9, batch_size=48),
    tracking=SupervisedTracking(metrics=("effective_rank", "update_norm"), probe_size=64),
)

def run(path, prepare=lambda: None):
    "Do the runs, stacked if there are several, in a process of their own; return its id."
    pid = os.fork()
    if pid:
        return pid
    try:
        prepare()
        with ExitStack() as opened:
            folders = [
                opened.enter_context(RunFolder(Path(path) / str(seed), replace(config, seed=seed)))
                for seed in range(count)
            ]
            Runner(folders).execute(lambda: False)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)

def end(pid):
    "Return the exit code, negative for a signal."
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def rows(path):
    files = [Path(path) / str(seed) / "metrics.jsonl" for seed in range(count)]
    return [file.read_bytes() if file.exists() else b"" for file in files]

out, count = Path(sys.argv[1]), int(sys.argv[2])
began = time.monotonic()
assert end(run(out / "reference")) == 0
whole = time.monotonic() - began
reference = rows(out / "reference")
"""

RANDOM = (
    HARNESS
    + """
chance = random.Random(0)
kills, folders, lengths = 0, 0, []

def running(pid):
    return not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

while kills < 24:
    assert folders < 200
    path = out / str(folders)
    rows_left = chance.randrange(3)  # waited for: a delay alone may always end before the next row
    pid = run(path)
    goal = rows(path)[0].count(b"\\n") + rows_left
    while rows(path)[0].count(b"\\n") < goal and running(pid):
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.2) * whole)
    os.kill(pid, signal.SIGKILL)
    killed = end(pid) != 0
    kills += killed
    lengths.append(len(rows(path)[0]))
    if not killed or kills % 8 == 0:  # to its end; then another run
        assert end(run(path)) == 0
        assert rows(path) == reference, folders
        folders += 1
print(json.dumps({"kills": kills, "lengths": lengths}))
"""
)

PLACED = (
    HARNESS
    + """
def now(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def before_renaming(nth):
    replace = os.replace
    def stub(source, target):
        if Path(target).name == "checkpoint.pt":
            stub.left -= 1
            if not stub.left:
                now()
        replace(source, target)
    stub.left = nth
    os.replace = stub

def after_renaming(nth):
    replace = os.replace
    def stub(source, target):
        replace(source, target)
        if Path(target).name == "checkpoint.pt":
            stub.left -= 1
            if not stub.left:
                now()
    stub.left = nth
    os.replace = stub

def between_row_and_checkpoint(nth):
    save = RunFolder.save
    def stub(*arguments):
        stub.left -= 1
        if not stub.left:
            now()
        save(*arguments)
    stub.left = nth
    RunFolder.save = stub

def within(name):
    def prepare(nth):
        append = atomic_files.append
        def stub(file, content):
            if file.name.startswith(name):
                stub.left -= 1
                if not stub.left:
                    append(file, content[: len(content) // 2])
                    now()
            append(file, content)
        stub.left = nth
        atomic_files.append = stub
    return prepare

def while_writing(nth):
    write = atomic_files.write_whole
    def stub(file, content):
        if file.name == "checkpoint.pt":
            stub.left -= 1
            if not stub.left:
                file.with_name(file.name + ".tmp").write_bytes(bytes(content[: len(content) // 2]))
                now()
        write(file, content)
    stub.left = nth
    atomic_files.write_whole = stub

def before_config(nth):
    os.replace = now

moments = {
    "before renaming": before_renaming,
    "after renaming": after_renaming,
    "between row and checkpoint": between_row_and_checkpoint,
    "within a row": within("metrics"),
    "within a timing": within("timings"),
    "within the events": within("events"),
    "while writing": while_writing,
    "before the configuration": before_config,
}
found = {}
for moment, prepare in moments.items():
    for nth in (1, 4):
        path = out / f"{moment} {nth}"
        assert end(run(path, lambda: prepare(nth))) == -signal.SIGKILL, (moment, nth)
        left = sorted(file.name for file in (path / "0").iterdir())
        assert end(run(path)) == 0
        assert rows(path) == reference, (moment, nth)
        found[path.name] = left
print(json.dumps(found))
"""
)

COMMAND = [sys.executable, "-m", "plasticity.scripts.main", "run", "permuted-digits"]
OPTIONS = shlex.split(
    "--methods none syre --seeds 0 --jobs 2 --channels 4 --hidden 8 --batch-size 48"
    " --epochs-per-task 1 --probe-size 64 --metrics effective_rank --device cpu"
)
# Long, for a busy machine: a run that hangs fails in any case.
PATIENCE_SECONDS = 250
ENDLESS = 100_000
pytestmark = pytest.mark.timeout(900)


def harness(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("count", [1, 3])  # alone and stacked
def test_killed_at_random_moments(tmp_path, count):
    found = harness(RANDOM, tmp_path, count)
    assert found["kills"] >= 20
    assert len(set(found["lengths"])) > 3  # at different rows


def test_killed_at_chosen_moments(tmp_path):
    found = harness(PLACED, tmp_path, 1)
    assert "checkpoint.pt.tmp" in found["before renaming 1"]
    assert "checkpoint.pt" not in found["before renaming 1"]
    assert {"checkpoint.pt", "checkpoint.pt.tmp"} <= set(found["before renaming 4"])
    assert "checkpoint.pt" not in found["between row and checkpoint 1"]
    assert "metrics.jsonl" in found["between row and checkpoint 1"]
    assert "config.json" not in found["before the configuration 1"]
    assert len(found) == 16


# ---- the command, with all its processes --------------------------------------------------------


def command_line(out, tasks):
    return [*COMMAND, *OPTIONS, "--tasks", str(tasks), "--out", str(out)]


@contextmanager
def started(out, tasks=ENDLESS):
    process = subprocess.Popen(
        command_line(out, tasks),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets its background jobs, such as these tests, ignore Ctrl-C, and they hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        yield process
    finally:
        if process.poll() is None:  # the test has failed
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def group(process):
    """Return the processes of the command's group that are not zombies: id and command line."""
    shown = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,pgid=,stat=,args="],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    entries = [line.split(None, 3) for line in shown.splitlines()]
    return {
        int(pid): line
        for pid, leader, state, line in entries
        if int(leader) == process.pid and not state.startswith("Z")
    }


def wait_until(condition, seconds=PATIENCE_SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def metrics(out):
    return {file.parts[-3]: file for file in sorted(out.glob("*/*/*/metrics.jsonl"))}


def wait_for_rows(process, out):
    """Wait until both runs have one row more than now."""
    before = rows_done(out)

    def grown():
        assert process.poll() is None, process.communicate()
        now = rows_done(out)
        return len(now) == 2 and all(now[method] > before.get(method, 0) for method in now)

    wait_until(grown)


def workers(process):
    """Return the processes of the two runs: forks of the server, which is the first of its name."""
    servers = sorted(pid for pid, line in group(process).items() if "forkserver" in line)
    assert len(servers) == 3, group(process)
    return servers[1:]


def rows_done(out):
    return {method: file.read_bytes().count(b"\n") for method, file in metrics(out).items()}


def assert_finished_as_if_uninterrupted(out, elsewhere):
    """Let both runs do a few more tasks, and compare them with uninterrupted runs.

    Those are made without the command, one after the other.
    """
    tasks = max(rows_done(out).values()) + 3
    with started(out, tasks) as process:
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    defaults = default_options("permuted-digits")
    settings = {
        "stream.num_tasks": tasks,
        "network.channels": (4,),
        "network.hidden": (8,),
        "agent.batch_size": 48,
        "agent.epochs_per_task": 1,
        "tracking.metrics": ("effective_rank",),
        "tracking.probe_size": 64,
    }
    options = replace(defaults, device="cpu", config=with_values(defaults.config, settings))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for method in ("none", "syre"):
        config = options.run_config(method, 0)
        path = elsewhere / "permuted-digits" / method / "seed_0"
        with RunFolder(path, config) as folder:
            assert Runner([folder]).execute(lambda: False)
    torch.set_num_threads(threads)
    assert {method: file.read_bytes() for method, file in metrics(out).items()} == {
        method: file.read_bytes() for method, file in metrics(elsewhere).items()
    }


def test_the_command_killed_at_random_moments(tmp_path):
    out = tmp_path / "killed"
    chance = random.Random(1)
    for victims in ("parent", "both", "all"):
        with started(out) as process:
            wait_for_rows(process, out)
            time.sleep(chance.uniform(0, 0.1))
            if victims == "all":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                for pid in workers(process) if victims == "both" else []:
                    os.kill(pid, signal.SIGKILL)
                process.kill()
            process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == -signal.SIGKILL
        wait_until(lambda: not group(process))
    with started(out) as process:  # one worker: the other run continues, and the command reports it
        wait_for_rows(process, out)
        os.kill(workers(process)[0], signal.SIGKILL)
        before = rows_done(out)
        wait_until(lambda: any(rows > before[m] + 2 for m, rows in rows_done(out).items()))
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM
    assert "its process was ended by SIGKILL" in said
    assert "1 runs stopped" in said
    assert_finished_as_if_uninterrupted(out, tmp_path / "reference")


def stopped(process, number):
    """Return the command that it names after a signal to the whole group, as of Ctrl-C or a batch system."""
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    assert "2 runs stopped, their checkpoints are written. Continue:\n" in said
    wait_until(lambda: not group(process))
    return shlex.split(said.splitlines()[-1])


def test_ctrl_c_names_the_command_that_continues_to_the_same_bytes(tmp_path):
    out = tmp_path / "it's mine"
    with started(out) as process:
        wait_for_rows(process, out)
        assert stopped(process, signal.SIGINT) == command_line(out, ENDLESS)
    assert_finished_as_if_uninterrupted(out, tmp_path / "reference")


def test_the_same_command_at_once_is_refused_and_sigterm_stops_the_first(tmp_path):
    with started(tmp_path) as first:
        wait_for_rows(first, tmp_path)
        with started(tmp_path) as second:
            _, said = second.communicate(timeout=PATIENCE_SECONDS)
        assert second.returncode == 2
        folder = tmp_path / "permuted-digits" / "none" / "seed_0"
        assert f"plasticity: {folder} is in use by another process" in said
        assert stopped(first, signal.SIGTERM) == command_line(tmp_path, ENDLESS)


@pytest.mark.parametrize("seconds", [0, 0.5, 1, 2])
def test_ctrl_c_while_it_starts_is_no_traceback(tmp_path, seconds):
    """Interrupt it while it starts the server or the first runs.

    Not before its first message: what it imports until then is not ours, and some of it ignores exceptions.
    """
    with started(tmp_path) as process:
        assert process.stderr.readline() == "2 runs, 200000 tasks.\n"
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    wait_until(lambda: not group(process))
    assert process.returncode == 130, said
    assert "Traceback" not in said
