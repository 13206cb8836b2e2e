"""Workers that fail, die, or lose their learner: an immediate error, and no process left running."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from plasticity.tasks import VectorEnvironments
from plasticity.tasks.vector.workers import end

cloudpickle.register_pickle_by_value(sys.modules[__name__])

PATIENCE_SECONDS = 60  # for a busy machine


class Doomed(gymnasium.Env):
    """Environment that fails as its action says: 1 raises an error, 2 ends its process, 3 sleeps."""

    observation_space = action_space = spaces.Box(0, 9, (1,), np.float32)

    child = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if action == 1:
            raise KeyError("the wheel came off")
        if action == 2:
            os._exit(3)
        if action == 3:
            time.sleep(PATIENCE_SECONDS)
        return np.array([os.getpid() % 10], np.float32), 0.0, False, False, {"process": os.getpid()}


def is_running(process):
    done = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()[:1] not in ("", "Z")


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def envs():
    made = VectorEnvironments([Doomed] * 5, num_workers=2)
    made.reset(seed=0)
    yield made
    made.close()


def processes_of(envs):
    return envs.step(np.zeros((envs.num_envs, 1)))[-1]["process"].tolist()


def test_blocks_of_environments_in_processes():
    """Split 5 environments into 3 blocks, which start at 0, 5 * 1 // 3 = 1 and 5 * 2 // 3 = 3."""
    envs = VectorEnvironments([Doomed] * 5, num_workers=3)
    envs.reset(seed=0)
    processes = processes_of(envs)
    assert processes[0] == os.getpid()
    assert processes[1] == processes[2]
    assert processes[3] == processes[4]
    assert len(set(processes)) == 3
    envs.close()
    assert [is_running(process) for process in processes] == [True] + [False] * 4
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        envs.reset()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (
            1,
            r"Worker 1 \(environments 2 to 4, process \d+\) failed:\n(.*\n)*KeyError: 'the wheel came off'",
        ),
        (2, r"Worker 1 \(environments 2 to 4, process \d+\) ended unexpectedly: exit status 3"),
    ],
)
def test_an_error_names_its_worker_and_ends_all(envs, action, message):
    processes = processes_of(envs)
    with pytest.raises(RuntimeError, match=message):
        envs.step(np.array([[0], [0], [0], [0], [action]]))
    assert not any(map(is_running, processes[2:]))
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        envs.step(np.zeros((5, 1)))


@pytest.mark.parametrize("killed_while", ["waiting", "stepping"])
def test_a_killed_worker_is_an_error(envs, killed_while):
    processes = processes_of(envs)
    actions = np.zeros((5, 1))
    if killed_while == "waiting":
        os.kill(processes[2], signal.SIGKILL)
        wait_until(lambda: not is_running(processes[2]))
    else:
        actions[2] = 3
        threading.Timer(0.3, os.kill, (processes[2], signal.SIGKILL)).start()
    with pytest.raises(
        RuntimeError, match=r"Worker 1 .*2 to 4.* ended unexpectedly: killed by SIGKILL"
    ):
        envs.step(actions)
    assert not any(map(is_running, processes[2:]))


class Parent(Doomed):
    """Environment with a child, a program or a fork, that inherits all open files of the worker."""

    def __init__(self, kind):
        if kind == "program":
            child = subprocess.Popen(["sleep", str(2 * PATIENCE_SECONDS)], close_fds=False)
            self.child = child.pid
        else:
            self.child = os.fork()
            if self.child == 0:
                time.sleep(2 * PATIENCE_SECONDS)
                os._exit(0)


@pytest.mark.parametrize("kind", ["program", "fork"])
def test_a_killed_worker_is_an_error_even_if_its_child_lives(kind):
    envs = VectorEnvironments([Doomed, lambda: Parent(kind)], num_workers=2)
    envs.reset()
    worker = envs.step(np.zeros((2, 1)))[-1]["process"][1]
    child = envs.call("child")[1]
    try:
        threading.Timer(0.3, os.kill, (worker, signal.SIGKILL)).start()
        with pytest.raises(RuntimeError, match="ended unexpectedly: killed by SIGKILL"):
            envs.step(np.array([[0], [3]]))
        assert is_running(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_program_started_by_an_environment_does_not_inherit_the_connection():
    class Open(Doomed):
        def reset(self, *, seed=None, options=None):
            found = "import os; print(sum(map(os.path.exists, ('/dev/fd/%d' % n for n in range(3, 99)))))"
            done = subprocess.run(
                [sys.executable, "-c", found], capture_output=True, check=True, close_fds=False
            )
            return np.zeros(1, np.float32), {"open": int(done.stdout)}

    envs = VectorEnvironments([Doomed, Open], num_workers=2)
    _, infos = envs.reset()
    assert infos["open"][1] == 0
    envs.close()


def test_a_worker_imports_from_the_learners_path(tmp_path, monkeypatch):
    """Ignore modules in the working folder, and entries of the path that are not strings."""
    for name in ("json", "operator", "gymnasium"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*filter(None, sys.path), tmp_path])
    envs = VectorEnvironments([Doomed] * 2, num_workers=2)
    envs.reset()
    envs.close()


