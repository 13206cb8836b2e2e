"""Command `plasticity video`: the trained ant of a run plays episodes, which are written as pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import tyro
from gymnasium.spaces import Box
from numpy.typing import NDArray

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.normalization import ObservationNormalizer
from plasticity.checks import MAX_SEED, require_integer, require_number
from plasticity.scripts.config.benchmarks import BENCHMARKS, read_config
from plasticity.scripts.config.run_config import ControlRunConfig
from plasticity.scripts.report.metric_names import short_count
from plasticity.scripts.report.run_folders import Run, read_run
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.video.files import Clip, Frame, require_writer, write_video
from plasticity.seeds import child_seed
from plasticity.tasks import ENGINES, SlipperyAntBulletEnv, SlipperyAntMujocoEnv
from plasticity.tasks.control.ant import bullet_simulation as bullet_ant
from plasticity.tasks.control.ant import mujoco as mujoco_ant
from plasticity.tasks.control.friction import task_friction

# In the Bullet ant's observation:
_SINE, _COSINE = 1, 2  # of the angle between its heading and the target
_VELOCITIES = slice(3, 5)  # forward and to the left, …
_VELOCITY_SCALE = 0.3  # … times this

_VELOCITY_ALONG_X = 13  # in the MuJoCo ant's observation

Array = NDArray[Any]
Policy = Callable[[Array], Array]
AntEnv: TypeAlias = SlipperyAntBulletEnv | SlipperyAntMujocoEnv


def bullet_speed(observation: Array) -> float:
    """Return the speed of the Bullet ant's torso toward its target, in m/s, from an observation, (28,)."""
    forward, left = observation[_VELOCITIES] / _VELOCITY_SCALE
    return float(forward * observation[_COSINE] + left * observation[_SINE])


def mujoco_speed(observation: Array) -> float:
    """Return the speed of the MuJoCo ant's torso along x, in m/s, from an observation, (27,)."""
    return float(observation[_VELOCITY_ALONG_X])


@dataclass(frozen=True)
class View:
    """Properties of an engine's ant that are needed to record it."""

    step_seconds: float
    """Simulated time of a step, in seconds."""

    steps_per_frame: int
    """Number of steps from one picture to the next."""

    speed: Callable[[Array], float]
    """Function that returns the ant's speed toward its target, in m/s, from an observation."""

    ending: str = "fell"
    """Description of a termination before the time limit."""


_MUJOCO_VIEW = View(mujoco_ant.STEP_SECONDS, 1, mujoco_speed, "fell, or jumped too high")
# 20 pictures per simulated second with every engine.
VIEWS: Mapping[str, View] = {
    "bullet": View(bullet_ant.STEP_SECONDS, 3, bullet_speed),
    "mujoco": _MUJOCO_VIEW,
    "warp": _MUJOCO_VIEW,
}
"""Views by the names of `plasticity.tasks.ENGINES`."""


@dataclass(frozen=True)
class VideoConfig:
    """Let the trained ant of a run play, and write a GIF, a video, or a filmstrip.

    The policy is that of the run's latest checkpoint; the run may still be going on.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or both a friction and a task are given.
    """

    run: tyro.conf.Positional[Path]
    """Folder of one run, OUT/BENCHMARK/METHOD/seed_N, of a Slippery-Ant benchmark."""

    episodes: int = 1
    """Number of episodes to play, one after another."""

    friction: float | None = None
    """Friction of the floor. None: that of the task."""

    task: int | None = None
    """Task of the run whose friction to use. None: the latest task at the time of the checkpoint."""

    out: Path | None = None
    """File to write: .gif, .mp4 (needs ffmpeg), or .png (a filmstrip). None: video.gif in the run's
    folder."""

    seed: int = 0
    """Seed of the ant's initial postures, and of its actions if they are sampled."""

    deterministic: bool = False
    """Take the policy's mean action at every step. Otherwise actions are sampled, as in training."""

    def __post_init__(self) -> None:
        require_integer("episodes", self.episodes, minimum=1)
        require_integer("seed", self.seed, minimum=0, maximum=MAX_SEED)
        if self.friction is not None:
            require_number("friction", self.friction, minimum=0.0)
        if self.task is not None:
            require_integer("task", self.task, minimum=0)
            if self.friction is not None:
                raise ValueError(
                    f"Give --friction {self.friction:g} or --task {self.task}, not both: a task has"
                    " its own friction."
                )


