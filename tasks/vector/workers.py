"""Hosts of a group of environments: the learner's process, or a worker that ends with it.

A worker is a fresh interpreter, not a fork: it inherits no lock or thread from the learner's process, a
script needs no `if __name__ == "__main__"`, and processes that may not have children of `multiprocessing`
can start one. At a step, the learner and a worker exchange one empty message each; all else goes through
shared memory, an unnamed file that is freed when both have ended.

No worker outlives its learner: it ends when the learner's end of the connection closes, for whatever reason.
It ignores Ctrl-C and SIGTERM, which reach the whole process group, and leaves them to the learner, which may
still need the state of its environments.
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

from plasticity.tasks.vector.environment_group import (
    Description,
    EnvFn,
    EnvironmentGroup,
    Layout,
)

# Nothing may be imported before sys.path is the learner's: an interpreter's own path begins with the working
# folder, where a json.py, say, would shadow the standard library's. (sys is built in.)
_PROGRAM = (
    "import sys; sys.path[:] = {path}; "
    "from plasticity.tasks.vector.workers import work; work(*map(int, sys.argv[1:]))"
)
PATIENCE_SECONDS = 5.0
"""Time that workers have to close their environments."""

HURRY_SECONDS = 1.0
"""Time that workers have to close their environments after an error."""

_LOOK_SECONDS = 0.5
_WATCH_SECONDS = 2.0
_SPIN_SECONDS = 5e-4
_GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Host(Protocol):
    """Host of a group: `ask` requests a call of one of its methods, `answer` returns the result.

    The first two requests are `make` and `attach` of `InThisProcess`, the others those of its group.
    """

    environments: range
    """Indices of the group's environments among all environments."""

    def ask(self, name: str, *arguments: Any) -> None:
        """Request a call of a method."""

    def answer(self) -> Any:
        """Wait for the result of the last request, and return it; an empty one as an empty list."""

    def hang_up(self) -> None:
        """Let the host end; calling this twice is fine."""

    def wait(self, deadline: float) -> None:
        """Wait until the host has ended; kill it once `time.monotonic()` reaches the deadline."""


class InThisProcess:
    """Host of a group in this process, which executes a request when its answer is taken.

    Args:
        environments: Indices of its environments among all environments.
        memory: Descriptor of the file that is to hold the arrays; it may be closed after `attach`.
    """

    def __init__(self, environments: range, memory: int) -> None:
        self.environments = environments
        self._memory = memory
        self._group: EnvironmentGroup | None = None
        self._asked: Callable[[], Any]

    def make(self, env_fns: Sequence[EnvFn]) -> tuple[Description, dict[str, Any]]:
        """Make the group of these environments, and return its description and metadata."""
        self._group = EnvironmentGroup(env_fns, self.environments.start)
        return self._group.description, self._group.metadata

    def attach(self, layout: Layout) -> None:
        """Let the group use its part of the arrays in the file."""
        assert self._group is not None
        block = mmap.mmap(self._memory, layout.num_bytes)
        self._group.attach(layout.arrays(block).part(self.environments))

    def ask(self, name: str, *arguments: Any) -> None:
        """Request a call of a method of this host or of the group."""
        owner = self if name in ("make", "attach") else self._group
        self._asked = partial(getattr(owner, name), *arguments)

    def answer(self) -> Any:
        """Execute the request, and return its result."""
        return self._asked()

    def hang_up(self) -> None:
        """Close the environments."""
        if self._group is not None:
            self._group.close()

    def wait(self, deadline: float) -> None:
        """Do nothing: the group ended when its environments were closed."""


class _Failure(NamedTuple):
    """Answer of a worker whose environments raised an error."""

    traceback: str


