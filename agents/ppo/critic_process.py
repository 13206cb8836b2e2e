"""Separate process for the critic's half of an update, in parallel with the actor's half.

Threads do not help: an update is thousands of operations of about ten microseconds each, between which two
threads would pass Python's lock back and forth (measured: two threads take as long as one). The process owns
the critic's optimizer; the weights are sent to it with every rollout and come back, about 1 MB in all.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.halves import critic_half
from plasticity.agents.ppo.updates import run_half
from plasticity.containers import mapped
from plasticity.mitigations import SeededMethod
from plasticity.mitigations.stacked_settings import acts_on_steps
from plasticity.stacking.networks import require_index


class CriticProcess:
    """Runs `CriticUpdate` in another process: `start` sends a rollout, `finish` waits for the result.

    Its other methods are those of the `Optimizer` there.

    The weights in this process are authoritative. The result equals that of a local update bit for bit, as
    both run the same operations with the same number of threads.

    Args:
        critic: Critic on the CPU, which can be pickled and draws no random numbers. `finish` writes its
            weights, buffers and gradients.
        config: Settings of the update.
        method: Mitigations of the critic's layers; their states live in the process, with the optimizer.

    Raises:
        RuntimeError: from every method, if the process has ended; the message gives its exit status.
        ValueError: if the critic has a dropout layer, or cannot be pickled.
    """

    def __init__(self, critic: nn.Module, config: PPOConfig, method: SeededMethod) -> None:
        _require_movable(critic)
        self._critic = critic
        self._rates: Sequence[float] = [config.learning_rate]
        self._busy = False
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _program(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Ctrl-C goes to all processes of a session; this one must end only with its owner.
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        self.close = weakref.finalize(self, _stop, self._connection, self._process)
        """Stop the process. Also called when this object is garbage collected."""
        self._send(critic, config, method, torch.get_num_threads())
        self._acts_on_steps = any(acts_on_steps(each) for each in method.mitigations)

    def start(self, batch: Batch, data_orders: Tensor) -> None:
        """Send a rollout to be learned from.

        Args:
            batch: The rollout.
            data_orders: One permutation of its steps per epoch. Shape: (epochs, rollout_steps).
        """
        arrays = [batch.observations, batch.values, batch.returns]
        self._send("update", _weights(self._critic), arrays, data_orders, self._rates)
        self._busy = True

    @torch.no_grad()
    def finish(self) -> dict[str, Tensor]:
        """Wait for the update; the critic then holds the new weights and the gradients of the last step.

        Returns:
            The same as `CriticUpdate.statistics`.
        """
        weights, gradients, statistics = self._receive()
        self._busy = False
        _copy_weights(self._critic, weights)
        for parameter, gradient in zip(self._critic.parameters(), gradients, strict=True):
            parameter.grad = gradient
        return statistics  # type: ignore[no-any-return]

    def set_learning_rate(self, rates: Sequence[float]) -> None:
        """Set the learning rate of the next updates."""
        self._rates = rates

    def freeze(self, index: int) -> None:
        """Do nothing: the critic stays as it is when nobody updates it."""
        require_index(index, 1)

    def state_dict(self, index: int = 0) -> dict[str, Any]:
        """Return the state of the optimizer."""
        require_index(index, 1)
        state: dict[str, Any] = self._ask("state_dict", index)
        return state

    def load_state_dict(self, index: int, state: Mapping[str, Any]) -> None:
        """Load a state into the optimizer."""
        require_index(index, 1)
        self._ask("load_state_dict", index, dict(state))

    @property
    def hooks(self) -> HooksThere | None:
        """Mitigations there that act on steps; None if there are none."""
        return HooksThere(self) if self._acts_on_steps else None

    def ask_hooks(self, name: str, *arguments: Any) -> Any:
        """Call a method of the mitigations' hooks there, on the weights of this process."""
        answer, weights = self._ask("ask_hooks", _weights(self._critic), name, *arguments)
        _copy_weights(self._critic, weights)
        return answer

    def _ask(self, name: str, *arguments: Any) -> Any:
        self._send(name, *arguments)
        return self._receive()

    def _send(self, *message: Any) -> None:
        if self._busy:  # the result of an update was never read, for example because of Ctrl-C
            self._receive()
            self._busy = False
        # Plain pickle: multiprocessing's pickler would move every tensor into shared memory.
        try:
            self._connection.send_bytes(pickle.dumps(_to_arrays(message), protocol=5))
        except OSError as error:
            raise self._gone() from error

    def _receive(self) -> Any:
        try:
            return _to_tensors(pickle.loads(self._connection.recv_bytes()))
        except (EOFError, OSError) as error:
            raise self._gone() from error

    def _gone(self) -> RuntimeError:
        status = self._process.wait()
        return RuntimeError(
            f"The critic's process {self._process.pid} ended with exit status {status}: its error, if it"
            " printed one, is above. Continue from the last checkpoint."
        )


