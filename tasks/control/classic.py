"""Gymnasium's small environments as a family: physics or observations change with the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from plasticity.checks import require_integer, require_known, require_name, require_number
from plasticity.tasks.control.base import EnvironmentConfig, View
from plasticity.tasks.control.dynamics import DYNAMICS
from plasticity.tasks.control.environment import Observation
from plasticity.tasks.control.replay import ReplayedEnv
from plasticity.tasks.control.schedule import TaskSchedule, log_uniform, uniform_numbers
from plasticity.tasks.control.simulators import import_simulator
from plasticity.tasks.streams.base import Stream

CHANGES = ("physics", "observations")
"""Kinds of changes from task to task."""

LEAST: Mapping[str, float] = {"physics": 1e-6, "observations": -1e6}
"""Least allowed value of what changes."""

OFFSET_DEVIATION = 2.0
"""Standard deviation of an entry of an observation's offset (Muppidi et al., TRAC, 2024)."""


# ---- tasks ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassicTask:
    """Task of the stream: some physics, or an offset of the observations."""

    index: int
    """Index in the stream, from 0."""

    changed: tuple[tuple[str, float], ...]
    """Names and values of what changes."""

    def values(self) -> dict[str, float]:
        """Return what the task changes, by name."""
        return dict(self.changed)


def stock_values(environment: str, changes: str) -> dict[str, float]:
    """Return the values of Gymnasium's own environment: its physics, or an offset of 0."""
    dynamics = DYNAMICS[environment]
    if changes == "physics":
        return dict(dynamics.stock)
    return {f"offset_{entry}": 0.0 for entry in range(dynamics.observation_size)}


@lru_cache(maxsize=2**16)  # many environments ask for the same
def classic_task(environment: str, changes: str, seed: int, index: int) -> ClassicTask:
    """Return one task, without visiting any other. Task 0 is Gymnasium's own environment.

    Quantities of physics are log-uniform between their bounds, and entries of an offset normal with
    `OFFSET_DEVIATION`; all have six significant digits, so that they do not depend on the last bit of a
    machine's functions.

    Args:
        environment: One of `DYNAMICS`.
        changes: One of `CHANGES`.
        seed: Seed of the stream, 0 or more.
        index: Index of the task, from 0.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if one is negative.
    """
    stock = stock_values(environment, changes)
    uniform = dict(zip(stock, uniform_numbers(seed, index, len(stock)), strict=True))
    if index == 0:
        return ClassicTask(0, tuple(stock.items()))
    if changes == "physics":
        ranges = DYNAMICS[environment].ranges
        drawn = {name: log_uniform(*ranges[name], number) for name, number in uniform.items()}
    else:
        normal = NormalDist(0.0, OFFSET_DEVIATION)
        # A uniform number is a multiple of 2^-53, and may be 0, where the normal one would be infinite.
        drawn = {
            name: float(f"{normal.inv_cdf(max(number, 2**-54)):.6g}")
            for name, number in uniform.items()
        }
    return ClassicTask(index, tuple(drawn.items()))


class ClassicControl(Stream[ClassicTask]):
    """Stream of tasks of classic control: `stream[k]` is task `k`, a pure function of (seed, k).

    Args:
        num_tasks: Length of the stream, at least 1.
        seed: Seed of the tasks, 0 or more.
        environment: One of `DYNAMICS`.
        changes: One of `CHANGES`.
    """

    def __init__(self, num_tasks: int, seed: int, environment: str, changes: str) -> None:
        super().__init__(num_tasks, seed)
        self._kind = (environment, changes)

    def make_task(self, index: int) -> ClassicTask:
        """Return task `index`, from 0 to `num_tasks` - 1."""
        return classic_task(*self._kind, self.seed, index)

    def describe(self, index: int) -> dict[str, Any]:
        """Return the physics or the offset of a task, which a row of metrics tells besides its index."""
        return self[index].values()


