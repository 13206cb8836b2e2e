"""Command `plasticity video`: the trained agent of a run plays episodes, which are written as pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from plasticity.agents.networks.actor_critic import ActorCritic
from plasticity.agents.ppo.config import PPOConfig
from plasticity.agents.ppo.normalization import ObservationNormalizer
from plasticity.checks import MAX_SEED, require_integer, require_known
from plasticity.scripts.config.benchmarks import BENCHMARKS, read_config
from plasticity.scripts.config.run_config import ControlRunConfig
from plasticity.scripts.report.metric_names import short_count
from plasticity.scripts.report.run_folders import Run, read_run
from plasticity.scripts.run.atomic_files import RunError
from plasticity.scripts.video.files import Clip, Frame, require_writer, write_video
from plasticity.seeds import child_seed
from plasticity.tasks.control.base import EnvironmentConfig, View
from plasticity.tasks.control.schedule import listed

Array = NDArray[Any]
Policy = Callable[[Array], Array]
Environment = gymnasium.Env[Any, Any]


@dataclass(frozen=True)
class VideoConfig:
    """Let the trained agent of a run play, and write a GIF, a video, or a filmstrip.

    The policy is that of the run's latest checkpoint; the run may still be going on.

    Raises:
        TypeError: if a value has the wrong type.
        ValueError: if a value is out of range, or not written as NAME=NUMBER.
    """

    run: tyro.conf.Positional[Path]
    """Folder of one run, OUT/BENCHMARK/METHOD/seed_N, in an environment that can be drawn."""

    episodes: int = 1
    """Number of episodes to play, one after another."""

    task: int | None = None
    """Task of the run to play in. None: the latest task at the time of the checkpoint."""

    values: tuple[str, ...] = ()
    """Changes of the task, as NAME=NUMBER: friction=0.3."""

    out: Path | None = None
    """File to write: .gif, .mp4 (needs ffmpeg), or .png (a filmstrip). None: video.gif in the run's
    folder."""

    seed: int = 0
    """Seed of the episodes' starts, and of the actions if they are sampled."""

    deterministic: bool = False
    """Take the policy's mean action, or its most likely one, at every step. Otherwise actions are sampled,
    as in training."""

    def __post_init__(self) -> None:
        require_integer("episodes", self.episodes, minimum=1)
        require_integer("seed", self.seed, minimum=0, maximum=MAX_SEED)
        if self.task is not None:
            require_integer("task", self.task, minimum=0)
        self.changes()

    def changes(self) -> dict[str, float]:
        """Return the changes of the task, by name."""
        found = {}
        for each in self.values:
            name, _, number = each.partition("=")
            try:
                found[name] = float(number)
            except ValueError as error:
                raise ValueError(
                    f"--values {each} must be NAME=NUMBER, such as friction=0.3."
                ) from error
        return found


def video(config: VideoConfig) -> Path:
    """Play the episodes, print their returns, and write the file.

    Args:
        config: Options of the command.

    Returns:
        The path written.

    Raises:
        ValueError: if the folder is not a run, its environment cannot be drawn or does not have the values,
            it has no readable checkpoint, or the file cannot be written.
        RunError: if a package of the environment is not installed, or it cannot render here.
    """
    run = _read_run(Path(config.run))
    out = run.path / "video.gif" if config.out is None else Path(config.out)
    require_writer(out)
    settings = _settings(run)
    state = load_checkpoint(run.path)
    task = int(state["task"]) if config.task is None else config.task
    values, changes = _values(settings, task), config.changes()
    for name in changes:
        require_known("value", name, values)
    values.update(changes)
    env, view = _make_env(settings, values), settings.stream.view
    assert view is not None, "_settings requires one"
    try:
        policy = TrainedPolicy(
            state["agent"], settings, env, seed=config.seed, deterministic=config.deterministic
        )
        where = listed(values) + ("" if changes else f" (task {task})")
        steps = short_count(int(state["agent"]["num_steps"]))
        print(f"{run.method}, seed {run.seed}, after {steps} steps, {where}")
        clips = []
        for episode in range(config.episodes):
            title = f"{run.method}, {steps} steps, {listed(values)}"
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


def _read_run(path: Path) -> Run:
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
    # as those of all benchmarks with videos are
    assert isinstance(config, ControlRunConfig), config
    if not isinstance(config.agent, PPOConfig):
        raise ValueError(  # noqa: TRY004  (of the user's choice of a run, not of a type)
            f"{run.path} is a run of {config.agent.algorithm}, and a video shows our PPO alone: give a run"
            " without --agent."
        )
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
            f"{file} contains no readable policy ({reason}): it is damaged, or was written by"
            " another version of this program. Continue the run, or give another one."
        ) from error


