"""Environments that one process steps in turn, with arrays that it may share with another process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from numpy.typing import NDArray

EnvFn = Callable[[], gymnasium.Env[Any, Any]]

_ALIGNMENT = 64  # bytes, a cache line
_SCALARS = frozenset({bool, int, float, str})


class Description(NamedTuple):
    """Properties that all environments of a vector environment must share."""

    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    render_mode: str | None


class Report(NamedTuple):
    """Results of an environment's step or reset that do not go through the arrays."""

    environment: int
    """Index of the environment in the group."""

    info: dict[str, Any] | None
    """Info of the latest step, or of the reset after it; None if it has only numbers and strings, all equal
    to those last reported."""

    final: tuple[Any, dict[str, Any]] | None
    """Last observation and info of the episode that the step ended; None if it ended none."""


class Arrays(NamedTuple):
    """Arrays exchanged at every step, with one row per environment."""

    actions: NDArray[Any]
    """Actions to take. Shape: (environments, *action)."""

    observations: NDArray[Any]
    """Observations of the step, or of the reset after it. Shape: (environments, *observation)."""

    rewards: NDArray[np.float64]
    """Rewards of the step. Shape: (environments,)."""

    terminated: NDArray[np.bool_]
    """Whether each episode was terminated. Shape: (environments,)."""

    truncated: NDArray[np.bool_]
    """Whether each episode was truncated. Shape: (environments,)."""

    def part(self, environments: range) -> Arrays:
        """Return views of the rows of some environments."""
        part = slice(environments.start, environments.stop)
        views: list[Any] = [array[part] for array in self]
        return Arrays(*views)


class Layout(NamedTuple):
    """Layout of the arrays in a block of memory."""

    fields: tuple[tuple[tuple[int, ...], np.dtype[Any], int], ...]
    """Shape, dtype and byte offset of each array, in the order of `Arrays`."""

    num_bytes: int
    """Size of the block."""

    @classmethod
    def of(cls, description: Description, num_envs: int) -> Layout:
        """Lay out the arrays of `num_envs` environments.

        Raises:
            TypeError: if the observation or the action is not an array of a fixed shape.
        """
        kinds = [
            _shape_and_type("action", description.action_space),
            _shape_and_type("observation", description.observation_space),
            ((), np.dtype(np.float64)),
            ((), np.dtype(np.bool_)),
            ((), np.dtype(np.bool_)),
        ]
        fields = []
        end = 0
        for shape, dtype in kinds:
            fields.append(((num_envs, *shape), dtype, end))
            used = num_envs * int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            end += -(-used // _ALIGNMENT) * _ALIGNMENT
        return cls(tuple(fields), end)

    def arrays(self, block: Any) -> Arrays:
        """Return the arrays as views of a block."""
        return Arrays(
            *(np.ndarray(shape, dtype, block, start) for shape, dtype, start in self.fields)
        )


def _shape_and_type(
    name: str, space: gymnasium.Space[Any]
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if not isinstance(space, Box | Discrete | MultiBinary | MultiDiscrete):
        raise TypeError(
            f"The {name} must be an array of a fixed shape (Box, Discrete, MultiBinary, MultiDiscrete), "
            f"not {space}: flatten it (gymnasium.wrappers.FlattenObservation), or use "
            "gymnasium.vector.AsyncVectorEnv."
        )
    return tuple(space.shape or ()), np.dtype(space.dtype)


class EnvironmentGroup:
    """Environments stepped in turn; one whose episode ends is reset in the same step.

    Args:
        env_fns: Functions without arguments, each of which makes an environment.
        first: Index of the group's first environment among all environments, for error messages.

    Raises:
        ValueError: if the environments do not have the same spaces and render mode.
    """

    def __init__(self, env_fns: Iterable[EnvFn], first: int = 0) -> None:
        self.envs = [env_fn() for env_fn in env_fns]
        descriptions = [
            Description(env.observation_space, env.action_space, env.render_mode)
            for env in self.envs
        ]
        self.description = require_same(descriptions, range(first, first + len(self.envs)))
        self.metadata = dict(self.envs[0].metadata)
        self._reported: list[dict[str, Any] | None] = [None] * len(self.envs)

    def attach(self, arrays: Arrays) -> None:
        """Use these arrays from now on, one row per environment: read the actions, write the rest."""
        self._arrays = arrays

    def reset(self, seeds: Sequence[int | None], options: dict[str, Any] | None) -> list[Report]:
        """Reset every environment, each with its own seed."""
        reports = []
        for number, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            observation, info = env.reset(seed=seed, options=options)
            self._arrays.observations[number] = observation
            self._reported[number] = None
            reports.append(Report(number, self._news(number, info), None))
        return reports

    def step(self) -> list[Report]:
        """Step every environment, and return what does not go through the arrays."""
        actions, observations, rewards, all_terminated, all_truncated = self._arrays
        reports = []
        for number, env in enumerate(self.envs):
            # A copy, as an environment may keep its action, and the next one overwrites the array.
            action = actions[number].copy()
            observation, reward, terminated, truncated, info = env.step(action)
            final = None
            if terminated or truncated:
                # Copies, as an environment may return its own buffer, which its reset overwrites.
                final = (deepcopy(observation), dict(info))
                observation, info = env.reset()
            observations[number] = observation
            rewards[number] = reward
            all_terminated[number] = terminated
            all_truncated[number] = truncated
            news = self._news(number, info)
            if news is not None or final is not None:
                reports.append(Report(number, news, final))
        return reports

    def _news(self, number: int, info: dict[str, Any]) -> dict[str, Any] | None:
        if not _SCALARS.issuperset(map(type, info.values())):
            self._reported[number] = None
            return info
        if info == self._reported[number]:
            return None
        self._reported[number] = dict(info)
        return info

    def call(self, arguments: Sequence[tuple[Any, ...]], name: str) -> list[Any]:
        """Call a method of every environment with its own arguments, or read an attribute."""
        found = [env.get_wrapper_attr(name) for env in self.envs]
        return [
            each(*own) if callable(each) else each
            for each, own in zip(found, arguments, strict=True)
        ]

    def without(self, method: str) -> list[str]:
        """Return the names of the environments whose own class does not define a method.

        A method that only the wrapped environment defines does not count.
        """
        return [str(env) for env in self.envs if not hasattr(type(env), method)]

    def close(self) -> None:
        """Close every environment, even after the `close` of one raised an error.

        Raises:
            Exception: the first error raised by a `close`.
        """
        errors = []
        for env in self.envs:
            try:
                env.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


def require_same(descriptions: Sequence[Description], numbers: Sequence[int]) -> Description:
    """Return the description that all environments share.

    Args:
        descriptions: Description of each environment or group.
        numbers: Index of each, for the error message.

    Raises:
        ValueError: if one differs; the message names the difference.
    """
    first = descriptions[0]
    for number, other in zip(numbers, descriptions, strict=True):
        for name, expected, found in zip(Description._fields, first, other, strict=True):
            if expected != found:
                raise ValueError(
                    f"All environments must have the same {name}: number {numbers[0]} has "
                    f"{expected}, number {number} has {found}."
                )
    return first