@dataclass(frozen=True, kw_only=True)
class ClassicSchedule(TaskSchedule[ClassicTask]):
    """Schedule of tasks of classic control: one that stays, or those of a stream, in turn."""

    environment: str
    """One of `DYNAMICS`."""

    changes: str
    """One of `CHANGES`."""

    task: ClassicTask | None = None
    """Task that stays; None: the tasks follow a stream."""

    @property
    def constant(self) -> ClassicTask | None:
        """Task that stays."""
        return self.task

    def make_task(self, seed: int, index: int) -> ClassicTask:
        """Return task `index` of the stream with this seed."""
        return classic_task(self.environment, self.changes, seed, index)


# ---- environments -----------------------------------------------------------------------------------


class ClassicControlEnv(ReplayedEnv[ClassicTask]):
    """One of Gymnasium's environments whose physics or observations change with the task.

    In task 0, with the same seed and actions, observations, rewards and ends are those of Gymnasium's
    CartPole-v1, Pendulum-v1, Acrobot-v1, MountainCar-v0 or LunarLander-v3.

    Args:
        environment: One of `DYNAMICS`.
        changes: "physics" (of CartPole: gravity in m/s², half the pole's length in m, force in N; of
            Pendulum: gravity, length in m, mass in kg), or "observations", to which an offset is added.
        values: What changes, by name, in a task that stays; Gymnasium's own values where a name is missing.
            None, without a stream: Gymnasium's own.
        task_seed: Seed of the stream of tasks, 0 or more, apart from the seed of `reset`.
        num_tasks: Length of the stream; its last task stays. None: the stream is endless.
        change_every: Steps of this environment from one task to the next; the change comes at the first reset
            after that.
        max_episode_steps: Steps after which an episode is truncated. None: Gymnasium's own number.
        render_mode: "rgb_array", "human" (a window), or None.

    Raises:
        ModuleNotFoundError: if Box2D, which simulates the lunar lander, or pygame, which draws, is needed and
            not installed.
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, there is no such change of this environment, or both
            values and a stream are given.
    """

    metadata = ReplayedEnv.metadata | {"render_fps": 30}

    def __init__(
        self,
        environment: str,
        changes: str = "physics",
        values: Mapping[str, float] | None = None,
        *,
        task_seed: int | None = None,
        num_tasks: int | None = None,
        change_every: int | None = None,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        _require_change(environment, changes)
        self._limit = _checked_limit(max_episode_steps)
        if task_seed is num_tasks is change_every is None and values is None:
            values = {}
        schedule = ClassicSchedule(
            environment=environment,
            changes=changes,
            task=None if values is None else _task_of(environment, changes, values),
            task_seed=task_seed,
            num_tasks=num_tasks,
            change_every=change_every,
        )
        super().__init__(schedule, render_mode)

    def _load(self) -> None:
        assert isinstance(self._schedule, ClassicSchedule)
        if self.render_mode is not None:
            remedy = 'pip install "gymnasium[classic-control]"'
            import_simulator("pygame", "A picture of classic control", remedy)
        self._dynamics = DYNAMICS[self._schedule.environment]
        self._env: Any = self._dynamics.env(render_mode=self.render_mode)
        self.max_episode_steps = self._limit or self._dynamics.max_episode_steps
        self.step_seconds = self._dynamics.step_seconds
        self.action_space = self._env.action_space
        self.observation_space = self._env.observation_space
        if self._schedule.changes == "observations":
            shape = self.observation_space.shape
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self._offset: NDArray[np.float32] | None = None

    def _set(self, task: ClassicTask) -> None:
        values = task.values()
        if self._schedule.changes == "physics":  # type: ignore[attr-defined]
            self._dynamics.set_physics(self._env, values)
        else:
            self._offset = np.array(list(values.values()), np.float32)

    def _observed(self, observation: Observation) -> Observation:
        return observation if self._offset is None else observation + self._offset

    def _checked(self, action: Any) -> Any:
        space = self.action_space
        if isinstance(space, gymnasium.spaces.Discrete):
            if not space.contains(action):
                raise ValueError(f"The action must be one of 0 to {space.n - 1}: {action!r}.")
            return action
        array = np.asarray(action)
        if array.dtype.kind not in "fiu" or array.shape != space.shape:
            raise ValueError(f"The action must be numbers of shape {space.shape}: {action!r}.")
        if not np.isfinite(array).all():
            raise ValueError(f"The action must be finite: {action!r}.")
        return array

    def _begin(self, task: ClassicTask) -> Observation:
        self._set(task)
        self._env.np_random = self.np_random
        observation, _ = self._env.reset()
        return self._observed(observation)

    def _play(self, action: Any) -> tuple[Observation, float, bool]:
        observation, reward, terminated, _, _ = self._env.step(action)
        return self._observed(observation), float(reward), terminated

    def _update_window(self) -> None:
        """Do nothing: Gymnasium's environment has shown its step itself."""

    def _picture(self) -> NDArray[np.uint8]:
        picture: NDArray[np.uint8] = self._env.render()
        return picture

    def _free(self) -> None:
        self._env.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "limit": self._limit}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self._limit = pickled["limit"]
        super().__setstate__(pickled)


