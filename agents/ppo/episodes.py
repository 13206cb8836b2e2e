"""The episodes that the environments are in: their return, length, task and friction so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


@dataclass(frozen=True)
class Episode:
    """An episode that ended."""

    step: int
    """Environment steps of the whole run up to and with the vector step that ended it."""

    environment: int
    """Which environment, from 0."""

    episode_return: float
    """Sum of its rewards, as the environment gave them."""

    episode_length: int
    """Its steps."""

    task: int | None
    """Task that it ran under, from `info["task"]`; None if the environment has none, or no integer."""

    friction: float | None
    """Friction that it ran under, from `info["friction"]`; None if the environment has none, or no
    number."""


class RunningEpisodes:
    """Counts each environment's episode, across rollouts.

    Args:
        num_envs: Number of environments.
    """

    def __init__(self, num_envs: int) -> None:
        self._num_envs = num_envs
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)
        self._tasks: Array | None = None
        self._frictions: Array | None = None

    def add(self, rewards: Array) -> None:
        """Count one vector step. Shape: (num_envs,)."""
        self._returns += rewards
        self._lengths += 1

    def end(self, environment: int, step: int) -> Episode:
        """Close an environment's episode; to be called before `read_task` notes the next one's task."""
        episode = Episode(
            step,
            environment,
            float(self._returns[environment]),
            int(self._lengths[environment]),
            None if self._tasks is None else int(self._tasks[environment]),
            None if self._frictions is None else float(self._frictions[environment]),
        )
        self._returns[environment] = 0.0
        self._lengths[environment] = 0
        return episode

    def read_task(self, infos: dict[str, Any]) -> None:
        """Note "task" and "friction" of the episode that each environment is in, if `infos` has them.

        Any environment may say what it likes there: a task that is no integer (a name, say) counts as
        none, and so does a friction that is no number.
        """
        self._tasks = noted(self._tasks, infos, "task", self._num_envs, np.dtype(np.int64))
        self._frictions = noted(
            self._frictions, infos, "friction", self._num_envs, np.dtype(np.float64)
        )

    @property
    def newest_task(self) -> int | None:
        """The highest task that an environment is in."""
        return None if self._tasks is None else int(self._tasks.max())

    @property
    def newest_friction(self) -> float | None:
        """Friction of the environment that is in the highest task."""
        if self._frictions is None:
            return None
        newest = 0 if self._tasks is None else int(self._tasks.argmax())
        return float(self._frictions[newest])

    def state_dict(self) -> dict[str, Any]:
        """Everything, in tensors."""
        return {
            "returns": torch.tensor(self._returns),
            "lengths": torch.tensor(self._lengths),
            "tasks": None if self._tasks is None else torch.tensor(self._tasks),
            "frictions": None if self._frictions is None else torch.tensor(self._frictions),
        }

    def require_fitting(self, state: dict[str, Any]) -> None:
        """Refuse a state that `load_state_dict` would refuse.

        Raises:
            ValueError: if it is of another number of environments.
        """
        saved = len(state["returns"])
        if saved != self._num_envs:
            raise ValueError(
                f"The state is of {saved} environments, here are {self._num_envs}: continue with as many."
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            ValueError: if it is of another number of environments.
        """
        self.require_fitting(state)
        self._returns = _array(state["returns"])
        self._lengths = _array(state["lengths"])
        tasks, frictions = state["tasks"], state["frictions"]
        self._tasks = None if tasks is None else _array(tasks).astype(np.int64)
        self._frictions = None if frictions is None else _array(frictions).astype(np.float64)


def noted(
    known: Array | None, infos: Mapping[str, Any], key: str, num_envs: int, dtype: np.dtype[Any]
) -> Array | None:
    """Bring what is known of every environment up to date with an entry of a vector step's `infos`.

    Args:
        known: As this function last returned it, written over; None: nothing yet. Shape: (num_envs,).
        infos: Of a vector environment, with a mask "_key" beside a key that only some have.
        key: Which entry.
        num_envs: Number of environments.
        dtype: Of what is returned.

    Returns:
        A number for each environment, (num_envs,); None if `infos` never had the entry, or has there what
        is no such number.
    """
    if key not in infos:
        return known
    found = np.asarray(infos[key])
    is_number = found.dtype.kind in "iuf" and np.can_cast(found.dtype, dtype, "same_kind")
    if not is_number or found.shape not in ((), (num_envs,)):
        return None
    if known is None:
        known = np.zeros(num_envs, dtype)
    # Gymnasium's vector environments say beside a key which of them gave it.
    np.copyto(known, found, casting="same_kind", where=infos.get(f"_{key}", True))
    return known


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.cpu().numpy().copy()
    return array