class Worker:
    """Host of a group in a separate process.

    Args:
        number: Number of the worker, for error messages.
        environments: Indices of its environments among all environments.
        memory: Descriptor of the file that is to hold the arrays.
        spin: Whether the worker may spin while it waits for the next step, as it has a core to itself.
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

    def ask(self, name: str, *arguments: Any) -> None:
        """Request a call of a method; a step, by an empty message."""
        try:
            self._connection.send_bytes(b"" if name == "step" else pickle.dumps((name, *arguments)))
        except OSError:
            raise self._ended() from None

    def answer(self) -> Any:
        """Wait for the result of the last request, and return it.

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
        # A fork of the worker, made by an environment, would keep the connection open after its death.
        while not self._poller.poll(_LOOK_SECONDS * 1000):
            if self._process.poll() is not None and not self._poller.poll(0):
                raise EOFError

    def _ended(self) -> RuntimeError:
        try:
            status = self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            reason = "it closed its connection"
        else:
            reason = (
                f"killed by {signal.Signals(-status).name}"
                if status < 0
                else f"exit status {status}"
            )
        return RuntimeError(f"{self} ended unexpectedly: {reason}.")

    def __str__(self) -> str:
        first, last = self.environments[0], self.environments[-1]
        which = f"environment {first}" if first == last else f"environments {first} to {last}"
        return f"Worker {self._number} ({which}, process {self._process.pid})"

    def hang_up(self) -> None:
        """Close the connection, which makes the worker end."""
        self._connection.close()

    def wait(self, deadline: float) -> None:
        """Wait until the worker has ended; kill it at the deadline."""
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
    # Entries that are not strings, such as a Path, are ignored by Python's import as well.
    program = _PROGRAM.format(path=ascii([str(each) for each in sys.path if isinstance(each, str)]))
    command = [sys.executable, "-c", program, *map(str, map(int, numbers))]
    # The cores are for the environments: numerical libraries must not start threads of their own.
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # The inherited mask blocks the process group's signals in a worker from its start.
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
    """End groups and wait for them; do nothing in a fork of the process that started them.

    Args:
        hosts: Hosts of the groups.
        owner: ID of the process that started them.
        seconds: Total time that they have; workers that take longer are killed.

    Raises:
        Exception: the first error raised by closing an environment in this process; all are still ended.
    """
    if os.getpid() != owner:
        return
    hosts = list(hosts)
    errors = []
    for host in reversed(
        hosts
    ):  # workers first, so that they close while this process closes its own
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
    """Return the descriptor of an unnamed file, whose memory can be shared with a worker."""
    if hasattr(os, "memfd_create"):  # Linux: it never touches a disk
        return os.memfd_create("plasticity")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def work(connection: int, memory: int, start: int, stop: int, learner: int, spin: int) -> None:
    """Run a worker: the main function of the interpreter that `Worker` starts."""
    for descriptor in (
        connection,
        memory,
    ):  # programs that an environment starts must not inherit them
        os.set_inheritable(descriptor, False)
    for number in _GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _GROUP_SIGNALS)
    threading.Thread(target=_watch, args=(learner,), daemon=True).start()
    status = 0
    try:
        # The learner hung up, or has died.
        with suppress(EOFError, BrokenPipeError, ConnectionResetError):
            _serve(Connection(connection), memory, range(start, stop), bool(spin))
    except Exception:  # raised by closing an environment, when no one reads answers any more
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # at once: shutting down an interpreter with torch takes half a second


def _spin(poller: select.poll) -> None:
    """Wait for a message without sleeping, for about as long as a small policy takes to act.

    Waking an idle core takes longer than a step of an environment.
    """
    end = time.perf_counter() + _SPIN_SECONDS
    while not poller.poll(0) and time.perf_counter() < end:
        os.sched_yield()  # lets other processes use the core


def _watch(learner: int) -> None:
    # A fork of the learner holds a copy of its end of the connection, and keeps it open after its death.
    while os.getppid() == learner:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _serve(connection: Connection, memory: int, environments: range, spin: bool) -> None:
    host = InThisProcess(environments, memory)
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    try:
        while True:
            if spin:
                _spin(poller)
            message = connection.recv_bytes()
            try:
                host.ask(*pickle.loads(message) if message else ("step",))
                answer = host.answer()
                reply = pickle.dumps(answer) if answer else b""
            except Exception:
                reply = pickle.dumps(_Failure(traceback.format_exc()))
            connection.send_bytes(reply)
    finally:
        host.hang_up()