def test_workers_end_even_if_an_environment_cannot_be_closed():
    here = os.getpid()

    class Stuck(Doomed):
        def close(self):
            if os.getpid() == here:
                raise ValueError("the door is stuck")

    envs = VectorEnvironments([Stuck] * 2, num_workers=2)
    envs.reset()
    _, worker = processes_of(envs)
    with pytest.raises(ValueError, match="the door is stuck"):
        envs.close()
    assert not is_running(worker)
    assert envs.closed
    envs.close()


def test_an_error_on_closing_does_not_hide_the_first():
    class Stuck(Doomed):
        def close(self):
            raise ValueError("the door is stuck")

    envs = VectorEnvironments([Stuck])
    envs.reset()
    with pytest.raises(KeyError, match="the wheel came off"):
        envs.step(np.ones((1, 1)))


def test_workers_share_one_deadline():
    """Pass one deadline to all hosts, so that their waiting times do not add up."""
    waited = []

    class Host:
        def hang_up(self):
            pass

        def wait(self, deadline):
            waited.append(deadline)

    before = time.monotonic()
    end([Host(), Host()], os.getpid(), seconds=3.0)
    assert waited[0] == waited[1]
    assert before + 3.0 <= waited[0] <= time.monotonic() + 3.0


def test_different_environments_are_named_by_their_index_among_all():
    class Other(Doomed):
        action_space = spaces.Box(0, 9, (2,), np.float32)

    with pytest.raises(ValueError, match=r"number 0 has .*, number 2 has"):
        VectorEnvironments([Doomed, Doomed, Other, Other], num_workers=2)


def test_an_environment_that_cannot_be_created_is_an_error():
    here = os.getpid()

    def make():
        if os.getpid() != here:
            raise ModuleNotFoundError("no wheels for this one")
        return Doomed()

    with pytest.raises(RuntimeError, match=r"Worker 1 \(environment 1, process(.*\n)*.*no wheels"):
        VectorEnvironments([make] * 2, num_workers=2)


def test_workers_end_with_their_object():
    envs = VectorEnvironments([Doomed] * 2, num_workers=2)
    envs.reset()
    _, worker = envs.step(np.zeros((2, 1)))[-1]["process"]
    del envs
    gc.collect()
    assert not is_running(worker)


# ---- a separate learner process that is interrupted or killed ---------------------------------------

LEARNER = """
import os, signal, sys, time
import gymnasium
import numpy as np
from plasticity.tasks import VectorEnvironments

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

class Env(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Box(0, 9, (1,), np.float32)
    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}
    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {"process": os.getpid()}
    def state_dict(self):
        return {"process": os.getpid()}

def learn(while_running):
    # No `if __name__ == "__main__"`: a worker does not run this script.
    envs = VectorEnvironments([Env] * 2, num_workers=2)
    envs.reset()
    *_, infos = envs.step(np.zeros((2, 1)))
    print(*infos["process"], flush=True)
    while while_running():
        envs.step(np.zeros((2, 1)))
    return envs
"""


class Learner:
    """Process that runs LEARNER in its own process group, like a command in a terminal."""

    def __init__(self, script):
        self.process = subprocess.Popen(
            [sys.executable, "-c", LEARNER + script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.workers = [int(number) for number in self.process.stdout.readline().split()[1:]]
        assert len(self.workers) == 1, self.process.communicate()

    def ends(self):
        """Wait until it has ended, and return its status, output and errors."""
        output, errors = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, output, errors

    def leaves_nothing(self):
        wait_until(lambda: not any(map(is_running, self.workers)))


def test_ctrl_c_leaves_no_process_and_workers_print_nothing():
    learner = Learner("learn(lambda: True)")
    os.killpg(learner.process.pid, signal.SIGINT)
    status, _, errors = learner.ends()
    assert status != 0
    assert errors.count("KeyboardInterrupt") == 1
    learner.leaves_nothing()


def test_a_signal_to_the_group_leaves_the_workers_to_the_learner():
    """Terminate the whole process group, as a batch system does: the learner can still save its state."""
    learner = Learner(
        """
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
envs = learn(lambda: not asked)
print(*(state["process"] for state in envs.state_dict()["environments"]))
"""
    )
    os.killpg(learner.process.pid, signal.SIGTERM)
    status, output, errors = learner.ends()
    assert status == 0, errors
    assert output.split()[1:] == [str(number) for number in learner.workers]
    learner.leaves_nothing()


def test_a_killed_learner_leaves_no_process():
    learner = Learner("learn(lambda: True)")
    os.kill(learner.process.pid, signal.SIGKILL)
    learner.ends()
    learner.leaves_nothing()


def test_a_fork_of_a_killed_learner_does_not_keep_its_workers_alive():
    learner = Learner(
        """
envs = learn(lambda: False)
fork = os.fork()
if fork == 0:
    os.close(1), os.close(2)
    time.sleep(600)
print(fork, flush=True)
time.sleep(600)
"""
    )
    fork = int(learner.process.stdout.readline())
    try:
        os.kill(learner.process.pid, signal.SIGKILL)
        learner.ends()
        learner.leaves_nothing()
        assert is_running(fork)
    finally:
        os.kill(fork, signal.SIGKILL)


def test_a_daemon_of_multiprocessing_may_have_workers():
    learner = Learner(
        """
import multiprocessing
def run():
    learn(lambda: False)
daemon = multiprocessing.get_context("fork").Process(target=run, daemon=True)
daemon.start()
daemon.join()
sys.exit(daemon.exitcode)
"""
    )
    status, _, errors = learner.ends()
    assert status == 0, errors
    learner.leaves_nothing()
