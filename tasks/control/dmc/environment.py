"""Environment of one domain of the DeepMind Control Suite whose task changes along a chain."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from plasticity.tasks.control.dmc.chains import (
    DOMAINS,
    ChainSchedule,
    ChainTask,
    checked_chain,
    constant_task,
)
from plasticity.tasks.control.environment import Observation
from plasticity.tasks.control.replay import ReplayedEnv
from plasticity.tasks.control.simulators import import_simulator, load_before_opengl

MAX_EPISODE_STEPS = 1000
"""Steps of an episode, in all domains of the suite."""

PICTURE_WIDTH, PICTURE_HEIGHT = 320, 240
"""Size of rendered pictures, in pixels."""

_REMEDY = "pip install -c constraints-dmc.txt 'plasticity[dmc]', in an environment without MuJoCo 4"
_BACKEND = "MUJOCO_GL"
_RENDER = "dm_control._render"
_NO_BACKENDS = ("disable", "disabled", "off", "false", "0")


class DMCChainEnv(ReplayedEnv[ChainTask]):
    """Walker, quadruped or dog of the DeepMind Control Suite that is to stand, walk, trot or run, in turn.

    In each task, observations and rewards are those of `dm_control.suite.load(domain, task)`. The observation
    is flat, its parts in the suite's order; it never contains the task. The reward is between 0 and 1. The
    suite's physics differ from task to task only in the size of the floor. They are made anew when the task
    changes, at the first reset after the interval.

    An episode ends only by its time limit, after 1000 steps: it is truncated. If the physics diverge, it ends
    like a fall instead: the reward is 0, the observation is the previous one, and `unstable_episodes` counts
    the episode. (The suite raises an error.)

    Args:
        domain: One of `DOMAINS`.
        chain: Names of tasks. Empty: the published chain of the domain.
        target_speed: Speed in m/s that a task that stays rewards. None, without a stream: that of the
            chain's first task.
        task_seed: Seed of the stream, 0 or more; a chain does not depend on it.
        num_tasks: Length of the stream; its last task stays. None: the chain begins anew after its end.
        change_every: Steps of this environment from one task to the next; the change comes at the first reset
            after that.
        render_mode: "rgb_array", or None.

    Raises:
        ModuleNotFoundError: if dm_control is not installed.
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, or both a speed and a stream are given.
        RuntimeError: if there is no OpenGL for pictures.
    """

    metadata = ReplayedEnv.metadata | {"render_modes": ["rgb_array"], "render_fps": 20}
    max_episode_steps = MAX_EPISODE_STEPS

    def __init__(
        self,
        domain: str,
        chain: Sequence[str] = (),
        target_speed: float | None = None,
        *,
        task_seed: int | None = None,
        num_tasks: int | None = None,
        change_every: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        names = checked_chain(domain, chain)
        if render_mode == "human":
            raise ValueError('render_mode must be None or "rgb_array": the suite has no window.')
        if target_speed is task_seed is num_tasks is change_every is None:
            target_speed = DOMAINS[domain].speeds[names[0]]
        schedule = ChainSchedule(
            domain=domain,
            chain=names,
            task=None if target_speed is None else constant_task(domain, target_speed),
            task_seed=task_seed,
            num_tasks=num_tasks,
            change_every=change_every,
        )
        super().__init__(schedule, render_mode)

    def _load(self) -> None:
        assert isinstance(self._schedule, ChainSchedule)
        self.metadata = {**self.metadata, "render_modes": ["rgb_array"]}
        self._domain = self._schedule.domain
        self.step_seconds = DOMAINS[self._domain].step_seconds
        pictures = self.render_mode is not None
        self._suite, self._physics_error = import_suite(pictures=pictures)
        self._loaded = ""
        self._load_task(self._task)
        actions = self._env.action_spec()
        self.action_space = gymnasium.spaces.Box(
            actions.minimum.astype(np.float32), actions.maximum.astype(np.float32)
        )
        entries = self._env.observation_spec().values()
        size = sum(int(np.prod(entry.shape)) for entry in entries)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self._observation: Observation = np.zeros(size)
        self.unstable_episodes = 0
        """Number of episodes that ended because the physics diverged."""

    def _load_task(self, task: ChainTask) -> None:
        """Make the suite's environment, unless it is there."""
        if task.name != self._loaded:
            self._env: Any = self._suite.load(self._domain, task.name, {"random": 0})
            self._loaded = task.name

    def _checked(self, action: Any) -> NDArray[Any]:
        array = np.asarray(action)
        shape = self.action_space.shape
        if array.dtype.kind not in "fiu" or array.shape != shape:
            raise ValueError(f"The action must be numbers of shape {shape}: {action!r}.")
        if not np.isfinite(array).all():
            raise ValueError(f"The action must be finite: {action!r}.")
        return array

    def _begin(self, task: ChainTask) -> Observation:
        self._load_task(task)
        # The suite's own generator takes 32 bits.
        self._env.task.random.seed(int(self.np_random.integers(2**32)))
        self._observation = _flat(self._env.reset().observation)
        return self._observation.copy()

    def _play(self, action: NDArray[Any]) -> tuple[Observation, float, bool]:
        try:
            step = self._env.step(action)
        except self._physics_error:
            self.unstable_episodes += 1
            return self._observation.copy(), 0.0, True
        self._observation = _flat(step.observation)
        # At the suite's own time limit, the discount is 1.
        terminated = step.last() and step.discount == 0.0
        return self._observation.copy(), float(step.reward), terminated

    def _save(self) -> dict[str, Any]:
        return {**super()._save(), "unstable_episodes": self.unstable_episodes}

    def _restore(self, state: Any, task: ChainTask) -> None:
        super()._restore(state, task)
        self.unstable_episodes = state["unstable_episodes"]

    def _update_window(self) -> None:
        """Do nothing: there is no window."""

    def _picture(self) -> NDArray[np.uint8]:
        picture: NDArray[np.uint8] = self._env.physics.render(
            PICTURE_HEIGHT, PICTURE_WIDTH, camera_id=0
        )
        return picture

    def _free(self) -> None:
        self._env.close()


