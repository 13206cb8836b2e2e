"""Slippery-Ant in PyBullet: the walking ant of `AntBulletEnv-v0` on a floor that changes its friction."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from plasticity.tasks.control.ant.bullet_simulation import STEP_SECONDS, AntSimulation
from plasticity.tasks.control.ant.environment import NUM_JOINTS, SlipperyAntEnv
from plasticity.tasks.control.environment import Observation
from plasticity.tasks.control.replay import ReplayedEnv
from plasticity.tasks.control.slippery.environment import PICTURE_HEIGHT, PICTURE_WIDTH
from plasticity.tasks.control.slippery.friction import FrictionTask

BULLET_FRICTION = 0.8
"""Friction of the floor in `AntBulletEnv-v0`."""

_OBSERVATION_SIZE = 28
_JOINT_VELOCITIES = slice(9, 24, 2)
_CLIP = 5.0
_TORQUE = 250.0
_START_ANGLE = 0.1
_TARGET_X, _TARGET_Y = 1e3, 0.0
_MIN_HEIGHT = 0.26
# Positions are compared to 0.99 in float32: a float64 above this value is rounded to more than that.
_AT_LIMIT = (float(np.float32(0.99)) + float(np.nextafter(np.float32(0.99), np.float32(1)))) / 2
_ELECTRICITY_COST, _STALL_TORQUE_COST, _JOINT_AT_LIMIT_COST = -2.0, -0.1, -0.1


class SlipperyAntBulletEnv(ReplayedEnv[FrictionTask], SlipperyAntEnv):
    """Ant with four legs that learns to run toward a far target, on a floor whose friction changes.

    `gymnasium.make("plasticity.tasks:plasticity/SlipperyAntBullet-v0")` makes it in any process.

    Physics, observation, action and reward are those of PyBullet's `AntBulletEnv-v0`; at its
    friction, 0.8, the same seed and actions give the same observations, rewards and endings, step by
    step. (A newly constructed reference assumes another position of the ant at its first reset: its first
    observation differs by 3e-7 in an angle, and its first reward by about 0.02.) Here, an episode depends
    only on its friction and on the state of `np_random` at its reset.

    The action is a torque for each of the 8 joints, in units of 250 N m, clipped to [-1, 1]; the cost of
    electricity is, as in the reference, that of the action before it is clipped. The observation has
    28 entries, clipped to [-5, 5]: height above the start; sine and cosine of the angle to the target; 0.3
    times the velocity in m/s, in the frame of the torso's yaw; roll and pitch; position (from -1 to 1
    between the limits) and 0.1 times the velocity in rad/s of each joint; whether each foot touched the
    floor, one step ago. The reward is 1 for being upright (-1 and the end, once the torso is below 0.26 m),
    plus the progress toward the target in m/s, minus costs of electricity and of joints at their limits.
    An episode is truncated after 1000 steps of 16.5 ms, even if `gymnasium.make` is given larger
    `max_episode_steps`.

    The friction is constant (`friction`; by default 0.8), or follows the stream of
    `plasticity.tasks.control.slippery.friction` (`task_seed`, `change_every`, `num_tasks`). The observation
    does not contain it; `info` has "task", the index in the stream, and "friction".

    A state has the start of the episode and its actions, and loading replays them: with Bullet's own saved
    states and a foot on the floor, the very next step differs.

    Keyword Args:
        friction: Lateral coefficient of the floor, at least 0; Bullet multiplies it with the link's, 1.5.
        task_seed: See `SlipperyAntEnv`.
        num_tasks: See `SlipperyAntEnv`.
        change_every: See `SlipperyAntEnv`.
        render_mode: "rgb_array" (needs no display), "human" (a window), or None.

    Raises:
        ModuleNotFoundError: if PyBullet is not installed (it has wheels for Python up to 3.11).
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, or both a friction and a stream are given.
        RuntimeError: if there is no display for "human".

    Examples:
        >>> env = SlipperyAntBulletEnv(task_seed=0, change_every=100_000)
        >>> observation, info = env.reset(seed=0)
        >>> info["task"], env.action_space.shape
        (0, (8,))
        >>> env.close()
    """

    metadata = SlipperyAntEnv.metadata | {"render_fps": 60}
    stock_friction = BULLET_FRICTION
    step_seconds = STEP_SECONDS

    def _load(self) -> None:
        super()._load()
        self.observation_space = gymnasium.spaces.Box(
            -_CLIP, _CLIP, (_OBSERVATION_SIZE,), np.float32
        )
        self._ant = AntSimulation(window=self.render_mode == "human")
        # A position of a joint as a share of its range: 2 * (position - lower) / range - 1.
        self._ranges = [(lower, upper - lower) for lower, upper in self._ant.joint_limits]

    def _begin(self, task: FrictionTask) -> Observation:
        """Begin an episode: the ant at rest, each joint at an angle uniform in [-0.1, 0.1] rad."""
        self._ant.restart(self.np_random.uniform(-_START_ANGLE, _START_ANGLE, NUM_JOINTS).tolist())
        self._ant.set_friction(task.friction)
        self._feet_on_floor = [0.0] * len(self._ant.feet)
        self._start_height = self._ant.torso()[0][2]
        return np.clip(self._observe(), -_CLIP, _CLIP)

    def _play(self, action: NDArray[Any]) -> tuple[Observation, float, bool]:
        self._ant.step(_torques(action))
        potential = self._potential
        observation = self._observe()
        # The height as the observation has it: in float32, and clipped.
        height = self._start_height + min(max(float(observation[0]), -_CLIP), _CLIP)
        fell = not height > _MIN_HEIGHT
        reward = (
            (-1.0 if fell else 1.0)
            + (self._potential - potential)
            + _motor_cost(action, observation[_JOINT_VELOCITIES])
            + _JOINT_AT_LIMIT_COST * self._joints_at_limit
        )
        if not math.isfinite(reward):
            raise FloatingPointError(
                f"Bullet's numbers are not finite after step {self._episode_steps} of an episode with "
                f"friction {self._task.friction:g}: the reward is {reward}."
            )
        # As in the reference, the observation has the contacts of the previous step.
        touching = self._ant.links_on_floor()
        self._feet_on_floor = [float(foot in touching) for foot in self._ant.feet]
        return observation.clip(-_CLIP, _CLIP, observation), reward, fell

    def _observe(self) -> Observation:
        """Return the unclipped observation, and update the potential and the number of joints at limits."""
        ant = self._ant
        (x, y, z), (roll, pitch, yaw), (velocity_x, velocity_y, velocity_z) = ant.torso()
        # The ant's position is the mean of its parts; the reference counts the floor among them.
        links = ant.links()
        to_x = _TARGET_X - _mean_of_parts([link[0][0] for link in links], x)
        to_y = _TARGET_Y - _mean_of_parts([link[0][1] for link in links], y)
        self._potential = -math.sqrt(to_y * to_y + to_x * to_x) / STEP_SECONDS
        angle = math.atan2(to_y, to_x) - yaw
        cosine, sine = math.cos(-yaw), math.sin(-yaw)
        values = [
            z - self._start_height,
            math.sin(angle),
            math.cos(angle),
            0.3 * (cosine * velocity_x - sine * velocity_y),
            0.3 * (sine * velocity_x + cosine * velocity_y),
            0.3 * velocity_z,
            roll,
            pitch,
        ]
        at_limit = 0
        for (position, velocity, _, _), (lower, span) in zip(
            ant.joints(), self._ranges, strict=True
        ):
            share = 2 * (position - lower) / span - 1.0
            at_limit += abs(share) > _AT_LIMIT
            values.append(share)
            values.append(0.1 * velocity)
        self._joints_at_limit = at_limit
        values += self._feet_on_floor
        return np.array(values, dtype=np.float32)

    def _update_window(self) -> None:
        self._ant.follow()

    def _picture(self) -> NDArray[np.uint8]:
        return self._ant.picture(PICTURE_WIDTH, PICTURE_HEIGHT)

    def _free(self) -> None:
        self._ant.close()


def _torques(action: NDArray[Any]) -> list[float]:
    return [
        _TORQUE * (value if -1.0 <= value <= 1.0 else math.copysign(1.0, value))
        for value in action.tolist()
    ]


def _motor_cost(action: NDArray[Any], velocities: NDArray[np.float32]) -> float:
    """Return the cost of driving the motors: that of their power, and of current through a joint at rest."""
    power = np.add.reduce(np.abs(action * velocities)) / NUM_JOINTS
    current = np.add.reduce(np.square(action)) / NUM_JOINTS
    return _ELECTRICITY_COST * float(power) + _STALL_TORQUE_COST * float(current)


def _mean_of_parts(links: list[float], torso: float) -> float:
    """Return the mean of one coordinate over the reference's parts: the links, the torso second, and a 0.

    The sum is taken in the order of the reference's numpy, with eight partial sums, so that it is bitwise
    equal.
    """
    a, b, c, d, e, f, g, h, i, j, k, m, n, o, p, *others = links
    eight = ((a + h) + (torso + i) + ((b + j) + (c + k))) + (
        ((d + m) + (e + n)) + ((f + o) + (g + p))
    )
    return sum(others, eight) / (len(links) + 2)
