"""`plasticity watch`: the trained ant of a run plays an episode, and its pictures are written."""

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
from plasticity.scripts.config.benchmarks import BENCHMARKS, AntBenchmark
from plasticity.scripts.config.run_config import AntRunConfig
from plasticity.scripts.report.metric_names import short_count
from plasticity.scripts.report.run_folders import Run, read_run
from plasticity.scripts.run.folder import RunError
from plasticity.scripts.video.files import Clip, Frame, require_writer, write_video
from plasticity.seeds import child_seed
from plasticity.tasks import ENGINES, SlipperyAntBulletEnv, SlipperyAntMujocoEnv
from plasticity.tasks.control.ant import bullet_simulation as bullet_ant
from plasticity.tasks.control.ant import mujoco as mujoco_ant
from plasticity.tasks.control.friction import task_friction

# In the Bullet ant's observation:
_SINE, _COSINE = 1, 2  # of the angle from its heading to the target
_VELOCITIES = slice(3, 5)  # forward and to the left, …
_VELOCITY_SCALE = 0.3  # … times this

_VELOCITY_ALONG_X = 13  # in the MuJoCo ant's observation

Array = NDArray[Any]
Policy = Callable[[Array], Array]
AntEnv: TypeAlias = SlipperyAntBulletEnv | SlipperyAntMujocoEnv


def bullet_speed(observation: Array) -> float:
    """How fast the Bullet ant's torso moves toward its target, in m/s, from an observation, (28,)."""
    forward, left = observation[_VELOCITIES] / _VELOCITY_SCALE
    return float(forward * observation[_COSINE] + left * observation[_SINE])


def mujoco_speed(observation: Array) -> float:
    """How fast the MuJoCo ant's torso moves along x, in m/s, from an observation, (27,)."""
    return float(observation[_VELOCITY_ALONG_X])


@dataclass(frozen=True)
class View:
    """What has to be known of an engine's ant to tell how it gets on."""

    step_seconds: float
    """Simulated time of a step."""

    steps_per_frame: int
    """Steps from one picture to the next."""

    speed: Callable[[Array], float]
    """How fast the ant goes where it is to go, in m/s, from an observation."""

    ending: str = "fell"
    """What the ant did if the episode ended before its time."""


_MUJOCO_VIEW = View(mujoco_ant.STEP_SECONDS, 1, mujoco_speed, "fell, or jumped too high")
# 20 pictures per simulated second of either.
VIEWS: Mapping[str, View] = {
    "bullet": View(bullet_ant.STEP_SECONDS, 3, bullet_speed),
    "mujoco": _MUJOCO_VIEW,
    "warp": _MUJOCO_VIEW,
}
"""By the names of `plasticity.tasks.ENGINES`."""


@dataclass(frozen=True)
class WatchConfig:
    """Let the trained ant of a run play, and write what is to be seen: a GIF, a video, or pictures.

    The policy is that of the run's latest checkpoint; the run may still be going on.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or both a friction and a task are given.
    """

    run: tyro.conf.Positional[Path]
    """Folder of one run, OUT/BENCHMARK/METHOD/seed_N, of one of the Slippery-Ants."""

    episodes: int = 1
    """Episodes to play, one after another."""

    friction: float | None = None
    """Of the floor. None: that of the task."""

    task: int | None = None
    """Play on the floor of this task of the run. None: of the latest that it had reached."""

    out: Path | None = None
    """File to write: .gif, .mp4 (needs ffmpeg), or .png, a strip of pictures. None: watch.gif in the
    run's folder."""

    seed: int = 0
    """Of the ant's first postures, and of its actions where they are drawn."""

    deterministic: bool = False
    """Take the policy's mean action at every step; else actions are drawn as in training."""

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


