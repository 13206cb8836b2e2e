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
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plasticity.agents.ppo.batch import Batch
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.gradients import gradients_of
from plasticity.agents.ppo.optimizers import critic_optimizer, parameters_of, set_learning_rate
from plasticity.agents.ppo.updates import CriticUpdate, minibatch_rows, run_half
from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.optim.settings import RegularizerSettings


class CriticProcess:
    """Runs `CriticUpdate` in another process: `start` sends a rollout, `finish` waits for the result.

    The weights in this process are authoritative. The result equals that of a local update bit for bit, as
    both run the same operations with the same number of threads.

    Args:
        critic: Critic on the CPU, which can be pickled. `finish` writes its weights and their `.grad`.
        config: Settings of the update.
        regularizer: Regularizer of the critic's layers.

    Raises:
        RuntimeError: from every method, if the process has ended; the message gives its exit status.
    """

    def __init__(
        self, critic: nn.Module, config: PPOConfig, regularizer: RegularizerSettings
    ) -> None:
        self._critic = critic
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
        self._send(
            {
                "critic": critic,
                "config": config,
                "regularizer": regularizer,
                "num_threads": torch.get_num_threads(),
            }
        )

    def start(self, batch: Batch, data_orders: Tensor, learning_rate: float) -> None:
        """Send a rollout to be learned from.

        Args:
            batch: The rollout.
            data_orders: One permutation of its steps per epoch. Shape: (epochs, rollout_steps).
            learning_rate: Learning rate of the optimizer.
        """
        arrays = [each.numpy() for each in (batch.observations, batch.values, batch.returns)]
        weights = [parameter.detach().numpy() for parameter in self._critic.parameters()]
        self._send(("update", weights, arrays, data_orders.numpy(), learning_rate))
        self._busy = True

    @torch.no_grad()
    def finish(self) -> dict[str, Tensor]:
        """Wait for the update; the critic then holds the new weights and the gradients of the last step.

        Returns:
            The same as `CriticUpdate.statistics`.
        """
        weights, gradients, statistics = self._receive()
        self._busy = False
        for parameter, weight, gradient in zip(
            self._critic.parameters(), weights, gradients, strict=True
        ):
            parameter.copy_(torch.from_numpy(weight))
            parameter.grad = None if gradient is None else torch.tensor(gradient)
        return {name: torch.tensor(number) for name, number in statistics.items()}

    def optimizer_state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer."""
        self._send(("optimizer_state_dict",))
        return _to_tensors(self._receive())  # type: ignore[no-any-return]

    def load_optimizer_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state into the optimizer."""
        self._send(("load_optimizer_state_dict", _to_arrays(state)))
        self._receive()

    def _send(self, message: Any) -> None:
        if self._busy:  # the result of an update was never read, for example because of Ctrl-C
            self._receive()
            self._busy = False
        # Plain pickle: multiprocessing's pickler would move every tensor into shared memory.
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
            f"The critic's process {self._process.pid} ended with exit status {status}: its error, if it"
            " printed one, is above. Continue from the last checkpoint."
        )


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
        torch.set_num_threads(first["num_threads"])
        critic, config = first["critic"], first["config"]
        optimizer = critic_optimizer(critic, config, first["regularizer"])
        network = gradients_of(critic, config.minibatch_size)
        update = CriticUpdate(network, optimizer, parameters_of(optimizer), config)
        while (message := _next_message(connection, parent)) is not None:
            name, *arguments = message
            answer: Any = None
            if name == "update":
                answer = _update(critic, config, update, optimizer, *arguments)
            elif name == "optimizer_state_dict":
                answer = _to_arrays(optimizer.state_dict())
            else:
                optimizer.load_state_dict(_to_tensors(*arguments))
            connection.send_bytes(pickle.dumps(answer, protocol=5))


def _next_message(connection: Connection, parent: int) -> Any:
    try:
        # A process forked by the owner would keep the socket open after the owner has ended.
        while not connection.poll(1.0):
            if os.getppid() != parent:
                return None
        return pickle.loads(connection.recv_bytes())
    except (EOFError, OSError):
        return None


def _update(
    critic: nn.Module,
    config: PPOConfig,
    update: CriticUpdate,
    optimizer: RegularizedOptimizer,
    weights: list[Any],
    arrays: list[Any],
    data_orders: Any,
    learning_rate: float,
) -> tuple[list[Any], list[Any], dict[str, Any]]:
    with torch.no_grad():
        for parameter, weight in zip(critic.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(weight))
    set_learning_rate(optimizer, learning_rate)
    update.begin(*_to_tensors(arrays))
    rows = minibatch_rows(torch.from_numpy(data_orders), config.minibatch_size)
    run_half(update, rows, config.num_minibatches)
    return (
        [parameter.detach().numpy() for parameter in critic.parameters()],
        [_to_arrays(parameter.grad) for parameter in critic.parameters()],
        {name: number.numpy() for name, number in update.statistics().items()},
    )


def _to_arrays(tree: Any) -> Any:
    """Replace tensors in nested containers by arrays, which pickle faster and share no memory."""
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
    # Copied into memory allocated by torch: rounding in kernels may depend on its alignment.
    return torch.tensor(tree) if isinstance(tree, np.ndarray) else tree
