"""Walkers on floors whose friction changes: what they have in common in every body and engine."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from plasticity.tasks.control.environment import ChangingEnv
from plasticity.tasks.control.slippery.actions import checked_action
from plasticity.tasks.control.slippery.friction import FrictionSchedule, FrictionTask

MAX_EPISODE_STEPS = 1000
"""Steps after which an episode is truncated."""

PICTURE_WIDTH, PICTURE_HEIGHT = 320, 240
"""Size of rendered pictures, in pixels."""


class SlipperyEnv(ChangingEnv[FrictionTask]):
    """Walker that learns to run, on a floor whose friction changes: all but the physics.

    An action has finite real numbers, whose absolute values add up to at most 1e15. Shape: (num_joints,).

    Args:
        friction: Constant friction, at least 0. None, without a stream: `stock_friction`.
        task_seed: Seed of the stream of frictions, 0 or more. It is independent of the seed of `reset`, which
            determines how an episode starts, so that parallel environments can share one stream.
        num_tasks: Length of the stream; its last task stays. None: the stream is endless.
        change_every: Steps of this environment from one task to the next. The friction changes at the first
            reset after that, so that an episode has one friction. If this is less than the length of an
            episode, up to 1000 steps, tasks are skipped.
        render_mode: "rgb_array", "human" (a window), or None.

    Raises:
        ModuleNotFoundError: if the simulator is not installed.
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, or both a friction and a stream are given.
        RuntimeError: if the render mode does not work on this host.
    """

    max_episode_steps = MAX_EPISODE_STEPS
    num_joints: ClassVar[int]
    """Number of joints; an action has a torque for each."""
    action_limit: ClassVar[float] = 1.0
    """Largest absolute value of an entry in the action space."""
    stock_friction: ClassVar[float]
    """Friction of the published environment, the default."""

    def __init__(
        self,
        friction: float | None = None,
        *,
        task_seed: int | None = None,
        num_tasks: int | None = None,
        change_every: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        if friction is task_seed is num_tasks is change_every is None:
            friction = self.stock_friction
        schedule = FrictionSchedule(
            friction=friction, task_seed=task_seed, num_tasks=num_tasks, change_every=change_every
        )
        super().__init__(schedule, render_mode)

    def _load(self) -> None:
        """Set the space of actions; an engine adds its simulator and the space of observations."""
        limit = self.action_limit
        self.action_space = gymnasium.spaces.Box(-limit, limit, (self.num_joints,), np.float32)

    def _checked(self, action: Any) -> NDArray[Any]:
        return checked_action(action, self.num_joints)