def video(config: VideoConfig) -> Path:
    """Play the episodes, print their returns, and write the file.

    Args:
        config: Options of the command.

    Returns:
        The path written.

    Raises:
        ValueError: if the folder is not a run, the run is not of an ant, it has no readable checkpoint,
            or the file cannot be written.
        RunError: if the physics engine is not installed, or cannot render here.
    """
    run = _read_ant_run(Path(config.run))
    out = run.path / "video.gif" if config.out is None else Path(config.out)
    require_writer(out)
    settings = _settings(run)
    state = load_checkpoint(run.path)
    stream = child_seed(settings.seed, "stream")
    task = int(state["task"]) if config.task is None else config.task
    friction = task_friction(stream, task) if config.friction is None else config.friction
    env, view = _make_env(settings.stream.engine, friction), VIEWS[settings.stream.engine]
    try:
        policy = TrainedPolicy(
            state["agent"], settings, env, seed=config.seed, deterministic=config.deterministic
        )
        where = f"friction {friction:.3g}"
        where += f" (task {task})" if config.friction is None else ""
        steps = short_count(int(state["agent"]["num_steps"]))
        print(f"{run.method}, seed {run.seed}, after {steps} steps, {where}")
        clips = []
        for episode in range(config.episodes):
            title = f"{run.method}, {steps} steps, friction {friction:.3g}"
            # Only the first episode is seeded: the others continue its random stream.
            seed = config.seed if episode == 0 else None
            clip, ended = play(env, policy, view, title, seed=seed)
            clips.append(clip)
            ending = f", {view.ending}" if ended else ""
            print(f"episode {episode + 1}: {clip.frames[-1]}{ending}")
    finally:
        env.close()
    write_video(out, clips)
    print(f"Written: {out}")
    return out


def _read_ant_run(path: Path) -> Run:
    if not (path / "config.json").is_file():
        below = sorted(file.parent for file in path.rglob("config.json"))
        remedy = (
            f"give one of the runs in it, such as {below[0]}" if below else "give a run's folder"
        )
        raise ValueError(f"{path} is not the folder of a run (it has no config.json): {remedy}.")
    run = read_run(path)
    shown = [name for name, each in BENCHMARKS.items() if each.config.has_video]
    if run.benchmark not in shown:
        raise ValueError(
            f"{path} is a run of {run.benchmark}, which cannot be shown as a video: give a run of"
            f" {', '.join(shown[:-1])} or {shown[-1]}."
        )
    return run


