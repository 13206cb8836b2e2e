"""The critic's half of an update in a process of its own, beside the actor's.

Threads do not serve: an update is thousands of operations of some ten microseconds, between which the two
would hand Python's lock to and fro (measured: two threads take as long as one). The process has the
critic's optimizer; the weights go to it with every rollout and come back, about 1 MB in all.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import weakref
from dataclasses import fields
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticity.agents.networks.actor_critic import DenseNetwork
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.updates import CriticBatch, CriticUpdate, critic_optimizer, run_half
from plasticity.optim.settings import RegularizerSettings


class CriticProcess:
    """Runs `CriticUpdate` elsewhere: `start` sends it off, `finish` waits for it.

    The weights in this process are the ones that count. Both processes compute the same numbers, bit for
    bit, as they run the same operations with the same number of threads.

    Args:
        critic: On the CPU. `finish` writes its weights and their `.grad`.
        config: Of the update.
        regularizer: Of the optimizer.

    Raises:
        RuntimeError: from every method, if the process is gone; the message gives its exit status.
    """

    def __init__(
        self, critic: DenseNetwork, config: PPOConfig, regularizer: RegularizerSettings
    ) -> None:
        self._critic = critic
        self._busy = False
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _program(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Ctrl-C goes to all processes of a session; this one ends when its owner does.
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        self.close = weakref.finalize(self, _stop, self._connection, self._process)
        """End the process. Called when this object is no longer used, too."""
        self._send(
            {
                "critic": critic,
                "config": config,
                "regularizer": regularizer,
                "num_threads": torch.get_num_threads(),
            }
        )

    def start(self, batch: CriticBatch, orders: Tensor, learning_rate: float) -> None:
        """Send a rollout off to be learnt.

        Args:
            batch: The rollout.
            orders: One permutation of its steps per epoch. Shape: (epochs, rollout_steps).
            learning_rate: Of the optimizer.
        """
        arrays = {field.name: getattr(batch, field.name).numpy() for field in fields(batch)}
        weights = [parameter.detach().numpy() for parameter in self._critic.parameters()]
        self._send(("update", weights, arrays, orders.numpy(), learning_rate))
        self._busy = True

    @torch.no_grad()
    def finish(self) -> dict[str, Tensor]:
        """Wait for the update; the critic then has its new weights, and the gradients of the last step.

        Returns:
            As `CriticUpdate.statistics`.
        """
        weights, gradients, statistics = self._receive()
        self._busy = False
        for parameter, weight, gradient in zip(
            self._critic.parameters(), weights, gradients, strict=True
        ):
            parameter.copy_(torch.from_numpy(weight))
            parameter.grad = torch.tensor(gradient)
        return {name: torch.tensor(number) for name, number in statistics.items()}

    def optimizer_state_dict(self) -> dict[str, Any]:
        """The state of the optimizer."""
        self._send(("optimizer_state_dict",))
        return _to_tensors(self._receive())  # type: ignore[no-any-return]

    def load_optimizer_state_dict(self, state: dict[str, Any]) -> None:
        """Bring the optimizer to a state."""
        self._send(("load_optimizer_state_dict", _to_arrays(state)))
        self._receive()

    def _send(self, message: Any) -> None:
        if self._busy:  # an update that nobody waited for, as Ctrl-C came between
            self._receive()
            self._busy = False
        # Plain pickle: multiprocessing's own would move every tensor into shared memory.
        try:
            self._connection.send_bytes(pickle.dumps(message, protocol=5))
        except OSError as error:
            raise self._gone() from error

    def _receive(self) -> Any:
        try:
            return pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._gone() from error

    def _gone(self) -> RuntimeError:
        status = self._process.wait()
        return RuntimeError(
            f"The critic's process {self._process.pid} ended with exit status {status}: its error"
            " stands above, if it had time for one. Continue from the last checkpoint."
        )


def _program(descriptor: int) -> str:
    # Python puts the current directory first, where a user's platform.py or json.py may lie: before
    # anything else is imported, modules are to be found where they are found here.
    path = [entry for entry in sys.path if isinstance(entry, str)]
    return (
        f"import sys; sys.path[:] = {path!r}; "
        f"from plasticity.agents.ppo.critic_process import serve; serve({descriptor})"
    )


def _stop(connection: Connection, process: subprocess.Popen[bytes]) -> None:
    connection.close()  # which ends its loop
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve(descriptor: int) -> None:
    """Answer a `CriticProcess` until it closes its end or its process is gone.

    Args:
        descriptor: Of the socket to it.
    """
    with Connection(descriptor) as connection:
        parent = os.getppid()
        first = _next_message(connection, parent)
        if first is None:
            return
        torch.set_num_threads(first["num_threads"])
        critic, config = first["critic"], first["config"]
        optimizer = critic_optimizer(critic, config, first["regularizer"])
        update = CriticUpdate(critic, config, optimizer)
        while (message := _next_message(connection, parent)) is not None:
            name, *arguments = message
            answer: Any = None
            if name == "update":
                answer = _update(critic, config, update, *arguments)
            elif name == "optimizer_state_dict":
                answer = _to_arrays(optimizer.state_dict())
            else:
                optimizer.load_state_dict(_to_tensors(*arguments))
            connection.send_bytes(pickle.dumps(answer, protocol=5))


def _next_message(connection: Connection, parent: int) -> Any:
    try:
        # A process forked from the other one would keep the socket open after its end.
        while not connection.poll(1.0):
            if os.getppid() != parent:
                return None
        return pickle.loads(connection.recv_bytes())
    except (EOFError, OSError):
        return None


def _update(
    critic: DenseNetwork,
    config: PPOConfig,
    update: CriticUpdate,
    weights: list[Any],
    arrays: dict[str, Any],
    orders: Any,
    learning_rate: float,
) -> tuple[list[Any], list[Any], dict[str, Any]]:
    with torch.no_grad():
        for parameter, weight in zip(critic.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(weight))
    update.begin(CriticBatch(**_to_tensors(arrays)), learning_rate)
    run_half(update, list(torch.from_numpy(orders)), config.num_minibatches)
    return (
        [parameter.detach().numpy() for parameter in critic.parameters()],
        [parameter.grad.numpy() for parameter in critic.parameters() if parameter.grad is not None],
        {name: number.numpy() for name, number in update.statistics().items()},
    )


def _to_arrays(tree: Any) -> Any:
    """The same containers with arrays for tensors, which pickle faster and share no memory."""
    if isinstance(tree, dict):
        return {key: _to_arrays(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(map(_to_arrays, tree))
    return tree.detach().cpu().numpy() if isinstance(tree, Tensor) else tree


def _to_tensors(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _to_tensors(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(map(_to_tensors, tree))
    # Copied into torch's own memory: kernels may round by how it is aligned.
    return torch.tensor(tree) if isinstance(tree, np.ndarray) else tree