def _flat(observation: Any) -> Observation:
    """Return the parts of an observation in a row, in float64."""
    return np.concatenate([np.ravel(part) for part in observation.values()]).astype(np.float64)


def import_suite(*, pictures: bool = False) -> tuple[Any, type[Exception]]:
    """Import the suite, and return it with the error that it raises when its physics diverge.

    Args:
        pictures: Whether pictures will be drawn. Otherwise no OpenGL is loaded.

    Raises:
        ModuleNotFoundError: if it is not installed, or MuJoCo is one that it does not run on; the message
            says how to install it.
        RuntimeError: if there is no OpenGL for pictures.
    """
    import_simulator("dm_control", "A chain of the DeepMind Control Suite", _REMEDY)
    version = import_simulator("mujoco", "dm_control", _REMEDY).__version__
    if int(version.split(".")[0]) >= 4:  # whose models have no attribute that dm_control reads
        raise ModuleNotFoundError(
            f"dm_control needs MuJoCo 3, and {version} is installed: {_REMEDY}.", name="mujoco"
        )
    if _RENDER not in sys.modules:
        with _backend("disable"):
            importlib.import_module(_RENDER)
    if pictures:
        _load_opengl()
    suite = importlib.import_module("dm_control.suite")
    return suite, importlib.import_module("dm_control.rl.control").PhysicsError


def _load_opengl() -> None:
    """Let the suite draw: with MUJOCO_GL if set, else, on Linux, with EGL, which needs no display."""
    render = sys.modules[_RENDER]
    if getattr(render, "BACKEND", None) not in (None, *_NO_BACKENDS):
        return
    load_before_opengl()
    chosen = os.environ.get(_BACKEND) or ("egl" if sys.platform == "linux" else "glfw")
    try:
        # The module chooses when it is loaded, and the suite asks it for every renderer.
        with _backend(chosen):
            importlib.reload(render)
    except Exception as error:  # each library fails in its own way
        with _backend("disable"):
            importlib.reload(render)
        raise RuntimeError(
            f'render_mode "rgb_array" needs OpenGL, which is not available from {chosen} ({error}): set the'
            f" environment variable {_BACKEND} to an installed backend, egl, osmesa or glfw (which needs a"
            " display), before Python starts."
        ) from error


@contextmanager
def _backend(name: str) -> Iterator[None]:
    """Set the suite's choice of OpenGL inside the block.

    Left to itself, the suite prefers the library that opens windows, which warns where there is no display.
    """
    before = os.environ.get(_BACKEND)
    os.environ[_BACKEND] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[_BACKEND]
        else:
            os.environ[_BACKEND] = before