def _settings(run: Run) -> ControlRunConfig:
    try:
        config = read_config(run.config)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{run.path / 'config.json'}: {error}") from error
    assert isinstance(config, ControlRunConfig), (
        config
    )  # as those of all benchmarks with videos are
    return config


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read the latest state of a run's experiment; only tensors and plain values are unpickled.

    Raises:
        ValueError: if there is no checkpoint, or it cannot be read.
    """
    file = path / "checkpoint.pt"
    if not file.exists():
        raise ValueError(
            f"{path} has no checkpoint.pt yet: it is written with the run's first row of metrics."
            " Wait for it, or continue the run."
        )
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)["experiment"]
        if not isinstance(state["agent"]["policy"], dict):
            raise TypeError("its policy is not a state_dict")  # noqa: TRY301
        return dict(state)
    except Exception as error:  # torch raises errors of many kinds for truncated or foreign files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{file} contains no readable policy of an ant ({reason}): it is damaged, or was written by"
            " another version of this program. Continue the run, or give another one."
        ) from error


def _make_env(engine: str, friction: float) -> AntEnv:
    try:
        return ENGINES[engine](friction, render_mode="rgb_array")
    except (ModuleNotFoundError, RuntimeError) as error:
        raise RunError(str(error)) from error


class TrainedPolicy:
    """Policy given by the actor in a checkpoint.

    Args:
        state: State as returned by `plasticity.agents.PPO.state_dict`.
        settings: Configuration of the run.
        env: Environment that defines the observations and actions.
        seed: Seed of the sampled actions.
        deterministic: Whether to take the mean action instead of sampling.

    Raises:
        ValueError: if the weights do not fit the configuration.
    """

    def __init__(
        self,
        state: dict[str, Any],
        settings: ControlRunConfig,
        env: AntEnv,
        *,
        seed: int,
        deterministic: bool,
    ) -> None:
        observations, actions = env.observation_space, env.action_space
        assert isinstance(observations, Box), observations
        assert isinstance(actions, Box), actions
        (size,) = observations.shape
        self._network = ActorCritic(
            size,
            actions.shape[0],
            settings.agent,
            actor_method=settings.method,
            critic_method=settings.method_of_critic,
        )
        self._normalizer = None
        try:
            self._network.load_state_dict(state["policy"])
            if settings.agent.normalize_observations:
                self._normalizer = ObservationNormalizer(size)
                self._normalizer.statistics.load_state_dict(state["observation_statistics"])
        except (RuntimeError, LookupError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(
                f"The checkpoint's policy does not fit the run's config.json ({reason}): one of the"
                " two was changed. Restore it."
            ) from error
        self._low, self._high = actions.low, actions.high
        # The name of the seed is kept from earlier versions: every sampled action depends on it.
        self._generator = torch.Generator().manual_seed(child_seed(seed, "watch") >> 1)
        self._deterministic = deterministic

    @torch.no_grad()
    def __call__(self, observation: Array) -> Array:
        """Return an action, (8,), for an observation."""
        seen = torch.as_tensor(observation)
        if self._normalizer is not None:
            seen = self._normalizer(seen[None], learn=False)[0]
        action = self._network.actor(seen.float())
        if not self._deterministic:
            assert self._network.log_std is not None  # an ant's actions are continuous
            noise = torch.randn(action.shape, generator=self._generator)
            action = action + self._network.log_std.exp() * noise
        clipped: Array = np.clip(action.numpy(), self._low, self._high)
        return clipped


def play(
    env: AntEnv, policy: Policy, view: View, title: str, *, seed: int | None
) -> tuple[Clip, bool]:
    """Play one episode.

    Args:
        env: Environment with render_mode "rgb_array".
        policy: Function from an observation to an action, (8,).
        view: View of the environment's engine.
        title: Title of the clip.
        seed: Seed of the ant's initial posture. None: continue the environment's random stream.

    Returns:
        The clip, including a picture after the last step, and whether the episode ended before its time
        limit.
    """
    observation, _ = env.reset(seed=seed)
    step, distance, total = 0, 0.0, 0.0
    terminated = truncated = False
    frames = [_frame(env, 0.0, distance, total)]
    while not (terminated or truncated):
        observation, reward, terminated, truncated, _ = env.step(policy(observation))
        step += 1
        total += reward
        distance += view.speed(observation) * view.step_seconds
        if step % view.steps_per_frame == 0 or terminated or truncated:
            frames.append(_frame(env, step * view.step_seconds, distance, total))
    return Clip(title, tuple(frames), view.steps_per_frame * view.step_seconds), terminated


def _frame(env: AntEnv, seconds: float, distance: float, total: float) -> Frame:
    picture = env.render()
    assert picture is not None  # never None with "rgb_array"
    return Frame(picture, seconds, distance, total)
