"""Where a group of environments runs: in the learner's process, or in a worker that ends with it.

A worker is a fresh interpreter, not a fork: no lock or thread of the learner's process is in it, a script
needs no `if __name__ == "__main__"`, and a process that may have no children of `multiprocessing` may have
it. At a step, the learner and a worker exchange one empty message each; everything else is in memory that
both see, a file without a name, which goes when they go.

Nothing keeps running: a worker ends when its learner's end of the connection closes, however that came.
Ctrl-C and SIGTERM, which reach the whole group of processes, it leaves to the learner, which may still want
its environments' state.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

from gymnasium.vector.utils import CloudpickleWrapper

from plasticity.tasks.vector.environment_group import EnvFn, EnvironmentGroup, Layout

# Nothing may be imported before the path is the learner's: the first entry of an interpreter's own is the
# working folder, whose json.py, say, is another. (sys is built in.)
_PROGRAM = (
    "import sys; sys.path[:] = {path}; "
    "from plasticity.tasks.vector.workers import work; work(*map(int, sys.argv[1:]))"
)
PATIENCE_SECONDS = 5.0
"""For workers to close their environments."""

HURRY_SECONDS = 1.0
"""The same, after an error."""

_LOOK_SECONDS = 0.5
_WATCH_SECONDS = 2.0
_SPIN_SECONDS = 5e-4
_GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Host(Protocol):
    """Where a group runs: `ask` for one of its methods, then take the `answer`."""

    environments: range
    """The group's, in the numbers of the whole."""

    def make(self, env_fns: Sequence[EnvFn]) -> None:
        """Ask for a group of these environments; the answer is its description and metadata."""

    def attach(self, block: Any, layout: Layout) -> None:
        """Ask the group to write into its part of the arrays on this block."""

    def ask(self, name: str, *arguments: Any) -> None:
        """Ask for a method of the group."""

    def ask_step(self) -> None:
        """Ask for a step."""

    def answer(self) -> Any:
        """Wait for what was asked, and return it; nothing is an empty list."""

    def hang_up(self) -> None:
        """Let it end; calling this twice is fine."""

    def wait(self, deadline: float) -> None:
        """Wait for its end, until a time of `time.monotonic`; then make an end of it."""


class InThisProcess:
    """A group in this process: it does what it is asked when its answer is taken."""

    def __init__(self, environments: range) -> None:
        self.environments = environments
        self._group: EnvironmentGroup | None = None
        self._asked: Callable[[], Any]

    def make(self, env_fns: Sequence[EnvFn]) -> None:
        """Ask for a group of these environments; the answer is its description and metadata."""

        def make() -> Any:
            self._group = EnvironmentGroup(env_fns, self.environments.start)
            return self._group.description, self._group.metadata

        self._asked = make

    def attach(self, block: Any, layout: Layout) -> None:
        """Ask the group to write into its part of the arrays on this block."""
        self.ask("attach", layout.arrays(block).part(self.environments))

    def ask(self, name: str, *arguments: Any) -> None:
        """Ask for a method of the group."""
        self._asked = partial(getattr(self._group, name), *arguments)

    def ask_step(self) -> None:
        """Ask for a step."""
        assert self._group is not None
        self._asked = self._group.step

    def answer(self) -> Any:
        """Do what was asked."""
        return self._asked()

    def hang_up(self) -> None:
        """Close the environments."""
        if self._group is not None:
            self._group.close()

    def wait(self, deadline: float) -> None:
        """Do nothing: the group ended when its environments were closed."""


class _Failure(NamedTuple):
    """What a worker answers when its environments raise an error."""

    traceback: str


