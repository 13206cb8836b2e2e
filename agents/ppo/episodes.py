"""Current episodes of the environments: their return, length, task and friction so far."""

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
    """Completed episode."""

    step: int
    """Environment steps of the whole run up to and including the vector step that ended the episode."""

    environment: int
    """Index of the environment, from 0."""

    episode_return: float
    """Sum of the rewards, as returned by the environment."""

    episode_length: int
    """Number of steps."""

    task: int | None
    """Task of the episode, from `info["task"]`; None if the environment has none, or not an integer."""

    friction: float | None
    """Friction during the episode, from `info["friction"]`; None if the environment has none, or not a
    number."""


class RunningEpisodes:
    """Tracks the current episode of each environment across rollouts.

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
        """Add the rewards of one vector step. Shape: (num_envs,)."""
        self._returns += rewards
        self._lengths += 1

    def end(self, environment: int, step: int) -> Episode:
        """Close an environment's episode. Call this before `read_task` stores the next episode's task."""
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
        """Store "task" and "friction" of each environment's current episode, if `infos` has them.

        Environments may put values of any type there: a task that is not an integer (such as a name) counts
        as none, and so does a friction that is not a number.
        """
        self._tasks = noted(self._tasks, infos, "task", self._num_envs, np.dtype(np.int64))
        self._frictions = noted(
            self._frictions, infos, "friction", self._num_envs, np.dtype(np.float64)
        )

    @property
    def newest_task(self) -> int | None:
        """Highest task among the environments."""
        return None if self._tasks is None else int(self._tasks.max())

    @property
    def newest_friction(self) -> float | None:
        """Friction of the environment with the highest task."""
        if self._frictions is None:
            return None
        newest = 0 if self._tasks is None else int(self._tasks.argmax())
        return float(self._frictions[newest])

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as tensors."""
        return {
            "returns": torch.tensor(self._returns),
            "lengths": torch.tensor(self._lengths),
            "tasks": None if self._tasks is None else torch.tensor(self._tasks),
            "frictions": None if self._frictions is None else torch.tensor(self._frictions),
        }

    def require_fitting(self, state: dict[str, Any]) -> None:
        """Raise an error if `load_state_dict` would reject this state.

        Raises:
            ValueError: if it has another number of environments.
        """
        saved = len(state["returns"])
        if saved != self._num_envs:
            raise ValueError(
                f"The state has {saved} environments, but there are {self._num_envs} here: continue with the"
                " same number."
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            ValueError: if it has another number of environments.
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
    """Update the known values of all environments with an entry of a vector step's `infos`.

    Args:
        known: Last result of this function, overwritten in place; None: nothing yet. Shape: (num_envs,).
        infos: Infos of a vector environment, with a mask "_key" for every key that only some environments
            have.
        key: Name of the entry.
        num_envs: Number of environments.
        dtype: Data type of the result.

    Returns:
        One number for each environment, (num_envs,); None if `infos` never had the entry, or if its value
        is not a number of this type.
    """
    if key not in infos:
        return known
    found = np.asarray(infos[key])
    is_number = found.dtype.kind in "iuf" and np.can_cast(found.dtype, dtype, "same_kind")
    if not is_number or found.shape not in ((), (num_envs,)):
        return None
    if known is None:
        known = np.zeros(num_envs, dtype)
    # Gymnasium's vector environments add a mask of the environments that provided the key.
    np.copyto(known, found, casting="same_kind", where=infos.get(f"_{key}", True))
    return known


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.cpu().numpy().copy()
    return array