def _values(settings: ControlRunConfig, task: int) -> dict[str, float]:
    """Return what a task of a run changes, by name."""
    stream = settings.stream.make_stream(task + 1, child_seed(settings.seed, "stream"))
    return dict(stream.describe(task))


def _make_env(settings: ControlRunConfig, values: Mapping[str, float]) -> Environment:
    stream: EnvironmentConfig = settings.stream
    try:
        return stream.make_env(values, render_mode="rgb_array")
    except (ModuleNotFoundError, RuntimeError) as error:
        raise RunError(str(error)) from error


class TrainedPolicy:
    """Policy given by the actor in a checkpoint.

    Args:
        state: State as returned by `plasticity.agents.PPO.state_dict`.
        settings: Configuration of the run.
        env: Environment that defines the observations and actions.
        seed: Seed of the sampled actions.
        deterministic: Whether to take the mean action, or the most likely one, instead of sampling.

    Raises:
        ValueError: if the weights do not fit the configuration.
    """

    def __init__(
        self,
        state: dict[str, Any],
        settings: ControlRunConfig,
        env: Environment,
        *,
        seed: int,
        deterministic: bool,
    ) -> None:
        observations, actions = env.observation_space, env.action_space
        assert isinstance(settings.agent, PPOConfig), settings.agent  # as _settings requires
        assert isinstance(observations, Box), observations
        assert isinstance(actions, Box | Discrete), actions
        discrete = isinstance(actions, Discrete)
        (size,) = observations.shape
        num_outputs = int(actions.n) if isinstance(actions, Discrete) else actions.shape[0]
        self._network = ActorCritic(
            size,
            num_outputs,
            settings.agent,
            discrete=discrete,
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
        self._actions = actions
        # The name of the seed is kept from earlier versions: every sampled action depends on it.
        self._generator = torch.Generator().manual_seed(child_seed(seed, "watch") >> 1)
        self._deterministic = deterministic

    @torch.no_grad()
    def __call__(self, observation: Array) -> Array:
        """Return an action for an observation: (action_size,), or the number of a discrete one, ()."""
        seen = torch.as_tensor(observation)
        if self._normalizer is not None:
            seen = self._normalizer(seen[None], learn=False)[0]
        output = self._network.actor(seen.float())
        if isinstance(self._actions, Discrete):
            return np.asarray(self._actions.start + self._discrete(output))
        assert self._network.log_std is not None  # as the actions are continuous
        assert isinstance(self._actions, Box)
        if not self._deterministic:
            noise = torch.randn(output.shape, generator=self._generator)
            output = output + self._network.log_std.exp() * noise
        clipped: Array = np.clip(output.numpy(), self._actions.low, self._actions.high)
        return clipped

    def _discrete(self, logits: torch.Tensor) -> int:
        """Return the most likely discrete action, or a sampled one."""
        if self._deterministic:
            return int(logits.argmax())
        drawn = torch.multinomial(logits.softmax(-1), 1, generator=self._generator)
        return int(drawn)


def play(
    env: Environment, policy: Policy, view: View, title: str, *, seed: int | None
) -> tuple[Clip, bool]:
    """Play one episode.

    Args:
        env: Environment with render_mode "rgb_array".
        policy: Function from an observation to an action.
        view: View of the environment.
        title: Title of the clip.
        seed: Seed of the start. None: continue the environment's random stream.

    Returns:
        The clip, including a picture after the last step, and whether the episode ended before its time
        limit.
    """
    observation, _ = env.reset(seed=seed)
    step, total = 0, 0.0
    distance = None if view.speed is None else 0.0
    terminated = truncated = False
    frames = [_frame(env, 0.0, distance, total)]
    while not (terminated or truncated):
        observation, reward, terminated, truncated, _ = env.step(policy(observation))
        step += 1
        total += float(reward)
        if view.speed is not None and distance is not None:
            distance += view.speed(observation) * view.step_seconds
        if step % view.steps_per_frame == 0 or terminated or truncated:
            frames.append(_frame(env, step * view.step_seconds, distance, total))
    return Clip(title, tuple(frames), view.steps_per_frame * view.step_seconds), terminated


def _frame(env: Environment, seconds: float, distance: float | None, total: float) -> Frame:
    picture: Any = env.render()
    return Frame(picture, seconds, distance, total)