class Worker:
    """A group in a process of its own.

    Args:
        number: For error messages.
        environments: Their numbers in the whole.
        memory: Descriptor of the file that is to hold the arrays.
        spin: Whether it may wait awake for its next step, as it has a core to itself.
    """

    def __init__(self, number: int, environments: range, memory: int, *, spin: bool) -> None:
        self.environments = environments
        self._number = number
        self._connection, theirs = multiprocessing.Pipe()
        try:
            self._process = _start(theirs.fileno(), memory, environments, spin)
        finally:
            theirs.close()
        self._poller = select.poll()
        self._poller.register(self._connection.fileno(), select.POLLIN)

    def make(self, env_fns: Sequence[EnvFn]) -> None:
        """Ask for a group of these environments, which cloudpickle must be able to carry."""
        self.ask("make", [CloudpickleWrapper(env_fn) for env_fn in env_fns])

    def ask(self, name: str, *arguments: Any) -> None:
        """Ask for a method of the group."""
        self._send(pickle.dumps((name, arguments)))

    def ask_step(self) -> None:
        """Ask for a step, in as few bytes as can be."""
        self._send(b"")

    def _send(self, message: bytes) -> None:
        try:
            self._connection.send_bytes(message)
        except OSError:
            raise self._ended() from None

    def answer(self) -> Any:
        """Wait for what the method returns.

        Raises:
            RuntimeError: if the worker has ended, or its environments raised an error.
        """
        try:
            self._await_message()
            message = self._connection.recv_bytes()
        except (EOFError, OSError):
            raise self._ended() from None
        answer = pickle.loads(message) if message else []
        if isinstance(answer, _Failure):
            raise RuntimeError(f"{self} failed:\n{answer.traceback}")  # noqa: TRY004
        return answer

    def _await_message(self) -> None:
        # A fork of the worker, which an environment may have made, keeps the connection open after its death.
        while not self._poller.poll(_LOOK_SECONDS * 1000):
            if self._process.poll() is not None and not self._poller.poll(0):
                raise EOFError

    def _ended(self) -> RuntimeError:
        try:
            status = self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            how = "it closed its connection"
        else:
            how = (
                f"killed by {signal.Signals(-status).name}"
                if status < 0
                else f"exit status {status}"
            )
        return RuntimeError(f"{self} ended, unasked: {how}.")

    def __str__(self) -> str:
        first, last = self.environments[0], self.environments[-1]
        which = f"environment {first}" if first == last else f"environments {first} to {last}"
        return f"Worker {self._number} ({which}, process {self._process.pid})"

    def attach(self, block: Any, layout: Layout) -> None:
        """Let the worker write into its part of the file that both have."""
        self.ask("attach", layout)

    def hang_up(self) -> None:
        """Close the connection, upon which the worker ends."""
        self._connection.close()

    def wait(self, deadline: float) -> None:
        """Wait for the worker's end, and help it along if it takes long."""
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _start(
    connection: int, memory: int, environments: range, spin: bool
) -> subprocess.Popen[bytes]:
    numbers = (
        connection,
        memory,
        environments.start,
        environments.stop,
        os.getpid(),
        spin,
    )
    # Other entries than strings, such as a Path, are none to Python's import either.
    program = _PROGRAM.format(path=ascii([str(each) for each in sys.path if isinstance(each, str)]))
    command = [sys.executable, "-c", program, *map(str, map(int, numbers))]
    # The cores belong to the environments: no numerical library needs threads of its own there.
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # A worker is deaf to the group's signals from its first moment, by the mask that it inherits.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=(connection, memory),
            env={**os.environ, **one_thread},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end(hosts: Iterable[Host], owner: int, seconds: float = PATIENCE_SECONDS) -> None:
    """End groups and wait for them, in the process that started them only, not in a fork of it.

    Args:
        hosts: Of the groups.
        owner: Number of the process that started them.
        seconds: That they have together; a worker that takes longer is killed.

    Raises:
        Exception: the first that closing an environment in this process raised; all are ended then.
    """
    if os.getpid() != owner:
        return
    hosts = list(hosts)
    errors = []
    for host in reversed(hosts):  # the workers close theirs while this process closes its own
        try:
            host.hang_up()
        except Exception as error:
            errors.append(error)
    deadline = time.monotonic() + seconds
    for host in hosts:
        host.wait(deadline)
    if errors:
        raise errors[0]


def unnamed_file() -> int:
    """Return a descriptor of a file without a name: memory that a worker can be given."""
    if hasattr(os, "memfd_create"):  # Linux: it never touches a disk
        return os.memfd_create("plasticity")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def work(connection: int, memory: int, start: int, stop: int, learner: int, spin: int) -> None:
    """Be a worker: what the interpreter that a `Worker` starts does."""
    for descriptor in (connection, memory):  # not for programs that an environment starts
        os.set_inheritable(descriptor, False)
    for number in _GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _GROUP_SIGNALS)
    threading.Thread(target=_watch, args=(learner,), daemon=True).start()
    status = 0
    try:
        # The learner hung up, or is no more.
        with suppress(EOFError, BrokenPipeError, ConnectionResetError):
            _serve(Connection(connection), memory, range(start, stop), bool(spin))
    except Exception:  # closing an environment raised it, and nobody listens any more
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # at once: to take an interpreter with torch apart lasts half a second


def _spin(poller: select.poll) -> None:
    """Wait for a message without going to sleep, for a time that a small policy takes to act.

    To wake a core that has nothing to do takes longer than an environment's step.
    """
    end = time.perf_counter() + _SPIN_SECONDS
    while not poller.poll(0) and time.perf_counter() < end:
        os.sched_yield()  # who else wants the core has it


def _watch(learner: int) -> None:
    # A fork of the learner holds a copy of its end of the connection, which then stays open without it.
    while os.getppid() == learner:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _serve(connection: Connection, memory: int, environments: range, spin: bool) -> None:
    host = InThisProcess(environments)
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    try:
        while True:
            if spin:
                _spin(poller)
            message = connection.recv_bytes()
            try:
                if not message:
                    host.ask_step()
                else:
                    name, arguments = pickle.loads(message)
                    if name == "make":
                        host.make(*arguments)
                    elif name == "attach":
                        (layout,) = arguments
                        host.attach(mmap.mmap(memory, layout.num_bytes), layout)
                    else:
                        host.ask(name, *arguments)
                answer = host.answer()
                reply = pickle.dumps(answer) if answer else b""
            except Exception:
                reply = pickle.dumps(_Failure(traceback.format_exc()))
            connection.send_bytes(reply)
    finally:
        host.hang_up()