def _checked_limit(steps: int | None) -> int | None:
    return None if steps is None else require_integer("max_episode_steps", steps, minimum=1)


def _require_change(environment: str, changes: str) -> None:
    for kind, name, known in (
        ("environment", environment, tuple(DYNAMICS)),
        ("changes", changes, CHANGES),
    ):
        require_name(kind, name)
        require_known(kind, name, known)
    if changes == "physics" and not DYNAMICS[environment].ranges:
        raise ValueError(f"The physics of {environment} cannot change: use changes='observations'.")


def _task_of(environment: str, changes: str, values: Mapping[str, float]) -> ClassicTask:
    """Return a task of these values, checked; other values are Gymnasium's own."""
    stock = stock_values(environment, changes)
    for name, value in values.items():
        require_known("value", name, stock)
        stock[name] = require_number(name, value, minimum=LEAST[changes])
    return ClassicTask(0, tuple(stock.items()))


# ---- the family -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ClassicControlConfig(EnvironmentConfig):
    """Settings of classic control that changes with the task; task 0 is Gymnasium's own environment.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, there is no such change of this environment, or the
            environments cannot share the interval evenly.
    """

    fixed: ClassVar[tuple[str, ...]] = ("environment", "changes")

    environment: str
    """Environment: cartpole, pendulum, acrobot, mountaincar or lunarlander."""

    changes: str
    """Change from task to task: physics, or observations (an offset)."""

    max_episode_steps: int | None = None
    """Time limit of an episode in steps; its last state still has a value. None: Gymnasium's own limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _checked_limit(self.max_episode_steps)
        _require_change(self.environment, self.changes)

    def make_stream(self, num_tasks: int, seed: int) -> ClassicControl:
        """Return the stream of physics or offsets."""
        return ClassicControl(num_tasks, seed, self.environment, self.changes)

    def make_env(
        self, values: Mapping[str, float] | None = None, **arguments: Any
    ) -> ClassicControlEnv:
        """Make one environment."""
        arguments = {"max_episode_steps": self.max_episode_steps, **arguments}
        return ClassicControlEnv(self.environment, self.changes, values, **arguments)

    @property
    def view(self) -> View:
        """Properties that `plasticity video` needs: about 20 pictures per second, at least one a step."""
        seconds = DYNAMICS[self.environment].step_seconds
        return View(seconds, max(1, round(0.05 / seconds)), "ended")


# Code that has only the id must also be given this module, which registers it:
# "plasticity.tasks.control.classic:plasticity/ContinualCartPole-v0".
for _name, _environment in (
    ("CartPole", "cartpole"),
    ("Pendulum", "pendulum"),
):
    gymnasium.register(
        f"plasticity/Continual{_name}-v0",
        entry_point="plasticity.tasks.control.classic:ClassicControlEnv",
        kwargs={"environment": _environment},
        max_episode_steps=DYNAMICS[_environment].max_episode_steps,
    )