class HooksThere:
    """Hooks of the mitigations in a critic's process, as in `Hooks`.

    Args:
        process: The process.
    """

    def __init__(self, process: CriticProcess) -> None:
        self._process = process

    def boundary(self, task: int, runs: Sequence[int]) -> None:
        """Let the mitigations act between two tasks."""
        self._process.ask_hooks("boundary", task, runs)

    def evaluation_parameters(self) -> dict[str, Tensor]:
        """Return the parameters to evaluate the critic with, by name."""
        found: dict[str, Tensor] = self._process.ask_hooks("evaluation_parameters")
        return found

    def take_counts(self, runs: Sequence[int] | None = None) -> list[dict[str, float]]:
        """Return what the mitigations counted since the last call."""
        found: list[dict[str, float]] = self._process.ask_hooks("take_counts", runs)
        return found

    def freeze(self, run: int) -> None:
        """Do nothing: the critic stays as it is when nobody updates it."""
        require_index(run, 1)

    def state_dict(self, run: int = 0) -> dict[str, Any]:
        """Return the state of the mitigations."""
        state: dict[str, Any] = self._process.ask_hooks("state_dict", run)
        return state

    def load_state_dict(self, state: Mapping[str, Any], run: int = 0) -> None:
        """Load a state of the mitigations."""
        self._process.ask_hooks("load_state_dict", dict(state), run)


def _require_movable(critic: nn.Module) -> None:
    for name, module in critic.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ValueError(
                f"{name!r} is a dropout layer with p={module.p}, which would draw other random numbers in the"
                " critic's own process: give update_threads=1, or set p=0."
            )
    try:
        pickle.dumps(critic)
    except Exception as error:  # anything: a module's own __reduce__ or __getstate__ may raise it
        raise ValueError(
            f"The critic cannot be sent to its own process, as it cannot be pickled ({error}): give"
            " update_threads=1, or define its classes and functions in a module."
        ) from error


def _program(descriptor: int) -> str:
    # Python searches the current directory first, which may contain a user's platform.py or json.py:
    # restore this process's search path before anything else is imported.
    path = [entry for entry in sys.path if isinstance(entry, str)]
    return (
        f"import sys; sys.path[:] = {path!r}; "
        f"from plasticity.agents.ppo.critic_process import serve; serve({descriptor})"
    )


def _stop(connection: Connection, process: subprocess.Popen[bytes]) -> None:
    connection.close()  # this ends the loop in the process
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve(descriptor: int) -> None:
    """Serve a `CriticProcess` until it closes its end of the socket or its process has ended.

    Args:
        descriptor: File descriptor of this end of the socket.
    """
    with Connection(descriptor) as connection:
        parent = os.getppid()
        first = _next_message(connection, parent)
        if first is None:
            return
        *settings, num_threads = first
        torch.set_num_threads(num_threads)
        served = _Served(*settings)
        while (message := _next_message(connection, parent)) is not None:
            name, *arguments = message
            answer = getattr(served, name)(*_to_tensors(arguments))
            connection.send_bytes(pickle.dumps(_to_arrays(answer), protocol=5))


def _next_message(connection: Connection, parent: int) -> Any:
    try:
        # A process forked by the owner would keep the socket open after the owner has ended.
        while not connection.poll(1.0):
            if os.getppid() != parent:
                return None
        return pickle.loads(connection.recv_bytes())
    except (EOFError, OSError):
        return None


class _Served:
    """Critic in its process; the methods are named by the messages."""

    def __init__(self, critic: nn.Module, config: PPOConfig, method: SeededMethod) -> None:
        self._critic = critic
        self._update = critic_half(critic, config, method)
        self._optimizer = optimizer = self._update.optimizer
        self.state_dict, self.load_state_dict = optimizer.state_dict, optimizer.load_state_dict

    def ask_hooks(
        self, weights: list[Tensor], name: str, *arguments: Any
    ) -> tuple[Any, list[Tensor]]:
        """Return the result of a method of the mitigations' hooks, and the weights after it."""
        _copy_weights(self._critic, weights)
        return getattr(self._update.hooks, name)(*arguments), _weights(self._critic)

    def update(
        self,
        weights: list[Tensor],
        batch: list[Tensor],
        data_orders: Tensor,
        rates: Sequence[float],
    ) -> tuple[list[Tensor], list[Tensor | None], dict[str, Tensor]]:
        """Return the weights after an update, the gradients of its last step, and its statistics."""
        _copy_weights(self._critic, weights)
        self._optimizer.set_learning_rate(rates)
        self._update.begin(*batch)
        run_half(self._update, data_orders)
        gradients = [parameter.grad for parameter in self._critic.parameters()]
        return _weights(self._critic), gradients, self._update.statistics()


def _weights(critic: nn.Module) -> list[Tensor]:
    """Return the parameters, and the buffers, to which an update adds in layers such as batch norm."""
    return [*critic.parameters(), *critic.buffers()]


@torch.no_grad()
def _copy_weights(critic: nn.Module, weights: Sequence[Tensor]) -> None:
    for own, weight in zip(_weights(critic), weights, strict=True):
        own.copy_(weight)


def _to_arrays(tree: Any) -> Any:
    """Replace tensors in nested containers by arrays, which pickle faster and share no memory."""
    return mapped(
        lambda leaf: leaf.detach().cpu().numpy() if isinstance(leaf, Tensor) else leaf, tree
    )


def _to_tensors(tree: Any) -> Any:
    # Copied into memory allocated by torch: rounding in kernels may depend on its alignment.
    return mapped(lambda leaf: torch.tensor(leaf) if isinstance(leaf, np.ndarray) else leaf, tree)