def watch(config: WatchConfig) -> Path:
    """Play, print each episode's return, and write the file.

    Args:
        config: What to play, and where to.

    Returns:
        The path written.

    Raises:
        ValueError: if there is no such run, it is none of an ant, it has no checkpoint that can be
            read, or the file cannot be written.
        RunError: if the physics engine is not installed, or there is nothing to draw with.
    """
    run = _read_ant_run(Path(config.run))
    out = run.path / "watch.gif" if config.out is None else Path(config.out)
    require_writer(out)
    settings = _settings(run)
    state = load_checkpoint(run.path)
    stream = child_seed(settings.seed, "stream")
    task = int(state["task"]) if config.task is None else config.task
    friction = task_friction(stream, task) if config.friction is None else config.friction
    env, view = _make_env(settings.engine, friction), VIEWS[settings.engine]
    try:
        policy = TrainedPolicy(
            state["agent"], settings, env, seed=config.seed, deterministic=config.deterministic
        )
        place = f"friction {friction:.3g}"
        place += f" (task {task})" if config.friction is None else ""
        steps = short_count(int(state["agent"]["num_steps"]))
        print(f"{run.method}, seed {run.seed}, after {steps} steps, {place}")
        clips = []
        for episode in range(config.episodes):
            title = f"{run.method}, {steps} steps, friction {friction:.3g}"
            # One seed begins them all: those that follow go on from it.
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
        remedy = f"give one of the runs below it, as {below[0]}" if below else "give a run's folder"
        raise ValueError(f"{path} is no folder of a run (it has no config.json): {remedy}.")
    run = read_run(path)
    if not isinstance(BENCHMARKS.get(run.benchmark), AntBenchmark):
        ants = [name for name, each in BENCHMARKS.items() if isinstance(each, AntBenchmark)]
        raise ValueError(  # noqa: TRY004  (of what is in a folder)
            f"{path} is a run of {run.benchmark}, in which there is nothing to watch: give a run of"
            f" {' or '.join(ants)}."
        )
    return run


def _settings(run: Run) -> AntRunConfig:
    try:
        return AntRunConfig.from_json(run.config)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{run.path / 'config.json'}: {error}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what a run's experiment saved last; nothing but tensors and plain values is unpickled.

    Raises:
        ValueError: if there is no checkpoint, or none that can be read.
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
            raise TypeError("its policy is no state_dict")  # noqa: TRY301
        return dict(state)
    except Exception as error:  # torch raises all kinds for a file that is cut short or foreign
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{file} holds no ant's policy that can be read ({reason}): it is damaged, or of another"
            " version of this program."
        ) from error


def _make_env(engine: str, friction: float) -> AntEnv:
    try:
        return ENGINES[engine](friction, render_mode="rgb_array")
    except (ModuleNotFoundError, RuntimeError) as error:
        raise RunError(str(error)) from error


class TrainedPolicy:
    """What a checkpoint's actor does.

    Args:
        state: Of `plasticity.agents.ppo.agent.PPO.state_dict`.
        settings: Of the run.
        env: Whose observations and actions it knows.
        seed: Of the draws.
        deterministic: The mean action, and no draws.

    Raises:
        ValueError: if the weights do not fit the configuration.
    """

    def __init__(
        self,
        state: dict[str, Any],
        settings: AntRunConfig,
        env: AntEnv,
        *,
        seed: int,
        deterministic: bool,
    ) -> None:
        observations, actions = env.observation_space, env.action_space
        assert isinstance(observations, Box), observations
        assert isinstance(actions, Box), actions
        (size,) = observations.shape
        self._network = ActorCritic(size, actions.shape[0], settings.agent)
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
                " two was changed."
            ) from error
        self._low, self._high = actions.low, actions.high
        self._generator = torch.Generator().manual_seed(child_seed(seed, "watch") >> 1)
        self._deterministic = deterministic

    @torch.no_grad()
    def __call__(self, observation: Array) -> Array:
        """Choose an action, (8,), for an observation."""
        if self._normalizer is not None:
            observation = self._normalizer(observation[None], learn=False)[0]
        action = self._network.actor(torch.as_tensor(observation, dtype=torch.float32))
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
        env: With render_mode "rgb_array".
        policy: Chooses an action, (8,), for an observation.
        view: Of the environment's engine.
        title: Of the clip.
        seed: Of the ant's first posture; None: the environment's generator goes on.

    Returns:
        The episode, its last step's picture included, and whether it ended before its time.
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
    assert picture is not None  # with "rgb_array" there always is one
    return Frame(picture, seconds, distance, total)
